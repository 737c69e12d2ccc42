"""Operators of a device check."""

from bench.check_device.check import Check
from bench.records.record import Record
from refsys.ops.backend import OPERATORS
from workloads.catalogue import catalogue
from workloads.operator_arguments import CALLS
from workloads.workload import Config

# Parts of a device check that workloads serve.
SINGLE_OPERATOR, DEVICE_RATES, TRAINING_STEP = "single operator", "device rates", "training step"
BF16, FLOAT32 = "bfloat16", "float32"
# By the time that they take in a step of the full model, the most first.
HEAVIEST = (
    "gated_triangle_attention",
    "triangle_attention",
    "transition",
    "triangle_multiplication_projection",
    "triangle_multiplication_contraction",
    "triangle_multiplication_epilogue",
    "attention_pair_bias",
    "outer_product_mean",
    "conditioned_transition",
)


def configuration_of(record: Record) -> Config:
    """Return the configuration of a record's case, of its workload's own type."""
    workload = catalogue()[record.workload.name]
    return workload.configure(record.workload.config)


def kernel_operators(check: Check) -> list[str]:
    """Return the operators that have kernels of the backend that is checked, the heaviest first."""
    backend = check.sizes.backend
    having = [
        name
        for name, operator in OPERATORS.items()
        if name in CALLS and (backend == "reference" or backend in operator.kernels)
    ]
    heavy = [name for name in HEAVIEST if name in having]
    ranked = heavy + sorted(set(having) - set(heavy))
    return ranked[: check.sizes.operators]
