"""Commands about data sets."""

import sys

from kzoo.commands.shared import emit

WIDTH = 30  # of the bar, in characters


def add(command, group):
    of = group("data", "data sets")
    c = command("pack", pack, "a data set as one .npz that needs no TensorFlow to read", of=of)
    c.add_argument("source", help="for example tfds:cifar10 or folder:PATH")
    c.add_argument("file", help="FILE.npz")
    c.add_argument("--data-dir", help="where TFDS keeps its data (default: the setting KZOO_DATA_DIR)")
    c = command("check", check, "every picture decoded once: counts, sizes, duplicates, leaks, unreadable files", of=of)
    c.add_argument("source", help="for example folder:PATH or csv:FILE")
    c.add_argument("--data-dir", help="where TFDS keeps its data (default: the setting KZOO_DATA_DIR)")


def pack(options):
    from kzoo.data import pack

    pack(options.source, options.file, data_dir=options.data_dir)
    emit(options, {"file": options.file}, f"{options.source} packed into {options.file}")


def check(options):
    """Exit status 1 where something is wrong."""
    from kzoo.data import checkup

    report = checkup.check(options.source, options.data_dir, _bar if sys.stderr.isatty() else lambda done, total: None)
    emit(options, report, "\n".join(checkup.lines(report)))
    return 1 if report["wrong"] else 0


def _bar(done, total):
    """A bar on the terminal, on one line that is wiped in the end."""
    filled = WIDTH * done // max(total, 1)
    told = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {done:,} of {total:,} pictures"
    print(f"\r{told}" if done < total else "\r\033[K", end="", file=sys.stderr, flush=True)
