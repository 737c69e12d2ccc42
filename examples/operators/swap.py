"""Replace the triangle attention of another Pairformer by foldperf's operator, and compare.

    python examples/operators/swap.py

On an accelerator the operator runs on its kernels; with ``TRITON_INTERPRET=1
FOLDPERF_BACKEND=triton`` they are interpreted on a CPU; otherwise it runs plain PyTorch.
"""

import copy

import torch
from pairformer import PairBlock, TriangleAttention
from torch import Tensor, nn

from refsys import ops
from refsys.ops.gated_attention import TriangleAttentionWeights, gated_triangle_attention


class Fused(nn.Module):
    """Replacement of a `TriangleAttention`, with the same parameters under the same names."""

    def __init__(self, plain: TriangleAttention) -> None:
        super().__init__()
        self.ending = plain.ending
        for name, child in plain.named_children():
            self.add_module(name, child)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """Do the same as `TriangleAttention.forward`; the ending node needs no copy."""
        if self.ending:
            z = z.transpose(1, 2)
        projections = self.to_q, self.to_k, self.to_v, self.to_gate
        z = gated_triangle_attention(
            z,
            mask,
            TriangleAttentionWeights(
                norm_weight=self.norm.weight,
                norm_bias=self.norm.bias,
                weight=torch.cat([projection.weight for projection in projections]),
                weight_heads=self.to_bias.weight,
                weight_out=self.to_out.weight,
            ),
            None,
            rate=0.0,
            softmax=torch.float32,
            statistics=torch.float32,
        )
        return z.transpose(1, 2) if self.ending else z


def main() -> None:
    """Compare output and every gradient."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = PairBlock(channels=32, heads=2).to(device)
    fused = copy.deepcopy(plain)
    fused.starting, fused.ending = Fused(fused.starting), Fused(fused.ending)
    z = torch.randn(1, 12, 12, 32, device=device)
    mask = torch.ones(1, 12, 12, dtype=torch.bool, device=device)
    mask[:, -2:] = mask[:, :, -2:] = False
    mask[:, :, 0] = True

    results = {}
    for name, block in (("plain", plain), ("fused", fused)):
        out = block(z, mask)
        gradients = torch.autograd.grad(out.square().sum(), list(block.parameters()))
        results[name] = out.detach(), *gradients
    names = "output", *(f"d {name}" for name, _ in plain.named_parameters())
    for name, expected, value in zip(names, *results.values(), strict=True):
        error = (expected - value).abs().max() / expected.abs().max()
        print(f"{name:<28} differs by {error:.1e} of its largest value")
        assert error < 1e-4, name
    print("ran on:", ", ".join(sorted(f"{op} ({backend})" for op, backend in ops.calls())))


if __name__ == "__main__":
    main()
