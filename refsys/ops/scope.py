"""Ambient settings of the operators, in force inside ``with`` blocks.

`current` returns them as one frozen `Settings`, and `override` changes some of them for a block. A
``ContextVar`` does not serve: on an accelerator autograd runs the backward pass in threads of its
own, which do not inherit the context of the thread that called backward, and kernels are launched
there as well. So a change is visible in every thread, unless it is confined to the thread that made
it.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

Callback = Callable[[Any], object]


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


def _no_wrapper(_kernel: str) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Settings:
    """Ambient settings of the operators.

    Attributes:
        backends: Requested backend by operator; ``*`` stands for every operator without its own.
        launch_options: Launch options by kernel that take precedence on every architecture.
        architecture: Architecture that fake and meta tensors count as being on.
        wrap_launch: Called with a kernel's name; the kernel starts inside the context manager that
            it returns.
        launch_callbacks: Called with each `Launch`.
        scratch_callbacks: Called with each `Scratch`.
        tuning_callbacks: Called with the `Key` of each kernel that looks up its launch options.
        shorten_rounds: Run two of the equal rounds of a loop instead of all.
        repetitions: Number of rounds that the current one stands for.
        stack_observer: Tracer that accounts for blocks left out, see `refsys.ops.rounds`.
    """

    backends: Mapping[str, str] = field(default_factory=_empty)
    launch_options: Mapping[str, Mapping[str, int]] = field(default_factory=_empty)
    architecture: str = "sm_90"
    wrap_launch: Callable[[str], AbstractContextManager[Any]] = _no_wrapper
    launch_callbacks: tuple[Callback, ...] = ()
    scratch_callbacks: tuple[Callback, ...] = ()
    tuning_callbacks: tuple[Callback, ...] = ()
    shorten_rounds: bool = False
    repetitions: int = 1
    stack_observer: Any = None


class _Change(NamedTuple):
    """Fields that an open block changes; in one thread alone unless `thread` is None."""

    fields: Mapping[str, Any]
    thread: int | None


class _Cache(threading.local):
    """Settings of this thread, and the changes that they follow from."""

    changes: tuple[_Change, ...] = ()
    settings = Settings()


class _OpenBlocks:
    """Changes of the open blocks of all threads, in the order of their entry."""

    def __init__(self) -> None:
        self.changes: tuple[_Change, ...] = ()
        self.lock = threading.Lock()


_open_blocks = _OpenBlocks()
_cache = _Cache()


def current() -> Settings:
    """Return the settings in force in this thread."""
    changes = _open_blocks.changes
    if _cache.changes is not changes:
        _cache.settings = _apply(changes)
        _cache.changes = changes
    return _cache.settings


@contextmanager
def override(*, this_thread_only: bool = False, **fields: Any) -> Iterator[None]:
    """Change settings inside the block.

    Blocks may be nested, and those of several threads may overlap: the end of a block takes back
    its own change alone.

    Args:
        this_thread_only: Hide the change from other threads.
        **fields: New values of fields of `Settings`; callbacks are added to those in force.

    Raises:
        TypeError: a setting of that name does not exist.
    """
    replace(Settings(), **fields)  # refuses unknown settings
    change = _Change(fields, threading.get_ident() if this_thread_only else None)
    with _open_blocks.lock:
        _open_blocks.changes = (*_open_blocks.changes, change)
    try:
        yield
    finally:
        with _open_blocks.lock:
            _open_blocks.changes = tuple(
                other for other in _open_blocks.changes if other is not change
            )


def _apply(changes: tuple[_Change, ...]) -> Settings:
    """Return the settings that follow from the changes visible in this thread, in their order."""
    settings, thread = Settings(), threading.get_ident()
    for change in changes:
        if change.thread not in (None, thread):
            continue
        fields: dict[str, Any] = {
            name: (*getattr(settings, name), *value) if name.endswith("_callbacks") else value
            for name, value in change.fields.items()
        }
        settings = replace(settings, **fields)
    return settings
