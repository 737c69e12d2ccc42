"""JSON values as frozen dataclasses and back, checked by the types of the dataclass fields.

A package such as pydantic would do the same; measuring processes do without it (`docs/records.md`).
"""

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

# Parser of one type: takes a JSON value and its path in the record.
_Parser = Callable[[object, str], Any]

_SCALARS: dict[object, tuple[type, ...]] = {
    str: (str,),
    bool: (bool,),
    int: (int,),
    float: (int, float),
    types.NoneType: (types.NoneType,),
}
_LONGEST_VALUE = 80


def from_json(kind: Any, value: object, path: str = "record") -> Any:
    """Return a JSON value as a type.

    Args:
        kind: A dataclass, a scalar type, or a tuple, mapping with text keys, union or ``Literal``
            of them. ``float`` allows an integer, which stays one.
        value: The value, as `json` reads it.
        path: Path of the value, for errors.

    Raises:
        ValueError: The value is not of that type; the message begins with the path.
    """
    return _parser(kind)(value, path)


def to_json(value: Any) -> Any:
    """Return a dataclass as plain JSON values, in the order of its fields."""
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


@functools.cache
def _parser(kind: Any) -> _Parser:
    if kind is Any:
        return lambda value, path: value
    if kind in _SCALARS:
        return functools.partial(_scalar, _SCALARS[kind], kind.__name__)
    if is_dataclass(kind):
        return _object_parser(kind)
    make_parser = _GENERIC_PARSERS.get(get_origin(kind))
    if make_parser is None:
        raise TypeError(f"{kind} has no form in JSON")
    return make_parser(get_args(kind))


def _object_parser(kind: Any) -> _Parser:
    hints = get_type_hints(kind)
    parsers = {field.name: _parser(hints[field.name]) for field in fields(kind)}

    def parse(value: object, path: str) -> Any:
        if not isinstance(value, dict):
            raise _mismatch(value, path, "an object")
        if value.keys() != parsers.keys():
            missing, unknown = parsers.keys() - value.keys(), value.keys() - parsers.keys()
            wrong = f"field {min(missing)} is missing" if missing else ""
            raise ValueError(f"{path}: {wrong or f'field {min(unknown)} is unknown'}")
        return kind(
            **{name: parser(value[name], f"{path}.{name}") for name, parser in parsers.items()}
        )

    return parse


def _union_parser(options: tuple[Any, ...]) -> _Parser:
    """Return a parser of scalars, or of one other type that may be null."""
    if all(option in _SCALARS for option in options):
        allowed = tuple(kind for option in options for kind in _SCALARS[option])
        names = " or ".join(option.__name__ for option in options)
        return functools.partial(_scalar, allowed, names)
    first, nothing = options
    if nothing is not types.NoneType:
        raise TypeError(f"a union of {first} and {nothing} has no form in JSON")
    parser = _parser(first)
    return lambda value, path: None if value is None else parser(value, path)


def _tuple_parser(items: tuple[Any, ...]) -> _Parser:
    length = None if items[1:] == (...,) else len(items)
    parsers = [_parser(item) for item in items if item is not ...]

    def parse(value: object, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise _mismatch(value, path, "an array")
        if length is None:
            return tuple(parsers[0](item, path) for item in value)
        if len(value) != length:
            raise _mismatch(value, path, f"an array of {length}")
        return tuple(parser(item, path) for parser, item in zip(parsers, value, strict=True))

    return parse


def _mapping_parser(arguments: tuple[Any, ...]) -> _Parser:
    parser = _parser(arguments[1])

    def parse(value: object, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise _mismatch(value, path, "an object")
        return {name: parser(item, f"{path}.{name}") for name, item in value.items()}

    return parse


def _choice_parser(choices: tuple[Any, ...]) -> _Parser:
    def parse(value: object, path: str) -> object:
        if value not in choices:
            raise _mismatch(value, path, f"one of {', '.join(map(str, choices))}")
        return value

    return parse


def _scalar(allowed: tuple[type, ...], name: str, value: object, path: str) -> object:
    # By type, not by isinstance: true is no number.
    if type(value) not in allowed:
        raise _mismatch(value, path, name)
    return value


def _mismatch(value: object, path: str, expected: str) -> ValueError:
    return ValueError(f"{path}: {str(value)[:_LONGEST_VALUE]!r} is not {expected}")


_GENERIC_PARSERS: dict[Any, Callable[[tuple[Any, ...]], _Parser]] = {
    Literal: _choice_parser,
    Union: _union_parser,
    types.UnionType: _union_parser,
    tuple: _tuple_parser,
    Mapping: _mapping_parser,
}
