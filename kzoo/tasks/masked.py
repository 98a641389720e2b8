"""Masked autoencoding: most patches of a picture are hidden, and the network paints them. Its view and loss are in
views/masked.py.

"Masked Autoencoders Are Scalable Vision Learners", https://arxiv.org/abs/2111.06377.
"""

import weakref

import numpy as np

from kzoo import schema
from kzoo.data import Array, Labels
from kzoo.data.batching import padded
from kzoo.data.randomness import MASKS, uniforms
from kzoo.errors import UsageError, UserError
from kzoo.figures import new_figure, save, show, thumbnail
from kzoo.tasks import neighbours
from kzoo.tasks.base import Task, register_task
from kzoo.tasks.meters import Meter

# {network: what evaluation asks of it}, which is compiled once, not for every epoch
_KNOWN = weakref.WeakKeyDictionary()
EPSILON = 1e-6  # added to a patch's variance
EVALUATION = (1 << 32) - 1  # the epoch of evaluation's masks, which are the same every time


class MaskedPictures(Labels):
    """x = {"image" float32 (B, H, W, C), normalised, "noise" float32 (B, N) in [0, 1)}, the noise of N patches drawn by
    each picture's key.

    Training has no targets; evaluation has the labels, for neighbours to be asked, where the source gives some.
    """

    def __init__(self, take, source, **options):
        super().__init__(take, source, **options)
        self.patches, self.labelled = int(np.prod(take.grid)), _labelled(source)

    def train(self, pictures, targets, keys, epoch, step):
        return ({"image": super().train(pictures, targets, keys, epoch, step)[0], "noise": self._noise(epoch, keys)},)

    def evaluate(self, pictures, targets, keys, rows):
        labels = targets if self.labelled else np.zeros(len(pictures), np.int32)
        images, labels, weights = super().evaluate(pictures, labels, keys, rows)
        return (
            {"image": images, "noise": padded(self._noise(EVALUATION, keys), rows)},
            labels if self.labelled else (),
            weights,
        )

    def signature(self, rows, *, training):
        images, labels, *weights = super().signature(rows, training=training)
        x = {"image": images, "noise": Array((rows, self.patches), np.float32)}
        return (x,) if training else (x, labels if self.labelled else (), *weights)

    def _noise(self, epoch, keys):
        return uniforms(self.seed, epoch, keys, self.patches, MASKS)


@register_task
class Masked(Task):
    """The squared error on hidden patches; what is left is the encoder, judged by its nearest neighbours where there
    are labels.
    """

    settings_class = schema.Masked
    targets = "picture"
    crops = False
    curves = ("loss", "knn_accuracy")
    asks = {"mask_ratio": float, "norm_pix": bool, "seed": int}

    def headline(self, source):
        return ("knn_accuracy", 1) if _labelled(source) else ("loss", -1)

    def accept(self, network, source):
        if not _paints(network):
            raise UserError(
                f"{network.spec.name}, as built here, paints no hidden patches; the task masked trains kzoo list "
                "'mae_*'."
            )
        return ()

    def require_both(self, source, held_out):
        if not _labelled(source):
            return
        if not _labelled(held_out):
            raise UserError(
                f"{source.name} has labels and {held_out.name} has none: evaluate on such with labels, or train "
                "without."
            )
        neighbours.require_same_classes(source, held_out)

    def batching(self, take, source, data, seed, engine):
        return MaskedPictures(take, source, augment=data.augment, seed=seed, engine=engine)

    def view(self, network):
        from kzoo.tasks.views.masked import MaskedView

        return MaskedView(network, self.settings)

    def judged(self, view, network):
        """{"error", "hidden"}: of each picture the sum of its hidden patches' errors, and their number."""
        from kzoo.tasks.views.masked import judged

        norm_pix, known = self.settings.norm_pix, _KNOWN.setdefault(network, {})
        if norm_pix not in known:
            known[norm_pix] = judged(network, norm_pix)
        return known[norm_pix]

    def meter(self, network, source):
        return ErrorMeter()

    def evaluate(self, view, network, loader, reference, between=lambda: None, memory=None):
        """loss and, where there are labels, knn_accuracy of the encoder, of knn_queries pictures by knn_reference of
        the training split.

        view None: of a finished run, all pictures are asked by all.
        """
        figures, s = super().evaluate(view, network, loader, reference, between, memory), self.settings
        if not _labelled(loader.source):
            return figures
        known = reference()
        if not _labelled(known.source):
            return figures
        neighbours.require_same_classes(known.source, loader.source)
        limits = (None, None) if view is None else (s.knn_reference, s.knn_queries)
        encoder = self._encoder(network)
        given, asked = (
            neighbours.vectors(encoder, *each, between) for each in zip((known, loader), limits, strict=True)
        )
        hits = neighbours.accuracy(given, asked, known.source.num_classes, s.knn_k, s.knn_temperature)
        return figures | {"knn_accuracy": hits, "knn_reference": len(given[0]), "knn_queries": len(asked[0])}

    def _encoder(self, network):
        """That of `served`, built for the first evaluation and filled anew for each."""
        from kzoo.weights.encoder import refill

        known = _KNOWN.setdefault(network, {})
        if "encoder" not in known:
            known["encoder"] = self.served(network)
        return refill(known["encoder"], network)

    def served(self, network):
        """The encoder, with this network's weights by their paths."""
        from kzoo.weights.encoder import encoder_of

        return encoder_of(network)

    def example(self, network, batch, seed=0):
        inputs = super().example(network, batch, seed)
        return (
            inputs | {"noise": uniforms(seed, 0, range(batch), inputs["noise"].shape[1])}
            if _paints(network)
            else inputs
        )

    def predictor(self, network, view, take, mask_ratio=None, norm_pix=None, seed=0):
        """mask_ratio: of another share than the network's own; norm_pix: what it was trained for, by default this
        task's setting.

        Raises UsageError where the network is an encoder alone, which has no use of them.
        """
        if not _paints(network):
            if (mask_ratio, norm_pix, seed) != (None, None, 0):
                raise UsageError(
                    f"{network.spec.name} is an encoder alone here, and hides no patches; leave {', '.join(self.asks)} "
                    "out."
                )
            return super().predictor(network, view, take)
        if not 0 <= seed < 2**32:
            raise UsageError(f"the seed of a mask lies in 0..2^32 - 1, not {seed}.")
        norm_pix = self.settings.norm_pix if norm_pix is None else norm_pix
        if mask_ratio is not None:
            from kzoo.weights.encoder import rebuilt

            network = rebuilt(network, mask_ratio=mask_ratio)
        return lambda picture: self._painted(network, picture, take, norm_pix, seed)

    def predict(self, network, view, picture, take):
        """{"original", "masked", "reconstruction"}, the picture (H, W, C) in 0..1 as it was given, its hidden patches
        grey, and painted, "error", the mean over their values, and "mask_ratio"; of an encoder alone {"features":
        (D,)}. float32.
        """
        if not _paints(network):
            return super().predict(network, view, picture, take)
        return self._painted(network, picture, take, self.settings.norm_pix, 0)

    def _painted(self, network, picture, take, norm_pix, seed):
        patch, grid = network.take.patch_size, network.take.grid
        images = self.prepared([picture], take)[0]
        outputs = network.predict_on_batch(
            {"image": images, "noise": uniforms(seed, EVALUATION, [0], grid[0] * grid[1], MASKS)}
        )
        painted, mask = (np.asarray(outputs[name])[0].astype("float64") for name in ("pred", "mask"))
        there, hidden = cut(images[0].astype("float64"), patch), mask[:, None] > 0
        mean, std = np.zeros(1), np.ones(1)
        if norm_pix:  # undone by the mean and deviation of the patches that are there
            mean, std = there.mean(axis=1, keepdims=True), np.sqrt(there.var(axis=1, ddof=1, keepdims=True) + EPSILON)
        error = np.mean((painted - (there - mean) / std) ** 2, axis=1)
        filled = np.where(hidden, painted * std + mean, there)
        original, reconstruction, masked = (
            joined(each, grid, patch) for each in (there, filled, np.broadcast_to(hidden, there.shape))
        )
        preprocessing = take.preprocessing
        original, reconstruction = (
            np.clip(image * preprocessing.std + preprocessing.mean, 0, 1).astype("float32")
            for image in (original, reconstruction)
        )
        shown = {
            "original": original,
            "masked": np.where(masked, np.float32(0.5), original),
            "reconstruction": reconstruction,
        }
        return shown | {"error": np.float32(error[mask > 0].mean()), "mask_ratio": np.float32(mask.mean())}

    def answer(self, outputs, labels, top):
        """{"reconstruction_error", "mask_ratio"}, or {"features": {"length", "norm"}} of an encoder's vector."""
        if "features" in outputs:
            vector = np.asarray(outputs["features"], "float64")
            return {"features": {"length": len(vector), "norm": float(np.linalg.norm(vector))}}
        return {"reconstruction_error": float(outputs["error"]), "mask_ratio": round(float(outputs["mask_ratio"]), 6)}

    def line(self, answer):
        if "features" in answer:
            return f"{answer['features']['length']} features of norm {answer['features']['norm']:.4f}"
        return f"reconstruction error {answer['reconstruction_error']:.4f} with {answer['mask_ratio']:.1%} hidden"

    def draw(self, path, picture, outputs, answer):
        """What was masked, painted and there, side by side; of an encoder the picture alone."""
        shown = {name: outputs[name] for name in ("masked", "reconstruction", "original") if name in outputs} or {
            "": thumbnail(picture)
        }
        figure = new_figure(3 * len(shown), 3.4)
        for axis, (name, image) in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown.items(), strict=True):
            show(axis, image, **({} if image.dtype == np.uint8 else {"vmin": 0, "vmax": 1}))
            axis.set_title(name)
            axis.axis("off")
        figure.suptitle(self.line(answer), fontsize=10)
        save(figure, path)

    def captions(self, batch, names):
        return [""] * len(batch[0]["image"])


class ErrorMeter(Meter):
    """loss: the mean error of all hidden patches."""

    def __init__(self):
        self.errors, self.hidden = [], []

    def update(self, outputs, y, real):
        self.errors.append(outputs["error"][real].astype("float64").sum())
        self.hidden.append(outputs["hidden"][real].astype("float64").sum())

    def result(self):
        return {"loss": float(np.sum(self.errors) / np.sum(self.hidden))}


def cut(image, patch):
    """A picture (H, W, C) -> its whole patches (N, patch * patch * C), row by row, each row by row, channels last."""
    rows, columns = (side // patch for side in image.shape[:2])
    x = image[: rows * patch, : columns * patch].reshape(rows, patch, columns, patch, -1)
    return x.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)


def joined(patches, grid, patch):
    """The patches (N, patch * patch * C) of a grid -> the picture (H, W, C)."""
    x = patches.reshape(*grid, patch, patch, -1)
    return x.transpose(0, 2, 1, 3, 4).reshape(grid[0] * patch, grid[1] * patch, -1)


def _labelled(source):
    """Whether each picture has the one label that neighbours vote for."""
    return source.targets == "label" and not source.multilabel


def _paints(network):
    """Whether the network is a whole autoencoder, not its encoder alone."""
    return isinstance(network.output, dict) and {"pred", "mask"} <= set(network.output)
