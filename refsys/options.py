"""Options of a typed configuration: dataclass fields with help, choices and bounds.

A configuration is a tree of frozen dataclasses. Each leaf is declared with `option`, once; the axes
of workloads and the options of the command line are derived from the leaves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from refsys.errors import ArgumentError

Value = str | int | float | bool
T = TypeVar("T")
_METADATA = "option"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Declaration:
    """Metadata of a field, see `option`."""

    help: str
    choices: tuple[Value, ...] | Callable[[], tuple[Value, ...]] = ()
    minimum: float | None = None
    maximum: float = 2**20
    titled: bool = False
    axis: bool = True
    axis_name: str = ""
    command_line: bool = True


def option(
    default: Value | tuple[str, ...],
    help: str,  # noqa: A002 (argparse's word)
    *,
    choices: tuple[Value, ...] | Callable[[], tuple[Value, ...]] = (),
    minimum: float | None = None,
    maximum: float = 2**20,
    titled: bool = False,
    axis: bool = True,
    axis_name: str = "",
    command_line: bool = True,
) -> Any:
    """Declare a leaf of a configuration.

    Args:
        default: Default; its type is the type of the option. A tuple of strings is written as one
            string, separated by spaces.
        help: One line for people.
        choices: Allowed values, or a function that imports them; any value if empty.
        minimum: Smallest number.
        maximum: Largest number.
        titled: Whether a case's title has the value even where it is the default.
        axis: Whether cases choose it; an option of training alone is no axis.
        axis_name: Name as an axis, where it differs from the field's.
        command_line: Whether it is an option of ``foldperf train``.

    Returns:
        The dataclass field.
    """
    declaration = _Declaration(
        help=help,
        choices=choices,
        minimum=minimum,
        maximum=maximum,
        titled=titled,
        axis=axis,
        axis_name=axis_name,
        command_line=command_line,
    )
    return field(default=default, metadata={_METADATA: declaration})


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One leaf of a configuration.

    Attributes:
        path: Names of the fields that lead to it, from the root.
        name: Name as an axis.
        default: Default value; a tuple of strings as one string.
        help: One line for people.
        minimum: Smallest number, None for no limit.
        maximum: Largest number.
        titled: Whether a case's title has the value even where it is the default.
        axis: Whether cases choose it.
        command_line: Whether it is an option of ``foldperf train``.
        many: Whether the field is a tuple of strings.
    """

    path: tuple[str, ...]
    name: str
    default: Value
    help: str
    minimum: float | None
    maximum: float
    titled: bool
    axis: bool
    command_line: bool
    many: bool
    _choices: tuple[Value, ...] | Callable[[], tuple[Value, ...]]

    @property
    def choices(self) -> tuple[Value, ...]:
        """Allowed values; any value if empty."""
        return self._choices() if callable(self._choices) else self._choices

    @property
    def listed_choices(self) -> tuple[Value, ...]:
        """Allowed values that are known without importing the module that defines them."""
        return () if callable(self._choices) else self._choices

    @property
    def field(self) -> str:
        """Name of the dataclass field."""
        return self.path[-1]

    def parse(self, value: object) -> Value:
        """Return `value` as the type of this option; text is converted.

        Raises:
            ArgumentError: the value has another type, is out of bounds or is not a choice.
        """
        if self.many and isinstance(value, list | tuple):
            value = " ".join(map(str, value))
        kind = type(self.default)
        parsed = _from_text(value, kind) if isinstance(value, str) else value
        if kind is float and isinstance(parsed, int) and not isinstance(parsed, bool):
            parsed = float(parsed)
        if type(parsed) is not kind:
            raise ArgumentError(f"{self.name}={value!r} is not of type {kind.__name__}")
        choices = self.choices
        if choices and parsed not in choices:
            raise ArgumentError(
                f"{self.name}={value!r} does not exist; choose one of "
                f"{', '.join(map(str, choices))}"
            )
        if isinstance(parsed, int | float) and not isinstance(parsed, bool):
            if self.minimum is not None and not parsed >= self.minimum:
                raise ArgumentError(f"{self.name}={value} is less than {self.minimum:g}")
            if not parsed <= self.maximum:
                raise ArgumentError(f"{self.name}={value!s:.40} is more than {self.maximum:g}")
        return parsed


def options_of(configuration: type) -> tuple[Option, ...]:
    """Return the leaves of a configuration, in the order of their declaration.

    Raises:
        TypeError: a field is neither declared with `option` nor a configuration, or two leaves have
            one name.
    """
    options = tuple(_options(configuration, ()))
    names = [leaf.name for leaf in options]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise TypeError(f"{configuration.__name__} has two options {sorted(repeated)[0]!r}")
    return options


def configured(
    configuration: type[T], values: Mapping[str, object], defaults: Mapping[str, object] = {}
) -> T:
    """Return a configuration with some options chosen.

    Args:
        configuration: Dataclass at the root of the tree.
        values: Value of each chosen option by its name.
        defaults: Defaults that replace those of the fields, by name.

    Raises:
        ArgumentError: an option does not exist, or a value does not fit.
    """
    options = {leaf.name: leaf for leaf in options_of(configuration)}
    selected = dict(defaults) | dict(values)
    for name in selected:
        if name not in options:
            raise ArgumentError(f"{name!r} does not exist; choose one of {', '.join(options)}")
    parsed: dict[tuple[str, ...], Any] = {}
    for name, value in selected.items():
        leaf = options[name]
        result = leaf.parse(value)
        parsed[leaf.path] = tuple(str(result).split()) if leaf.many else result
    return _built(configuration, (), parsed)


def changed(config: T, **values: object) -> T:
    """Return a configuration with some options changed, by name.

    Raises:
        ArgumentError: an option does not exist, or a value does not fit.
    """
    return configured(type(config), values_of(config) | values)


def values_of(config: object) -> dict[str, Value]:
    """Return the value of each option of a configuration by its name: what `configured` takes."""
    values: dict[str, Value] = {}
    for leaf in options_of(type(config)):
        value: Any = config
        for name in leaf.path:
            value = getattr(value, name)
        values[leaf.name] = " ".join(value) if leaf.many else value
    return values


def _options(configuration: type, path: tuple[str, ...]) -> list[Option]:
    hints = get_type_hints(configuration)
    options: list[Option] = []
    for item in fields(configuration):
        kind = hints[item.name]
        leaf_path = (*path, item.name)
        if is_dataclass(kind) and isinstance(kind, type):
            options += _options(kind, leaf_path)
            continue
        declared: _Declaration | None = item.metadata.get(_METADATA)
        if declared is None:
            raise TypeError(f"{configuration.__name__}.{item.name} is not declared with option()")
        default: Any = item.default
        many = isinstance(default, tuple)
        options.append(
            Option(
                path=leaf_path,
                name=declared.axis_name or item.name,
                default=" ".join(default) if many else default,
                help=declared.help,
                minimum=declared.minimum,
                maximum=declared.maximum,
                titled=declared.titled,
                axis=declared.axis,
                command_line=declared.command_line,
                many=many,
                _choices=declared.choices,
            )
        )
    return options


def _built(
    configuration: type[T], path: tuple[str, ...], parsed: Mapping[tuple[str, ...], Any]
) -> T:
    hints = get_type_hints(configuration)
    values: dict[str, Any] = {}
    for item in fields(configuration):  # type: ignore[arg-type]
        leaf_path, kind = (*path, item.name), hints[item.name]
        if is_dataclass(kind) and isinstance(kind, type):
            values[item.name] = _built(kind, leaf_path, parsed)
        elif leaf_path in parsed:
            values[item.name] = parsed[leaf_path]
    return configuration(**values)


def _from_text(text: str, kind: type) -> object:
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text
