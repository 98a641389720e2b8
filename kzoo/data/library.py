"""Augmentation by KerasCV, for runs that need not be replayed: its layers keep the state of their generators."""

from kzoo.errors import require


def keras_cv_rand_augment(settings):
    """KerasCV's RandAugment as a function of uint8 (B, H, W, 3) to the same.

    Its own operations and scales; the magnitude is divided by 10. Raises MissingPackage without keras_cv.
    """
    require("tensorflow", "keras_cv", why="augment.library='keras_cv'")
    import keras_cv
    import tensorflow as tf

    layer = keras_cv.layers.RandAugment(
        value_range=(0, 255),
        augmentations_per_image=settings.layers,
        magnitude=min(settings.magnitude / 10, 1.0),
        magnitude_stddev=settings.magnitude_std / 10,
        rate=settings.probability,
    )

    @tf.function(reduce_retracing=True)
    def changed(images):
        return tf.cast(tf.round(tf.clip_by_value(layer(images), 0, 255)), tf.uint8)

    return lambda images: changed(images).numpy()
