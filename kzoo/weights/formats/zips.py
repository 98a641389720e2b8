"""Zip archives that nobody vouches for: their table of contents is checked before anything is read, every member's CRC while it is."""

import pathlib
import zipfile

from kzoo.weights.formats.base import damaged, parsing

_PIECE = 1 << 20  # bytes read at a time
_MOST_SHRUNK = 1100  # no deflated byte becomes more than 1032


def open_zip(path):
    """A zipfile.ZipFile of a file whose table of contents was checked.

    Raises UserError for names that come twice, are absolute or hold "..", encrypted members, sizes that the file cannot hold.
    """
    with parsing(path):
        archive = zipfile.ZipFile(path)
        _check_members(archive, path)
    return archive


def _check_members(archive, path):
    names, total, size = set(), 0, pathlib.Path(path).stat().st_size
    for member in archive.infolist():
        name = member.filename
        if name in names:
            raise damaged(path, f"it holds {name!r} twice")
        names.add(name)
        if name.startswith(("/", "\\")) or ":" in name or ".." in name.replace("\\", "/").split("/"):
            raise damaged(path, f"its member {name!r} leads out of the archive")
        if member.flag_bits & 1:
            raise damaged(path, f"its member {name!r} is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise damaged(path, f"its member {name!r} is packed in a way that weights are not")
        total += member.compress_size
        shrunk = 1 if member.compress_type == zipfile.ZIP_STORED else _MOST_SHRUNK
        if total > size or member.file_size > shrunk * member.compress_size:
            raise damaged(path, f"its member {name!r} claims {member.file_size} bytes, more than the file can hold")


def pieces(archive, member):
    """The bytes of a member (its name or ZipInfo), a piece at a time; zipfile.BadZipFile after the last one if its CRC is wrong."""
    with archive.open(member) as file:
        while piece := file.read(_PIECE):
            yield piece


def check_sums(archive, path):
    """Reads every member against its CRC. Raises UserError for a wrong one."""
    with parsing(path):
        for member in archive.infolist():
            for _ in pieces(archive, member):
                pass


def read_into(member, buffer, path):
    """Fills a writable memoryview of bytes from an open member, which must end with it. Raises UserError where it does not."""
    filled = 0
    while piece := member.read(_PIECE):
        if filled + len(piece) > len(buffer):
            break
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)
    if piece or filled != len(buffer):
        raise damaged(path, f"its member {member.name!r} does not have the size its header says")
