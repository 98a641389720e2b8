"""From pictures to a model's input, on keras.ops: the same numbers in Python, in a graph and inside a SavedModel."""

from keras import ops, tree

from kzoo.errors import UserError
from kzoo.ops.resize import border, crop_offset, fitted_size, resample, resize_weights, resized_size


def preprocess(images, image_size, preprocessing):
    """images (B, h, w, C), uint8 or float in 0..255, static or dynamic h and w -> float32 (B, H, W, C), normalised.

    Resizes with antialiasing to image_size / crop_pct as the crop_mode says, crops the centre, and normalises. Resize
    and crop are one pair of matrix products; pictures that already have the right size skip them.
    """
    height, width = image_size
    shape, dynamic = images.shape, ops.shape(images)
    x = ops.cast(images, "float32")
    if tuple(shape[1:3]) != (height, width) or preprocessing.crop_pct < 1:
        grown = resized_size(dynamic[1], dynamic[2], image_size, preprocessing.crop_pct, preprocessing.crop_mode)
        rows, columns = (
            _axis(have, want, size, preprocessing.interpolation)
            for have, want, size in zip(dynamic[1:3], image_size, grown, strict=True)
        )
        x = ops.clip(resample(x, rows, columns, xp=ops), 0.0, 255.0)  # bicubic overshoots
        if preprocessing.crop_mode == "border":
            x = x + border(rows, columns, preprocessing.fill, xp=ops)
    return (x / 255.0 - _constant(preprocessing.mean)) / _constant(preprocessing.std)


def padded(images, image_size, preprocessing):
    """The same pictures as detectors take them: {"image": float32 (B, H, W, C), normalised, "mask": bool (B, H, W)}.

    They keep their proportions, their shorter and longer side at most those of image_size, and lie in the upper left;
    the rest is padding, where the mask is True and the image 0.
    """
    have, dynamic = images.shape[1:3], ops.shape(images)
    size = fitted_size(dynamic[1], dynamic[2], min(image_size), max(image_size), image_size)
    x, inside = (
        ops.cast(images, "float32"),
        [ops.arange(side) < grown for side, grown in zip(image_size, size, strict=True)],
    )
    if tuple(have) != tuple(image_size) or size != tuple(image_size):
        rows, columns = (
            resize_weights(
                side,
                target,
                preprocessing.interpolation,
                scale=ops.cast(side, "float32") / ops.cast(grown, "float32"),
                xp=ops,
            )
            for side, target, grown in zip(dynamic[1:3], image_size, size, strict=True)
        )
        x = ops.clip(resample(x, rows, columns, xp=ops), 0.0, 255.0)  # bicubic overshoots
    shown = ops.logical_and(inside[0][:, None], inside[1][None, :])
    return _shown(x, ops.broadcast_to(shown[None], ops.shape(x)[:3]), preprocessing)


def filled(images, sizes, preprocessing):
    """The same of pictures (B, H, W, C) that lie in the upper left of the model's size already; sizes (B, 2): the
    height and width that each fills of it. What lies beside it may be anything.
    """
    rows, columns = (
        ops.arange(side, dtype="float32")[None] < ops.cast(sizes, "float32")[:, i, None]
        for i, side in enumerate(images.shape[1:3])
    )
    return _shown(ops.cast(images, "float32"), ops.logical_and(rows[:, :, None], columns[:, None]), preprocessing)


def _shown(x, shown, preprocessing):
    """Pictures (B, H, W, C) in 0..255, normalised where `shown` (B, H, W), as `padded` gives them."""
    x = (x / 255.0 - _constant(preprocessing.mean)) / _constant(preprocessing.std)
    return {"image": ops.where(shown[..., None], x, 0.0), "mask": ops.logical_not(shown)}


def _axis(size_in, size_out, grown, method):
    """The matrix of one axis: resized to `grown` pixels, of which the middle `size_out` are kept."""
    offset = crop_offset(grown, size_out)
    if isinstance(size_in, int) and isinstance(grown, int):
        return ops.convert_to_tensor(resize_weights(size_in, size_out, method, scale=size_in / grown, offset=offset))
    scale = ops.cast(size_in, "float32") / ops.cast(grown, "float32")
    return resize_weights(size_in, size_out, method, scale=scale, offset=offset, xp=ops)


def _constant(values):
    return ops.convert_to_tensor(values, dtype="float32")


class Preprocessor:
    """Callable from one picture (h, w, C), a batch of equal sizes (B, h, w, C) or a list of pictures of any sizes to
    the model's input; of a detector {"image", "mask"}, as in `padded`.

    Pictures are uint8 or float in 0..255.
    """

    def __init__(self, take):
        self.image_size, self.preprocessing = tuple(take.image_size), take.preprocessing
        self._prepare = padded if take.queries else preprocess

    def __call__(self, images):
        if pictures := _of_several_sizes(images):
            return tree.map_structure(lambda *each: ops.stack(each), *map(self, pictures))
        images = ops.convert_to_tensor(images)
        channels = len(self.preprocessing.mean)
        if len(images.shape) not in (3, 4) or images.shape[-1] != channels:
            raise UserError(
                f"expected pictures of shape (h, w, {channels}) or (B, h, w, {channels}), found {tuple(images.shape)}."
            )
        if len(images.shape) == 3:
            one = self._prepare(images[None], self.image_size, self.preprocessing)
            return tree.map_structure(lambda batch: batch[0], one)
        return self._prepare(images, self.image_size, self.preprocessing)


def _of_several_sizes(images):
    """The pictures of a list, an array of objects or TensorFlow's ragged tensor, where they are not of one size; else
    ().
    """
    if hasattr(images, "bounding_shape"):  # ragged; so are its pictures
        return [image.to_tensor() if hasattr(image, "to_tensor") else image for image in images]
    listed = isinstance(images, (list, tuple)) or str(getattr(images, "dtype", "")) == "object"
    shapes = {tuple(getattr(image, "shape", ())) for image in images} if listed else ()
    return list(images) if len(shapes) > 1 else ()
