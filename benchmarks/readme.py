"""The README's tables, made from the models and from benchmarks/results: `python -m benchmarks.readme` rewrites them in place.

A test holds the README to them.
"""

import json
import re

from benchmarks.common import RESULTS, ROOT

README = ROOT / "README.md"
SIZES = ("tiny", "small", "base", "large", "huge")


def models():
    """The ViT sizes: parameters and multiply-accumulates at patch 16, 224 px."""
    import kzoo

    lines = ["| size | width | blocks | parameters | GMACs at patch 16, 224 px | names |", "|---|---|---|---|---|---|"]
    for size in SIZES:
        name = f"vit_{size}_patch16_224"
        info = kzoo.info(name)
        stages = info.feature_info
        names = f"`vit_{size}_patch{{8,14,16,32}}_{{224,384}}`" + (", `vit_huge_patch14_518`" if size == "huge" else "")
        lines.append(f"| {size} | {stages[0]['channels']} | {len(stages)} | {info.params:,} | {info.gmacs:.2f} | {names} |")
    return "\n".join(lines)


def _result(name):
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


PEERS = {"timm_list": "listing timm's models", "import_keras_hub": "`import keras_hub`"}


def _startup(r):
    took = r["median_ms"]
    peers = "".join(f"; {label} {took[key]:,.0f} ms" for key, label in PEERS.items() if key in took)
    return f"whole processes: `import kzoo` {took['import_kzoo']:.0f} ms, `kzoo list` {took['kzoo_list']:.0f} ms{peers}"


def _infer(r):
    rates = r["images_per_second"]
    best = max((name for name in rates if name.startswith("kzoo")), key=rates.get)
    share, peak = r["share_of_peak"][best], max(r["peak_gflops"].values())
    text = f"`{r['model']}`, batch {r['batch']}, float32: {rates[best]:.1f} images/s, {share:.0%} of the matmul peak ({peak:.0f} GFLOP/s)"
    return f"{text}, {r['kzoo_to_timm']:.2f} times timm in eager torch"


def _kill_resume(r):
    same = "identical" if r["all_identical"] else "NOT identical"
    return f"{r['kills']} kills at random moments, as many resumptions: final weights {same}"


def _train(r):
    where = f"{r['epochs']} epochs, {r['backend']}, {r['compiled']}"
    return f"`{r['recipe']}`: {r['accuracy']:.1%} of {r['images']:,} held-out pictures after {r['minutes']:.3g} minutes ({where})"


ROWS = {
    "startup": _startup,
    "infer": _infer,
    "kill_resume": _kill_resume,
    "train_vit_tiny_digits": _train,
    "train_vit_tiny_cifar10": _train,
}


def results():
    """One line a saved result."""
    lines = ["| benchmark | measured | date, hardware |", "|---|---|---|"]
    for name, say in ROWS.items():
        r = _result(name)
        if r:
            command = f"benchmarks.train {r['recipe']}" if name.startswith("train_") else f"benchmarks.{name}"
            lines.append(f"| `python -m {command}` | {say(r)} | {r['date'][:10]}, {r['cpu']}, {r['cores']} cores |")
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
