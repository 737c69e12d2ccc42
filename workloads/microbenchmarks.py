"""Single operators at the shapes of MegaFold's own microbenchmarks (its figures 13 to 18)."""

from collections.abc import Mapping
from typing import ClassVar

from refsys.ops.backend import OPERATORS, Operator
from refsys.precision import PRECISIONS, Precision, precision
from workloads import backends
from workloads.operator_arguments import Argument, Call
from workloads.operators import OperatorsWorkload
from workloads.workload import Axis, Config, Value

# Attention: examples, heads and their width. The others: channels, and what comes out of LayerNorm
# with a linear layer; the transition widens fourfold.
_BATCH, _HEADS, _WIDTH = 4, 16, 64
_CHANNELS, _OUT, _FACTOR = 128, 16, 4


def _attention(length: int, table: Precision) -> Call:
    each = Argument("activation", (_BATCH, 1, length, _HEADS, _WIDTH))
    bias = Argument("activation", (_BATCH, _HEADS, length, length))
    return Call(
        (each, each, each, bias, Argument("mask", (_BATCH, 1, length))), {"softmax": table.softmax}
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


class MicrobenchmarksWorkload(OperatorsWorkload):
    """Cases of three operators over their length: tokens for attention, rows for the others."""

    name = "microbenchmarks"
    device_check = ""
    summary = "three operators at the shapes of MegaFold's microbenchmarks"
    axes: ClassVar[tuple[Axis, ...]] = (
        Axis(
            name="operator",
            default="triangle_attention",
            meaning="which operator",
            choices=tuple(sorted(_CALLS)),
            titled=True,
        ),
        Axis(name="length", default=1024, meaning="tokens of attention, else rows", minimum=1),
        Axis(
            name="precision", default="bfloat16", meaning="dtype table", choices=tuple(PRECISIONS)
        ),
        backends.AXIS,
        Axis(name="backward", default=True, meaning="gradients of all inputs too"),
    )
    # Where a CPU measures, the operators' own cases stand for these, too.
    selections: ClassVar = {
        "exact": ({"operator": sorted(_CALLS)},),
        "timing": ({"operator": "transition", "length": 512, "precision": "float32"},),
        "quick": (),
    }

    def configure(self, values: Mapping[str, object]) -> Config:
        """See `Workload`."""
        return super(OperatorsWorkload, self).configure(values)

    def parts(self, config: Config) -> tuple[Operator, Call, Precision]:
        """See `OperatorsWorkload`."""
        name, table = str(config["operator"]), precision(str(config["precision"]))
        return OPERATORS[name], _CALLS[name](int(config["length"]), table), table

    def labels(self, config: Config) -> dict[str, Value]:
        """See `Workload`."""
        how = [str(config["backend"]), str(config["precision"])]
        how += ["forward alone"] * (not config["backward"])
        return {
            "tokens": config["length"],
            "series": f"{config['operator']} microbenchmark",
            "variant": ", ".join(how),
            "synthetic": True,
        }
