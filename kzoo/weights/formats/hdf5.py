"""Keras' weights: .weights.h5 (HDF5) and .keras (a zip archive with such a file inside)."""

import mmap
import struct
import tempfile

from kzoo.archives.reading import damaged, loads, parsing
from kzoo.archives.zips import check_seal, most_unpacked, open_zip, pieces, read_text
from kzoo.errors import UserError
from kzoo.weights.formats.base import Checkpoint, entry, numpy_dtype

# groups and datasets of a file, objects in its heaps: each takes microseconds, and no model comes near
_MOST_PARTS = 100_000
# that a .keras config may describe, layers and what they are made of, and as many more for each of its weights
_OBJECTS = (1000, 100)


class WeightsH5(Checkpoint):
    """A .weights.h5 of Keras 3. A layer's weights are named by the layers they lie in and their number:
    "blocks_0/attn/qkv/0".

    Only what Keras writes is followed: no links, no data in other files. metadata: the texts among the root's
    attributes.
    """

    format = "weights.h5"

    def __init__(self, path, content=None):
        super().__init__(path)
        import h5py

        self._datasets, self._room = {}, most_unpacked(path)
        _check_heaps(content or path, path)
        with parsing(path):
            self._file = h5py.File(content or path, "r")
            self._size = self._file.id.get_filesize()
            self.metadata = {key: value for key, value in self._file.attrs.items() if isinstance(value, str)}
            layers = _members(self._file, path, h5py.Group).get("layers")
            if layers is None:
                raise UserError(
                    f"{path} is an HDF5 file, but not of weights that Keras 3 saved; write it with model.save_weights."
                )
            self._walk(layers, (), set())

    def close(self):
        self._file.close()

    def stored(self, name):
        with parsing(self.path):
            return self._datasets[name][()].view(numpy_dtype(self.tensors[name].dtype))

    def _walk(self, group, names, seen):
        """Enters the datasets of a group and of those in it. `names` are those of the layers around it, `seen` the
        groups so far.
        """
        import h5py

        if len(seen) + len(self.tensors) > _MOST_PARTS:
            raise damaged(self.path, f"it holds over {_MOST_PARTS} groups and datasets")
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
        # chunks may be compressed
        most = self._room if dataset.chunks else min(self._room, dataset.id.get_storage_size(), self._size)
        self._room -= tensor.nbytes
        if dataset.shape is None or tensor.nbytes > most:
            raise damaged(self.path, f"{name} declares {tensor.nbytes} bytes, more than the file holds for it")
        if name in self.tensors:
            raise damaged(self.path, f"it holds {name} twice")
        self.tensors[name], self._datasets[name] = tensor, dataset


class Keras(Checkpoint):
    """A .keras archive: its weights, read from a temporary copy, and the spec in its config. Keras does not deserialise
    anything.
    """

    format = "keras"

    def __init__(self, path):
        super().__init__(path)
        archive = open_zip(path)
        self._copy = tempfile.NamedTemporaryFile(suffix=".weights.h5")
        with parsing(path), archive:
            text = read_text(archive, "config.json", path)
            self._config = loads(text, path)
            check_seal(archive, path, promised=self._plain("sealed"))
            for piece in pieces(archive, "model.weights.h5"):
                self._copy.write(piece)
            self._copy.flush()
        self._weights = WeightsH5(path, content=self._copy.name)
        self.tensors = self._weights.tensors
        if text.count(b'"class_name"') > _OBJECTS[0] + _OBJECTS[1] * len(self.tensors):
            raise damaged(path, "its config describes far more layers than it holds weights for")

    def close(self):
        self._weights.close()
        self._copy.close()

    def stored(self, name):
        return self._weights.stored(name)

    def build(self):
        """The model that the config describes, not compiled, its weights fresh. Only Keras' and registered classes are
        made, no code.
        """
        import keras

        return keras.saving.deserialize_keras_object(self._config | {"compile_config": None})

    def fill(self, model):
        """Keras' own reading of the weights into a model from build()."""
        model.load_weights(self._copy.name)

    def _plain_spec(self):
        return self._plain("spec")

    def _plain(self, key):
        """A value that kzoo's model class put into its config; None in files of other models."""
        config = self._config.get("config")
        return (
            config.get(key)
            if self._config.get("registered_name") == "kzoo>ZooModel" and isinstance(config, dict)
            else None
        )


def _check_heaps(file, path):
    """Walks the global heaps, where HDF5 keeps texts, as libhdf5 will (format specification III.E), and refuses those
    it would not return from: 1.14 steps over an object of no bytes for ever.
    """
    with parsing(path), open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if (data[13:15] if data[8] < 2 else data[9:11]) != b"\x08\x08":  # else the heaps look otherwise than below
            raise damaged(path, "its addresses and lengths do not take eight bytes, as those of Keras do")
        start, steps = -1, 0
        while steps <= _MOST_PARTS and (start := data.find(b"GCOL\x01", start + 1)) >= 0:
            place, end = start + 16, start + struct.unpack_from("<Q", data, start + 8)[0]
            steps += 1
            while steps <= _MOST_PARTS and end <= len(data) and place + 16 <= end:
                steps += 1
                index, length = struct.unpack_from("<H6xQ", data, place)
                step = 16 + (length + 7) // 8 * 8 if index else length  # object 0 is the free space, its header counted
                if step == 0 or place + step > end:
                    raise damaged(path, "one of its heaps does not end")
                place += step
        if steps > _MOST_PARTS:
            raise damaged(path, f"its heaps hold over {_MOST_PARTS} objects")


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
