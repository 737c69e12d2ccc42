"""Shared parts of the Triton implementations: supported tensors, launches and their options.

An implementation is one Python function for real, fake and meta tensors alike: `launch` starts a
kernel unless its tensors are fake, and calls the callbacks either way. So the launches that are
simulated, counted and compiled without a device are those of a device.
"""

import functools
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.library import CustomOpDef

from refsys.errors import ArgumentError
from refsys.ops.scope import current, override
from refsys.ops.tuning import Key, bucket, tuned_options
from refsys.ops.workspace import workspace

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx90a", "gfx942", "gfx950")
INTERPRETER = "interpreter"
# Rows up to this width fit in one tile of most kernels; wider ones are processed in chunks, or have
# separate launch options.
WIDE = 128
# Kernel names in `Launch` of torch's copies and of the vendor's matrix products.
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


def custom_operator(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Register a function of tensors that starts kernels as a custom operator of torch.

    The same function is its fake implementation: see `launch`.
    """

    def register(run: Callable[..., Any]) -> CustomOpDef:
        operator = torch.library.custom_op(f"foldperf::{name}", run, mutates_args=())
        operator.register_fake(run)
        return operator

    return register


def unsupported_by_triton(*tensors: Tensor) -> str | None:
    """Return why Triton's kernels cannot serve these tensors, or None if they can.

    Fake and meta tensors can be served anywhere: no kernel is started for them.
    """
    first = tensors[0]
    if first.dtype not in DTYPES:
        return f"{first.dtype} has no kernel"
    if any(tensor.numel() == 0 for tensor in tensors):
        return "a tensor is empty"
    if _is_fake(first):
        return None
    if find_spec("triton") is None:
        return "triton is not installed"
    if first.is_cuda:
        return _unsupported_device(first.device.index or 0)
    return _unsupported_by_interpreter(first)


def _is_fake(tensor: Tensor) -> bool:
    """Return whether the tensor has a shape but no data."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def _unsupported_by_interpreter(tensor: Tensor) -> str | None:
    """Return why a tensor that is not on an accelerator cannot be served, or None."""
    import triton

    if tensor.device.type != "cpu" or not triton.knobs.runtime.interpret:
        return f"kernels do not run on a {tensor.device.type}; TRITON_INTERPRET=1 interprets them"
    if tensor.dtype == torch.bfloat16:
        return "the interpreter's products of bfloat16 are wrong"
    return None


@functools.cache
def _unsupported_device(index: int) -> str | None:
    if torch.version.hip is None and torch.cuda.get_device_capability(index) < (8, 0):
        return "the device's compute capability is below 8.0"
    return None


def launch(kernel: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Start a kernel of ``refsys.ops.OPERATOR.kernels``, unless its tensors are fake.

    The first argument is a tensor, or a tuple of them.

    Args:
        kernel: Operator and kernel, as ``triangle_attention.forward``.
        grid: Programs along each axis.
        arguments: Tensors, numbers, and tuples of them.
        options: Constants; see `Launch`.
    """
    _report(Launch(kernel, grid, arguments, options))
    first = arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0]
    if _is_fake(first):
        return
    device = torch.cuda.device(first.device) if first.is_cuda else nullcontext()
    with device, current().wrap_launch(kernel):
        function(kernel)[grid](*arguments, **options)


def _report(event: Launch) -> None:
    for callback in current().launch_callbacks:
        callback(event)


def copy(target: Tensor, source: Tensor) -> None:
    """Copy with torch, reported to the callbacks like a kernel launch."""
    _report(Launch(COPY, (), (target, source), {}))
    target.copy_(source)


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy many tensors with torch, in one launch."""
    if not targets:
        return
    _report(Launch(COPY, (), (tuple(targets), tuple(sources)), {}))
    with torch.no_grad():
        torch._foreach_copy_(list(targets), list(sources))


def product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Multiply matrices with the vendor's library, reported to the callbacks like a launch.

    Args:
        out: [..., i, k], the output.
        left: [..., i, j], dtype of `out`.
        right: [..., j, k], dtype of `out`.
    """
    _report(Launch(PRODUCT, (), (out, left, right), {}))
    torch.matmul(left, right, out=out)


def function(kernel: str) -> Any:
    """Return the Triton function of a kernel."""
    operator, name = kernel.split(".")
    return getattr(import_module(f"refsys.ops.{operator}.kernels"), name)


@contextmanager
def watch_launches(callback: Callable[[Launch], None]) -> Iterator[None]:
    """Call `callback` for each kernel that is started, or would be, inside the block."""
    with override(launch_callbacks=(callback,)):
        yield


@contextmanager
def around_launches(enter: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
    """Start each kernel of the block inside the context manager that `enter` returns for it."""
    with override(wrap_launch=enter):
        yield


@contextmanager
def assume_architecture(name: str) -> Iterator[None]:
    """Treat fake and meta tensors of the block as being on a device of this architecture.

    Raises:
        ArgumentError: there is no architecture of that name.
    """
    if name not in ARCHITECTURES:
        raise ArgumentError(
            f"architecture {name!r} is not known; choose of {', '.join(ARCHITECTURES)}"
        )
    with override(architecture=name):
        yield


def architecture(tensor: Tensor) -> str:
    """Return the architecture whose launch options a tensor's kernels take, as ``sm_90``.

    An unknown device takes the options of the newest known architecture that is older than it.
    """
    if _is_fake(tensor):
        return current().architecture
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
    capabilities = [
        int(name.removeprefix("sm_")) for name in ARCHITECTURES if name.startswith("sm_")
    ]
    return f"sm_{max(number for number in capabilities if number <= capability)}"


def launch_options(kernel: str, tensor: Tensor) -> dict[str, Any]:
    """Return the tile sizes, warps and stages of a kernel on the tensor's device.

    Options of `use_launch_options` come first, then those tuned for tensors like this one, then the
    shipped ones. Fake tensors take no tuned ones, so that counts without a device are the same on
    every machine.

    Raises:
        ArgumentError: the kernel has no options for the architecture.
    """
    requested, target = current().launch_options.get(kernel), architecture(tensor)
    if requested is not None:
        return dict(requested)
    shipped = shipped_options(kernel, target, tensor.shape[-1], tensor.dtype)
    if _is_fake(tensor):
        return shipped
    return dict(tuned_options(tuning_key(kernel, tensor), shipped) or shipped)


def tuning_key(kernel: str, tensor: Tensor) -> Key:
    """Return the key that options tuned for this kernel on this tensor are stored under."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Key(kernel, architecture(tensor), dtype, bucket(tensor))


def shipped_options(kernel: str, target: str, width: int, dtype: torch.dtype) -> dict[str, int]:
    """Return the options of a kernel on an architecture before tuning.

    Kernels that hold whole rows have separate options for wide ones; some have separate options for
    float32, whose tiles take twice the memory.

    Raises:
        ArgumentError: the kernel has no options for the architecture.
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
    """Set the launch options of the named kernels inside the block, on every architecture."""
    with override(launch_options={**current().launch_options, **options}):
        yield


def tiles(size: int, block: int) -> int:
    """Return the number of blocks that cover an axis of this size."""
    return -(-size // block)


def split(count: int, most: int) -> tuple[int, int]:
    """Split tiles into at most `most` equal parts; return the parts, and the tiles of a part."""
    tiles_per_part = tiles(count, most)
    return tiles(count, tiles_per_part), tiles_per_part


def padded_width(width: int) -> int:
    """Return the width of the tile for rows of this width: a power of two, 16 at least."""
    return max(16, 1 << (width - 1).bit_length())


def dense(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor if it is contiguous and of this dtype, else a copy in scratch."""
    if tensor.is_contiguous() and tensor.dtype == dtype:
        return tensor
    scratch = workspace(name, tensor.shape, dtype=dtype, device=tensor.device)
    copy(scratch, tensor)
    return scratch


def dense_channels(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor if its last axis is contiguous, else a copy in scratch."""
    return tensor if tensor.stride(-1) == 1 else dense(name, tensor, tensor.dtype)
