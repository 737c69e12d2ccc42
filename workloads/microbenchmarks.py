"""Single operators at the shapes of MegaFold's own microbenchmarks (its figures 13 to 18)."""

from dataclasses import dataclass
from typing import ClassVar

from refsys.ops.backend import OPERATORS, Operator
from refsys.options import option
from refsys.precision import PRECISIONS, Precision, precision
from workloads.backends import backend_option
from workloads.operator_arguments import Argument, Call
from workloads.operators import SingleOperator
from workloads.workload import Value

# Attention: examples, heads and their width. The others: channels, and the output width of
# LayerNorm with a linear layer; the transition widens fourfold.
_BATCH, _HEADS, _WIDTH = 4, 16, 64
_CHANNELS, _OUT, _FACTOR = 128, 16, 4


def _attention(length: int, table: Precision) -> Call:
    activation = Argument("activation", (_BATCH, 1, length, _HEADS, _WIDTH))
    bias = Argument("activation", (_BATCH, _HEADS, length, length))
    return Call(
        (activation, activation, activation, bias, Argument("mask", (_BATCH, 1, length))),
        {"softmax": table.softmax},
    )


def _layer_norm_linear(length: int, table: Precision) -> Call:
    x, norm = Argument("activation", (length, _CHANNELS)), Argument("weight", (_CHANNELS,))
    weight, bias = Argument("weight", (_OUT, _CHANNELS)), Argument("weight", (_OUT,))
    return Call((x, norm, norm, weight, bias), {"statistics": table.norm_statistics})


def _transition(length: int, table: Precision) -> Call:
    x, norm = Argument("activation", (length, _CHANNELS)), Argument("weight", (_CHANNELS,))
    wide = _FACTOR * _CHANNELS
    first, last = Argument("weight", (2 * wide, _CHANNELS)), Argument("weight", (_CHANNELS, wide))
    return Call((x, norm, norm, first, last), {"statistics": table.norm_statistics})


_CALLS = {
    "triangle_attention": _attention,
    "layer_norm_linear": _layer_norm_linear,
    "transition": _transition,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MicrobenchmarkCase:
    """Configuration of a case."""

    operator: str = option(
        "triangle_attention", "which operator", choices=tuple(sorted(_CALLS)), titled=True
    )
    length: int = option(1024, "tokens of attention, else rows", minimum=1)
    precision: str = option("bfloat16", "dtype table", choices=tuple(PRECISIONS))
    backend: str = backend_option()
    backward: bool = option(True, "gradients of all inputs too")


class MicrobenchmarksWorkload(SingleOperator[MicrobenchmarkCase]):
    """Cases of three operators over their length: tokens for attention, rows for the others."""

    name = "microbenchmarks"
    summary = "three operators at the shapes of MegaFold's microbenchmarks"
    configuration = MicrobenchmarkCase
    # On a CPU the cases of the workload `operators` cover these as well.
    selections: ClassVar = {
        "exact": ({"operator": sorted(_CALLS)},),
        "timing": ({"operator": "transition", "length": 512, "precision": "float32"},),
        "quick": (),
    }

    def parts(self, config: MicrobenchmarkCase) -> tuple[Operator, Call, Precision]:
        """See `SingleOperator`."""
        table = precision(config.precision)
        return OPERATORS[config.operator], _CALLS[config.operator](config.length, table), table

    def labels(self, config: MicrobenchmarkCase) -> dict[str, Value]:
        """See `Workload`."""
        how = [config.backend, config.precision]
        how += ["forward alone"] * (not config.backward)
        return {
            "tokens": config.length,
            "series": f"{config.operator} microbenchmark",
            "variant": ", ".join(how),
            "synthetic": True,
        }
