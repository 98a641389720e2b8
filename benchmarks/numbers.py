"""What each family computes: its numbers bit for bit, by which a record tells whether it holds for the code of today.

For the family's toy, the toy with the switches that its rows set, and one real row: weights and pictures drawn by NumPy
from names, so that no initialiser decides them; the outputs of all blocks and the result in evaluation; the gradients
of a weighted sum of them in training, with the running statistics that it leaves; of the toys also every layout of
weights, written and read back. TensorFlow on the CPU in float32, on one thread. Bits are those of one processor and one
set of versions: elsewhere projections of the same arrays tell, to CLOSE, and the tensors of the layouts, which no
arithmetic touches.

Prints {family: its numbers} as JSON, of all families or of those named.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

from benchmarks.common import CHILD_ENVIRONMENT, ROOT, environment, parser

AVERAGED = {"global_pool": "avg", "class_token": False}
SIGLIP = {"norm_eps": 1e-6, "pre_norm": False}
RW = {
    "conv_act": "silu",
    "expand_first": False,
    "expand_output": False,
    "output_bias": False,
    "pre_norm_act": True,
    "se_act": "relu",
}
RW |= {"representation_size": None, "shortcut_bias": False, "stride_mode": "pool"}
SIMPLE = {"act": "gelu_tanh", "fc_norm": False, "pos_embed": "sincos2d", "representation_size": 20}
ONE_STAGE = {"layout": ("T",), "strides": (1,), "depths": (1,), "embed_dim": (24,), "stem": "patch", "stem_stride": 8}
FAMILIES = {  # family: its real row, then overrides of its toy
    "vit": (
        "vit_tiny_patch16_224",
        AVERAGED | {"fc_norm": False, "init_values": 0.1, "qkv_bias": False, "reg_tokens": 1},
        AVERAGED | {"no_embed_class": True, "reg_tokens": 4},
        {"global_pool": "map", "class_token": False, "reg_tokens": 4},
        AVERAGED | SIMPLE,
    ),
    "vit_clip": (
        "vit_xsmall_patch16_clip_224",
        {"class_token": True, "global_pool": "token", "num_classes": 0},
        SIGLIP | {"act": "gelu"},
        SIGLIP | {"act": "gelu_tanh", "num_classes": 0},
        SIGLIP | {"act": "gelu_tanh", "global_pool": "avg", "fc_norm": False},
    ),
    "vit_dino": (
        "vit_small_patch14_dinov2",
        {"reg_tokens": 1},
        {"num_classes": 0},
        {"num_classes": 0, "reg_tokens": 0, "no_embed_class": False},
    ),
    "deit3": ("deit3_small_patch16_224",),
    "resnet": ("resnet18", {"width": 32, "norm": "group", "padding": "same", "weight_std": "timm"}),
    "hybrid": ("vit_tiny_r_s16_p8_224",),
    "coatnet": (
        "coatnet_pico_rw_224",
        RW | {"se_early": True},
        RW | {"norm": "batch", "init_values": 0.1, "rel_pos_dim": 16, "pool_type": "max", "stride_mode": "dw"},
        {"layout": ("C", "CT"), "depths": (1, 2), "pool_type": "max2", "stride_mode": "1x1"},
        ONE_STAGE,
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"window_size": (4, 3), "depths": (1, 2), "image_size": (40, 52), "pad_first": True},
        {"always_partition": True, "image_size": 16},
    ),
    "cswin": (
        "cswin_tiny_224",
        {"image_size": (40, 52), "split_size": (4, 3, 2), "depths": (1, 2, 1), "num_heads": (2, 4, 4)},
    ),
    "mae": ("mae_vit_tiny_patch16_224", {"num_classes": 0}),
    "detr": (
        "detr_small",
        {"backbone_options": {"norm": "frozen", "depths": (1, 1, 2), "output_stride": 8}, "backbone_frozen": ("stem",)},
    ),
}
FILE, PROJECTIONS = "file", "projections"
CLOSE = 1e-5  # of projections, relative to the arrays' norms
ONE_THREAD = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "KERAS_BACKEND": "tensorflow",
}


def cases(family):
    """{title: (name, overrides)}: the toy, the toys of other switches, the real row."""
    import kzoo

    row, *switched = FAMILIES[family]
    (toy,) = kzoo.list_models("*_toy", family=family)
    told = {
        ", ".join([toy, *(f"{key}={value}" for key, value in overrides.items())]): (toy, overrides)
        for overrides in ({}, *switched)
    }
    return told | {row: (row, {})}


def drawn(shape, *seed):
    """Normally distributed float32 numbers that depend on the texts `seed` and on nothing else."""
    import numpy as np

    digest = hashlib.sha256("\n".join(seed).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(shape, "float32")


def fill(model):
    """Every weight drawn by its path, away from constants, at a scale at which no part of the model is too weak to be
    seen.
    """
    for weight in model.weights:
        path, shape = weight.path, tuple(weight.shape)
        value, leaf = drawn(shape, path), path.rpartition("/")[2]
        if leaf in ("gamma", "moving_variance"):
            value = 1 + 0.1 * abs(value)
        elif leaf == "kernel":
            # the last of a depthwise kernel's axes is 1
            fan_in = value[..., 0].size if shape[-1] > 1 else value[..., 0, 0].size
            value = value * fan_in**-0.5 + 0.1 / fan_in
        else:
            value = 0.3 * value
        weight.assign(value)


def digest(arrays):
    """A short SHA-256 of {name: array}: names, shapes, types and bits."""
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(f"{name} {array.shape} {array.dtype}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def projections(arrays):
    """{name: [projection on a drawn direction, norm]} of {name: array}, those of one layer taken together, for a look
    that bears rounding.

    The projection sees every number of the array, and is of the size of its norm.
    """
    import numpy as np

    layers, found = collections.defaultdict(list), {}
    for name, array in arrays.items():
        layers[name.partition("/")[0]].append(np.asarray(array, "float64").ravel())
    for name, parts in layers.items():
        value = np.concatenate(parts)
        found[name] = [
            float(f"{x:.8g}") for x in (value @ drawn(value.shape, "direction", name), np.linalg.norm(value))
        ]
    return found


def network_of(model):
    """(the model of what parity compares, every block's output, the stem's, the embedded patches and the result; their
    names).
    """
    import keras

    names = [layer.name for layer in model.layers if "blocks_" in layer.name or layer.name in ("stem", "patch_embed")]
    return keras.Model(model.input, [*(model.get_layer(name).output for name in names), result_of(model)]), [
        *names,
        "result",
    ]


def result_of(model):
    """The symbolic output that is compared; of a masked autoencoder the pixels, of a detector logits and boxes side by
    side.
    """
    import keras

    if not isinstance(model.output, dict):
        return model.output
    if "pred" in model.output:
        return model.output["pred"]
    return keras.ops.concatenate([model.output["logits"], model.output["boxes"]], axis=-1)


def taken(model, images):
    """What the model takes of images (B, H, W, C): them, or a dictionary with the noise of a masked autoencoder beside
    them, or with a detector's mask, where a third of the columns and a quarter of the rows are padding.
    """
    import numpy as np

    if not isinstance(model.input, dict):
        return images
    if "mask" in model.input:
        mask = np.ones(images.shape[:3], bool)
        mask[:, : -images.shape[1] // 4, : -images.shape[2] // 3] = False
        return {"image": images, "mask": mask}
    noise = drawn((len(images), *model.input["noise"].shape[1:]), "noise")
    return {"image": images, "noise": abs(noise) / (1 + abs(noise))}


def outputs(model, images):
    """{name: the evaluated output} of network_of(model) for images (B, H, W, C)."""
    network, names = network_of(model)
    return dict(zip(names, map(_array, network(taken(model, images), training=False)), strict=True))


def gradients(model, images):
    """{path: gradient} of a weighted sum of outputs() in training, and {path: what training left} of the other
    weights.
    """
    import keras
    import tensorflow as tf

    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.Dropout):  # one of CoAtNet's has a rate that no config tells
            layer.rate = 0
    network, names = network_of(model)
    with tf.GradientTape() as tape:
        parts = zip(names, network(taken(model, images), training=True), strict=True)
        loss = sum(
            tf.reduce_sum(part * (drawn(part.shape, "loss", name) * part.shape.num_elements() ** -0.5))
            for name, part in parts
        )
    trainable = {weight.path: weight.value for weight in model.trainable_weights}
    found = {path: _array(gradient) for path, gradient in tape.gradient(loss, trainable).items()}
    return found | {weight.path: _array(weight) for weight in model.non_trainable_weights}


def _array(tensor):
    import keras

    return keras.ops.convert_to_numpy(tensor)


def layouts(model, config, name, overrides, images):
    """({layout: digest of its file's tensors and of the weights read back}, {"LAYOUT/result": result of the model that
    was read}).

    What each layout says of the model goes through a file; one that has no place for the model is left out.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    import kzoo
    from kzoo.errors import UserError
    from kzoo.weights.names import encode

    digests, results = {}, {}
    for key, layout in {"keras": None, **config.layouts()}.items():
        with tempfile.TemporaryDirectory() as folder:
            path, written = pathlib.Path(folder), {}
            try:
                if layout is None:
                    kzoo.save_weights(model, path := path / "model.weights.h5")
                elif layout.config:  # its config.json tells the numerics
                    layout.config(config)
                    kzoo.save_weights(model, path, layout="hf")
                    written = load_file(path / "model.safetensors")
                else:
                    written, npz = encode(model, layout, config), layout.style == "flax"
                    path /= "model.npz" if npz else "model.safetensors"
                    np.savez(path, **written) if npz else save_file(written, path)
                again = kzoo.get(name, weights=path, **overrides)
            except UserError:  # the layout has no words for this model, which its rows do not need either
                continue
        tensors = {name: written[name] for name in sorted(written)}
        digests[key] = digest(tensors | {f"ours/{weight.path}": _array(weight) for weight in again.weights})
        results[f"{key}/result"] = outputs(again, images)["result"]
    return digests, results


def numbers(name, overrides):
    """{part: digest, "projections": text} of one model; parts are "outputs", "gradients" and, of a toy, "LAYOUT file",
    "LAYOUT read".
    """
    import keras

    import kzoo
    from kzoo.registry import config_of

    keras.backend.clear_session()
    toy = name.endswith("_toy")
    model, config = kzoo.get(name, **overrides), config_of(name, overrides)[1]
    fill(model)
    images = drawn((1 + toy, *config.size, config.in_channels), "images")
    parts = {"outputs": outputs(model, images)}
    files, results = layouts(model, config, name, overrides, images) if toy else ({}, {})
    parts["gradients"] = gradients(model, images)
    found = {part: digest(arrays) for part, arrays in parts.items()}
    for key, file in files.items():
        found |= {f"{key} {FILE}": file, f"{key} read": digest({"result": results[f"{key}/result"]})}
    parts["read"] = results
    return found | {PROJECTIONS: " ".join(_told(part, projections(arrays)) for part, arrays in parts.items() if arrays)}


def _told(part, values):
    """Projections as one text, which a JSON file holds in a line."""
    return " ".join(f"{part}/{name}={along!r},{norm!r}" for name, (along, norm) in values.items())


def _pairs(text):
    return (word.rpartition("=")[::2] for word in text.split())


def settings(family):
    """{name: digest of what the row sets} of every row: what a row's record depends on besides the numbers of the
    family.
    """
    import kzoo
    from kzoo.registry import config_of

    found = {}
    for name in kzoo.list_models(family=family):
        config, told = config_of(name)[1], {}
        for field in dataclasses.fields(config):
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            if field.name != "preprocessing" and (value := getattr(config, field.name)) != default:
                told[field.name] = value
        found[name] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    return found


def family_numbers(family, toys=False):
    """{"cases": {title: numbers()}, "rows": settings() as one text, "digest": of all} of a family; `toys` leaves all
    but the toy out.
    """
    wanted = list(cases(family).items())
    found = {title: numbers(*case) for title, case in (wanted[:1] if toys else wanted)}
    rows = " ".join(f"{name}={digest}" for name, digest in settings(family).items())
    bits = json.dumps([rows, *([title, {part: case[part] for part in _parts(case)}] for title, case in found.items())])
    return {"cases": found, "rows": rows, "digest": hashlib.sha256(bits.encode()).hexdigest()[:16]}


def _parts(case):
    return [part for part in case if part != PROJECTIONS]


def machine():
    """What the bits are those of: the processor, with what it can, and the versions."""
    told, listing = environment(), pathlib.Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    able = "".join(
        line
        for line in lines[: lines.index("") if "" in lines else 0]
        if line.startswith(("flags", "model\t", "cache size"))
    )
    versions = {name: told["versions"][name] for name in ("keras", "tensorflow", "numpy")}
    return {"cpu": told["cpu"], "able": hashlib.sha256(able.encode()).hexdigest()[:8]} | versions


def measured(families, *options):
    """{family: its numbers, with "machine" and "date"} of today's code, computed in a process of its own."""
    if not families:
        return {}
    command = [sys.executable, "-m", "benchmarks.numbers", *families, *options]
    done = subprocess.run(command, cwd=ROOT, env=CHILD_ENVIRONMENT | ONE_THREAD, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def compare(then, now):
    """How the numbers of a family, as measured() gives them, have moved: ("equal" or "close" or "moved", in words).

    "equal": bit for bit. "close": of another processor or other versions, projections within CLOSE and the files'
    tensors equal. What is looked at today and was not looked at then does not count.
    """
    differ, files, largest = [], False, 0.0
    for title, case in then["cases"].items():
        today = now["cases"].get(title, {})
        parts = [part for part in _parts(case) if case[part] != today.get(part)]
        if parts:
            differ.append(f"{', '.join(parts)} of {title}")
            files |= any(part.endswith(FILE) for part in parts)
            largest = max(largest, distance(case[PROJECTIONS], today.get(PROJECTIONS, "")))
    if not differ:
        return "equal", "bit for bit"
    if then["machine"] != now["machine"] and largest <= CLOSE and not files:
        return "close", f"within {largest:.0e}, on another processor or with other versions"
    return "moved", f"{'; '.join(differ)} (projections by {largest:.0e})"


def same_row(then, now, name):
    """Whether a row of the family sets what it set, or was looked at itself."""
    return name in then["cases"] or dict(_pairs(then["rows"])).get(name) == dict(_pairs(now["rows"])).get(name, "")


def distance(then, now):
    """The largest difference of two texts of projections, relative to the arrays' norms; inf where one of `then` is
    gone.

    Of gradients, some of which are zero but for rounding, the norm counts as at least a thousandth of the largest.
    """
    one, other = ({name: tuple(map(float, pair.split(","))) for name, pair in _pairs(text)} for text in (then, now))
    if not one or not one.keys() <= other.keys():
        return float("inf")
    floor = 1e-3 * max(norm for _, norm in one.values())
    apart = {name: max(abs(a - b) for a, b in zip(pair, other[name], strict=True)) for name, pair in one.items()}
    return max(of / max(one[name][1], floor) for name, of in apart.items())


def main():
    options = parser(__doc__)
    options.add_argument("families", nargs="*", choices=[*FAMILIES, []], help="these alone")
    options.add_argument("--toys", action="store_true", help="the plain toys alone")
    options = options.parse_args()
    told = {"machine": machine(), "date": environment()["date"]}
    print(json.dumps({family: told | family_numbers(family, options.toys) for family in options.families or FAMILIES}))


if __name__ == "__main__":
    main()
