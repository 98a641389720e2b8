"""Keras' weights: .weights.h5 (HDF5) and .keras (a zip archive with such a file inside)."""

import mmap
import struct
import tempfile

from kzoo.errors import UserError
from kzoo.weights.formats.base import Checkpoint, damaged, entry, loads, numpy_dtype, parsing
from kzoo.weights.formats.zips import open_zip, pieces

_MOST_SHRUNK = 1100  # times that a compressed dataset may grow


class WeightsH5(Checkpoint):
    """A .weights.h5 of Keras 3. A layer's weights are named by the layers they lie in and their number: "blocks_0/attn/qkv/0".

    Only what Keras writes is followed: no links, no data in other files. metadata: the texts among the root's attributes.
    """

    format = "weights.h5"

    def __init__(self, path, content=None):
        super().__init__(path)
        import h5py

        self._datasets = {}
        _check_heaps(content or path, path)
        with parsing(path):
            self._file = h5py.File(content or path, "r")
            self._size = self._file.id.get_filesize()
            self.metadata = {key: value for key, value in self._file.attrs.items() if isinstance(value, str)}
            layers = _members(self._file, path, h5py.Group).get("layers")
            if layers is None:
                raise UserError(f"{path} is an HDF5 file, but not of weights that Keras 3 saved; write it with model.save_weights.")
            self._walk(layers, (), set())

    def close(self):
        self._file.close()

    def stored(self, name):
        with parsing(self.path):
            return self._datasets[name][()].view(numpy_dtype(self.tensors[name].dtype))

    def _walk(self, group, names, seen):
        """Enters the datasets of a group and of those in it. `names` are those of the layers around it, `seen` the groups so far."""
        import h5py

        place = h5py.h5o.get_info(group.id).addr
        if place in seen:
            raise damaged(self.path, f"its group {group.name} is linked twice")
        seen.add(place)
        members = _members(group, self.path, h5py.Group)
        if "vars" in members:
            variables = members.pop("vars")
            names = (*names, str(variables.attrs.get("name", group.name.rpartition("/")[2])))
            for number, dataset in _members(variables, self.path, h5py.Dataset).items():
                self._enter("/".join((*names, number)), dataset)
        for child in members.values():
            self._walk(child, names, seen)

    def _enter(self, name, dataset):
        bfloat16 = dataset.dtype.str == "|V2" and dataset.attrs.get("dtype") == "bfloat16"
        tensor = entry(self.path, name, dataset.shape or (), "bfloat16" if bfloat16 else dataset.dtype.name)
        if dataset.is_virtual or dataset.external:
            raise damaged(self.path, f"{name} takes its values from another file")
        shrunk = _MOST_SHRUNK if dataset.chunks else 1
        if dataset.shape is None or tensor.nbytes > shrunk * min(dataset.id.get_storage_size(), self._size):
            raise damaged(self.path, f"{name} declares {tensor.nbytes} bytes, more than the file holds for it")
        if name in self.tensors:
            raise damaged(self.path, f"it holds {name} twice")
        self.tensors[name], self._datasets[name] = tensor, dataset


class Keras(Checkpoint):
    """A .keras archive: its weights, read from a temporary copy, and the spec in its config. Keras does not deserialise anything."""

    format = "keras"

    def __init__(self, path):
        super().__init__(path)
        archive = open_zip(path)
        self._copy = tempfile.NamedTemporaryFile(suffix=".weights.h5")
        with parsing(path), archive:
            self._config = loads(archive.read("config.json"), path)
            for piece in pieces(archive, "model.weights.h5"):
                self._copy.write(piece)
            self._copy.flush()
        self._weights = WeightsH5(path, content=self._copy.name)
        self.tensors = self._weights.tensors

    def close(self):
        self._weights.close()
        self._copy.close()

    def stored(self, name):
        return self._weights.stored(name)

    def _plain_spec(self):
        ours = self._config.get("registered_name") == "kzoo>ZooModel"
        return self._config["config"]["spec"] if ours else None


def _check_heaps(file, path):
    """Walks the global heaps, where HDF5 keeps texts, as libhdf5 will (format specification III.E), and refuses those it would not
    return from: 1.14 steps over an object of no bytes for ever."""
    with parsing(path), open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if (data[13:15] if data[8] < 2 else data[9:11]) != b"\x08\x08":  # else the heaps look otherwise than below
            raise damaged(path, "its addresses and lengths do not take eight bytes, as those of Keras do")
        start = -1
        while (start := data.find(b"GCOL\x01", start + 1)) >= 0:
            place, end = start + 16, start + struct.unpack_from("<Q", data, start + 8)[0]
            while end <= len(data) and place + 16 <= end:
                index, length = struct.unpack_from("<H6xQ", data, place)
                step = 16 + (length + 7) // 8 * 8 if index else length  # object 0 is the free space, its header counted
                if step == 0 or place + step > end:
                    raise damaged(path, "one of its heaps does not end")
                place += step


def _members(group, path, kind):
    """{name: object} of an HDF5 group's members, which must all be of `kind` and reached by hard links."""
    import h5py

    found = {}
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise damaged(path, f"{name!r} in its group {group.name} is a link")
        found[name] = group[name]
        if not isinstance(found[name], kind):
            raise damaged(path, f"{name!r} in its group {group.name} is not a {kind.__name__.lower()}")
    return found
