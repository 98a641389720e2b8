"""Weights in several files beside an index, as Hugging Face writes large models: {"weight_map": {tensor: file}}."""

import contextlib
import pathlib

from kzoo.archives.reading import damaged, read_json
from kzoo.errors import UserError
from kzoo.weights.formats.base import SEAL, Checkpoint


class Shards(Checkpoint):
    """The files that an index names, all in its own folder, as one checkpoint of their format. `opener(path)` opens one
    of them.
    """

    def __init__(self, path, opener):
        where = read_json(path).get("weight_map")
        if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
            raise UserError(
                f"{path} is JSON, but no index of weights; give the file or the folder that holds the weights."
            )
        files = {name: _beside(path, name) for name in sorted(set(where.values()))}
        super().__init__(path, [path, *files.values()])
        self._holder = {}  # name of a tensor: the shard that holds it
        with contextlib.ExitStack() as stack:
            for name, file in files.items():
                shard = stack.enter_context(opener(file))
                listed = {tensor for tensor, place in where.items() if place == name}
                for tensor in sorted(listed ^ set(shard.tensors)):
                    raise damaged(path, f"{tensor} is {'not in' if tensor in listed else 'in no list, but in'} {name}")
                self.tensors |= shard.tensors
                self.metadata |= {key: text for key, text in shard.metadata.items() if key != SEAL}
                self._holder |= dict.fromkeys(listed, shard)
                self.format = shard.format
            self._shards = stack.pop_all()

    def close(self):
        self._shards.close()

    def stored(self, name):
        return self._holder[name].stored(name)

    def verify(self, names):
        for shard in dict.fromkeys(self._holder.values()):
            shard.verify([name for name in names if name in shard.tensors])


def _beside(index, name):
    file = pathlib.Path(index).parent / name
    if pathlib.PurePath(name).name != name or "\\" in name or name == "..":
        raise damaged(index, f"it names the file {name!r}, which does not lie beside it")
    if not file.is_file():
        raise UserError(f"{index} names {name}, which is not beside it; get all of the files it names.")
    return file
