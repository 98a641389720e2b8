"""The sources of a recipe: its Data with all that it says of them."""

from kzoo.data.division import of_data
from kzoo.data.skipping import Skipping
from kzoo.data.sources import open_source


def open_data(data, split, source=None):
    """The Source of a split of a recipe's Data: divided by its holdout or folds, bad pictures skipped where it says so.

    source: the text of another source, read as the Data says; where it is not the Data's own, holdout and folds, which
    are of that one, do not divide it. Raises as open_source does.
    """
    own = source is None or source == data.source
    opened = open_source(
        data.source if own else source,
        split,
        data_dir=data.data_dir,
        division=of_data(data) if own else None,
        lenient=data.bad_pictures == "skip",
    )
    return Skipping(opened) if data.bad_pictures == "skip" else opened


def tell_skipped(training, evaluation):
    """Says which pictures of two sources could not be read since it was last asked."""
    for source, trained in ((training, True), (evaluation, False)):
        if isinstance(source, Skipping):
            source.tell(trained)
