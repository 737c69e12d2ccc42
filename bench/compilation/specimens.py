"""What there is to compile: the kernels that the operators would start, on each architecture.

Nothing is listed by hand. Each operator that has Triton kernels is run forward and backward on
tensors without content, at AlphaFold 3's shapes, and what it would launch is noted.
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
    """One kernel as it would be compiled at a launch.

    Attributes:
        kernel: Operator and kernel, as ``triangle_attention.forward``.
        architecture: As ``sm_90``.
        dtype: Of its first tensor.
        types: Triton's type of each argument that is no constant, nested as the arguments are;
            None for what is one by its value.
        divisible: Paths of the arguments that are multiples of 16, pointers among them.
        constants: The kernel's constants by name.
        options: Warps and stages.
    """

    kernel: str
    architecture: str
    dtype: str
    types: tuple[Any, ...]
    divisible: tuple[tuple[int, ...], ...]
    constants: Mapping[str, Any]
    options: Mapping[str, int]

    def as_json(self) -> str:
        """All of it as a text, equal where the specimens are."""
        return json.dumps(asdict(self), sort_keys=True)


def specimens(architectures: Iterable[str], *, every: bool = False) -> list[Specimen]:
    """What the operators would launch.

    Args:
        architectures: Those of `refsys.ops.triton_backend.ARCHITECTURES`.
        every: All precisions and model sizes, and a number of tokens that no tile divides;
            otherwise the full model's in bfloat16.

    Returns:
        Each once, in the order of architectures and operators; unless `every`, of a kernel's
        launches on rows of a tile's width, and of those on wide ones, those whose constants are
        the largest.
    """
    found: dict[tuple[str, ...], Specimen] = {}
    for architecture in architectures:
        with assume_architecture(architecture):
            for operator in OPERATORS.values():
                for specimen in _of_operator(operator, architecture, every):
                    wide = specimen.constants.get("WIDTH", 0) > WIDE
                    name = specimen.kernel, architecture, str(wide)
                    key = (*name, specimen.as_json()) if every else name
                    if key not in found or _size(specimen) > _size(found[key]):
                        found[key] = specimen
    return list(found.values())


def _size(specimen: Specimen) -> int:
    return sum(specimen.constants.values())


def _of_operator(operator: Operator, architecture: str, every: bool) -> Iterator[Specimen]:
    if "triton" not in operator.kernels:
        return
    tables = [_in_dtype(dtype) for dtype in (DTYPES if every else (torch.bfloat16,))]
    sizes = [(preset, tokens) for preset in PRESETS for tokens in (384, 385)] if every else ()
    for table in tables:
        for preset, tokens in sizes or [("full", 384)]:
            for launch in _launches(operator, table, preset, tokens):
                yield _specimen(launch, architecture)


def _in_dtype(dtype: torch.dtype) -> Precision:
    return replace(PRECISIONS["bfloat16"], name=str(dtype), activations=dtype)


def _launches(operator: Operator, table: Precision, preset: str, tokens: int) -> list[Launch]:
    calls = (table_of.get(operator.name) for table_of in (CALLS, OTHER_CALLS))
    found = [call(PRESETS[preset], table, 1, tokens) for call in calls if call]
    return [launch for call in found for launch in call_launches(operator, table, call)]


def call_launches(operator: Operator, table: Precision, call: Call) -> list[Launch]:
    """Return what an operator launches for one call, forward and backward, vendor's kernels aside.

    Args:
        operator: It has Triton kernels.
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
    plain = _not_specialized(launch.kernel)
    specialized = [path for path in _divisible(launch.arguments, ()) if path[0] not in plain]
    return Specimen(
        kernel=launch.kernel,
        architecture=architecture,
        dtype=_TYPES[tree_leaves(launch.arguments)[0].dtype],
        types=tuple(
            _type(argument, plain=index in plain) for index, argument in enumerate(launch.arguments)
        ),
        divisible=tuple(specialized),
        constants={n: v for n, v in launch.options.items() if n not in options},
        options=options,
    )


def _not_specialized(kernel: str) -> frozenset[int]:
    """Return the places of the arguments that a kernel is compiled for no value of."""
    found = function(kernel)
    # An interpreted kernel keeps its options as they were given.
    options = found.kwargs if hasattr(found, "kwargs") else vars(found)
    return frozenset(found.arg_names.index(name) for name in options["do_not_specialize"] or ())


def _type(argument: Any, *, plain: bool = False) -> Any:
    """Return the type as Triton's launcher has it: a 1 is a constant unless the argument is plain.

    That is for the sake of dense strides.
    """
    if isinstance(argument, Tensor):
        return "*" + _TYPES[argument.dtype]
    if isinstance(argument, tuple):
        return tuple(_type(part) for part in argument)
    if isinstance(argument, float):
        return "fp32"
    if argument == 1 and not plain:
        return None
    return "i32" if -(2**31) <= argument < 2**31 else "i64"


def _divisible(arguments: tuple[Any, ...], path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for index, argument in enumerate(arguments):
        place = (*path, index)
        if isinstance(argument, tuple):
            yield from _divisible(argument, place)
        elif isinstance(argument, Tensor) or (isinstance(argument, int) and argument % 16 == 0):
            yield place
