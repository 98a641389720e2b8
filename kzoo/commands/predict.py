"""The command that answers about pictures, one or very many."""

import contextlib
import sys
import time

from kzoo.commands.shared import add_weights, emit, settings_of
from kzoo.errors import UsageError, UserError
from kzoo.system import Terminated, hushed, output_folder, printable, say, terminable, unseen

NAMED = 10  # pictures without an answer that are told by name


def add(command, group):
    c = command("predict", predict, "answers about pictures by a run, an artifact or a model with weights")
    c.add_argument("target", metavar="RUN|ARTIFACT|NAME[.TAG]")
    c.add_argument(
        "images",
        nargs="+",
        metavar="PICTURE|FOLDER|GLOB|@LIST|-|SOURCE",
        help="files; folders with all below them; patterns; a path a line in a file or from standard input; a data "
        "source by name, for example folder:PATH",
    )
    c.add_argument("--split", help="of a data source (default test)")
    c.add_argument("--batch-size", type=int, default=32, metavar="N", help="pictures in a batch (default 32)")
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
    c.add_argument(
        "--out",
        metavar="FILE|DIR",
        help="FILE.csv, .jsonl or .parquet: write the answers there as they come, instead of telling them; else also "
        "write each picture with its answer there",
    )


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
    from kzoo.predicting import answers, check_drawing, check_top, open_target, pictures_of, table_of

    check_top(options.top)
    points = _points(options)
    asked = settings_of(options.set, "seed=1") | ({} if options.threshold is None else {"threshold": options.threshold})
    table = table_of(options.out) if options.out else None
    if table and options.attention:
        raise UsageError("--attention draws, into a folder; give --out that, not a file.")
    folder = None if table else options.out or ("kzoo-attention" if options.attention else None)
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
    with unseen(*others):
        pictures = pictures_of(options.images, options.split)
    found = answers(predictor, pictures, options.top, options.batch_size, vectors=table is not None)
    if table:
        return _write(options, table_of(options.out, pictures.labelled), found, len(pictures))
    return _tell(options, predictor, found, folder, points)


def _write(options, table, found, count):
    """The answers into a file, and what became of it onto stdout."""
    failed, number = [], 0
    try:
        with table, contextlib.closing(found), _Progress(count) as progress, terminable() as ending, ending.held():
            for answer in found:
                table.add(answer)
                number += 1
                failed += [answer] if "error" in answer else []
                progress.update(number)
                ending.check()
    except Terminated as end:
        end.told = True
        say(f"ended by SIGTERM: {options.out} holds what was found in {number:,} of {count:,} pictures")
        raise
    told = f", {len(failed):,} of them without an answer" if failed else ""
    emit(
        options,
        {"out": str(options.out), "images": number, "errors": len(failed)},
        f"{options.out}: {number:,} picture{'s' * (number != 1)}{told}",
    )
    _refuse(failed, number, f"; the column error of {options.out} says why")


def _tell(options, predictor, found, folder, points):
    """The answers onto stdout, and the pictures with them into a folder."""
    from kzoo.predicting import draw, draw_attention

    results, failed, lines, trouble = [], [], [], None
    try:
        for number, answer in enumerate(found):
            results.append(answer)
            if "error" in answer:
                failed.append(answer)
                continue
            if not options.json:
                print(f"{answer['image']}: {predictor.task.line(answer)}")
            if options.out and not trouble:
                try:  # the answers do not depend on their pictures
                    draw(predictor, [answer], folder, number)
                except (OSError, UserError) as error:
                    trouble = error
            if not options.attention:
                answer.outputs = answer.picture = None  # of many pictures they would fill the memory
        if options.attention and not trouble:
            paths = draw_attention(predictor, [one for one in results if "error" not in one], folder, points)
            lines += [f"pictures: {', '.join(map(str, paths))}"] if paths else []
    finally:
        if options.json:
            emit(options, results, "")
        elif lines:
            print("\n".join(lines))
    if trouble:
        raise trouble
    _refuse(failed, len(results), "")


def _refuse(failed, count, where):
    """Raises UserError that names the pictures without an answer, where there are some."""
    if not failed:
        return
    if count == len(failed) == 1 or len(failed) == 1 and not where:
        raise UserError(failed[0]["error"])
    names = [printable(answer["image"]) if where else printable(answer["error"]) for answer in failed[:NAMED]]
    more = f"{', ' if where else ' '}and {len(failed) - NAMED:,} more" if len(failed) > NAMED else ""
    told = f"{len(failed):,} of {count:,} pictures have no answer: {(', ' if where else ' ').join(names)}{more}{where}"
    raise UserError(told if told.endswith(".") else told + ".")


class _Progress:
    """How far it is: a line that is rewritten on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, count):
        self.count, self.live = count, sys.stderr.isatty()
        self.began = self.shown = time.monotonic()
        self.written = False

    def update(self, number):
        now = time.monotonic()
        if now - self.shown < (0.2 if self.live else 10):
            return
        self.shown, self.written = now, True
        text = f"{number:,} of {self.count:,} pictures, {number / (now - self.began):.1f} a second"
        print(f"\r{text:<60}" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *ended):
        if self.live and self.written:
            print(file=sys.stderr)
