"""What every Triton implementation shares: whether it can serve a call, and how kernels start.

An implementation is one Python function for real, fake and meta tensors alike: `launch` starts a
kernel if its tensors hold something, and tells its watchers either way. So what is simulated,
counted and compiled without a device is what a device would be given.
"""

import functools
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.library import CustomOpDef

from refsys.errors import ArgumentError
from refsys.ops.scope import Scope, Watchers
from refsys.ops.tuning import Key, bucket, tuned_options
from refsys.ops.workspace import workspace

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx90a", "gfx942", "gfx950")
INTERPRETER = "interpreter"
# Rows up to this width are a tile of most kernels; wider ones pass by in chunks, or have launch
# options of their own.
WIDE = 128
# What `Launch` calls torch's own kernel that copies and converts, and the vendor's products.
COPY, PRODUCT = "copy", "product"


class Launch(NamedTuple):
    """One start of a kernel.

    Attributes:
        kernel: Operator and kernel, as ``triangle_attention.forward``; or `COPY`, or `PRODUCT`.
        grid: Programs along each axis.
        arguments: Tensors, numbers, and tuples of them, in the kernel's order.
        options: The kernel's constants, and ``num_warps`` and ``num_stages``.
    """

    kernel: str
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


_watchers = Watchers[Launch]()
_around = Scope[Callable[[str], AbstractContextManager[Any]]](lambda _kernel: nullcontext())
_assumed = Scope("sm_90")
_forced = Scope[Mapping[str, Mapping[str, int]]](MappingProxyType({}))


def custom_operator(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Makes a function of tensors, which starts kernels, one operator to torch.

    The same function serves tensors that hold nothing: see `launch`.
    """

    def register(run: Callable[..., Any]) -> CustomOpDef:
        operator = torch.library.custom_op(f"foldperf::{name}", run, mutates_args=())
        operator.register_fake(run)
        return operator

    return register


def why_not_triton(*tensors: Tensor) -> str | None:
    """Why Triton's kernels cannot serve these tensors, or None.

    Fake and meta tensors can be served anywhere: no kernel is started for them.
    """
    first = tensors[0]
    if first.dtype not in DTYPES:
        return f"{first.dtype} has no kernel"
    if any(tensor.numel() == 0 for tensor in tensors):
        return "a tensor is empty"
    if _is_hollow(first):
        return None
    if find_spec("triton") is None:
        return "triton is not installed"
    return _why_not_device(first.device.index or 0) if first.is_cuda else _why_not_here(first)


def _is_hollow(tensor: Tensor) -> bool:
    """Whether the tensor has a shape but holds nothing."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def _why_not_here(tensor: Tensor) -> str | None:
    """Why a tensor on no accelerator cannot be served: only the interpreter can."""
    import triton

    if tensor.device.type != "cpu" or not triton.knobs.runtime.interpret:
        return f"kernels do not run on a {tensor.device.type}; TRITON_INTERPRET=1 interprets them"
    if tensor.dtype == torch.bfloat16:
        return "the interpreter's products of bfloat16 are wrong"
    return None


@functools.cache
def _why_not_device(index: int) -> str | None:
    if torch.version.hip is None and torch.cuda.get_device_capability(index) < (8, 0):
        return "the device's compute capability is below 8.0"
    return None


def launch(kernel: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Starts a kernel of ``refsys.ops.OPERATOR.kernels``.

    The first argument is a tensor, or a tuple of them.

    Args:
        kernel: Operator and kernel, as ``triangle_attention.forward``.
        grid: Programs along each axis.
        arguments: Tensors, numbers, and tuples of them.
        options: Constants; see `Launch`.
    """
    _watchers.tell(Launch(kernel, grid, arguments, options))
    first = arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0]
    device = first.device
    if _is_hollow(first):
        return
    here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with here, _around.get()(kernel):
        function(kernel)[grid](*arguments, **options)


def copy(target: Tensor, source: Tensor) -> None:
    """Copies by torch, which is a launch like any other to the watchers."""
    _watchers.tell(Launch(COPY, (), (target, source), {}))
    target.copy_(source)


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies many by torch, in one launch."""
    if not targets:
        return
    _watchers.tell(Launch(COPY, (), (tuple(targets), tuple(sources)), {}))
    with torch.no_grad():
        torch._foreach_copy_(list(targets), list(sources))


def product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Matrix products by the vendor's library, a launch like any other to the watchers.

    Args:
        out: [..., i, k], where they go.
        left: [..., i, j], dtype of `out`.
        right: [..., j, k], likewise.
    """
    _watchers.tell(Launch(PRODUCT, (), (out, left, right), {}))
    torch.matmul(left, right, out=out)


def function(kernel: str) -> Any:
    """The kernel of that name, as Triton has it."""
    operator, name = kernel.split(".")
    return getattr(import_module(f"refsys.ops.{operator}.kernels"), name)


@contextmanager
def watch_launches(watcher: Callable[[Launch], None]) -> Iterator[None]:
    """Calls `watcher` for each kernel that is started, or would be, inside the block."""
    with _watchers.added(watcher):
        yield


@contextmanager
def around_launches(enter: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
    """Inside the block each kernel starts inside of what `enter` makes of its name."""
    with _around.using(enter):
        yield


@contextmanager
def assume_architecture(name: str) -> Iterator[None]:
    """Inside the block, fake and meta tensors count as on a device of this architecture.

    Raises:
        ArgumentError: there is no architecture of that name.
    """
    if name not in ARCHITECTURES:
        raise ArgumentError(
            f"architecture {name!r} is not known; choose of {', '.join(ARCHITECTURES)}"
        )
    with _assumed.using(name):
        yield


def architecture(tensor: Tensor) -> str:
    """The architecture whose launch options a tensor's kernels take, as ``sm_90``.

    A device newer than those known takes the options of the newest one that is older than it.
    """
    if _is_hollow(tensor):
        return _assumed.get()
    if not tensor.is_cuda:
        return INTERPRETER
    return _architecture(tensor.device.index or 0)


@functools.cache
def _architecture(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        name: str = properties.gcnArchName.split(":")[0]
        return name if name in ARCHITECTURES else "gfx90a"
    capability = 10 * properties.major + properties.minor
    known = [int(name.removeprefix("sm_")) for name in ARCHITECTURES if name.startswith("sm_")]
    return f"sm_{max(number for number in known if number <= capability)}"


def launch_options(kernel: str, tensor: Tensor) -> dict[str, Any]:
    """Tile sizes, warps and stages of a kernel where the tensor is.

    Those in force, else those that were tuned for tensors like this one, else the shipped ones,
    which alone serve tensors that hold nothing: what is counted without a device is the same
    everywhere.

    Raises:
        ArgumentError: none are known.
    """
    forced, target = _forced.get().get(kernel), architecture(tensor)
    if forced is not None:
        return dict(forced)
    shipped = shipped_options(kernel, target, tensor.shape[-1], tensor.dtype)
    if _is_hollow(tensor):
        return shipped
    return dict(tuned_options(tuning_key(kernel, tensor), shipped) or shipped)


def tuning_key(kernel: str, tensor: Tensor) -> Key:
    """What options that are tuned for this kernel on this tensor are kept under."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Key(kernel, architecture(tensor), dtype, bucket(tensor))


def shipped_options(kernel: str, target: str, width: int, dtype: torch.dtype) -> dict[str, int]:
    """The options that a kernel has on an architecture until it is tuned.

    Kernels that keep whole rows have others for wide ones; some have others for float32, whose
    tiles take twice the room.

    Raises:
        ArgumentError: none are known.
    """
    try:
        table = _shipped()[kernel]
        rows = table.get("wide", table) if width > WIDE else table
        single = rows.get("float32", {}) if dtype == torch.float32 else {}
        return dict(single.get(target) or rows[target])
    except KeyError:
        raise ArgumentError(f"kernel {kernel!r} has no launch options for {target}") from None


@functools.cache
def _shipped() -> dict[str, dict[str, Any]]:
    table: dict[str, Any] = tomllib.loads(
        files("refsys.ops").joinpath("launches.toml").read_text(encoding="utf-8")
    )
    return {
        f"{operator}.{kernel}": targets
        for operator, kernels in table.items()
        for kernel, targets in kernels.items()
    }


@contextmanager
def use_launch_options(options: Mapping[str, Mapping[str, int]]) -> Iterator[None]:
    """Inside the block, the kernels named have these launch options on every architecture."""
    with _forced.using({**_forced.get(), **options}):
        yield


def tiles(places: int, block: int) -> int:
    """How many blocks cover so many places."""
    return -(-places // block)


def split(count: int, most: int) -> tuple[int, int]:
    """Into how many parts so many tiles are split, `most` at most, and how many each has."""
    each = tiles(count, most)
    return tiles(count, each), each


def padded_width(width: int) -> int:
    """The power of two that a tile of this width takes; matrix units take 16 at least."""
    return max(16, 1 << (width - 1).bit_length())


def dense(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor itself if it is contiguous and of this dtype, else a copy, in scratch."""
    if tensor.is_contiguous() and tensor.dtype == dtype:
        return tensor
    scratch = workspace(name, tensor.shape, dtype=dtype, device=tensor.device)
    copy(scratch, tensor)
    return scratch


def dense_channels(name: str, tensor: Tensor) -> Tensor:
    """The tensor itself if its last axis is contiguous, else a copy, in scratch."""
    return tensor if tensor.stride(-1) == 1 else dense(name, tensor, tensor.dtype)
