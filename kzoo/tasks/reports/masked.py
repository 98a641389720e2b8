"""What a report says of a masked autoencoder: the errors of its reconstructions, and some to look at."""

import dataclasses

import numpy as np

from kzoo.figures import new_figure
from kzoo.tasks.reports.base import Drawing, Reporter, Section, Sheet, Table, Tile, Worst, shown, write_rows
from kzoo.tasks.reports.drawn import sized

FIRST, HIGHEST = 6, 6  # pictures to look at
SHARES = (0, 5, 25, 50, 75, 95, 100)  # percentiles


class PaintedReporter(Reporter):
    """Of each picture's error, the mean over its hidden patches. paint(picture) gives Masked.predict's outputs of uint8
    (H, W, C).
    """

    def __init__(self, network, source, paint):
        super().__init__(network, source)
        self.paint, self.errors, self.first, self.worst = paint, [], [], Worst(HIGHEST)

    def update(self, x, y, outputs, real):
        errors = outputs["error"][real].astype(np.float64) / np.maximum(outputs["hidden"][real], 1)
        for (place, row), error in zip(self.count(real), errors, strict=True):
            if place < FIRST:
                self.first.append((place, self._given(x["image"][row])))
            self.worst.offer(error, place, lambda row=row: self._given(x["image"][row]))
        self.errors.append(errors)

    def _given(self, image):
        told = self.network.take.preprocessing.for_channels(image.shape[-1])
        return np.rint(255 * np.clip(image * np.float32(told.std) + np.float32(told.mean), 0, 1)).astype(np.uint8)

    def close(self, meter):
        self.errors = np.concatenate(self.errors)

    def figures(self):
        return {"median_error": float(np.median(self.errors))}

    def sections(self):
        spread = np.percentile(self.errors, SHARES)
        heads = tuple("median" if p == 50 else f"{p} %" for p in SHARES)
        table = Table(("pictures' error", *heads), [("at this percentile", *map(float, spread))], "errors")
        histogram = Drawing("errors", lambda: draw_errors(self.errors), "Histogram of the pictures' errors.")
        tiles = [self._tile(place, picture) for place, picture in self.first]
        highest = [self._tile(place, picture) for _, place, picture in self.worst.ranked()]
        text = "Each is what the model saw, what it painted, and the picture itself, by another mask than the figures"
        return [
            Section(
                "Reconstruction error", ("The mean squared error of a picture's hidden patches.",), (table, histogram)
            ),
            Section("Reconstructions", (f"{text}. The first of the data.",), (Sheet("reconstructions", tiles),)),
            Section("Highest errors", (f"{text}.",), (Sheet("highest_errors", highest),)),
        ]

    def _tile(self, place, picture):
        """Masked, painted and original side by side; the error is the one of the pass, whose mask was another."""
        outputs = self.paint(picture)
        told = dataclasses.replace(self.network.take.preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
        panes = [
            sized(shown(outputs[name], told.for_channels(outputs[name].shape[-1])))[0]
            for name in ("masked", "reconstruction", "original")
        ]
        between = np.full((panes[0].shape[0], 4, 3), 255, np.uint8)
        strip = np.concatenate([panes[0], between, panes[1], between, panes[2]], axis=1)
        return Tile(strip, (self.captioned(place), f"error {self.errors[place]:.4f}"))

    def write(self, folder):
        rows = ((self.called(place), f"{error:.6f}") for place, error in enumerate(self.errors))
        write_rows(folder / "predictions.csv", ("picture", "error"), rows)


def draw_errors(errors):
    """How many pictures have which error."""
    figure = new_figure(5.6, 3.2)
    axis = figure.subplots()
    axis.hist(errors[np.isfinite(errors)], bins=40, color="C0", alpha=0.8)
    axis.set(xlabel="error", ylabel="pictures")
    axis.grid(axis="y")
    return figure
