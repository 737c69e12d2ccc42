"""State of Adam that is created ahead of the first step."""

import pytest
import torch

from refsys.training.adam_state import create_adam_state


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_state_is_what_a_first_step_creates(kind, fused):
    parameters = [torch.nn.Parameter(torch.randn(4, 3).t()), torch.nn.Parameter(torch.randn(()))]
    stepped, ahead = (kind(parameters, fused=fused) for _ in range(2))
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    stepped.step()
    create_adam_state(ahead)
    for parameter in parameters:
        expected, found = stepped.state[parameter], ahead.state[parameter]
        assert list(found) == list(expected)
        for name, tensor in found.items():
            like = expected[name]
            assert (tensor.shape, tensor.stride()) == (like.shape, like.stride())
            assert (tensor.dtype, tensor.device) == (like.dtype, like.device)
            assert not tensor.requires_grad
            assert not tensor.any()
