"""Frozen dataclasses from JSON: every key known, every value of its field's type. Standard library only."""

import dataclasses
import math
import types
import typing

from kzoo.errors import UserError

_WHOLE = 1 << 53  # beyond it JSON's numbers lose their last digits; no count of ours comes near


def from_json(cls, plain, key):
    """The dataclass `cls` from its JSON form, a dict; lists become tuples. `key` is what errors call it.

    Raises UserError, a clause without a full stop, for anything but a dict, keys that are missing or unknown, and other
    types.
    """
    if not isinstance(plain, dict):
        raise UserError(f"{key} is {_shown(plain)} where an object belongs")
    hints, fields = typing.get_type_hints(cls), dataclasses.fields(cls)
    required = {f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    for problem, names in (("lacks", required - set(plain)), ("knows no", set(plain) - set(hints))):
        if names:
            raise UserError(f"{key} {problem} {min(names)!r}")
    return cls(**{name: _value(value, hints[name], f"{key}.{name}") for name, value in plain.items()})


def _value(value, hint, key):
    for option in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        kind = typing.get_origin(option) or option
        if dataclasses.is_dataclass(kind):
            return from_json(kind, value, key)
        if kind is tuple and isinstance(value, list | tuple):
            return tuple(_value(item, typing.get_args(option)[0], key) for item in value)
        if kind is dict and isinstance(value, dict):
            return _tupled(value, key)
        if _is(value, kind):
            return value
    raise UserError(f"{key} is {_shown(value)}")


def _tupled(value, key, levels=16):
    if not levels:
        raise UserError(f"{key} is nested too deeply")
    if isinstance(value, dict):
        return {name: _tupled(item, key, levels - 1) for name, item in value.items()}
    return tuple(_tupled(item, key, levels - 1) for item in value) if isinstance(value, list | tuple) else value


def _is(value, kind):
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and abs(value) < (_WHOLE if isinstance(value, int) else math.inf)
    return isinstance(value, kind) and (kind is not int or abs(value) < _WHOLE)


def _shown(value):
    return repr(value)[:60] if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
