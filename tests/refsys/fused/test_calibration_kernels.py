"""The kernel that takes exponentials, in the interpreter."""

import torch


def test_exponentials_kernel_takes_one_exponential_per_round_and_element():
    from workloads.calibration_kernels import exponentials

    source = torch.tensor([-1.0, 0.0, 0.5, 2.0] * 8)
    target = torch.full_like(source, -1.0)
    exponentials[2,](source, target, ROUNDS=3, BLOCK=16)
    expected = source.abs().double()
    for _ in range(3):
        expected = torch.exp2(-expected)
    torch.testing.assert_close(target.double(), expected, rtol=1e-6, atol=0)
