"""The command that writes artifacts."""

from kzoo.commands.shared import add_weights, emit, load_backend


def add(command, group):
    c = command("export", export, "write a verified artifact: SavedModel, ONNX or LiteRT")
    c.add_argument("target", metavar="RUN|NAME[.TAG]")
    c.add_argument("--format", required=True, help="saved_model, onnx or litert")
    c.add_argument("--out", required=True, metavar="DIR")
    add_weights(c)
    c.add_argument("--quantize", help="litert: fp16 or dynamic; saved_model: bfloat16")


def export(options):
    from kzoo.exporting.flow import refuse

    refuse(options.format, options.quantize, options.out)
    load_backend(options)
    from kzoo.exporting import export
    from kzoo.exporting.provenance import run_of
    from kzoo.predicting import open_model, run_pictures

    model = open_model(options.target, options.weights, options.random_weights, options.best)
    run, best = run_of(options.target)
    of_run = {"run": run, "best": best or options.best}
    card = export(model, options.out, options.format, options.quantize, **run_pictures(options.target), **of_run)
    worst = max(record["max_abs_difference"] for record in card["verified"])
    text = (
        f"{options.out}: {card['format']}, {card['file_bytes'] / 1e6:.1f} MB, largest difference from Keras {worst:.1e}"
    )
    emit(options, card, text)
