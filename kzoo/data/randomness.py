"""Randomness as a pure function of seed, epoch and sample: what a resumed or a parallel run draws is what the first run
drew.
"""

import numpy as np

REPETITION = 1 << 40  # a sample's key is its number plus this for every time that the epoch has drawn it before
MIXING, NOISE, MASKS, BOXES = 1, 2, 3, 4  # purposes
SAMPLING = 16  # another, of balanced epochs

_STEP = np.uint64(0x9E3779B97F4A7C15)  # splitmix64: the golden ratio, and the two multipliers of its finaliser
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniforms(seed, epoch, index, count, purpose=0):
    """float32 in [0, 1), shape (len(index), count): row i depends on seed, epoch, purpose and index[i] alone, not on
    its neighbours.

    epoch is below 2^32; purpose 0 is that of changed pictures, any other (MASKS) has numbers of its own.
    """
    key = _mix(_mix(_words(seed) + _STEP) ^ _words(epoch + (purpose << 32)))
    rows = _mix(key ^ _words(index)[:, None])
    bits = _mix(rows + _STEP * np.arange(1, count + 1, dtype=np.uint64))
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)  # the 24 bits a float32 holds exactly


def permutation(seed, epoch, count):
    """The order in which the epoch visits its `count` samples."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def generator(seed, epoch, purpose, number):
    """A NumPy Generator of its own for each purpose (MIXING, NOISE) and number (a step, a sample's key) of an epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, number, purpose]))


def _words(values):
    return np.atleast_1d(np.asarray(values, np.uint64))  # arrays wrap around without a warning, scalars do not


def _mix(words):
    """The finaliser of splitmix64: every input bit changes every output bit with probability one half."""
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))
