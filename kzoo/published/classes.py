"""Names of the classes that published weights tell apart: subsets of ImageNet, named by the lemmas of WordNet's
synsets.

WordNet, https://wordnet.princeton.edu, gives each class ("synset") its number, n01440764, and its words, "tench, Tinca
tinca". Every subset is in the order of those numbers, so that one table serves all: a line a synset, its number, the
letters of the subsets that it belongs to, its words. Standard library only.
"""

import functools
import gzip
import pathlib

TABLE = pathlib.Path(__file__).with_name("imagenet.tsv.gz")
SUBSETS = {  # name: letter in the table
    "imagenet-1k": "1",  # ILSVRC 2012, 1000 classes
    "imagenet-12k": "2",  # timm's selection of the autumn-2011 release, 11821 classes
    "imagenet-22k": "w",  # the release as Microsoft's models count it, 21841 classes
    "imagenet-21k-goog": "g",  # the release as Google's models count it, 21843 classes
    "imagenet-21k-miil": "m",  # Alibaba's selection (https://arxiv.org/abs/2104.10972), 11221 classes
}


@functools.cache
def _lines():
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        return [tuple(line.rstrip("\n").split("\t")) for line in file]


@functools.cache
def synsets(subset):
    """WordNet's numbers ("n01440764") of the classes of one of SUBSETS, in the order of the logits."""
    return tuple(number for number, letters, _ in _lines() if SUBSETS[subset] in letters)


@functools.cache
def class_names(subset):
    """The words for the classes of one of SUBSETS, in the order of the logits."""
    return tuple(words for _, letters, words in _lines() if SUBSETS[subset] in letters)
