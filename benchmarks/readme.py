"""The README's tables, made from the models and from benchmarks/results: `python -m benchmarks.readme` rewrites them in
place.

A test holds the README to them.
"""

import itertools
import json
import re

from benchmarks.common import RESULTS, ROOT

README = ROOT / "README.md"
# The row whose figures stand for the names of a line, and those names.
LINES = {
    "vit_tiny_patch16_224": "vit_tiny_patch{8,14,16,32}_{224,384}",
    "vit_small_patch16_224": "vit_small_patch{8,14,16,32}_{224,384}",
    "vit_base_patch16_224": "vit_base_patch{8,14,16,32}_{224,384}",
    "vit_large_patch16_224": "vit_large_patch{8,14,16,32}_{224,384}",
    "vit_huge_patch14_224": "vit_huge_patch{8,14,16,32}_224",
    "vit_giant_patch14_224": "vit_giant_patch14_224",
    "vit_gigantic_patch14_224": "vit_gigantic_patch14_224",
    "vit_so400m_patch14_siglip_224": "vit_so400m_patch14_siglip_{224,384}",
    "simple_vit_small_patch16_224": "simple_vit_{tiny,small,base,large}_patch16_224",
    "deit3_small_patch16_224": "deit3_{small,medium,base}_patch16_224",
    "deit3_huge_patch14_224": "deit3_huge_patch14_224",
    "vit_tiny_r_s16_p8_224": "vit_tiny_r_s16_p8_{224,384}",
    "vit_small_r26_s32_224": "vit_{small,base}_r26_s32_{224,384}",
    "vit_base_r50_s16_224": "vit_base_r50_s16_{224,384}",
    "vit_large_r50_s32_224": "vit_large_r50_s32_{224,384}",
    **{f"coatnet_{i}_224": f"coatnet_{i}_{{224,384,512}}" for i in range(6)},
    **{f"coatnet_{i}_224": f"coatnet_{i}_{{224,512}}" for i in (6, 7)},
    "coatnet_cctt_224": "coatnet_{cccc,ccct,cctt,cttt}_224",
    "vit_rel_d384_l12_patch16_224": "vit_rel_{d384_l12,d384_l14,d448_l10}_patch16_224",
    "coatnet_0_rw_224": "coatnet_{pico,nano,0,1,2,3}_rw_224",
    "coatnet_rmlp_1_rw_224": "coatnet_rmlp_{nano_rw,0_rw,1_rw,1_rw2,2_rw,3_rw}_224",
    "swin_tiny_patch4_window7_224": "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224": "swin_small_patch4_window7_224",
    "swin_base_patch4_window7_224": "swin_base_patch4_{window7_224,window12_384}",
    "swin_large_patch4_window7_224": "swin_large_patch4_{window7_224,window12_384}",
    "swin_s3_tiny_224": "swin_s3_{tiny,small,base}_224",
    "cswin_tiny_224": "cswin_tiny_224",
    "cswin_small_224": "cswin_small_224",
    "cswin_base_224": "cswin_base_{224,384}",
    "cswin_large_224": "cswin_large_{224,384}",
    "resnet50": "resnet{18,34,50,101}",
    "mae_vit_base_patch16_224": "mae_vit_{tiny,base,large}_patch16_224",
    "mae_vit_huge_patch14_224": "mae_vit_huge_patch14_224",
    "detr_resnet50": "detr_resnet{50,101}",
    "detr_resnet50_dc5": "detr_resnet{50,101}_dc5",
}


def models():
    """Width, depth, parameters and multiply-accumulates of a row for each line of names. Raises ValueError for a name
    that is none.
    """
    import kzoo
    from kzoo.registry import config_of

    lines = ["| models | figures of | width | blocks | parameters | GMACs |", "|---|---|---|---|---|---|"]
    for name, names in LINES.items():
        if unknown := set(expand(names)) - set(kzoo.list_models()):
            raise ValueError(f"not models: {sorted(unknown)}")
        info = kzoo.info(name)
        config, width = config_of(name)[1], info.feature_info[-1]["channels"]
        depth = getattr(config, "depth", None) or "+".join(map(str, config.depths))
        lines.append(f"| `{names}` | `{name}` | {width} | {depth} | {info.params:,} | {info.gmacs:.2f} |")
    return "\n".join(lines)


def expand(pattern):
    """The names of a pattern with alternatives in braces."""
    parts = re.split(r"\{(.*?)\}", pattern)
    return map("".join, itertools.product(*(part.split(",") if i % 2 else [part] for i, part in enumerate(parts))))


def _result(name):
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


PEERS = {"timm_list": "listing timm's models", "import_keras_hub": "`import keras_hub`"}


def _startup(r):
    took = r["median_ms"]
    peers = "".join(f"; {label} {took[key]:,.0f} ms" for key, label in PEERS.items() if key in took)
    return f"whole processes: `import kzoo` {took['import_kzoo']:.0f} ms, `kzoo list` {took['kzoo_list']:.0f} ms{peers}"


LIBRARIES = {"timm": "timm", "keras_hub": "KerasHub", "zeromodels": "ZeroModels"}


def _speed(r):
    """Of `infer` and `step`: kzoo's fastest mode in each precision, beside the fastest of each other library in the
    same one.
    """
    rates, parts = r["images_per_second"], []
    for precision in ("float32", "bfloat16"):
        ours = [name for name in rates if name.startswith("kzoo") and ("bfloat16" in name) == (precision == "bfloat16")]
        if ours:
            best = max(ours, key=rates.get)
            share = f" ({r['share_of_peak'][best]:.0%} of the matmul peak)" if best in r["share_of_peak"] else ""
            others = r["kzoo_faster"].get(precision, {})
            beside = "".join(f", {value['ratio']:.2f} times {LIBRARIES[library]}" for library, value in others.items())
            parts.append(f"{precision} {rates[best]:.1f} images/s{share}{beside}")
    return f"`{r['model']}`, batch {r['batch']}: {'; '.join(parts)}"


def _export(r):
    took = [f"{name.replace('_', ' ')} {value:.1f}" for name, value in r["milliseconds"].items()]
    return f"`{r['model']}`, milliseconds a picture: {', '.join(took)}"


def _input(r):
    rate, times = r["pictures_per_second"], r["kzoo_faster"]
    pillow, tensorflow, timm = (
        times[f"crop_kzoo to {peer}"]["ratio"] for peer in ("decode_pillow", "decode_tensorflow", "crop_timm")
    )
    text = f"JPEG, random crop, flip: {rate['crop_kzoo']:,.0f} pictures/s"
    text = f"{text}, {pillow:.0%} of bare decoding by Pillow ({tensorflow:.0%} by TensorFlow)"
    against = times["randaugment_kzoo to randaugment_keras_cv"]["ratio"]
    return f"{text}, {timm:.2f} times timm; RandAugment {rate['randaugment_kzoo']:,.0f}, {against:.2f} times KerasCV"


def _memory(r):
    shares = [f"{r['share_of_plain'][case]:.0%} with {words}" for case, words in MEMORY.items() if case in r["cases"]]
    text = (
        f"`{r['model']}`, a step of {r['batch']} pictures takes {r['cases']['plain']['step_mib']:,} MiB beyond the "
        "model"
    )
    return f"{text}; {', '.join(shares)}"


MEMORY = {"remat": "`remat`", "accumulate": "`optim.accumulate=4`", "remat_accumulate": "both"}


def _load(r):
    took, ratio, share = r["seconds"], r["to_timm"]["ratio"], r["peak_to_weights"]
    text = (
        f"`{r['model']}`, {r['file_mib']:,.0f} MiB of safetensors in {took['kzoo_without_digest']:.2f} s, "
        f"{ratio:.2f} times timm's time,"
    )
    text += (
        f" and {took['digest']:.2f} s for its SHA-256; peak memory {share['kzoo']:.2f} times the file, timm's "
        f"{share['timm']:.2f};"
    )
    return (
        f"{text} `kzoo.get(weights=)`, SHA-256 and all, {r['whole_to_timm']['ratio']:.2f} times timm's `create_model`"
    )


def _parity(r):
    rows = sum(own["rows"] for own in r["references"].values())
    equal = sum(own["pass"] for own in r["references"].values())
    worst = max(max(own["result"], own["blocks"]) for own in r["references"].values())
    return (
        f"{equal} of {rows} pairs of a row and a reference equal; largest difference {worst:.1e} "
        "([table](benchmarks/results/parity.md))"
    )


def _published(r):
    probes, agreed = r["probes"], r["agreement"]
    apart = max(agreed["transformers"].values())

    def both(case):
        told = probes["cases"][case]
        return f"k-NN {100 * told['knn_accuracy']:.1f} %, linear probe {100 * told['linear_accuracy']:.1f} %"

    return (
        f"`{r['model']}` from a trained file: within {apart:.1e} of transformers at {agreed['image_size']} px; "
        f"{probes['data']} at {probes['image_size']} px: {both('trained')} (random weights: {both('random')}) "
        "([section](benchmarks/results/parity.md#on-a-trained-file))"
    )


def _fuzz(r):
    found = r["total"]
    bad = ("silent load", "changed by a refused load", "executed code", "crash", "hang", "over 2 GB", "other exception")
    wrong, undetectable = sum(found.get(outcome, 0) for outcome in bad), found["loaded different, digest too"]
    text = (
        f"{r['files']:,} damaged files of {len(r['formats'])} kinds: {found['refused']} refused, {found['loaded equal']} "
        "unharmed,"
    )
    text = f"{text} {undetectable} changed where the format has no checksum (the receipt's digest tells), {wrong} wrong"
    if "worst" not in r:  # a record from before costs were measured
        return text
    seconds, megabytes = (max(own[key] for own in r["worst"].values()) for key in ("seconds", "mb"))
    return (
        f"{text}; {r['silent_of_sealed']} silent of what kzoo seals; at most {seconds:.1f} s and {megabytes} MB for "
        "a file"
    )


def _odd_usage(r):
    found = r["total"]
    refused, wrong = (
        found["one sentence"] + found["usage"],
        sum(found[key] for key in ("traceback", "no sentence", "too long", "too large")),
    )
    text = (
        f"{r['lines']} odd command lines and {r['processes']} processes: {refused} refused in a sentence or with the "
        "usage,"
    )
    return f"{text} {found['done']} done, {wrong} wrong; slowest {r['slowest_s']} s, at most {r['largest_mib']:,} MiB"


def _kill_resume(r):
    same = "identical" if r["all_identical"] else "NOT identical"
    return f"{r['kills']} kills at random moments, as many resumptions: {KILLED[r['task']]} {same}"


KILLED = {
    "classify": "final and best weights, averages and optimizer",
    "masked": "those of a masked autoencoder, which hides the same patches,",
    "detect": "those of a detector, and how far its matching moved between evaluations,",
    "rotation": "those of a plugin's encoder and of the head in its view",
}


def _train(r):
    where = f"{r['epochs']} epochs, {r['backend']}, {r['compiled']}"
    return (
        f"`{r['recipe']}`: {r['accuracy']:.1%} of {r['images']:,} held-out pictures after {r['minutes']:.3g} minutes "
        f"({where})"
    )


def _small_data(r):
    told = [f"`{name}` {100 * model['test_accuracy']['mean']:.1f} %" for name, model in r["models"].items()]
    return (
        f"{r['epochs']} epochs on {r['data']}, test accuracy: {', '.join(told)} "
        "([table](benchmarks/results/small_data.md))"
    )


SPEEDS = [f"{of}{model}" for of in ("infer", "step") for model in ("", "_vit_base_r50_s16_224", "_coatnet_0_224")]


def _masking(r):
    peaks, saved = r["peak_gflops"], r["masking_saves"]
    (peer, faster), rates = *r["kzoo_faster"].items(), r["images_per_second"]
    return (
        f"pre-training step of {r['model']}, batch {r['batch']}: {rates['kzoo_masked']:.2f} images/s, "
        f"{saved['ratio']:.2f} times as many as with all patches seen, {faster['ratio']:.2f} times "
        f"{peer.replace('_', ', ')} (matrix products: TensorFlow {peaks['tensorflow_matmul_float32']:.0f}, torch "
        f"{peaks['torch_matmul_float32']:.0f} GFLOP/s)"
    )


def _pretraining(r):
    def told(arm, figure):
        return f"{100 * r['arms'][arm][figure]['mean']:.1f}"

    def both(arm):
        return f"k-NN {told(arm, 'knn_accuracy')}, linear probe {told(arm, 'linear_accuracy')}"

    seeds = len(r["arms"]["finetune_75"]["seeds"])
    return (
        f"CIFAR-10 with a tenth of its labels, {seeds} seed{'s' if seeds > 1 else ''}: {told('finetune_75', 'test_accuracy')} % after "
        f"{r['pretrain_epochs']} epochs of masked pre-training, {told('scratch', 'test_accuracy')} % without; features: "
        f"{both('pretrain_75')} %, untrained: {both('random')} %; [more](benchmarks/results/pretraining.md)"
    )


def _match(r):
    told = [
        f"{one['boxes']} boxes x {one['queries']} queries ({one['costs']} costs) TensorFlow under XLA "
        f"{one['kzoo_tensorflow_xla_over_scipy']['ratio']:.2f}, JAX {one['kzoo_jax_xla_over_scipy']['ratio']:.2f}"
        for one in r["timed"]
    ]
    times = [
        one["times_faster_than_keras_hub_graph"] for one in r["timed"] if "times_faster_than_keras_hub_graph" in one
    ]
    faster = min((min(each.values()) for each in times), default=None)
    beside = f"; at least {faster} times as fast as KerasHub's matcher" if faster else ""
    return (
        f"exact matching of 48 problems, time over SciPy's: {'; '.join(told)}{beside}; {r['above_the_optimum']} of "
        "33,000 random problems above the optimum"
    )


def _detection(r):
    rates, peaks = r["images_per_second"], r["peak_gflops"]
    beside = ", ".join(f"{name.replace('_', ' ')} {q['ratio']:.2f}" for name, q in r["kzoo_faster"].items())
    share = "".join(
        f"; the matching takes {100 * q['ratio']:.1f} % of the step"
        for name, q in r.get("matching_share", {}).items()
        if name.replace("matching_", "") == _best(rates)
    )
    return (
        f"{r['model']} at {r['image_size'][0]} x {r['image_size'][1]}, batch {r['batch']}: {rates[_best(rates)]:.2f} images/s, "
        f"times as many as {beside}{share} (matrix products: TensorFlow {peaks['tensorflow_matmul_float32']:.0f}, "
        f"torch {peaks['torch_matmul_float32']:.0f} GFLOP/s)"
    )


def _best(rates):
    return max((name for name in rates if name.startswith("kzoo")), key=rates.get)


def _predict(r):
    told = ", ".join(
        f"{kind.replace('_', ' ')} {r['to_the_sum']['inside'][kind]['ratio']:.2f} (whole process {found['ratio']:.2f})"
        for kind, found in r["to_the_sum"]["command"].items()
    )
    return (
        f"`kzoo predict` of {r['pictures']:,} JPEG files by `{r['model']}`, its seconds over those of decoding alone "
        f"({r['seconds']['decode']:.1f}) plus the model alone: {told}"
    )


ROWS = {
    "startup": _startup,
    "predict": _predict,
    **{f"{name}{device}": _speed for name in SPEEDS for device in ("", "_gpu")},
    "export": _export,
    "input": _input,
    "memory": _memory,
    "memory_detr_resnet50": _memory,
    "load": _load,
    "masking": _masking,
    "match": _match,
    "detection_step": _detection,
    "detection_infer": _detection,
    "pretraining": _pretraining,
    "parity": _parity,
    "published": _published,
    "fuzz": _fuzz,
    "odd_usage": _odd_usage,
    "kill_resume": _kill_resume,
    **{f"kill_resume_{task}": _kill_resume for task in ("masked", "detect", "rotation")},
    "small_data": _small_data,
    **{
        f"train_{recipe}": _train
        for recipe in (
            "vit_tiny_digits",
            *(f"{model}_cifar10" for model in ("vit_tiny", "coatnet", "hybrid", "resnet")),
        )
    },
}


def results():
    """One line a saved result."""
    lines = ["| benchmark | measured | date, hardware |", "|---|---|---|"]
    for name, say in ROWS.items():
        r = _result(name)
        if r:
            command = name.removesuffix("_gpu")
            if command.startswith("train_"):
                command = f"train {r['recipe']}"
            elif command.endswith("_224"):
                command = f"{command.partition('_')[0]} --model {r['model']}"
            elif command.startswith("detection_"):
                command = "detection" + " --infer" * command.endswith("infer")
            elif command.startswith("kill_resume_"):
                command = f"kill_resume --task {r['task']}"
            command += " --gpu" if name.endswith("_gpu") else ""
            hardware = f"{r['cpu']}, {r['cores']} cores" if r["device"] == "cpu" else r["device"]
            lines.append(f"| `python -m benchmarks.{command}` | {say(r)} | {r['date'][:10]}, {hardware} |")
    return "\n".join(lines)


TABLES = {"models": models, "results": results}


def render(text):
    """The text with every table between `<!-- NAME -->` and `<!-- /NAME -->` made anew."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n)(?:.*?\n)?(<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda match, t=table: match[1] + t() + "\n" + match[2], text, flags=re.DOTALL)
        assert count == 1, f"the README has {count} tables {name}"
    return text


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
