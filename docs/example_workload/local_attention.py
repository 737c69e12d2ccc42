"""A workload in a package of its own: attention of every token to those of its window.

It grows linearly with tokens where triangle attention grows with their cube.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from workloads.errors import WorkloadError
from workloads.workload import Axis, Config, Facts, Program, Setting, Value, Workload

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


class LocalAttentionProgram(Program):
    """Training the layer to reproduce its input."""

    phases = ("forward", "backward", "optimizer")
    host_phases = ()

    def __init__(self, config: Config, device: torch.device | None) -> None:
        with torch.device(device or torch.get_default_device()):
            self._layer = LocalAttention(int(config["window"]))
            self._x_NC = torch.ones(int(config["tokens"]), WIDTH)
        self._optimizer = torch.optim.SGD(self._layer.parameters(), lr=0.01)
        self._loss: Tensor | None = None

    @property
    def module(self) -> nn.Module:
        """Costs are attributed to its modules."""
        return self._layer

    def run(self, phase: str) -> None:
        """One phase; each step is the same."""
        if phase == "forward":
            self._loss = (self._layer(self._x_NC) - self._x_NC).square().mean()
        elif phase == "backward":
            assert self._loss is not None, "forward comes first"
            self._loss.backward()
        else:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """What lives between steps."""
        return {"parameters": list(self._layer.parameters()), "inputs": [self._x_NC]}

    def outcome(self) -> dict[str, float]:
        """What a record keeps of the last step."""
        return {} if self._loss is None else {"loss": float(self._loss.detach())}


class LocalAttentionWorkload(Workload):
    """Cases of one layer at several sizes."""

    name = "local-attention"
    summary = "attention within windows, forward and backward"
    axes = (
        Axis(name="tokens", default=1024, meaning="tokens", minimum=1),
        Axis(name="window", default=128, meaning="tokens that attend to each other", minimum=1),
    )
    selections: ClassVar = {
        "exact": ({"tokens": 4096},),
        "timing": ({"tokens": 2048},),
        "quick": ({"tokens": [1024, 2048, 4096]},),
    }

    def configure(self, values: Mapping[str, object]) -> Config:
        """All axes; windows must fill the tokens."""
        config = super().configure(values)
        if int(config["tokens"]) % int(config["window"]):
            raise WorkloadError(
                f"tokens={config['tokens']} is not a multiple of window={config['window']}"
            )
        return config

    def labels(self, config: Config) -> dict[str, Value]:
        """Reports draw one line for each window, against tokens."""
        return {
            "tokens": config["tokens"],
            "series": self.name,
            "variant": f"window={config['window']}",
            "synthetic": True,
        }

    def facts(self, config: Config) -> Facts:
        """Two linear layers, and two products within each window."""
        tokens, window = int(config["tokens"]), int(config["window"])
        parameters = 4 * WIDTH * WIDTH + 4 * WIDTH
        linear, attention = 8 * tokens * WIDTH * WIDTH, 4 * tokens * window * WIDTH
        return Facts(
            parameters=parameters,
            components={"layer": parameters},
            forward_flops=linear + attention,
            forward_flops_by_component={"layer": linear + attention},
            step_flops=3 * (linear + attention),
            arithmetic="float32",
            minimum_bytes=4 * (4 * parameters + tokens * WIDTH),
        )

    def build(self, config: Config, setting: Setting) -> Program:
        """On a real device."""
        return LocalAttentionProgram(config, setting.device)

    def build_abstract(self, config: Config) -> Program:
        """For shapes alone: called under a fake tensor mode."""
        return LocalAttentionProgram(config, None)
