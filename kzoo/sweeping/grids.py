"""What a sweep varies: lists of values and ranges, as a recipe's fields take them."""

import dataclasses
import hashlib
import re

from kzoo.errors import UsageError
from kzoo.settings import flatten, override

# last words of keys that are drawn by their logarithm
RATES = {"lr", "min_lr", "warmup_from", "weight_decay", "epsilon"}
_NAME = 100  # letters of a folder's name at most
_NUMBER = r"[-+]?[\d.]+(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER}?)\.\.(?P<high>{_NUMBER})(?::(?P<scale>log|linear))?")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from low to high, whole ones where `whole`, drawn evenly or, where `log`, by their logarithm."""

    low: float
    high: float
    log: bool
    whole: bool


def parsed(key, values, base):
    """The values of a key of the grid, a list as the recipe's field takes them, or a Range. Raises UsageError for
    values that are none of the field.
    """
    if isinstance(values, str) and (found := _RANGE.fullmatch(values.strip())):
        return _range(key, base, **found.groupdict())
    texts = split(values) if isinstance(values, str) else list(values)
    if not texts:
        raise UsageError(f"{key} has no values to try; give them as {key}=a,b.")
    typed = [flatten(override(base, {key: value})).get(key, value) for value in texts]
    return [value for i, value in enumerate(typed) if value not in typed[:i]]


def split(text):
    """Values separated by commas, those within brackets and quotes aside."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _range(key, base, low, high, scale):
    ends = [flatten(override(base, {key: end})).get(key) for end in (low, high)]
    if not all(type(end) in (int, float) for end in ends):
        raise UsageError(f"{key}={low}..{high} is no range of numbers; list values as {key}=a,b.")
    whole = all(type(end) is int for end in ends)
    log = scale == "log" if scale else key.rpartition(".")[2] in RATES
    low, high = ends
    if not low < high or (log and low <= 0):
        above = ", and is above 0 where it is drawn by its logarithm (else add :linear)" if log else ""
        raise UsageError(f"{key}={low}..{high}: a range goes up, low..high{above}.")
    return Range(low, high, log, whole)


def require_grid(grid, random):
    ranges = [key for key, values in grid.items() if isinstance(values, Range)]
    if not grid:
        raise UsageError("a sweep needs something to vary: --grid KEY=a,b or, with --random N, --grid KEY=low..high.")
    if random is None and ranges:
        raise UsageError(f"{ranges[0]} is a range, of which --random N draws; or list values, --grid {ranges[0]}=a,b.")
    if random is not None and random < 1:
        raise UsageError(f"--random takes the number of trials, at least 1, not {random}.")


def folder_of(values):
    """The name of a trial's folder, which tells its values."""
    told = ",".join(f"{key}={spelled(value)}" for key, value in values.items())
    name = re.sub(r"[^\w.,=+()-]", "_", told)
    if name == told and len(name) <= _NAME:
        return name
    return f"{name[:_NAME]}-{hashlib.blake2b(told.encode(), digest_size=4).hexdigest()}"


def spelled(value):
    return f"({','.join(map(spelled, value))})" if isinstance(value, list | tuple) else str(value)
