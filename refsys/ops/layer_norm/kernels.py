"""LayerNorm inside a kernel: what the fused operators begin and end with.

Shape suffixes: R rows of a tile, C channels, padded to a power of two.
"""

import triton
import triton.language as tl


@triton.jit
def normalize(x_RC, channel_C, epsilon, WIDTH: tl.constexpr):
    """(x − mean) / σ, 0 beyond the width, and 1 / σ of each row; `x_RC` is in float32."""
    mean_R = tl.sum(x_RC, 1) / WIDTH
    centred_RC = x_RC - mean_R[:, None]
    if channel_C.shape[0] != WIDTH:
        centred_RC = tl.where((channel_C < WIDTH)[None, :], centred_RC, 0.0)
    rsigma_R = tl.rsqrt(tl.sum(centred_RC * centred_RC, 1) / WIDTH + epsilon)
    return centred_RC * rsigma_R[:, None], rsigma_R


@triton.jit
def normalize_backward(dhat_RC, hat_RC, rsigma_R, WIDTH: tl.constexpr):
    """The gradient of x from that of what `normalize` gave; 0 beyond the width like its inputs."""
    mean_R = tl.sum(dhat_RC, 1) / WIDTH
    slope_R = tl.sum(dhat_RC * hat_RC, 1) / WIDTH
    return rsigma_R[:, None] * (dhat_RC - mean_R[:, None] - hat_RC * slope_R[:, None])
