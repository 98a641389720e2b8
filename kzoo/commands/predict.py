"""The command that answers about pictures."""

from kzoo.commands.shared import add_weights, emit, settings_of
from kzoo.errors import UsageError
from kzoo.system import hushed, output_folder, unseen


def add(command, group):
    c = command("predict", predict, "answers about pictures by a run, an artifact or a model with weights")
    c.add_argument("target", metavar="RUN|ARTIFACT|NAME[.TAG]")
    c.add_argument("images", nargs="+", metavar="IMAGE")
    add_weights(c)
    c.add_argument("--dtype", help="bfloat16: compute in that precision and say what it costs in accuracy")
    c.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="of autoencoders: mask_ratio, norm_pix, seed; of detectors: threshold",
    )
    c.add_argument("--threshold", metavar="T", help="of detectors: the score in 0..1 from which to show (default 0.5)")
    c.add_argument("--top", type=int, default=5, help="how many classes to show (default 5)")
    c.add_argument(
        "--attention", action="store_true", help="also draw what the model looks at (without --out into kzoo-attention)"
    )
    c.add_argument(
        "--points",
        nargs="+",
        action="extend",
        default=[],
        metavar="Y,X",
        help="with --attention: also what these points, in 0..1 of the picture, look at",
    )
    c.add_argument("--out", metavar="DIR", help="also write each picture with its classes there")


def _points(options):
    """[(y, x), ...] of --points."""
    if options.points and not options.attention:
        raise UsageError("--points chooses what --attention draws; add --attention.")
    try:
        points = [tuple(map(float, text.split(","))) for text in options.points]
    except ValueError:
        points = [()]
    if any(len(point) != 2 or not all(0 <= side <= 1 for side in point) for point in points):
        raise UsageError(f"--points takes Y,X in 0..1 of the picture, such as 0.3,0.5, not {' '.join(options.points)}.")
    return points


def predict(options):
    from kzoo.exporting.papers import own_format
    from kzoo.predicting import check_drawing, check_top, draw, draw_attention, open_target, predict

    check_top(options.top)
    points = _points(options)
    asked = settings_of(options.set, "seed=1") | ({} if options.threshold is None else {"threshold": options.threshold})
    folder = options.out or ("kzoo-attention" if options.attention else None)
    if folder:
        output_folder(folder, make=False)  # told before the work, which may be long
    # The target decides which runtime is imported. TensorFlow would import Keras and JAX, of which an artifact has no
    # use.
    others = ("keras", "jax") if own_format(options.target) else ()
    with hushed(options.debug), unseen(*others):
        predictor = open_target(
            options.target, options.weights, options.random_weights, options.dtype, options.best, asked
        )
    if folder:
        check_drawing(predictor, options.attention)
    results = predict(predictor, options.images, options.top)
    lines = [f"{result['image']}: {predictor.task.line(result)}" for result in results]
    try:
        if options.attention:
            paths = draw_attention(predictor, results, folder, points)
            lines += [f"pictures: {', '.join(map(str, paths))}"] if paths else []
        if options.out:
            draw(predictor, results, options.out)
    finally:  # the answer does not depend on its pictures
        emit(options, results, "\n".join(lines))
