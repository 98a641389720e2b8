"""Training input in pictures a second: kzoo's loader beside bare JPEG decoding, its limit, and other libraries'
pipelines.

Synthetic photographs of 500 x 375 pixels whose files weigh what ImageNet's do. `decode` is the limit: nothing but JPEG
to uint8. `crop` adds a random resized crop to 224 pixels, a flip and normalising, in batches; `randaugment` starts from
uint8 pictures of 224 pixels. Each pipeline is a process of its own that keeps running from turn to turn, so that
start-up is not in the figures.
"""

import concurrent.futures
import importlib.util
import io
import itertools
import os
import pathlib
import tempfile
from functools import partial

import numpy as np

from benchmarks.common import Peer, cores, emit, interleave, medians, parser, progress, quotient, spread

SIZE, BATCH, TURN = 224, 64, 256  # pixels of the model's input; pictures in a batch; pictures in a call
MEAN, STD, SCALE = 127.5, 127.5, (0.08, 1.0)
# of RandAugment: operations a picture, their strength in 0..1, the probability of each
LAYERS, MAGNITUDE, RATE = 2, 0.5, 0.9


def photograph(seed, height=375, width=500):
    """Noise with the spectrum of natural pictures (amplitude 1 / frequency) in correlated colours: uint8 (height,
    width, 3).
    """
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(random.standard_normal((3, height, width))) / frequency**1.1
    noise = np.fft.irfft2(spectrum, (height, width))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    brightness, colour = noise[:1], noise
    return np.clip(120 + 55 * brightness + 15 * colour, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def write_pictures(folder, count, copies):
    """Writes `count` JPEG files, each under `copies` names, as folder:PATH reads them, and TURN small pictures as often
    as pictures.npz.

    Returns the mean size of a file in bytes.
    """
    from PIL import Image

    home = pathlib.Path(folder) / "train" / "picture"
    home.mkdir(parents=True)
    for number in range(count):
        first = home / f"{number:04d}.jpg"
        Image.fromarray(photograph(number)).save(first, quality=90)
        for copy in range(1, copies):
            os.link(first, home / f"{number:04d}_{copy}.jpg")
    small = np.stack([photograph(number, SIZE, SIZE) for number in range(TURN)] * copies)
    np.savez(pathlib.Path(folder) / "pictures.npz", x_train=small, y_train=np.arange(len(small)) % 10)
    return sum(file.stat().st_size for file in home.iterdir()) // (count * copies)


def files_of(folder):
    return sorted(str(file) for file in pathlib.Path(folder).rglob("*.jpg"))


def turns(epoch):
    """A callable that takes TURN pictures, in whole batches, from epoch(0), epoch(1), ... one after another."""
    batches = itertools.chain.from_iterable(map(epoch, itertools.count()))
    return lambda: [next(batches) for _ in range(TURN // BATCH)]


def pillow_decode(folder):
    """Pillow on as many threads as cores, file by file."""
    from PIL import Image

    pool, files = concurrent.futures.ThreadPoolExecutor(cores()), itertools.cycle(files_of(folder))

    def decode(file):
        return np.asarray(Image.open(io.BytesIO(pathlib.Path(file).read_bytes())).convert("RGB"))

    return lambda: list(pool.map(decode, itertools.islice(files, TURN)))


def tensorflow_decode(folder):
    """tf.io.decode_jpeg in a parallel map, with the transform that gives the pixels Pillow gives (its default is a
    coarser one).
    """
    import tensorflow as tf

    files = tf.data.Dataset.from_tensor_slices(files_of(folder)).repeat()

    def decode(file):
        return tf.io.decode_jpeg(tf.io.read_file(file), 3, dct_method="INTEGER_ACCURATE")

    stream = iter(files.map(decode, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))
    return lambda: [next(stream) for _ in range(TURN)]


def kzoo_crop(folder):
    """kzoo's loader over folder:PATH, as a recipe runs it."""
    return _kzoo_loader(f"folder:{folder}", crop_scale=SCALE, flip=0.5)


def _kzoo_loader(source, **augment):
    from kzoo.data import Labels, Loader, Take, engine_for, open_source
    from kzoo.schema import Augment
    from kzoo.specs import Preprocessing

    source, take = open_source(source, "train"), Take((SIZE, SIZE), 3, Preprocessing(interpolation="bilinear"))
    labels = Labels(take, source, augment=Augment(**augment), engine=engine_for(source))
    return turns(Loader(source, labels, BATCH).epoch)


def tensorflow_crop(folder):
    """A plain tf.data pipeline: decodes the part that the crop needs, and resizes without antialiasing."""
    import tensorflow as tf

    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])

    def load(file):
        encoded = tf.io.read_file(file)
        shape = tf.io.extract_jpeg_shape(encoded)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape, whole, area_range=SCALE, aspect_ratio_range=(3 / 4, 4 / 3)
        )
        window = tf.concat([begin[:2], size[:2]], axis=0)
        picture = tf.image.resize(tf.io.decode_and_crop_jpeg(encoded, window, 3), (SIZE, SIZE))
        return (tf.image.random_flip_left_right(picture) - MEAN) / STD

    files = tf.data.Dataset.from_tensor_slices(files_of(folder)).repeat()
    stream = iter(files.map(load, tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE))
    return lambda: [next(stream) for _ in range(TURN // BATCH)]


def timm_crop(folder):
    """timm's training transform on as many threads as cores."""
    from PIL import Image

    from tests.torch_reference import import_timm

    import_timm()
    import torch
    from timm.data import create_transform

    torch.set_num_threads(1)  # the pictures are what runs in parallel
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    transform = create_transform(
        SIZE, is_training=True, scale=SCALE, color_jitter=None, interpolation="bilinear", **half
    )
    pool, files = concurrent.futures.ThreadPoolExecutor(cores()), itertools.cycle(files_of(folder))

    def load(file):
        return transform(Image.open(file).convert("RGB"))

    return lambda: [torch.stack(list(pool.map(load, itertools.islice(files, BATCH)))) for _ in range(TURN // BATCH)]


def kzoo_randaugment(folder, library="kzoo"):
    """kzoo's loader over pictures in memory; `library` does the operations."""
    from kzoo.schema import RandAugment

    return _kzoo_loader(
        f"npz:{folder}/pictures.npz",
        rand_augment=RandAugment(layers=LAYERS, magnitude=10 * MAGNITUDE, probability=RATE),
        library=library,
    )


def keras_cv_randaugment(folder):
    """KerasCV's layer alone in a tf.data map over batches."""
    import keras_cv
    import tensorflow as tf

    with np.load(f"{folder}/pictures.npz") as stored:
        images = stored["x_train"]
    layer = keras_cv.layers.RandAugment(
        value_range=(0, 255), augmentations_per_image=LAYERS, magnitude=MAGNITUDE, rate=RATE
    )
    batches = tf.data.Dataset.from_tensor_slices(images).repeat().batch(BATCH, drop_remainder=True)
    stream = iter(
        batches.map(lambda b: (layer(tf.cast(b, tf.float32)) - MEAN) / STD, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    )
    return lambda: [next(stream) for _ in range(TURN // BATCH)]


PIPELINES = {
    "decode_pillow": pillow_decode,
    "decode_tensorflow": tensorflow_decode,
    "crop_kzoo": kzoo_crop,
    "crop_tensorflow": tensorflow_crop,
    "crop_timm": timm_crop,
    "randaugment_kzoo": kzoo_randaugment,
    "randaugment_kzoo_by_keras_cv": partial(kzoo_randaugment, library="keras_cv"),
    "randaugment_keras_cv": keras_cv_randaugment,
}
NEEDS = {"crop_timm": "timm", "randaugment_kzoo_by_keras_cv": "keras_cv", "randaugment_keras_cv": "keras_cv"}
COMPARED = (  # kzoo's speed in units of the other's
    ("crop_kzoo", "decode_pillow"),
    ("crop_kzoo", "decode_tensorflow"),
    ("crop_kzoo", "crop_tensorflow"),
    ("crop_kzoo", "crop_timm"),
    ("randaugment_kzoo", "randaugment_keras_cv"),
)


def measure(folder, pictures, copies, rounds, only):
    """The figures of one comparison, as emit() prints them; `folder` is empty and keeps the pictures."""
    file_bytes = write_pictures(folder, pictures, copies)
    absent = {name: "not installed" for name, package in NEEDS.items() if importlib.util.find_spec(package) is None}
    absent |= {name: "not asked for" for name in PIPELINES if only and name not in only}
    peers = {}
    for name, setup in PIPELINES.items():
        if name not in absent:
            progress(f"preparing {name}")
            peers[name] = Peer(setup, folder)
    seconds = interleave(peers, rounds)
    return {
        "pictures": pictures,
        "file_bytes": file_bytes,
        "rounds": rounds,
        "pictures_per_second": {name: round(TURN / value, 1) for name, value in medians(seconds).items()},
        "kzoo_faster": {
            f"{a} to {b}": quotient(seconds[b], seconds[a]) for a, b in COMPARED if a in seconds and b in seconds
        },
        "spread": spread(seconds),
        "absent": absent,
    }


def main():
    options = parser(__doc__, rounds=9)
    options.add_argument("--pictures", type=int, default=256, help="different files")
    options.add_argument("--copies", type=int, default=8, help="names of each file, so that an epoch is long")
    options.add_argument("--only", nargs="+", metavar="PIPELINE", help="these alone")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(folder, options.pictures, options.copies, options.rounds, options.only)
    emit("input", result, options.save)


if __name__ == "__main__":
    main()
