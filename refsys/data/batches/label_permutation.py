"""Permutation of labels among equivalent chains and atoms (AlphaFold 3 supplement, section 4.2).

The names of identical chains, and of chemically equivalent atoms, are arbitrary, so the model
cannot predict them. Before the losses, labels are permuted among them to fit the prediction best:
chains first, then atoms inside residues. This runs on the host, in float64.

Shape suffixes: A atoms of the crop, S atoms of the structure, P pairs (chain of the crop, chain of
the structure that could be its label), R residues, L atoms of a residue.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.errors import ArgumentError

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int64]

# Fewest points that determine a superposition well.
_ENOUGH_POINTS = 4
# Weight of a term that must only break ties.
_LITTLE = 1e-9
# Relative to the mean square of the compared points: smaller differences are rounding.
_ROUNDING = 1e-12
# Decimals of squared errors, Å², that are significant.
_DECIMALS = 9


@dataclass(frozen=True, slots=True, eq=False)
class Symmetries:
    """Labels of a structure, and the permutations that leave it chemically the same.

    Attributes:
        chain_of_atom: [S] int32, ascending.
        residue_of_atom: [S] int32, ascending.
        chain_group: [chain] int32. Chains of one group are copies: atom k of one corresponds to
            atom k of another.
        position: [S, 3] ångström; any value where not resolved.
        resolved: [S] bool.
        center: [S] bool: whether the atom is the centre atom of a token, by which chains are
            compared.
        polymer: [chain] bool.
        residue_symmetry: [residue] int32: index in `symmetries`, −1 for none.
        symmetries: Tables [permutation, atom of the residue]: in row p, atom i takes the label of
            atom p[i]. Row 0 is the identity.
    """

    chain_of_atom: NDArray[np.int32]
    residue_of_atom: NDArray[np.int32]
    chain_group: NDArray[np.int32]
    position: NDArray[np.floating[Any]]
    resolved: NDArray[np.bool_]
    center: NDArray[np.bool_]
    polymer: NDArray[np.bool_]
    residue_symmetry: NDArray[np.int32]
    symmetries: tuple[NDArray[np.integer[Any]], ...]

    def __post_init__(self) -> None:
        """Check the invariants of the permutation.

        Raises:
            ArgumentError: atoms are out of order, a resolved one has no position, copies of a chain
                differ in size, or a table and its residue differ in size.
        """
        for name in ("chain_of_atom", "residue_of_atom"):
            if (np.diff(getattr(self, name)) < 0).any():
                raise ArgumentError(f"{name} descends; sort the atoms by chain, then by residue")
        for atom in np.flatnonzero(self.resolved & ~np.isfinite(self.position).all(axis=1))[:1]:
            raise ArgumentError(f"atom {atom} is at {self.position[atom]}; mark it as not resolved")
        sizes = np.bincount(self.chain_of_atom, minlength=len(self.chain_group))
        _, first, group = np.unique(self.chain_group, return_index=True, return_inverse=True)
        for chain in np.flatnonzero(sizes != sizes[first[group]])[:1]:
            raise ArgumentError(
                f"chain {chain} has {sizes[chain]} atoms, its copy {first[group][chain]} has "
                f"{sizes[first[group][chain]]}; give every copy all atoms, resolved or not"
            )
        widths = np.array([table.shape[1] for table in self.symmetries] + [0])
        sizes = np.bincount(self.residue_of_atom, minlength=len(self.residue_symmetry))
        wrong = (self.residue_symmetry >= 0) & (sizes != widths[self.residue_symmetry])
        for residue in np.flatnonzero(wrong)[:1]:
            raise ArgumentError(
                f"residue {residue} has {sizes[residue]} atoms, its symmetries are of "
                f"{widths[self.residue_symmetry[residue]]}; give it −1 or a table of its own"
            )


def permuted_rows(
    predicted: NDArray[np.floating[Any]], rows: _Integers, symmetries: Symmetries
) -> _Integers:
    """Return the row of the structure whose label each atom of a crop takes.

    Args:
        predicted: [A, 3] ångström. A non-finite one leaves every label unchanged: the losses
            report it.
        rows: [A] the crop's atoms as rows of the structure, ascending. Chains and residues may be
            partial; atoms are permuted only inside complete residues.
        symmetries: Labels and permutations of the structure.

    Returns:
        [A] distinct rows of the structure.
    """
    x_A3 = np.asarray(predicted, np.float64)
    if not len(rows) or not np.isfinite(x_A3).all():
        return rows.copy()
    x_A3 = x_A3 - x_A3.mean(axis=0)
    return _with_atoms_exchanged(x_A3, _with_chains_exchanged(x_A3, rows, symmetries), symmetries)


# ---- Chains


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Pairs of a chain of the crop and a chain of the structure that could be its label.

    Attributes:
        crop: [P] number of the chain in the crop, ascending.
        chain: [P] chain of the structure, ascending in each chain of the crop.
        is_same_chain: [P] bool: whether both are the same chain.
        points: [P] number of compared points: the label's resolved centre atoms, or all its
            resolved atoms if no centre is resolved.
        moments: [P, 4, 4] moments of these points, see `_moments`; those of the two centroids if
            there are no points, and zero if no atom of the label is resolved.
        squares: [P] sums of squares of the same points.
    """

    crop: _Integers
    chain: _Integers
    is_same_chain: NDArray[np.bool_]
    points: _Integers
    moments: _Floats
    squares: _Floats


def _with_chains_exchanged(x_A3: _Floats, rows: _Integers, symmetries: Symmetries) -> _Integers:
    """Return the rows after the best exchange of chains.

    The candidates are no exchange, and the assignment that follows from each label of the anchor.
    """
    chains, first = np.unique(symmetries.chain_of_atom[rows], return_index=True)
    groups = symmetries.chain_group
    if (np.bincount(groups)[groups[chains]] == 1).all():
        return rows
    starts = np.searchsorted(symmetries.chain_of_atom, np.arange(len(groups)))
    pairs = _pairs(x_A3, rows, first, starts, symmetries)
    best = np.flatnonzero(pairs.is_same_chain)
    least = _score(pairs, best)
    rounding = _ROUNDING * pairs.squares[best].sum() / max(pairs.points[best].sum(), 1)
    is_candidate = (pairs.crop == _anchor(pairs, symmetries)) & (pairs.points > 0)
    for pair in np.flatnonzero(is_candidate).tolist():
        assigned = _assigned(pairs, pair)
        score = _score(pairs, assigned)
        if score < least - rounding:
            best, least = assigned, score
    shifts = starts[pairs.chain[best]] - starts[chains]
    return rows + np.repeat(shifts, np.diff([*first, len(rows)]))


def _pairs(
    x_A3: _Floats, rows: _Integers, first: _Integers, starts: _Integers, symmetries: Symmetries
) -> _Pairs:
    """Pair each chain of the crop with all chains that could be its label.

    Args:
        x_A3: Predicted positions, centred.
        rows: [A] rows of the structure.
        first: [chain of the crop] first atom of each chain in the crop.
        starts: [chain] first row of each chain in the structure.
        symmetries: Labels and permutations of the structure.
    """
    y_S3 = _centered(symmetries.position, symmetries.resolved)
    centroids, has_centroid = _centroids(y_S3, symmetries)
    groups = symmetries.chain_group
    columns = []
    for crop, (begin, end) in enumerate(zip(first, [*first[1:], len(rows)], strict=True)):
        chain = symmetries.chain_of_atom[rows[begin]]
        chains = np.flatnonzero(groups == groups[chain])
        labels = rows[begin:end] - starts[chain] + starts[chains, None]
        resolved = symmetries.resolved[labels]
        centers = resolved & symmetries.center[labels]
        weights = np.where(centers.any(axis=1, keepdims=True), centers, resolved)
        used = weights.any(axis=0)
        part_A3, y_CA3 = x_A3[begin:end], y_S3[labels[:, used]]
        moments, squares = _moments(part_A3[used], y_CA3, weights[:, used])
        points = weights.sum(axis=1)
        without_points = chains[points == 0]
        moments[points == 0], squares[points == 0] = _moments(
            part_A3.mean(axis=0, keepdims=True),
            centroids[without_points, None],
            has_centroid[without_points, None],
        )
        columns.append(
            (np.full(len(chains), crop), chains, chains == chain, points, moments, squares)
        )
    return _Pairs(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _centroids(y_S3: _Floats, symmetries: Symmetries) -> tuple[_Floats, NDArray[np.bool_]]:
    """Return the mean of the resolved atoms [chain, 3], and whether there are any [chain]."""
    chains, count = symmetries.chain_of_atom, len(symmetries.chain_group)
    sizes = np.bincount(chains, symmetries.resolved, count)
    sums = [np.bincount(chains, y_S3[:, axis], count) for axis in range(3)]
    return np.stack(sums, axis=1) / np.maximum(sizes, 1)[:, None], sizes > 0


def _anchor(pairs: _Pairs, symmetries: Symmetries) -> int:
    """Return the anchor: the chain of the crop whose label is superposed first.

    It is the polymer with enough points and the fewest copies; without such a polymer, the other
    chain with enough points and the fewest copies; without that, the chain with the most points.
    Ties go to more points, then to the earlier chain. Points are counted in the copy that has the
    most, so that the choice does not depend on names.
    """

    def rank(crop: int) -> tuple[int, int, int]:
        of_crop = np.flatnonzero(pairs.crop == crop)
        points = int(pairs.points[of_crop].max())
        if points < _ENOUGH_POINTS:
            return 1 + _ENOUGH_POINTS - points, len(of_crop), -points
        return 0 if symmetries.polymer[pairs.chain[of_crop[0]]] else 1, len(of_crop), -points

    return min(range(int(pairs.crop[-1]) + 1), key=rank)


def _assigned(pairs: _Pairs, anchor: int) -> _Integers:
    """Assign one pair to each chain of the crop, cheapest first, after superposing the anchor pair.

    The cost of a pair is the mean squared distance of its points, Å². Ties go to a chain's own
    label, then to the earlier pair.

    Returns:
        [chain of the crop] numbers of pairs.
    """
    # Rotations that too few points leave open are taken from the superposition of all labels.
    motion = _fit(pairs.moments[anchor] + _LITTLE * pairs.moments[pairs.is_same_chain].sum(axis=0))
    count = pairs.moments[:, 3, 3]
    misfit = _misfit(motion, pairs.moments, pairs.squares)
    costs = np.where(count > 0, misfit / np.maximum(count, 1), np.inf)
    costs[anchor] = -1.0
    assigned: dict[int, int] = {}
    assigned_chains: set[int] = set()
    crops, chains = pairs.crop.tolist(), pairs.chain.tolist()
    for pair in np.lexsort((~pairs.is_same_chain, costs)).tolist():
        if crops[pair] not in assigned and chains[pair] not in assigned_chains:
            assigned[crops[pair]] = pair
            assigned_chains.add(chains[pair])
    return np.array([assigned[crop] for crop in sorted(assigned)])


def _score(pairs: _Pairs, assigned: _Integers) -> float:
    """Return the mean squared distance of all points after superposition, Å²; inf without any."""
    with_points = assigned[pairs.points[assigned] > 0]
    if not len(with_points):
        return np.inf
    moments, squares = pairs.moments[with_points].sum(axis=0), pairs.squares[with_points].sum()
    return float(_misfit(_fit(moments), moments, squares) / moments[3, 3])


# ---- Atoms


def _with_atoms_exchanged(x_A3: _Floats, rows: _Integers, symmetries: Symmetries) -> _Integers:
    """Return the rows after the relabelling of least squared error in each residue.

    Ties go to the earlier relabelling of the table.
    """
    residues = symmetries.residue_of_atom[rows]
    first = np.flatnonzero(np.diff(residues, prepend=-1))
    residues = residues[first]
    ends = np.searchsorted(symmetries.residue_of_atom, [residues, residues + 1])
    is_complete = np.diff([*first, len(rows)]) == ends[1] - ends[0]
    table_of = np.where(is_complete, symmetries.residue_symmetry[residues], -1)
    resolved = symmetries.resolved[rows]
    y_A3 = _centered(symmetries.position[rows], resolved)
    moments, _ = _moments(x_A3, y_A3[None], resolved[None])
    motion = _fit(moments[0])
    y_A3 = y_A3 @ motion[:, :3].T + motion[:, 3]
    exchanged = rows.copy()
    for number in np.unique(table_of[table_of >= 0]):
        table = symmetries.symmetries[number].astype(np.int64)
        atoms = np.arange(table.shape[1])
        atoms_RL = first[table_of == number][:, None] + atoms
        squares_RLL = np.square(x_A3[atoms_RL][:, :, None] - y_A3[atoms_RL][:, None]).sum(axis=-1)
        squares_RLL *= resolved[atoms_RL][:, None]
        errors = squares_RLL[:, atoms, table].sum(axis=-1)
        best = np.argmin(errors.round(_DECIMALS), axis=1)
        exchanged[atoms_RL] = np.take_along_axis(rows[atoms_RL], table[best], axis=1)
    return exchanged


# ---- Superposition from moments


def _centered(y_S3: NDArray[np.floating[Any]], resolved: NDArray[np.bool_]) -> _Floats:
    """Subtract the mean of the resolved positions; zero where not resolved."""
    resolved_positions = y_S3[resolved].astype(np.float64)
    centered = np.zeros(y_S3.shape)
    centered[resolved] = resolved_positions - resolved_positions.sum(axis=0) / max(
        len(resolved_positions), 1
    )
    return centered


def _moments(
    x_A3: _Floats, y_CA3: _Floats, weights_CA: NDArray[np.bool_]
) -> tuple[_Floats, _Floats]:
    """Return the sums over points x and labels y that superpositions and distances depend on.

    Returns:
        [C, 4, 4] Σ w (y, 1) (x, 1)ᵀ, and [C] Σ w (|x|² + |y|²).
    """
    weighted_C4A = (_with_one(y_CA3) * weights_CA[..., None]).swapaxes(1, 2)
    squares = np.square(x_A3).sum(axis=1) + np.square(y_CA3).sum(axis=2)
    return weighted_C4A @ _with_one(x_A3), (weights_CA * squares).sum(axis=1)


def _with_one(points: _Floats) -> _Floats:
    """Append a coordinate 1: [..., 3] to [..., 4]."""
    return np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)


def _fit(moments: _Floats) -> _Floats:
    """Return the rotation and translation [3, 4] that superpose y on x best (Kabsch).

    If it is not unique, any of the best is returned.
    """
    count = max(moments[3, 3], 1.0)
    y, x = moments[:3, 3] / count, moments[3, :3] / count
    u, _, v = np.linalg.svd(moments[:3, :3] - count * np.outer(y, x))
    # The sign makes a rotation where the best orthogonal matrix is a reflection.
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])
    rotation = (v.T * flip) @ u.T
    return np.concatenate([rotation, (x - rotation @ y)[:, None]], axis=1)


def _misfit(motion: _Floats, moments: _Floats, squares: _Floats) -> _Floats:
    """Return Σ |motion(y) − x|² [...] from moments [..., 4, 4] and squares [...]."""
    rotation, shift = motion[:, :3], motion[:, 3]
    shift_terms = 2 * (moments[..., :3, 3] @ (shift @ rotation)) + moments[..., 3, 3] * (
        shift @ shift
    )
    return np.maximum(
        squares + shift_terms - 2 * np.einsum("ij,...ji", motion, moments[..., :3]), 0.0
    )
