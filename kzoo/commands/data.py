"""Commands about data sets."""

from kzoo.commands.shared import emit


def add(command, group):
    of = group("data", "data sets")
    c = command("pack", pack, "a data set as one .npz that needs no TensorFlow to read", of=of)
    c.add_argument("source", help="for example tfds:cifar10 or folder:PATH")
    c.add_argument("file", help="FILE.npz")
    c.add_argument("--data-dir", help="where TFDS keeps its data (default: the setting KZOO_DATA_DIR)")


def pack(options):
    from kzoo.data import pack

    pack(options.source, options.file, data_dir=options.data_dir)
    emit(options, {"file": options.file}, f"{options.source} packed into {options.file}")
