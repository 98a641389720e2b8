"""The receipt of a loading of weights."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The receipt: what became of the model's weights, by their paths, and where they came from.

    resized: position tables; adapted: stems given other input channels; reinitialised: kept as they were built, for
    another number of classes; unused: the file's own names of what the model has no place for; training_only: of what
    only the training of the file's own model needed, such as a decoder. `digest` is the SHA-256 of the file that was
    read (of several, of their digests); `source` the path, or the hub's address with the revision that it meant; `part`
    the key under which the weights lay, where the file holds those of several models.
    """

    loaded: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    training_only: tuple[str, ...] = ()
    format: str = ""
    digest: str = ""
    source: str = ""
    part: str = ""

    @property
    def hub_source(self):
        """`source` where it is the hub's, else ""."""
        return self.source if self.source.startswith("hf://") else ""

    def __str__(self):
        counts = [
            f"{len(getattr(self, name))} {name}" for name in ("loaded", "resized", "adapted", "reinitialised", "unused")
        ]
        counts += [f"{len(self.training_only)} left that only its training needed"] if self.training_only else []
        part = f", its {self.part}" if self.part else ""
        return f"{', '.join(counts)} (format {self.format}{part}, sha256 {self.digest[:12]})"
