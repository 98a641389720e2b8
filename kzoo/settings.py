"""Settings as frozen dataclasses: checked where they are made, read and changed by dotted keys. Standard library
only.
"""

import contextlib
import dataclasses
import functools
import json
import math
import types
import typing

from kzoo.errors import UsageError, unknown


class Settings:
    """What such dataclasses ask of their own values, in __post_init__. Each raises UsageError; None passes but where a
    choice is asked.
    """

    part = ""  # what stands before a field's name in messages: "optim" of optim.lr
    most = math.inf  # that a number may be

    def _key(self, name):
        return f"{self.part}.{name}" if self.part else name

    def require_choices(self, **valid):
        """A field of each name has one of the values that are valid for it; the nearest are told."""
        for name, values in valid.items():
            if getattr(self, name) not in values:
                raise unknown(self._key(name), getattr(self, name), values)

    def require_at_least(self, low, *names):
        """A number, or each of several, in fields of these names lies in low..most."""
        for name, value, number in self._numbers(names):
            if not low <= number <= self.most:
                bound = f"at most {self.most}" if number > self.most else f"at least {low}"
                raise UsageError(f"{self._key(name)} must be {bound}, not {value}.")

    def require_probabilities(self, *names):
        """They lie in 0..1."""
        for name, value, number in self._numbers(names):
            if not 0 <= number <= 1:
                raise UsageError(f"{self._key(name)} is a probability in 0..1, not {value}.")

    def require_rates(self, *names):
        """They lie in [0, 1)."""
        for name, value, number in self._numbers(names):
            if not 0 <= number < 1:
                raise UsageError(f"{self._key(name)} must lie in [0, 1), not {value}.")

    def types(self):
        """{field: its type}, as `override` asks for it."""
        return typing.get_type_hints(type(self))

    def settled(self, changes):
        """(what changes by dotted key apply to, the changes that are left): a kind among them may decide which fields
        there are.
        """
        return self, changes

    def _numbers(self, names):
        """(name, value of the field, number in it)."""
        for name in names:
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple | list) else (value,)
            yield from ((name, value, number) for number in numbers if number is not None)


def flatten(value, prefix=""):
    """A nested dataclass as {dotted key: plain value}; a mapping that is a field (overrides) is spread into keys too.

    What is one of several kinds has its kind as the first key.
    """
    items = (
        value.items()
        if isinstance(value, dict)
        else ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    )
    flat = {prefix + "kind": value.kind} if hasattr(value, "kind") else {}
    for key, item in items:
        if dataclasses.is_dataclass(item) or (isinstance(item, dict) and item):
            flat.update(flatten(item, f"{prefix}{key}."))
        # an empty field is its default, an empty option is not
        elif not isinstance(item, dict) or isinstance(value, dict):
            flat[prefix + key] = item
    return flat


def override(owner, changes, prefix=""):
    """A copy of a (nested) dataclass with dotted keys changed; values may be typed or text from the command line.

    All changes take effect together, then the fields are checked. Raises UsageError for an unknown key, naming the
    nearest, and for a value of the wrong type.
    """
    if isinstance(owner, Settings):
        owner, changes = owner.settled(changes)
    hints = owner.types() if isinstance(owner, Settings) else typing.get_type_hints(type(owner))
    updates, nested = {}, {}
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if head not in hints or (rest and not _nests(owner, head, hints[head])):
            raise _unknown_key(owner, key, prefix)
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            updates[head] = coerce(value, hints[head], prefix + key)
    for head, inner in nested.items():
        current = updates.get(head, getattr(owner, head))
        if isinstance(current, dict):
            put = _put if hints[head] is dict else _put_whole
            updates[head] = functools.reduce(lambda found, item: put(found, *item), inner.items(), current)
        else:
            current = _dataclass_in(hints[head])() if current is None else current
            updates[head] = override(current, inner, f"{prefix}{head}.")
    return dataclasses.replace(owner, **updates)


def _put_whole(mapping, key, value):
    """The mapping with that value, typed or text, under the key as it is: a pattern may hold dots."""
    return mapping | {key: plain(value)}


def _put(mapping, key, value):
    """The mapping with that value, typed or text, under a dotted key, which leads into the mappings inside it."""
    head, _, rest = key.partition(".")
    if not rest:
        return _put_whole(mapping, key, value)
    below = option_table(mapping.get(head, {}))
    return mapping | {head: _put(below if isinstance(below, dict) else {}, rest, value)}


def _unknown_key(owner, key, prefix):
    """The error for a key that is not there: a key of another part with the same last word is the nearest, `lr` means
    `optim.lr`.
    """
    valid = {f.name for f in dataclasses.fields(owner)} | set(flatten(owner))
    nearest = [name for name in valid if name.rpartition(".")[2] == key] or valid
    return unknown("recipe key", prefix + key, [prefix + name for name in nearest])


def _nests(owner, head, hint):
    return isinstance(getattr(owner, head), dict) or _dataclass_in(hint) is not None


def _dataclass_in(hint):
    return next((h for h in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(h)), None)


def plain(value):
    """Text from the command line or a recipe.txt as a number, truth value, tuple, None or the text itself."""
    if not isinstance(value, str):
        return tuple(plain(v) for v in value) if isinstance(value, (list, tuple)) else value
    words = {"True": True, "False": False, "None": None}
    if value in words:
        return words[value]
    text = f"[{value[1:-1].rstrip(',')}]" if value.startswith("(") and value.endswith(")") else value
    try:
        return plain(json.loads(text)) if not text.startswith('"') else json.loads(text)
    except ValueError:
        return value


def tupled(value):
    """A value read from JSON, which has no tuples: its lists as tuples, in mappings and lists inside it too."""
    if isinstance(value, dict):
        return {key: tupled(item) for key, item in value.items()}
    return tuple(map(tupled, value)) if isinstance(value, list | tuple) else value


def option_table(given):
    """Options of a model as {field: value}, from that or from texts ("field=value", ...), the older spelling; anything
    else as it is.
    """
    if isinstance(given, list | tuple) and all(isinstance(text, str) for text in given):
        return {field: plain(value) for field, _, value in (text.partition("=") for text in given)}
    return tupled(given)


def coerce(value, hint, key):
    """`value`, typed or text, as the annotated type `hint`; raises UsageError that names the key and the type it
    wants.
    """
    options = _options(hint)
    if type(None) in options and value in (None, "None", "null"):
        return None
    nested = _dataclass_in(hint)
    if nested and not isinstance(value, nested):
        raise UsageError(
            f"{key} has fields of its own; set one of them, for example {key}.{next(iter(flatten(nested())))}."
        )
    if str in options and isinstance(value, str):
        return json.loads(value) if len(value) > 1 and value[0] == value[-1] == '"' else value
    return typed(plain(value), hint, key)


def typed(value, hint, key):
    """`value` as the annotated type `hint`: lists as tuples, whole numbers as floats where those are wanted, all else
    as it is.

    Raises UsageError that names the key and the type it wants.
    """
    try:
        return _typed(value, hint)
    except TypeError:
        odd = [
            v
            for v in (value if isinstance(value, tuple | list) else (value,))
            if isinstance(v, float) and not math.isfinite(v)
        ]
        wanted = "a finite number" if odd else spelled(hint)
        raise UsageError(f"{key} takes {wanted}, not {odd[0] if odd else repr(value)}.") from None


def _typed(value, hint):
    """As `typed`, but raises TypeError."""
    for option in _options(hint):
        kind, inner = typing.get_origin(option) or option, typing.get_args(option)
        with contextlib.suppress(TypeError):
            if kind is tuple and isinstance(value, tuple | list):
                return tuple(_typed(item, inner[0]) for item in value)
            if kind is float and type(value) in (int, float) and math.isfinite(value):
                return float(value)
            if kind is not float and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
                return value
    raise TypeError


def _options(hint):
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def spelled(hint):
    """An annotated type in words."""
    return " or ".join(
        "None" if o is type(None) else str(o) if typing.get_args(o) else o.__name__ for o in _options(hint)
    )
