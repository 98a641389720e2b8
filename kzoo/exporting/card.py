"""The report card of an artifact: what it is, how to call it, what was measured. `card.json` for programs, `card.md`
for people.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform

from kzoo import __version__
from kzoo.exporting.encoded import TAKES
from kzoo.exporting.formats import FORMATS
from kzoo.exporting.papers import CARD, KIND, LABELS, sealed
from kzoo.exporting.provenance import lines, provenance, weights_digest
from kzoo.registry import find

PRECISIONS = {
    None: "float32",
    "fp16": "float16 weights",
    "dynamic": "8-bit weights, dynamic range",
    "bfloat16": "bfloat16 weights and products",
}
CALL = ("signature", "batch", "size")  # what a record of a comparison says beside its figures
# of the snippet
SIZES = "\nsizes = np.array([({height}, {width})] * 2, np.int32)  # what each picture fills of it, in the upper left"
HEADS = {"max_abs_difference": "largest difference", "top1_agreement": "top-1 agreement"}


def describe(serving, format, quantize, run=None, best=False):
    """What is known before anything is measured: the part of the card that opening the artifact needs, and the model's
    identity. run: the folder of the run whose weights they are, its best ones or its last.
    """
    spec, (height, width) = serving.spec, serving.image_size
    any_size = FORMATS[format].any_size
    shape = [None, None, None] if any_size else [None, height, width]
    return {
        "kind": KIND,
        "kzoo": __version__,
        "format": format,
        "payload": FORMATS[format].payload,
        "model": spec.name,
        "overrides": spec.overrides,
        "tag": spec.tag,
        "license": spec.license,
        "source": spec.source,
        "task": find(spec.name).task,
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": [*shape, serving.channels],
            "range": [0, 255],
            "image_size": [height, width],
            "resize": resize_text(serving, any_size),
        },
        **sizes_text(serving, format),
        "encoded_input": encoded_text(serving) if any_size else None,
        "outputs": _outputs(serving.shapes),
        **raw_text(serving, format),
        **serving.task.facts(serving.model),
        "class_names": list(spec.class_names),
        "preprocessing": dataclasses.asdict(spec.preprocessing),
        "precision": PRECISIONS[quantize],
        "quantize": quantize,
        "parameters": serving.model.count_params(),
        "weights_sha256": weights_digest(serving.model),
        "provenance": provenance(serving.model, run, best),
    }


def measure(folder, format, records, times, pictures):
    """The part of the card that was found out about the files in `folder`."""
    payload = folder / FORMATS[format].payload
    packages = dict.fromkeys(
        ("keras", "tensorflow", "numpy", *(name.replace("_", "-") for name in FORMATS[format].packages))
    )
    files = [payload, *payload.rglob("*")]
    return {
        "file_bytes": sum(file.stat().st_size for file in files if file.is_file()),
        "verified": records,
        "pictures": pictures,
        "latency_ms": times | {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write(folder, card):
    """card.json, card.md and labels.txt (class names, or numbers where there are none, one a line); returns what
    card.json says.
    """
    card = json.loads(json.dumps(card))
    labels = card["class_names"] or [str(i) for i in range(max(card["classes"], 2) if card["classes"] else 0)]
    (folder / "card.md").write_text(markdown(card), encoding="utf-8")
    # names of folders
    (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8", errors="surrogateescape")
    card = sealed(folder, card)
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def resize_text(serving, any_size):
    """How a picture comes to the size of the input, in words."""
    (height, width), pre = serving.image_size, serving.spec.preprocessing
    grown = f"{_over(height, pre)} x {_over(width, pre)}"
    ways = {
        "center": f"aspect ratio kept, until it covers {grown}",
        "squash": f"each side for itself, to {grown}",
        "border": f"aspect ratio kept, until it fits into {grown}",
    }
    steps = f"{pre.interpolation} with antialiasing, {ways[pre.crop_mode]} (height x width)"
    crop = f"crop the centre {height} x {width}" + (
        f", padded with the colour {pre.fill}" if pre.crop_mode == "border" else ""
    )
    if any_size:
        done = serving.task.resizing(serving.image_size)
        done = f"{pre.interpolation} with antialiasing, {done}" if done else f"{steps}, {crop}"
        return f"Any height and width; done inside: resize {done}, normalise."
    if serving.task.sized:
        return (
            f"Resize {pre.interpolation} with antialiasing, {serving.task.resizing(serving.image_size)}, which may be "
            "anything; normalisation is inside."
        )
    return f"Resize {steps} and {crop}; normalisation is inside."


def _outputs(shapes):
    return {name: {"dtype": "float32", "shape": shape} for name, shape in shapes.items()}


def sizes_text(serving, format):
    """{"sizes_input": what an artifact of one size is told beside the picture, and how its boxes come to the picture's
    own pixels}, {} where it is told nothing.
    """
    if FORMATS[format].any_size or not serving.task.sized:
        return {}
    told = {"name": "sizes", "dtype": "int32", "shape": [None, 2], "holds": "height and width that each picture fills"}
    return {"sizes_input": told | {"scale": serving.task.scale}}


def raw_text(serving, format):
    """{"raw_outputs": the signature for what the model itself gives}, {} where there is none."""
    if not (serving.raw_shapes and FORMATS[format].signatures):
        return {}
    return {"raw_outputs": {"signature": "serving_raw", "outputs": _outputs(serving.raw_shapes)}}


def encoded_text(serving):
    """What the signature for encoded pictures takes, or None where the artifact has none."""
    if not serving.decodes:
        return None
    return {"name": "encoded", "signature": "serving_jpeg", "dtype": "string", "shape": [None], "takes": TAKES}


def markdown(card):
    """The card as a short page."""
    (height, width), channels = card["input"]["image_size"], card["input"]["shape"][3]
    output = next(iter(card["outputs"]))
    row, sizes = FORMATS[card["format"]], card.get("sizes_input")
    given, also = (SIZES.format(height=height, width=width), row.also) if sizes else ("", "")
    sides = {"height": height, "width": width, "channels": channels}
    snippet = row.snippet.format(**sides, output=output, given=given, also=also)
    figures = list(dict.fromkeys(name for record in card["verified"] for name in record if name not in CALL))
    rows = "\n".join(_row(record, figures) for record in card["verified"])
    heads = " | ".join(("signature", "batch", "height x width", *(HEADS.get(name, _words(name)) for name in figures)))
    size, made = f"{card['file_bytes'] / 1e6:.1f}", f"Exported by kzoo {card['kzoo']} on {card['date'][:10]}."
    encoded = card["encoded_input"]
    decoding = (
        f"\n- `{encoded['signature']}`: strings (batch,) named `{encoded['name']}`: {encoded['takes']}"
        if encoded
        else ""
    )
    if sizes:
        decoding += f"\n- And `{sizes['name']}` {sizes['dtype']} {_shape(sizes['shape'])}, the {sizes['holds']}"
        decoding += f", in the upper left. {sizes['scale']}" if sizes["scale"] else ", in the upper left"
    outputs = _named(card["outputs"])
    if raw := card.get("raw_outputs"):
        outputs += (
            f"\n- `{raw['signature']}`, of the same input, gives what the model itself does: {_named(raw['outputs'])}"
        )
    return f"""# {card["model"]} as {card["format"]}

{card["parameters"]:,} parameters, {card["precision"]}, {size} MB. {made}

- Input: `images` uint8 {_shape(card["input"]["shape"])}, 0 to 255. {card["input"]["resize"]}{decoding}
- Outputs: {outputs}{_published(card)}
- Classes: {_classes(card)}{_came_about(card)}

```python
{snippet}
```

Compared with Keras on {card["pictures"]}:

| {heads} |
{"|---" * (len(CALL) + len(figures))}|
{rows}

{_took(card["latency_ms"])}
"""


def _named(outputs):
    return ", ".join(f"`{name}` float32 {_shape(value['shape'])}" for name, value in outputs.items())


def _took(times):
    keras = f"in Keras {times['keras']} ms (medians of {times['rounds']}, taking turns, {times['cores']} cores)"
    return f"One picture took {times['artifact']} ms, {keras}."


def _classes(card):
    if card["classes"] == 1:
        return "two, by one logit; `probabilities` are those of class 1"
    if card["overrides"].get("multilabel"):
        return f"{card['classes']}, of which a picture may have any number; their names are in `labels.txt`"
    return f"{card['classes'] or 'none, the model has no head'}; their names are in `labels.txt`"


def _published(card):
    """Which published weights the model was given, as lines of the list; "" for others."""
    told = [
        ("Published weights", card["tag"]),
        ("Licence of these weights", card["license"]),
        ("Fetched from", card["source"]),
    ]
    return "".join(f"\n- {what}: `{value}`" for what, value in told if value)


def _came_about(card):
    """Where the weights come from, as lines of the list; "" of a card that earlier versions wrote."""
    return "".join(f"\n- {line}" for line in lines(card["provenance"])) if "provenance" in card else ""


def _row(record, figures):
    size = record["size"] if isinstance(record["size"], str) else " x ".join(map(str, record["size"]))
    digits = {name: 2 if name.endswith("_difference") else 6 for name in figures} | {"largest_output": 4}
    numbers = [f"{record[name]:.{digits[name]}g}" if name in record else "" for name in figures]
    return "| " + " | ".join([record["signature"], str(record["batch"]), size, *numbers]) + " |"


def _words(figure):
    return figure.replace("_", " ")


def _shape(shape):
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"


def _over(side, preprocessing):
    return int(side / preprocessing.crop_pct)
