"""Pictures to answers, many at a time: read and prepared by threads ahead of the model, which takes whole batches."""

import collections
import concurrent.futures
import os

import numpy as np

from kzoo.errors import UsageError, UserError
from kzoo.predicting.pictures import FilePicture
from kzoo.tasks.answers import Prepared

BATCH = 32
LARGEST = 2**26  # numbers in a batch, whatever is asked for: 256 MiB as float32
WAITING = 2**27  # numbers of prepared pictures that wait for others of their shape, or for the model


class Answer(dict):
    """{"image": name, ...the task's answer}, with the `outputs` that it was read from and the `picture` that it is
    about; or {"image", "error"}, why there is none.
    """

    outputs = None

    def __init__(self, picture, answer, label=None):
        super().__init__({"image": picture.name} | ({} if label is None else {"true_label": label}) | answer)
        self.picture = picture


def predict(predictor, images, top=5):
    """The Answer about each of some picture files, one by one, of a classifier {"classes": [{"label", "index",
    "probability"}, ...best first]}.

    Raises UserError that names a file that is missing or no picture.
    """
    check_top(top)
    results = []
    for picture in map(FilePicture, images):
        outputs = predictor(picture.read(predictor.channels)[0])
        results.append(_read(predictor, picture, outputs, top))
    return results


def answers(predictor, pictures, top=5, batch_size=BATCH, vectors=False):
    """Iterates over the Answers about the Pictures, in their order; of one that cannot be read {"image", "error"}.

    Batches are of equal shapes and hold batch_size pictures, less where these are large; the answers are those of
    pictures by themselves, up to rounding. vectors: of a model that gives a vector of features that is the answer, its
    length and norm, whatever its task says of it.
    """
    check_top(top)
    if batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, not {batch_size}.")
    return _in_order(_predicted(predictor, pictures, top, min(batch_size, len(pictures)), vectors))


def _in_order(numbered):
    """The answers of (number, Answer) by their numbers, each as soon as all before it are there."""
    done, place = {}, 0
    for number, found in numbered:
        done[number] = found
        while place in done:
            yield done.pop(place)
            place += 1


def check_top(top):
    """Raises UsageError for a number of classes to show that shows none."""
    if top < 1:
        raise UsageError(f"--top must be at least 1, not {top}.")


def _predicted(predictor, pictures, top, size, vectors):
    """Yields (number, Answer), batch by batch. None is left behind for long: where much waits, the shape of the oldest
    goes first.
    """
    prepare, predict = predictor.batches() or (_alone, lambda found, rows: [predictor(one.given) for one in found])
    groups = {}  # {shape: [(number, picture, label, Prepared), ...]}

    def flushed(shape):
        group = groups.pop(shape)
        outputs = predict([prepared for *_, prepared in group], max(len(group), _rows(group[0][-1], size)))
        for (number, picture, label, _), own in zip(group, outputs, strict=True):
            yield number, _read(predictor, picture, own, top, label, vectors)

    def oldest():
        return min(groups, key=lambda shape: groups[shape][0][0])

    for number, (picture, label, prepared) in enumerate(_ahead(pictures, predictor.channels, prepare, size)):
        if isinstance(prepared, UserError):
            yield number, Answer(picture, {"error": str(prepared)}, label)
            continue
        group = groups.setdefault(prepared.shape, [])
        group.append((number, picture, label, prepared))
        if len(group) >= _rows(prepared, size) or _cost(group) >= LARGEST:
            yield from flushed(prepared.shape)
        elif sum(map(len, groups.values())) >= 8 * size or sum(map(_cost, groups.values())) > WAITING:
            yield from flushed(oldest())
    while groups:
        yield from flushed(oldest())


def _cost(group):
    return sum(prepared.cost for *_, prepared in group)


def _alone(picture):
    """Of a picture that is asked about by itself."""
    return Prepared(None, picture.size, picture)


def _rows(prepared, size):
    """How many such pictures make a batch."""
    return max(1, min(size, LARGEST // max(prepared.cost, 1)))


def _read(predictor, picture, outputs, top, label=None, vectors=False):
    if vectors and np.ndim(vector := outputs.get("features", 0.0)) == 1:
        told = {"features": {"length": len(vector), "norm": float(np.linalg.norm(np.float64(vector)))}}
    else:
        told = predictor.task.answer(outputs, predictor.labels, top)
    answer = Answer(picture, told, label)
    answer.outputs = outputs
    return answer


def _ahead(pictures, channels, prepare, size):
    """Yields (picture, label, Prepared or the UserError of one that cannot be read) in order, read by threads as far
    ahead as two batches, or as their memory allows.
    """

    def job(picture):
        try:
            array, label = picture.read(channels)
            return picture, label, prepare(array)
        except UserError as error:
            return picture, None, error

    threads = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)
    most, jobs = threads + 1, collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="kzoo-predict")
    try:
        for picture in pictures:
            jobs.append(pool.submit(job, picture))
            if len(jobs) > most:
                found = jobs.popleft().result()
                if isinstance(found[2], Prepared):
                    most = max(threads + 1, min(2 * size, WAITING // max(found[2].cost, 1)))
                yield found
        while jobs:
            yield jobs.popleft().result()
    finally:  # also where whoever asked has had enough
        pool.shutdown(wait=False, cancel_futures=True)
