"""A workload in a package of its own: attention of every token to those of its window.

It grows linearly with tokens where triangle attention grows with their cube.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from refsys.options import option
from workloads.errors import WorkloadError
from workloads.workload import ExecutionContext, Program, StaticCosts, Value, Workload

HEADS, WIDTH = 4, 64


class LocalAttention(nn.Module):
    """Attention within consecutive windows: [tokens, WIDTH] to the same."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Every window attends to itself."""
        windows = x_NC.view(-1, self.window, WIDTH)
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.qkv(windows).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(-2)).view_as(x_NC)


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalAttentionCase:
    """Configuration of a case; each field is an axis."""

    tokens: int = option(1024, "tokens", minimum=1)
    window: int = option(128, "tokens that attend to each other", minimum=1)


class LocalAttentionProgram(Program):
    """Training the layer to reproduce its input."""

    phases = ("forward", "backward", "optimizer")
    host_phases = ()

    def __init__(self, config: LocalAttentionCase, device: torch.device | None) -> None:
        with torch.device(device or torch.get_default_device()):
            self._layer = LocalAttention(config.window)
            self._x_NC = torch.ones(config.tokens, WIDTH)
        self._optimizer = torch.optim.SGD(self._layer.parameters(), lr=0.01)
        self._loss: Tensor | None = None

    @property
    def module(self) -> nn.Module:
        """Costs are attributed to its modules."""
        return self._layer

    def run(self, phase: str) -> None:
        """Run one phase; each step is the same."""
        if phase == "forward":
            self._loss = (self._layer(self._x_NC) - self._x_NC).square().mean()
        elif phase == "backward":
            assert self._loss is not None, "forward comes first"
            self._loss.backward()
        else:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """Return the tensors that live between steps."""
        return {"parameters": list(self._layer.parameters()), "inputs": [self._x_NC]}

    def outcome(self) -> dict[str, float]:
        """Return the loss of the last step, for the record."""
        return {} if self._loss is None else {"loss": float(self._loss.detach())}


class LocalAttentionWorkload(Workload[LocalAttentionCase]):
    """Cases of one layer at several sizes."""

    name = "local-attention"
    summary = "attention within windows, forward and backward"
    configuration = LocalAttentionCase
    selections: ClassVar = {
        "exact": ({"tokens": 4096},),
        "timing": ({"tokens": 2048},),
        "quick": ({"tokens": [1024, 2048, 4096]},),
    }

    def configure(self, values: Mapping[str, object]) -> LocalAttentionCase:
        """Return the configuration of a case; windows must fill the tokens."""
        config = super().configure(values)
        if config.tokens % config.window:
            raise WorkloadError(
                f"tokens={config.tokens} is not a multiple of window={config.window}"
            )
        return config

    def labels(self, config: LocalAttentionCase) -> dict[str, Value]:
        """Return labels: reports plot one line for each window, against tokens."""
        return {
            "tokens": config.tokens,
            "series": self.name,
            "variant": f"window={config.window}",
            "synthetic": True,
        }

    def static_costs(self, config: LocalAttentionCase) -> StaticCosts:
        """Return the costs of two linear layers and two products within each window."""
        tokens, window = config.tokens, config.window
        parameters = 4 * WIDTH * WIDTH + 4 * WIDTH
        linear, attention = 8 * tokens * WIDTH * WIDTH, 4 * tokens * window * WIDTH
        return StaticCosts(
            parameters=parameters,
            components={"layer": parameters},
            forward_flops=linear + attention,
            forward_flops_by_component={"layer": linear + attention},
            step_flops=3 * (linear + attention),
            arithmetic="float32",
            minimum_bytes=4 * (4 * parameters + tokens * WIDTH),
        )

    def build(self, config: LocalAttentionCase, setting: ExecutionContext) -> Program:
        """Return the program on a real device."""
        return LocalAttentionProgram(config, setting.device)

    def build_abstract(self, config: LocalAttentionCase) -> Program:
        """Return the program for shapes alone; called under a fake tensor mode."""
        return LocalAttentionProgram(config, None)
