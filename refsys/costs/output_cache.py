"""Outputs of operators on fake tensors, remembered by the metadata of their arguments.

A step calls few distinct operators on few distinct shapes, while a fake tensor takes about half a
millisecond to find the metadata of an output, even of one that torch has seen before.
"""

from collections.abc import Hashable, Iterable, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
)
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves

DEVICE = torch.ops.prim.device.default
# Arguments that stand for themselves in a key.
_CONSTANTS = (int, float, bool, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


class _FakeTensors:
    """Constructor of fake tensors that copies the attributes of an earlier one.

    The constructor of torch takes most of a trace's time.
    """

    def __init__(self) -> None:
        self._mode: FakeTensorMode | None = None
        self._device: torch.device | None = None
        self._attributes: dict[str, Any] = {}

    def new(self, mode: FakeTensorMode, meta: Tensor, device: torch.device) -> FakeTensor:
        """Return `FakeTensor(mode, meta, device)`."""
        if self._mode is not mode or self._device != device:
            tensor = FakeTensor(mode, meta, device)
            self._mode, self._device, self._attributes = mode, device, dict(vars(tensor))
            return tensor
        fake: FakeTensor = Tensor._make_subclass(
            FakeTensor,
            meta,
            meta.requires_grad,
            dispatch_device=True,
            device_for_backend_keys=device,
        )
        torch._C._set_throw_on_mutable_data_ptr(fake)
        vars(fake).update(self._attributes)
        return fake


_FAKE_TENSORS = _FakeTensors()


class Metadata(NamedTuple):
    """Metadata of a strided tensor that fills its storage."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def allocate(self, mode: FakeTensorMode) -> FakeTensor:
        """Return a new fake tensor."""
        with no_dispatch():
            meta = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")
        return _FAKE_TENSORS.new(mode, meta, self.device)


# Metadata of one tensor, or of each of a tuple of them.
Outputs = Metadata | tuple[Metadata, ...]


class _Effect(Enum):
    """Outputs of an operator: new tensors, views of its first argument, arguments or others."""

    NEW = auto()
    VIEWS = auto()
    WRITTEN = auto()
    OTHER = auto()


class OutputCache:
    """Call operators of torch, without a call where the metadata of their outputs are known.

    Operators that write to arguments return them without a call, once a call has shown that it
    leaves their metadata as they are. Operators that are not of torch, or whose arguments are not
    understood, are called.
    """

    def __init__(self) -> None:
        self._effects: dict[Any, _Effect] = {}
        # Calls that leave the metadata of their arguments as they are.
        self._written: set[Hashable] = set()
        # One tensor, or a tuple of them; None where the metadata do not describe them.
        self._outputs: dict[Hashable, Outputs | None] = {}

    def call(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return what an operator returns; fake tensors of equal arguments have equal metadata."""
        first = args[0] if args else None
        if isinstance(first, (list, tuple)) and first:
            first = first[0]
        if not isinstance(first, FakeTensor):
            return func(*args, **kwargs)
        if func is DEVICE:
            return first.fake_device
        effect = self._effects.get(func)
        if effect is None:
            effect = self._effects[func] = _effect(func)
        if effect is _Effect.NEW:
            return self._new(first.fake_mode, func, args, kwargs)
        if effect is _Effect.WRITTEN:
            return self._write(func, args, kwargs)
        if effect is _Effect.VIEWS and first.constant is None:
            return _views(first, func, args, kwargs)
        return func(*args, **kwargs)

    def _write(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        key = call_key(func, args, kwargs)
        if key is None:
            return func(*args, **kwargs)
        if key in self._written:
            return _written_argument(func, args, kwargs) if func._schema.returns else None
        out = func(*args, **kwargs)
        expected = _written_argument(func, args, kwargs) if func._schema.returns else None
        if call_key(func, args, kwargs) == key and out is expected:
            self._written.add(key)
        return out

    def _new(
        self, mode: FakeTensorMode, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        key = call_key(func, args, kwargs)
        if key is None:
            return func(*args, **kwargs)
        if key not in self._outputs:
            out = func(*args, **kwargs)
            self._outputs[key] = metadata_of(out, args)
            return out
        known = self._outputs[key]
        return func(*args, **kwargs) if known is None else allocated(known, mode)


# The outputs that this process has seen; those of one trace serve the next.
OUTPUTS = OutputCache()


def _effect(func: Any) -> _Effect:
    """Return what the schema of an operator says of its outputs."""
    if func.namespace != "aten":
        return _Effect.OTHER
    # `_unsafe_view` returns a view, though its schema does not say this.
    if func.is_view or func is torch.ops.aten._unsafe_view.default:
        return _Effect.VIEWS
    schema = func._schema
    if _writes_and_returns(schema):
        changes_metadata = torch.Tag.inplace_view in func.tags
        return _Effect.OTHER if changes_metadata else _Effect.WRITTEN
    tensors = all(str(part.type) == "Tensor" for part in schema.returns)
    aliases = any(part.alias_info for part in (*schema.arguments, *schema.returns))
    return _Effect.NEW if tensors and not aliases else _Effect.OTHER


def call_key(func: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Hashable | None:
    """Return what the metadata of a call's outputs depend on; None if that is not understood."""
    parts: list[Any] = [func, torch.get_default_dtype()]
    return tuple(parts) if _append(parts, (*args, *kwargs, *kwargs.values())) else None


def allocated(outputs: Outputs, mode: FakeTensorMode) -> FakeTensor | tuple[FakeTensor, ...]:
    """Return new fake tensors with the metadata of earlier outputs."""
    if isinstance(outputs, Metadata):
        return outputs.allocate(mode)
    return tuple(metadata.allocate(mode) for metadata in outputs)


def _writes_and_returns(schema: Any) -> bool:
    """Return whether an operator returns the one tensor that it writes to, or writes to lists."""
    written = [a for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    if not schema.returns:
        return bool(written) and all(str(part.type) == "List[Tensor]" for part in written)
    (returned, *more) = schema.returns
    single = len(written) == 1 and not more
    return single and str(returned.type) == "Tensor" and bool(returned.alias_info)


def _written_argument(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the argument that an operator writes to."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info and argument.alias_info.is_write:
            return args[position] if position < len(args) else kwargs[argument.name]
    raise AssertionError(f"{func} writes to no argument")


def _append(parts: list[Any], values: Iterable[Any]) -> bool:
    """Append to a key what the outputs' metadata depend on; return False if that is unknown."""
    for value in values:
        if isinstance(value, FakeTensor):
            if value.constant is not None or value.layout is not torch.strided:
                return False
            parts += (Tensor, value.shape, value.stride(), value.dtype, value.fake_device)
        elif value is None:
            parts.append(None)
        elif isinstance(value, _CONSTANTS):
            parts += (type(value), value)
        elif isinstance(value, (list, tuple)):
            parts.append(len(value))
            if not _append(parts, value):
                return False
        else:
            return False
    return True


def _views(
    first: FakeTensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> FakeTensor | list[FakeTensor]:
    mode, device = first.fake_mode, first.fake_device
    with in_kernel_invocation_manager(mode):
        views = func(*args, **kwargs)
    if isinstance(views, Tensor):
        return _FAKE_TENSORS.new(mode, views, device)
    return [_FAKE_TENSORS.new(mode, view, device) for view in views]


def metadata_of(out: Any, args: tuple[Any, ...]) -> Outputs | None:
    """Return the metadata of an operator's output; None if they do not describe it.

    Args:
        out: Output.
        args: Arguments of the call, which the output must not share memory with.
    """
    outputs = out if isinstance(out, tuple) else (out,)
    found = []
    for tensor in outputs:
        if type(tensor) is not FakeTensor or tensor.constant is not None:
            return None
        if tensor.layout is not torch.strided or tensor.storage_offset():
            return None
        metadata = Metadata(tensor.shape, tensor.stride(), tensor.dtype, tensor.fake_device)
        same = metadata.allocate(tensor.fake_mode)
        if same.untyped_storage().nbytes() != tensor.untyped_storage().nbytes():
            return None
        found.append(metadata)
    inputs = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    given = {id(tensor.untyped_storage()) for tensor in inputs}
    own = {id(tensor.untyped_storage()) for tensor in outputs}
    if given & own or len(own) < len(outputs):
        return None
    return tuple(found) if isinstance(out, tuple) else found[0]
