"""Single operators, forward and backward, at the shapes that AlphaFold 3 calls them with."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from refsys import ops
from refsys.config import PRESETS, preset
from refsys.ops.backend import OPERATORS, Operator
from refsys.ops.contract import nbytes
from refsys.options import option
from refsys.precision import PRECISIONS, Precision, precision
from refsys.streams import Draw
from workloads import backends
from workloads.backends import Backends, backend_option
from workloads.operator_arguments import CALLS, Argument, Call
from workloads.workload import ExecutionContext, Program, StaticCosts, Value, Workload

# Instructions that two logits of attention take of a thread, beside matrix products and loads.
# Forward: for each, the shift of the exponent, the exponential, the running maximum and sum; for
# both, the bias unpacked and the weights converted. Backward: for each, shift, exponential,
# difference, product, and the sum for the bias; for both, bias, weights and slopes.
_FORWARD, _BACKWARD = 10, 13

# Each registers its operators.
for _module in iter_modules(ops.__path__, f"{ops.__name__}."):
    import_module(_module.name)


class OperatorChoice(Protocol):
    """Choices that every case of a single operator has."""

    @property
    def backend(self) -> str:
        """Implementation of the operator."""

    @property
    def backward(self) -> bool:
        """Compute gradients of all inputs too."""


Case = TypeVar("Case", bound=OperatorChoice)


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorCase:
    """Configuration of a case."""

    operator: str = option(
        "triangle_attention", "which operator", choices=tuple(sorted(OPERATORS)), titled=True
    )
    preset: str = option("full", "model whose widths it has", choices=tuple(PRESETS), titled=True)
    tokens: int = option(0, "tokens; 0 is the preset's own", minimum=0)
    batch: int = option(1, "examples at once", minimum=1)
    precision: str = option("float32", "dtype table", choices=tuple(PRECISIONS))
    backend: str = backend_option()
    backward: bool = option(True, "gradients of all inputs too")


class SingleOperator(Workload[Case]):
    """Cases of one operator: the cost of a step, and the least of any implementation.

    A subclass returns the operator, its call and its dtypes from `parts`.
    """

    @abstractmethod
    def parts(self, config: Case) -> tuple[Operator, Call, Precision]:
        """Return the operator of a case, its call and its dtype table."""

    def static_costs(self, config: Case) -> StaticCosts:
        """See `Workload`.

        Backward has twice the products of forward; it reads every input and every output's
        gradient once, and writes the gradient of every floating-point input once.
        """
        operator, call, table = self.parts(config)
        tensors = [_empty(argument, table, torch.device("meta")) for argument in call.arguments]
        flat = operator.with_flat_arguments
        forward = flat(operator.flops)(*tensors, **call.options)
        bytes_forward = flat(operator.minimum_bytes)(*tensors, **call.options)
        scores = flat(operator.scores)(*tensors, **call.options)
        gradients = nbytes(*(tensor for tensor in tensors if tensor.is_floating_point()))
        weights = [a.shape for a in call.arguments if a.kind == "weight"]
        parameters = sum(torch.Size(shape).numel() for shape in weights)
        both = config.backward
        return StaticCosts(
            parameters=parameters,
            components={operator.name: parameters},
            forward_flops=forward,
            forward_flops_by_component={operator.name: forward},
            step_flops=3 * forward if both else forward,
            arithmetic=str(table.activations).removeprefix("torch."),
            minimum_bytes=2 * bytes_forward + gradients if both else bytes_forward,
            exponentials=2 * scores if both else scores,
            instructions=scores * (_FORWARD + _BACKWARD * both) // 2,
            notes=("pointwise work, normalization and softmax are not counted as FLOPs",),
        )

    def unsupported_reason(self, config: Case, device: torch.device) -> str | None:
        """See `Workload`."""
        return backends.unsupported_reason(config.backend, device)

    def build(self, config: Case, setting: ExecutionContext) -> "OperatorProgram":
        """See `Workload`."""
        operator, call, table = self.parts(config)
        tensors = [
            _drawn(argument, table, setting, number)
            for number, argument in enumerate(call.arguments)
        ]
        return OperatorProgram(operator, call, tensors, config)

    def build_abstract(self, config: Case) -> "OperatorProgram":
        """See `Workload`."""
        operator, call, table = self.parts(config)
        tensors = [_empty(argument, table, None) for argument in call.arguments]
        program = OperatorProgram(operator, call, tensors, config)
        program.settle()
        return program


class OperatorsWorkload(SingleOperator[OperatorCase]):
    """Cases of one operator: what a step of it costs, beside what any implementation must."""

    name = "operators"
    device_check = "single operator"
    summary = "one operator at AlphaFold 3's shapes, forward and backward"
    configuration = OperatorCase
    selections: ClassVar = {
        "exact": ({"operator": sorted(OPERATORS), "preset": "full", "precision": "bfloat16"},),
        "timing": ({"operator": sorted(OPERATORS), "preset": "mini", "tokens": 64},),
        "quick": (
            {
                "operator": [
                    "transition",
                    "triangle_attention",
                    "triangle_multiplication_contraction",
                ],
                "preset": "tiny",
                "tokens": [64, 128],
            },
        ),
    }

    def configure(self, values: Mapping[str, object]) -> OperatorCase:
        """See `Workload`; tokens of 0 become the preset's own."""
        config = super().configure(values)
        return replace(config, tokens=config.tokens or preset(config.preset).tokens)

    def parts(self, config: OperatorCase) -> tuple[Operator, Call, Precision]:
        """See `SingleOperator`."""
        name, table = config.operator, precision(config.precision)
        call = CALLS[name](preset(config.preset), table, config.batch, config.tokens)
        return OPERATORS[name], call, table

    def labels(self, config: OperatorCase) -> dict[str, Value]:
        """See `Workload`."""
        how = [config.backend, config.precision]
        how += [f"batch={config.batch}"] * (config.batch != 1)
        how += ["forward alone"] * (not config.backward)
        return {
            "tokens": config.tokens,
            "series": f"{config.operator} {config.preset}",
            "variant": ", ".join(how),
            "synthetic": True,
        }


class OperatorProgram(Program):
    """One operator on one set of inputs, repeatedly."""

    host_phases = ()
    repeatable = True

    def __init__(
        self, operator: Operator, call: Call, tensors: Sequence[Tensor], config: OperatorChoice
    ) -> None:
        self.phases = ("forward", "backward") if config.backward else ("forward",)
        self._operator, self._options = operator.with_flat_arguments(operator), call.options
        self._inputs = list(tensors)
        if config.backward:
            for tensor in self._inputs:
                tensor.requires_grad_(tensor.is_floating_point())
        self._backends = Backends(config.backend)
        self._outputs: tuple[Tensor, ...] = ()
        self._gradients: tuple[Tensor, ...] = ()

    def run(self, phase: str) -> None:
        """See `Program`."""
        with self._backends():
            if phase == "forward":
                self._forward()
            else:
                torch.autograd.backward(self._outputs, self._gradients)
                self._outputs = ()

    def settle(self) -> None:
        """Allocate the tensors that live between steps, as a first step does."""
        self.run("forward")
        self._outputs = ()

    def _forward(self) -> None:
        for tensor in self._inputs:
            tensor.grad = None
        result = self._operator(*self._inputs, **self._options)
        self._outputs = result if isinstance(result, tuple) else (result,)
        if not self._gradients and "backward" in self.phases:
            # Gradients of the outputs are fixed at the first call: copies of the outputs.
            self._gradients = tuple(output.detach().clone() for output in self._outputs)

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {
            "inputs": [*self._inputs, *self._gradients],
            "gradients": [t.grad for t in self._inputs if t.grad is not None],
        }

    def outcome(self) -> dict[str, float]:
        """See `Program`: the mean of the output or, after a backward pass, of a gradient."""
        first = self._outputs[0] if self._outputs else self._inputs[0].grad
        return {} if first is None else {"mean": float(first.detach().double().mean())}

    def implementations(self) -> dict[str, str]:
        """See `Program`."""
        return self._backends.implementations()

    def notes(self) -> dict[str, Any]:
        """See `Program`."""
        return self._backends.notes()


def _empty(argument: Argument, table: Precision, device: torch.device | None) -> Tensor:
    return torch.empty(argument.shape, dtype=argument.dtype(table), device=device)


def _drawn(argument: Argument, table: Precision, setting: ExecutionContext, number: int) -> Tensor:
    """A normal of its scale, divided by the root of the fan-in for a weight; a mask keeps all."""
    if argument.kind == "mask":
        return torch.ones(argument.shape, dtype=torch.bool, device=setting.device)
    draw = Draw(setting.seed, "operator argument", number)
    values = draw.normal_on(setting.device, torch.Size(argument.shape).numel())
    if argument.kind == "weight":
        values = values / argument.shape[-1] ** 0.5
    return (argument.scale * values).view(argument.shape).to(argument.dtype(table))
