"""Triangle attention in plain PyTorch. It stores rows × heads × queries × keys logits.

Shape suffixes: B batch, R row, Q query, K key, H head, D head width.
"""

import torch
from torch import Tensor


def triangle_attention(
    q_BRQHD: Tensor,
    k_BRKHD: Tensor,
    v_BRKHD: Tensor,
    bias_BHQK: Tensor,
    mask_BRK: Tensor,
    *,
    softmax: torch.dtype,
) -> Tensor:
    """See `refsys.ops.triangle_attention.triangle_attention`."""
    scale = q_BRQHD.shape[-1] ** -0.5
    logits_BRHQK = torch.einsum("brqhd,brkhd->brhqk", q_BRQHD * scale, k_BRKHD).to(softmax)
    logits_BRHQK = logits_BRHQK + bias_BHQK.to(softmax).unsqueeze(1)
    logits_BRHQK = logits_BRHQK.masked_fill(
        ~mask_BRK[:, :, None, None, :], torch.finfo(softmax).min
    )
    probabilities_BRHQK = logits_BRHQK.softmax(dim=-1).to(q_BRQHD.dtype)
    out_BRQHD = torch.einsum("brhqk,brkhd->brqhd", probabilities_BRHQK, v_BRKHD)
    return out_BRQHD * mask_BRK.any(dim=-1)[:, :, None, None, None]
