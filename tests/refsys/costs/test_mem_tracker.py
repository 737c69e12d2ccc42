"""The traced peak equals that of torch's own tracker, to the byte.

No tolerance is needed: both follow the storages that a dispatch mode sees by weak references, and
neither rounds sizes on a CPU.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from refsys.costs.trace import trace
from refsys.model.chunks import recomputed


class Step:
    """Forward, backward and an optimizer step of a small network."""

    phases = ("forward", "backward", "optimizer")
    forward_phases = ("forward",)

    def __init__(self, *, checkpointing):
        self.module = nn.Sequential(*(self.block() for _ in range(3)))
        self.optimizer = torch.optim.Adam(self.module.parameters(), foreach=False)
        self.checkpointing = checkpointing
        self.x = torch.ones(96, 32)

    @staticmethod
    def block():
        return nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))

    def tensors(self):
        state = [v for values in self.optimizer.state.values() for v in values.values()]
        parameters = list(self.module.parameters())
        return {"parameters": parameters, "optimizer": state, "inputs": [self.x]}

    def run(self, phase):
        if phase == "forward":
            x = self.x
            for block in self.module:
                x = x + (recomputed(block, x) if self.checkpointing else block(x))
            self.loss = x.square().sum()
        elif phase == "backward":
            self.loss.backward()
            self.loss = self.loss.detach()
        else:
            self.optimizer.step()
            self.optimizer.zero_grad()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_traced_peak_equals_that_of_mem_tracker(checkpointing):
    with FakeTensorMode():
        traced = trace(Step(checkpointing=checkpointing)).peak.nbytes
        program = Step(checkpointing=checkpointing)
        tracker = MemTracker()
        tracker.track_external(program.module, program.optimizer, program.x)
        with tracker:
            for phase in program.phases:
                program.run(phase)
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    assert traced == snapshot["Total"]
    parameters = sum(4 * p.numel() for p in program.module.parameters())
    assert traced > 4 * parameters
