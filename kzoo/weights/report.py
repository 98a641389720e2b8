"""The receipt of a loading of weights."""

import dataclasses

from kzoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The receipt: what became of the model's weights, by their paths, and where they came from.

    resized: position tables, by the rules that `resized_by` names (bicubic, bilinear, or one of
    kzoo.weights.surgery.OFFSET_RULES); adapted: stems given other input channels, tables given another number of rows
    (queries, of which the first are kept); reinitialised: kept as they were built, for another number of classes;
    unused: the file's own names of what the model has no place for; training_only: of what only the training of the
    file's own model needed, such as a decoder. `digest` is the SHA-256 of the file that was read (of several, of their
    digests); `source` the path, or the hub's address with the revision that it meant; `part` the key under which the
    weights lay, where the file holds those of several models. lacking: what of a model makes no sense without trained
    weights where it was given none, such as frozen parts; "" for nothing.
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
    resized_by: tuple[str, ...] = ()
    lacking: str = ""

    @property
    def hub_source(self):
        """`source` where it is the hub's, else ""."""
        return self.source if self.source.startswith("hf://") else ""

    def __str__(self):
        if self.lacking:
            return f"no weights were given, which {self.lacking} would need: it stays as random as it starts"
        counts = [
            f"{len(getattr(self, name))} {name}" for name in ("loaded", "resized", "adapted", "reinitialised", "unused")
        ]
        if self.resized_by:
            counts[1] += f" ({' and '.join(self.resized_by)})"
        counts += [f"{len(self.training_only)} left that only its training needed"] if self.training_only else []
        part = f", its {self.part}" if self.part else ""
        return f"{', '.join(counts)} (format {self.format}{part}, sha256 {self.digest[:12]})"


def require_trained(model):
    """Raises UserError for a model with frozen parts that were given no weights: what it does stays random."""
    report = getattr(model, "load_report", None)
    if report is not None and report.lacking:
        raise UserError(
            f"{model.spec.name} with {report.lacking} would stay as random as it starts: give it trained weights by "
            "weights= or backbone_weights=, in a recipe by init_from."
        )
