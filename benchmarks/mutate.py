"""Damage to files, drawn from a seed: what a bad disk, a broken transfer or an ill-meaning author does to bytes."""

import io
import os
import pickle
import re
import struct
import tempfile
import warnings
import zipfile

import numpy as np

EDGE = 4096  # bytes at either end of a file where formats keep their tables
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def truncate(data, rng, place):
    return data[:place]


def flip_a_bit(data, rng, place):
    return data[:place] + bytes([data[place] ^ 1 << rng.integers(8)]) + data[place + 1 :]


def overwrite(data, rng, place):
    noise = rng.bytes(int(rng.integers(1, 17)))
    return data[:place] + noise + data[place + len(noise) :]


def blank(data, rng, place):
    count = int(rng.integers(1, 512))
    return data[:place] + bytes(len(data[place : place + count])) + data[place + count :]


def repeat_a_block(data, rng, place):
    end = place + int(rng.integers(1, 1024))
    return data[:end] + data[place:end] + data[end:]


def delete_a_block(data, rng, place):
    return data[:place] + data[place + int(rng.integers(1, 1024)) :]


def swap_blocks(data, rng, place):
    count, other = int(rng.integers(1, 256)), int(rng.integers(len(data)))
    first, second = sorted((place, other))
    count = min(count, second - first, len(data) - second)
    return b"".join(
        (
            data[:first],
            data[second : second + count],
            data[first + count : second],
            data[first : first + count],
            data[second + count :],
        )
    )


def extend(data, rng, place):
    return data + (rng.bytes(64) if rng.integers(2) else data[: int(rng.integers(1, 2048))])


def edit_a_size(data, rng, place):
    """An extreme or slightly wrong integer where one may stand: binary, or a number written in digits."""
    digits = list(re.finditer(rb"\d+", data[max(0, place - 256) : place + 256]))
    if digits and rng.integers(2):
        found, start = digits[rng.integers(len(digits))], max(0, place - 256)
        number = str(int(rng.choice([0, int(found.group()[:9]) + 1, 10**9, 2**62]))).encode()
        return data[: start + found.start()] + number + data[start + found.end() :]
    form = ("<H", "<I", "<Q")[rng.integers(3)]
    size = struct.calcsize(form)
    value = NUMBERS[rng.integers(len(NUMBERS))] & (1 << 8 * size) - 1
    place -= place % 4
    return data[:place] + struct.pack(form, value) + data[place + size :]


BYTES = (
    truncate,
    flip_a_bit,
    flip_a_bit,
    overwrite,
    blank,
    repeat_a_block,
    delete_a_block,
    swap_blocks,
    extend,
    edit_a_size,
    edit_a_size,
)


def mutate_bytes(data, rng):
    """(mutated bytes, what was done): one to three changes, half of them in the tables at the ends."""
    done = []
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        length, change = max(1, len(data)), BYTES[rng.integers(len(BYTES))]
        edge = min(EDGE, length)
        place = int(
            rng.choice(
                [rng.integers(edge), length - 1 - rng.integers(edge), rng.integers(length), rng.integers(length)]
            )
        )
        data = change(data or b"\0", rng, place)
        done.append(change.__name__)
    return data, "+".join(done)


class Runs:
    """Pickled, this asks its reader to make a folder: proof of execution that harms nobody."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def plant(data, rng, marker):
    """The file with a pickle that would make the folder `marker`: in place of a torch pickle, of an array, or at the
    start.
    """
    code = pickle.dumps(Runs(marker), protocol=2)
    if data.startswith(b"PK"):
        header = (
            b"\x93NUMPY\x01\x00"
            + struct.pack("<H", 62)
            + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(61)
            + b"\n"
        )
        names = [name for name in zipfile.ZipFile(io.BytesIO(data)).namelist() if name.endswith((".npy", "data.pkl"))]
        name = names[rng.integers(len(names))] if names else "data.pkl"
        return repacked(data, {name: code if name.endswith("data.pkl") else header + code})
    places = [found.start() for found in re.finditer(rb"\x80\x02", data)] or [0]
    place = places[rng.integers(len(places))]
    return data[:place] + code + data[place:]


def repacked(data, replaced, added=()):
    """A zip archive written anew, so with right checksums: some members replaced, {name: bytes}, and (name, bytes)
    added.
    """
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as source,
        zipfile.ZipFile(target, "w") as archive,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # names that come twice are meant to
        for name in source.namelist():
            archive.writestr(name, replaced.get(name, source.read(name)))
        for name, content in added:
            archive.writestr(name, content)
    return target.getvalue()


def mutate_inside(data, rng):
    """(mutated zip archive, what was done): a member changed and its checksum with it, or a misleading member added."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        name = names[rng.integers(len(names))]
        content = archive.read(name)
    if rng.integers(6) == 0:
        added = (name, "../escaped", "/escaped")[rng.integers(3)]
        return repacked(data, {}, [(added, content)]), f"added {added if added != name else 'a member twice'}"
    changed, done = mutate_bytes(content, rng)
    return repacked(data, {name: changed}), f"inside:{done}"


BOMB = 1 << 29  # bytes of nothing, half a megabyte once deflated


def inflate(data, rng, name=None):
    """(zip archive, what was done): a member grown by BOMB, told in its own header where it is an array."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    name = name or list(members)[rng.integers(len(members))]
    content, filler = members.pop(name), bytes(1 << 20)
    if name.endswith(".npy"):
        content = (
            b"\x93NUMPY\x01\x00\x76\x00"
            + f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({BOMB},), }}".encode().ljust(117)
            + b"\n"
        )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(name, "w", force_zip64=True) as member:
            member.write(content)
            for _ in range(BOMB // len(filler)):
                member.write(filler)
        for other, kept in members.items():
            archive.writestr(other, kept)
    return target.getvalue(), f"inflate {name}"


GIANTS = {  # of the text that the model is built from: (pattern, replacement)
    "meta.npy": (
        (rb'"name": "vit_toy"', b'"name": "vit_gigantic_patch14_224"'),
        (rb'"overrides": \{', b'"overrides": {"depth": 100000'),
        (rb'"overrides": \{', b'"overrides": {"embed_dim": 65536, "num_heads": 1'),
        (rb'"overrides": \{', b'"overrides": {"image_size": 1000000'),
    ),
    "config.json": (
        (rb'"(units|filters|dim)": \d+', rb'"\1": 1000000000'),
        (rb'"batch_shape": \[null, 32', rb'"batch_shape": [null, 1000000'),
    ),
}


def declare(data, rng):
    """(archive of a whole model, what was done): what it says of the model changed to a giant, and sealed anew."""
    from kzoo.archives.zips import SEAL, seal

    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = {name: source.read(name) for name in source.namelist() if name != SEAL}
    name = next(name for name in GIANTS if name in members)
    text = np.load(io.BytesIO(members[name])).tobytes() if name == "meta.npy" else members[name]
    spelling, giant = GIANTS[name][rng.integers(len(GIANTS[name]))]
    text = re.sub(spelling, giant, text)
    if name == "meta.npy":
        np.save(array := io.BytesIO(), np.frombuffer(text, "uint8"))
        text = array.getvalue()
    with tempfile.NamedTemporaryFile(suffix=".zip") as file:
        with zipfile.ZipFile(file.name, "w") as archive:
            for member, content in (members | {name: text}).items():
                archive.writestr(member, content)
        seal(file.name)
        return file.read(), f"declare {giant.decode()}"
