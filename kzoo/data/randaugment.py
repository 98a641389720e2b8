"""RandAugment (https://arxiv.org/abs/1909.13719) with timm's operations and scales: from uniform numbers to
operations.
"""

import statistics

_NORMAL = statistics.NormalDist()
UNIFORMS = 4  # that one operation takes: which, whether, how strong, which way


def draw(settings, u):
    """The operations [(name, argument), ...] of one picture from uniform u (layers * UNIFORMS,) in [0, 1)."""
    scales = INCREASING if settings.increasing else PLAIN
    names = tuple(scales)
    drawn = []
    for which, whether, strength, way in u.reshape(settings.layers, UNIFORMS).tolist():
        if whether < settings.probability:
            name = names[int(which * len(names))]
            drawn.append((name, scales[name](_magnitude(settings, strength) / 10, 1 if way < 0.5 else -1)))
    return drawn


def _magnitude(settings, u):
    """Normal around the asked magnitude; never below 0, nor above 10 unless a higher one was asked (timm's mmax)."""
    if not settings.magnitude_std:
        return settings.magnitude
    # the middle of the float's cell, never 0
    drawn = settings.magnitude + settings.magnitude_std * _NORMAL.inv_cdf(u + 2.0**-25)
    return min(max(drawn, 0.0), max(settings.magnitude, 10.0))


# Each scale takes a level, magnitude / 10, and a sign, and gives the operation's argument.
_GEOMETRY = {
    "rotate": lambda level, sign: sign * 30 * level,  # degrees
    "shear_x": lambda level, sign: sign * 0.3 * level,
    "shear_y": lambda level, sign: sign * 0.3 * level,
    "translate_x": lambda level, sign: sign * 0.45 * level,  # share of the side
    "translate_y": lambda level, sign: sign * 0.45 * level,
}
_NO_ARGUMENT = dict.fromkeys(("auto_contrast", "equalize", "invert"), lambda level, sign: None)
_SOLARIZE_ADD = {"solarize_add": lambda level, sign: min(128, int(110 * level))}
_ENHANCE = ("color", "contrast", "brightness", "sharpness")

# The first published scales: posterize, solarize and the enhancements are strongest somewhere else than at the highest
# level.
PLAIN = {
    **_NO_ARGUMENT,
    **_GEOMETRY,
    **_SOLARIZE_ADD,
    "posterize": lambda level, sign: int(4 * level),  # bits kept
    "solarize": lambda level, sign: min(256, int(256 * level)),  # threshold
    **dict.fromkeys(_ENHANCE, lambda level, sign: 1.8 * level + 0.1),
}
INCREASING = {
    **PLAIN,
    "posterize": lambda level, sign: max(4 - int(4 * level), 0),
    "solarize": lambda level, sign: 256 - min(256, int(256 * level)),
    **dict.fromkeys(_ENHANCE, lambda level, sign: max(0.1, 1 + sign * 0.9 * level)),
}
