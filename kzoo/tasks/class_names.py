"""Whether a source has the classes that a network was made for."""

from kzoo.errors import UserError


def names_for(network, source, classes):
    """The source's class names where they are those of a network that tells so many `classes` apart, () where it has
    others. Raises UserError for a source of more classes, and of other names than the network knows.
    """
    known, found = network.spec.class_names, tuple(source.class_names)
    if source.num_classes > classes:
        raise UserError(
            f"{source.name} has {source.num_classes} classes, the model {classes}; set overrides.num_classes to "
            "train it, and evaluate on the data that it was trained for."
        )
    if known and found and found != tuple(known):  # the numbers would mean other classes
        raise UserError(
            f"{source.name} has the classes {_few(found)}, the model {_few(known)}; evaluate on data of the same "
            "classes."
        )
    return found if len(found) == classes else ()


def _few(names):
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
