"""Zip archives: their table of contents is checked before anything is read, every member's CRC while it is, kzoo's seal
on request.
"""

import hashlib
import json
import pathlib
import zipfile

from kzoo.archives.reading import REMEDY, TEXT_LIMIT, damaged, parsing, require_regular
from kzoo.errors import UserError

SEAL = "kzoo_sha256.npy"  # the member that seals an archive of ours, an array that NumPy reads
_PIECE = 1 << 20  # bytes read at a time
# What an archive may unpack to. Weights hardly shrink, and pictures seldom to a fiftieth; deflate itself would allow a
# thousandth.
_MOST_GROWN, _ANYWAY = 64, 256 << 20


def most_unpacked(path):
    """The bytes that what was packed into a file may take: small files may grow more, for a toy of zeros is no
    attack.
    """
    return max(_ANYWAY, _MOST_GROWN * pathlib.Path(path).stat().st_size)


def open_zip(path):
    """A zipfile.ZipFile of a file whose table of contents was checked.

    Raises UserError for names that come twice, are absolute or hold "..", encrypted members, sizes that the file cannot
    hold or that no honest content unpacks to, and for what is no regular file.
    """
    require_regular(path)
    with parsing(path):
        archive = zipfile.ZipFile(path)
        _check_members(archive, path)
    return archive


def _check_members(archive, path):
    names, packed, unpacked, size = set(), 0, 0, pathlib.Path(path).stat().st_size
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
            raise damaged(path, f"its member {name!r} is packed in a way that kzoo does not read")
        packed, unpacked = packed + member.compress_size, unpacked + member.file_size
        most = member.compress_size if member.compress_type == zipfile.ZIP_STORED else most_unpacked(path)
        if packed > size or member.file_size > most or unpacked > most_unpacked(path):
            raise damaged(path, f"its member {name!r} claims {member.file_size} bytes, more than the file can hold")


def pieces(archive, member):
    """The bytes of a member (its name or ZipInfo), a piece at a time; zipfile.BadZipFile after the last one if its CRC
    is wrong.
    """
    with archive.open(member) as file:
        while piece := file.read(_PIECE):
            yield piece


def read_text(archive, member, path):
    """The bytes of a small member. Raises UserError for one beyond TEXT_LIMIT, unread."""
    with parsing(path):
        size = archive.getinfo(member).file_size
        if size > TEXT_LIMIT:
            raise damaged(path, f"its {member} takes {size} bytes, far more than such a text does")
        return archive.read(member)


def check_sums(archive, path):
    """Reads every member against its CRC. Raises UserError for a wrong one."""
    with parsing(path):
        for member in archive.infolist():
            for _ in pieces(archive, member):
                pass


def read_into(member, buffer, path):
    """Fills a writable memoryview of bytes from an open member, which must end with it. Raises UserError where it does
    not.
    """
    filled = 0
    while piece := member.read(_PIECE):
        if filled + len(piece) > len(buffer):
            break
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)
    if piece or filled != len(buffer):
        raise damaged(path, f"its member {member.name!r} does not have the size its header says")


# The seal is a SHA-256 over names, sizes and CRCs: the CRCs are checked against the bytes wherever a member is read, so
# that sealing and checking cost nothing that grows with the archive.


def seal(path):
    """Adds the member that seals an archive just written; whatever is changed in it from then on, check_seal() sees."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(SEAL, _seal_of(archive))


def check_seal(archive, path, promised):
    """Compares an archive with its seal. Raises UserError where they differ, and where one was promised (by a text in
    it) and is gone.
    """
    if SEAL not in archive.namelist():
        if promised:
            raise damaged(path, "kzoo wrote it, but its fingerprint is gone")
    elif read_text(archive, SEAL, path) != _seal_of(archive):
        raise UserError(
            f"{path} was changed after it was written: its content does not have the fingerprint it carries; {REMEDY}."
        )


def _seal_of(archive):
    table = sorted((m.filename, m.file_size, m.CRC) for m in archive.infolist() if m.filename != SEAL)
    header = (
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (64,), }".ljust(117) + b"\n"
    )
    return header + hashlib.sha256(json.dumps(table).encode()).hexdigest().encode()
