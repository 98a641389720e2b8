"""A data source: generated pictures of a ring around a random point, thin, middling or thick. Plain NumPy."""

import numpy as np

from kzoo.data.sources import EVALUATION, Source, whole_options


class Rings(Source):
    """n pictures of size x size pixels; a picture depends on its split and number alone, so that runs replay."""

    class_names = ("thin", "middling", "thick")
    num_classes, channels = 3, 3

    def __init__(self, name, split, n=64, size=32):
        self.name, self.n, self.size, self.seed = name, n, size, 1 if split in EVALUATION else 0

    def __len__(self):
        return self.n

    def open(self, i):
        """(uint8 (size, size, 3), label) of sample i."""
        label = int(i) % 3
        random = np.random.default_rng((self.seed, int(i)))
        row, column = random.uniform(0.4, 0.6, 2) * self.size
        y, x = np.ogrid[: self.size, : self.size]
        ring = np.abs(np.hypot(y - row, x - column) - self.size / 4) < (label + 1) * self.size / 32
        colour, ground = random.integers((128, 0), (256, 128), (3, 2)).T
        return np.where(ring[..., None], colour, ground).astype(np.uint8), label


def open_rings(spec, rest, split, data_dir):
    """rings[:n=64,size=32], as the entry point of the group kzoo.sources calls it; data_dir is of no use here."""
    return Rings(spec, split, **whole_options("rings", rest, ("n", "size")))
