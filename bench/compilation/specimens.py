"""Specimens to compile: the kernels that the operators launch on each architecture.

The list is derived, not written by hand: each operator with Triton kernels runs forward and
backward on meta tensors, at AlphaFold 3's shapes, and its launches are recorded.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from refsys import ops
from refsys.config import PRESETS
from refsys.ops.backend import OPERATORS, Operator
from refsys.ops.triton_backend import (
    COPY,
    DTYPES,
    PRODUCT,
    WIDE,
    Launch,
    assume_architecture,
    function,
    watch_launches,
)
from refsys.precision import PRECISIONS, Precision
from workloads.operator_arguments import CALLS, OTHER_CALLS, Call

for _module in iter_modules(ops.__path__, f"{ops.__name__}."):
    import_module(_module.name)

# Triton's names of dtypes.
_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.bool: "u1",
    torch.int32: "i32",
    torch.int64: "i64",
}
_LAUNCH_OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True, slots=True)
class Specimen:
    """Kernel as it is compiled at a launch.

    Attributes:
        kernel: Operator and kernel, as ``triangle_attention.forward``.
        architecture: Name such as ``sm_90``.
        dtype: Dtype of the first tensor.
        types: Triton's types of the arguments that are not declared constants, nested like the
            arguments; None for an argument that is a constant because its value is 1.
        divisible: Paths of the arguments that are multiples of 16, pointers included.
        constants: Constants of the kernel, by name.
        options: Numbers of warps and stages.
    """

    kernel: str
    architecture: str
    dtype: str
    types: tuple[Any, ...]
    divisible: tuple[tuple[int, ...], ...]
    constants: Mapping[str, Any]
    options: Mapping[str, int]

    def as_json(self) -> str:
        """Return the specimen as text; equal specimens have equal texts."""
        return json.dumps(asdict(self), sort_keys=True)


def specimens(architectures: Iterable[str], *, exhaustive: bool = False) -> list[Specimen]:
    """Return the distinct launches of the operators as specimens.

    Args:
        architectures: Some of `refsys.ops.triton_backend.ARCHITECTURES`.
        exhaustive: Include all precisions and presets, and a number of tokens that no tile
            divides; otherwise the full model in bfloat16 alone.

    Returns:
        Specimens in the order of architectures and operators. Unless `exhaustive`, each kernel has
        at most two: that with the largest constants on rows of one tile, and on wider rows.
    """
    selected: dict[tuple[str, ...], Specimen] = {}
    for architecture in architectures:
        with assume_architecture(architecture):
            for operator in OPERATORS.values():
                for specimen in _of_operator(operator, architecture, exhaustive):
                    wide = specimen.constants.get("WIDTH", 0) > WIDE
                    name = specimen.kernel, architecture, str(wide)
                    key = (*name, specimen.as_json()) if exhaustive else name
                    if key not in selected or _size(specimen) > _size(selected[key]):
                        selected[key] = specimen
    return list(selected.values())


def _size(specimen: Specimen) -> int:
    return sum(specimen.constants.values())


def _of_operator(operator: Operator, architecture: str, exhaustive: bool) -> Iterator[Specimen]:
    if "triton" not in operator.kernels:
        return
    tables = [_in_dtype(dtype) for dtype in (DTYPES if exhaustive else (torch.bfloat16,))]
    sizes = [(preset, tokens) for preset in PRESETS for tokens in (384, 385)] if exhaustive else ()
    for table in tables:
        for preset, tokens in sizes or [("full", 384)]:
            for launch in _launches(operator, table, preset, tokens):
                yield _specimen(launch, architecture)


def _in_dtype(dtype: torch.dtype) -> Precision:
    return replace(PRECISIONS["bfloat16"], name=str(dtype), activations=dtype)


def _launches(operator: Operator, table: Precision, preset: str, tokens: int) -> list[Launch]:
    calls = (table_of.get(operator.name) for table_of in (CALLS, OTHER_CALLS))
    operator_calls = [call(PRESETS[preset], table, 1, tokens) for call in calls if call]
    return [launch for call in operator_calls for launch in call_launches(operator, table, call)]


def call_launches(operator: Operator, table: Precision, call: Call) -> list[Launch]:
    """Return the Triton launches of one operator call, forward and backward.

    Args:
        operator: Operator with Triton kernels.
        table: Dtypes of the call's tensors.
        call: Shapes and options.
    """
    tensors = [
        torch.empty(argument.shape, dtype=argument.dtype(table), device="meta")
        for argument in call.arguments
    ]
    for tensor in tensors:
        tensor.requires_grad_(tensor.is_floating_point())
    launches: list[Launch] = []
    with watch_launches(launches.append):
        run = operator.with_flat_arguments(operator)
        found = run(*tensors, backend="triton", **call.options)
        outputs = found if isinstance(found, tuple) else (found,)
        torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])
    return [launch for launch in launches if launch.kernel not in (COPY, PRODUCT)]


def _specimen(launch: Launch, architecture: str) -> Specimen:
    options = {n: launch.options[n] for n in _LAUNCH_OPTIONS if n in launch.options}
    unspecialized = _not_specialized(launch.kernel)
    divisible = [path for path in _divisible(launch.arguments, ()) if path[0] not in unspecialized]
    return Specimen(
        kernel=launch.kernel,
        architecture=architecture,
        dtype=_TYPES[tree_leaves(launch.arguments)[0].dtype],
        types=tuple(
            _type(argument, unspecialized=index in unspecialized)
            for index, argument in enumerate(launch.arguments)
        ),
        divisible=tuple(divisible),
        constants={n: v for n, v in launch.options.items() if n not in options},
        options=options,
    )


def _not_specialized(kernel: str) -> frozenset[int]:
    """Return the positions of the arguments on whose values a kernel is not specialized."""
    jit = function(kernel)
    # An interpreted kernel stores its options unprocessed.
    options = jit.kwargs if hasattr(jit, "kwargs") else vars(jit)
    return frozenset(jit.arg_names.index(name) for name in options["do_not_specialize"] or ())


def _type(argument: Any, *, unspecialized: bool = False) -> Any:
    """Return an argument's type by the rules of Triton's launcher.

    The value 1 is a constant (None), so that unit strides are folded, unless the argument is
    `unspecialized`.
    """
    if isinstance(argument, Tensor):
        return "*" + _TYPES[argument.dtype]
    if isinstance(argument, tuple):
        return tuple(_type(part) for part in argument)
    if isinstance(argument, float):
        return "fp32"
    if argument == 1 and not unspecialized:
        return None
    return "i32" if -(2**31) <= argument < 2**31 else "i64"


def _divisible(arguments: tuple[Any, ...], path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for index, argument in enumerate(arguments):
        position = (*path, index)
        if isinstance(argument, tuple):
            yield from _divisible(argument, position)
        elif isinstance(argument, Tensor) or (isinstance(argument, int) and argument % 16 == 0):
            yield position
