"""Smooth-LDDT in Triton: every pair of atoms once, a tile at a time, without storing any.

Most tiles of a large structure have no near pair: they are skipped after reading the label. Pairs
start from the atoms [begin, end) alone, those of a rank, so that several ranks divide the work; the
radius of every other atom is 0, within which nothing is near.

Shape suffixes: Q atoms of a tile, K atoms of the inner loop.
"""

import triton
import triton.language as tl


@triton.jit
def _load_atoms(base, atom, atoms):
    """Load three coordinates of a tile of a dense [atoms, 3] tensor, in float32; 0 outside."""
    inside = atom < atoms
    x = tl.load(base + atom * 3, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(base + atom * 3 + 1, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(base + atom * 3 + 2, mask=inside, other=0.0).to(tl.float32)
    return x, y, z


@triton.jit
def _distances(first, second):
    """Return distances [Q, K], and the three components of the offsets."""
    x = first[0][:, None] - second[0][None, :]
    y = first[1][:, None] - second[1][None, :]
    z = first[2][:, None] - second[2][None, :]
    return tl.sqrt(x * x + y * y + z * z + 1e-10), x, y, z


@triton.jit
def _load_label(truth, resolved, radius, atom, atoms):
    """Load positions of the label's atoms, which of them are resolved, and their radii."""
    is_resolved = tl.load(resolved + atom, mask=atom < atoms, other=0) != 0
    reach = tl.load(radius + atom, mask=atom < atoms, other=0.0).to(tl.float32)
    return _load_atoms(truth, atom, atoms), is_resolved, reach


@triton.jit
def _sigmoid(x):
    # Not a global of the module: see triangle attention's.
    LOG2E: tl.constexpr = 1.4426950408889634
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit(do_not_specialize=["atoms", "begin", "end"])
def forward(
    x,
    truth,
    resolved,
    radius,
    partials,
    atoms,
    begin,
    end,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Sum scores and number of a tile's near pairs into `partials`, [example · sample, tile, 2]."""
    tile, sample, batch = tl.program_id(0), tl.program_id(1), tl.cast(tl.program_id(2), tl.int64)
    line = batch * tl.num_programs(1) + sample
    x += line * atoms * 3
    truth += batch * atoms * 3
    resolved += batch * atoms
    radius += batch * atoms
    q = begin + tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    truth_Q, resolved_Q, reach_Q = _load_label(truth, resolved, radius, q, atoms)
    x_Q = _load_atoms(x, q, atoms)
    score_Q = tl.zeros([BLOCK_Q], tl.float32)
    count_Q = tl.zeros([BLOCK_Q], tl.float32)
    for first in range(0, atoms, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        truth_K, resolved_K, _reach_K = _load_label(truth, resolved, radius, k, atoms)
        true_QK, _x, _y, _z = _distances(truth_Q, truth_K)
        near_QK = (true_QK < reach_Q[:, None]) & (q[:, None] != k[None, :])
        near_QK = near_QK & resolved_Q[:, None] & resolved_K[None, :]
        near_Q = tl.sum(near_QK.to(tl.float32), 1)
        if tl.sum(near_Q, 0) > 0:
            distance_QK, _x, _y, _z = _distances(x_Q, _load_atoms(x, k, atoms))
            error_QK = tl.abs(distance_QK - true_QK)
            score_QK = _sigmoid(0.5 - error_QK) + _sigmoid(1.0 - error_QK)
            score_QK += _sigmoid(2.0 - error_QK) + _sigmoid(4.0 - error_QK)
            score_Q += tl.sum(tl.where(near_QK, score_QK, 0.0), 1) * 0.25
            count_Q += near_Q
    partials += (line * tl.num_programs(0) + tile) * 2
    tl.store(partials, tl.sum(score_Q, 0))
    tl.store(partials + 1, tl.sum(count_Q, 0))


@triton.jit
def _slope(x):
    """Return the derivative of the sigmoid."""
    open_ = _sigmoid(x)
    return open_ * (1.0 - open_)


@triton.jit(do_not_specialize=["atoms", "begin", "end"])
def backward(
    x,
    truth,
    resolved,
    radius,
    grad,
    sums,
    dx,
    atoms,
    begin,
    end,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute the gradient of a tile's positions, from pairs that are near for either atom."""
    tile, sample, batch = tl.program_id(0), tl.program_id(1), tl.cast(tl.program_id(2), tl.int64)
    line = batch * tl.num_programs(1) + sample
    x += line * atoms * 3
    dx += line * atoms * 3
    truth += batch * atoms * 3
    resolved += batch * atoms
    radius += batch * atoms
    scale = tl.load(grad + line).to(tl.float32) * 0.25
    scale /= tl.maximum(tl.load(sums + line * 2 + 1), 1.0)
    q = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    truth_Q, resolved_Q, reach_Q = _load_label(truth, resolved, radius, q, atoms)
    x_Q = _load_atoms(x, q, atoms)
    dx_Q = tl.zeros([BLOCK_Q], tl.float32)
    dy_Q = tl.zeros([BLOCK_Q], tl.float32)
    dz_Q = tl.zeros([BLOCK_Q], tl.float32)
    # No pair starts from other tiles: they have those that end in them.
    starts = (tile * BLOCK_Q < end) & ((tile + 1) * BLOCK_Q > begin)
    for first in range(tl.where(starts, 0, begin), tl.where(starts, atoms, end), BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        truth_K, resolved_K, reach_K = _load_label(truth, resolved, radius, k, atoms)
        true_QK, _x, _y, _z = _distances(truth_Q, truth_K)
        valid_QK = (q[:, None] != k[None, :]) & resolved_Q[:, None] & resolved_K[None, :]
        near_count_QK = (true_QK < reach_Q[:, None]).to(tl.float32)
        near_count_QK += (true_QK < reach_K[None, :]).to(tl.float32)
        near_count_QK = tl.where(valid_QK, near_count_QK, 0.0)
        if tl.sum(tl.sum(near_count_QK, 1), 0) > 0:
            distance_QK, x_QK, y_QK, z_QK = _distances(x_Q, _load_atoms(x, k, atoms))
            error_QK = tl.abs(distance_QK - true_QK)
            slope_QK = _slope(0.5 - error_QK) + _slope(1.0 - error_QK)
            slope_QK += _slope(2.0 - error_QK) + _slope(4.0 - error_QK)
            # The score falls with the distance where that exceeds the label's, and rises below.
            sign_QK = tl.where(distance_QK > true_QK, -1.0, 1.0)
            sign_QK = tl.where(distance_QK == true_QK, 0.0, sign_QK)
            pull_QK = near_count_QK * sign_QK * slope_QK / distance_QK
            dx_Q += tl.sum(pull_QK * x_QK, 1)
            dy_Q += tl.sum(pull_QK * y_QK, 1)
            dz_Q += tl.sum(pull_QK * z_QK, 1)
    inside_Q = q < atoms
    dtype = dx.dtype.element_ty
    tl.store(dx + q * 3, (dx_Q * scale).to(dtype), mask=inside_Q)
    tl.store(dx + q * 3 + 1, (dy_Q * scale).to(dtype), mask=inside_Q)
    tl.store(dx + q * 3 + 2, (dz_Q * scale).to(dtype), mask=inside_Q)
