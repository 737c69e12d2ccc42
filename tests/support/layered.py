"""Small program with two phases."""

import torch
from torch import nn

from workloads.workload import Program


class Layers(Program):
    """Two linear layers, forward and backward, with an optional temporary of `extra` bytes."""

    phases = ("forward", "backward")

    def __init__(self, extra=0):
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        self.x = torch.ones(3, 8)
        self.extra = extra

    @property
    def module(self):
        return self.layers

    def tensors(self):
        return {"parameters": list(self.layers.parameters()), "inputs": [self.x]}

    def run(self, phase):
        if phase == "forward":
            torch.ones(self.extra // 4)
            self.loss = self.layers(self.x).square().sum()
        else:
            self.loss.backward()
