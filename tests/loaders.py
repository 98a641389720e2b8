"""Loaders of pictures with labels, as a classifier's run makes them."""

from kzoo import data


def labels_loader(
    source, *, image_size, channels, preprocessing, batch_size, num_classes=None, seed=0, engine="auto", **options
):
    """options: augment and crops of data.Labels."""
    engine = data.engine_for(source, engine)
    take = data.Take(image_size, channels, preprocessing, num_classes)
    return data.Loader(source, data.Labels(take, source, seed=seed, engine=engine, **options), batch_size, seed, engine)
