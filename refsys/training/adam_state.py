"""State of Adam ahead of its first step."""

import torch


def create_adam_state(optimizer: torch.optim.Adam) -> None:
    """Give every parameter the state that the first step of Adam or AdamW creates.

    Args:
        optimizer: Optimizer without a state, whose moments are of the dtype of the parameters.
    """
    for group in optimizer.param_groups:
        # Step counts of a fused optimizer are on the device.
        counted = group["fused"] or group["capturable"]
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                # The host reads that of a loop: a fake tensor made of a number knows its value.
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device)
                if counted
                else torch.tensor(0.0, dtype=torch.float32, device="cpu"),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
