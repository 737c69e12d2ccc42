"""FLOP formulas of operators; FLOPs of a forward pass and parameters by component of a model."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from refsys.costs.output_cache import OUTPUTS
from refsys.ops.rounds import times

# Torch has formulas for every flash kernel but those of the CPU.
_FLASH_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
if _FLASH_ON_CPU not in flop_registry:

    @register_flop_formula(_FLASH_ON_CPU)
    def _flash_on_cpu(query: Any, key: Any, value: Any, *_args: Any, **_options: Any) -> int:
        return sdpa_flop_count(query, key, value)

    @register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward)
    def _flash_on_cpu_backward(
        grad: Any, query: Any, key: Any, value: Any, *_args: Any, **_options: Any
    ) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)


def operator_flops(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> int | None:
    """Return the FLOPs of a call of an operator by torch's registry; None without a formula."""
    formula = flop_registry.get(func.overloadpacket)
    return None if formula is None else int(formula(*args, **kwargs, out_val=out))


class FlopCounter(TorchDispatchMode):
    """Dispatch mode that adds up FLOPs; operators without a formula count as none.

    Attributes:
        total: FLOPs so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Only shapes are computed, and nothing is compiled: torch need not wrap the mode.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = OUTPUTS.call(func, args, kwargs or {})
        self.total += times() * (operator_flops(func, args, kwargs or {}, out) or 0)
        return out


def parameter_counts(model: Any) -> dict[str, int]:
    """Return the number of parameters by component of a model; see `flops_by_component`."""
    parts = model.components().items()
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts}


@contextmanager
def flops_by_component(model: Any) -> Iterator[Counter[str]]:
    """Count FLOPs by the component whose module called the operator; the key '' is no component.

    Args:
        model: Module with a method ``components``, which maps names to modules.
    """
    component = {
        id(module): name for name, part in model.components().items() for module in part.modules()
    }
    spent: Counter[str] = Counter()
    stack = [""]
    counter = FlopCounter()

    def charge() -> None:
        if counter.total:
            spent[stack[-1]] += counter.total
            counter.total = 0

    def enter(module: nn.Module, _inputs: Any) -> None:
        charge()
        stack.append(component.get(id(module), stack[-1]))

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        charge()
        stack.pop()

    with ExitStack() as hooks, counter:
        for module in model.modules():
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        yield spent
        charge()
