"""Fixed position tables."""

import numpy as np


def sincos_2d(grid_size, dim):
    """The 2-D sine-cosine table of MAE: (rows * columns, dim) float32, tokens row-major.

    The first half of the channels encodes the column, the second the row; each half is all sines, then all cosines, with
    wavelengths 10000^(i / (dim / 4)) (https://arxiv.org/abs/2111.06377, official code). `dim` must be divisible by 4.
    """
    rows, columns = grid_size
    omega = 10000.0 ** (-np.arange(dim // 4) / (dim / 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [np.outer(axis.reshape(-1), omega) for axis in (column, row)]
    return np.concatenate([part for a in angles for part in (np.sin(a), np.cos(a))], axis=1).astype("float32")
