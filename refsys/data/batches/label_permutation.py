"""Which label each atom of a prediction is compared with (AlphaFold 3, supplement 4.2).

Copies of a chain, and atoms that chemistry cannot tell apart, have names that the model cannot
know. Before the losses, labels are exchanged among them so that they lie best on the prediction:
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

# Points that make an alignment worth trusting.
_ENOUGH_POINTS = 4
# Weight of what only decides where nothing else does.
_LITTLE = 1e-9
# Of the mean square size of what is compared: differences below are rounding.
_ROUNDING = 1e-12
# Decimals of squared errors in Å² that count.
_DECIMALS = 9


@dataclass(frozen=True, slots=True, eq=False)
class Symmetries:
    """A structure's label, and what may be exchanged in it.

    Attributes:
        chain_of_atom: [S] int32, ascending.
        residue_of_atom: [S] int32, ascending.
        chain_group: [chain] int32. Chains of one group are copies: atom k of one is atom k of the
            other.
        position: [S, 3] ångström; any value where not resolved.
        resolved: [S] bool.
        center: [S] bool: whether the atom is the centre atom of a token. Chains are compared by
            these.
        polymer: [chain] bool.
        residue_symmetry: [residue] int32: place in `symmetries`, −1 for none.
        symmetries: Each [permutation, atom of the residue]: in row p, atom i takes the label of
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
        """Checks what the exchange relies on.

        Raises:
            ArgumentError: atoms are out of order, a resolved one has no position, copies of a chain
                differ in size, or a table has another width than a residue that it is for.
        """
        for name in ("chain_of_atom", "residue_of_atom"):
            if (np.diff(getattr(self, name)) < 0).any():
                raise ArgumentError(f"{name} descends; sort the atoms by chain, then by residue")
        for atom in np.flatnonzero(self.resolved & ~np.isfinite(self.position).all(axis=1))[:1]:
            raise ArgumentError(f"atom {atom} is at {self.position[atom]}; call it not resolved")
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
    """Whose label each atom of a crop takes.

    Args:
        predicted: [A, 3] ångström. One that is not finite leaves every label where it is: losses
            are the place to refuse it.
        rows: [A] the crop's atoms as rows of the structure, ascending. Chains and residues may be
            there in part; atoms are exchanged in whole residues alone.
        symmetries: The structure's.

    Returns:
        [A] rows of the structure, no row twice.
    """
    x_A3 = np.asarray(predicted, np.float64)
    if not len(rows) or not np.isfinite(x_A3).all():
        return rows.copy()
    x_A3 = x_A3 - x_A3.mean(axis=0)
    return _with_atoms_exchanged(x_A3, _with_chains_exchanged(x_A3, rows, symmetries), symmetries)


# ---- Chains


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Chains of the crop against the structure's chains that could be their labels.

    Attributes:
        crop: [P] number of the chain in the crop, ascending.
        chain: [P] chain of the structure, ascending in each chain of the crop.
        own: [P] bool: whether it is the same chain.
        points: [P] how many points are compared: centre atoms that the label has, or all atoms
            that it has if there is no such centre.
        moments: [P, 4, 4] and
        squares: [P] of these points, see `_moments`; without points of the two centroids, and zero
            if the label has not one atom.
    """

    crop: _Integers
    chain: _Integers
    own: NDArray[np.bool_]
    points: _Integers
    moments: _Floats
    squares: _Floats


def _with_chains_exchanged(x_A3: _Floats, rows: _Integers, symmetries: Symmetries) -> _Integers:
    """The best of: nothing exchanged, and what follows from each label that an anchor can take."""
    chains, first = np.unique(symmetries.chain_of_atom[rows], return_index=True)
    groups = symmetries.chain_group
    if (np.bincount(groups)[groups[chains]] == 1).all():
        return rows
    starts = np.searchsorted(symmetries.chain_of_atom, np.arange(len(groups)))
    pairs = _pairs(x_A3, rows, first, starts, symmetries)
    best = np.flatnonzero(pairs.own)
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
    """Compares each part of a chain with all that could be its label.

    Args:
        x_A3: Prediction, centred.
        rows: [A] of the structure.
        first: [chain of the crop] where each begins in the crop.
        starts: [chain] the first row of each in the structure.
        symmetries: The structure's.
    """
    y_S3 = _centered(symmetries.position, symmetries.resolved)
    centroids, has_centroid = _centroids(y_S3, symmetries)
    groups = symmetries.chain_group
    columns = []
    for crop, (begin, end) in enumerate(zip(first, [*first[1:], len(rows)], strict=True)):
        own = symmetries.chain_of_atom[rows[begin]]
        chains = np.flatnonzero(groups == groups[own])
        labels = rows[begin:end] - starts[own] + starts[chains, None]
        resolved = symmetries.resolved[labels]
        centers = resolved & symmetries.center[labels]
        weights = np.where(centers.any(axis=1, keepdims=True), centers, resolved)
        used = weights.any(axis=0)
        part_A3, y_CA3 = x_A3[begin:end], y_S3[labels[:, used]]
        moments, squares = _moments(part_A3[used], y_CA3, weights[:, used])
        points = weights.sum(axis=1)
        lone = chains[points == 0]
        moments[points == 0], squares[points == 0] = _moments(
            part_A3.mean(axis=0, keepdims=True), centroids[lone, None], has_centroid[lone, None]
        )
        columns.append(
            (np.full(len(chains), crop), chains, chains == own, points, moments, squares)
        )
    return _Pairs(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _centroids(y_S3: _Floats, symmetries: Symmetries) -> tuple[_Floats, NDArray[np.bool_]]:
    """[chain, 3] means of the resolved atoms, and [chain] whether there is one."""
    chains, count = symmetries.chain_of_atom, len(symmetries.chain_group)
    sizes = np.bincount(chains, symmetries.resolved, count)
    sums = [np.bincount(chains, y_S3[:, axis], count) for axis in range(3)]
    return np.stack(sums, axis=1) / np.maximum(sizes, 1)[:, None], sizes > 0


def _anchor(pairs: _Pairs, symmetries: Symmetries) -> int:
    """The chain of the crop whose label is aligned first.

    Of polymers with enough points that with the fewest copies; then of other chains with enough,
    then of those with the most points. Ties go to more points, then to the earlier chain. Points
    are counted in the copy that has the most, so that the choice does not depend on names.
    """

    def rank(crop: int) -> tuple[int, int, int]:
        here = np.flatnonzero(pairs.crop == crop)
        points = int(pairs.points[here].max())
        if points < _ENOUGH_POINTS:
            return 1 + _ENOUGH_POINTS - points, len(here), -points
        return 0 if symmetries.polymer[pairs.chain[here[0]]] else 1, len(here), -points

    return min(range(int(pairs.crop[-1]) + 1), key=rank)


def _assigned(pairs: _Pairs, anchor: int) -> _Integers:
    """[chain of the crop] one pair each, cheapest first, once a pair's two chains are aligned.

    The cost of a pair is the mean squared distance of its points, in Å². Ties go to a chain's own
    label, then to the earlier pair.
    """
    # Turns that few points leave open are as all labels lie best where they are.
    motion = _fit(pairs.moments[anchor] + _LITTLE * pairs.moments[pairs.own].sum(axis=0))
    count = pairs.moments[:, 3, 3]
    misfit = _misfit(motion, pairs.moments, pairs.squares)
    costs = np.where(count > 0, misfit / np.maximum(count, 1), np.inf)
    costs[anchor] = -1.0
    assigned: dict[int, int] = {}
    taken: set[int] = set()
    crops, chains = pairs.crop.tolist(), pairs.chain.tolist()
    for pair in np.lexsort((~pairs.own, costs)).tolist():
        if crops[pair] not in assigned and chains[pair] not in taken:
            assigned[crops[pair]] = pair
            taken.add(chains[pair])
    return np.array([assigned[crop] for crop in sorted(assigned)])


def _score(pairs: _Pairs, assigned: _Integers) -> float:
    """Mean squared distance of all points after their own alignment, Å²; infinite without any."""
    known = assigned[pairs.points[assigned] > 0]
    if not len(known):
        return np.inf
    moments, squares = pairs.moments[known].sum(axis=0), pairs.squares[known].sum()
    return float(_misfit(_fit(moments), moments, squares) / moments[3, 3])


# ---- Atoms


def _with_atoms_exchanged(x_A3: _Floats, rows: _Integers, symmetries: Symmetries) -> _Integers:
    """In each residue the relabeling of least squared error, ties to the earlier one."""
    residues = symmetries.residue_of_atom[rows]
    first = np.flatnonzero(np.diff(residues, prepend=-1))
    residues = residues[first]
    ends = np.searchsorted(symmetries.residue_of_atom, [residues, residues + 1])
    is_whole = np.diff([*first, len(rows)]) == ends[1] - ends[0]
    table_of = np.where(is_whole, symmetries.residue_symmetry[residues], -1)
    resolved = symmetries.resolved[rows]
    y_A3 = _centered(symmetries.position[rows], resolved)
    moments, _ = _moments(x_A3, y_A3[None], resolved[None])
    motion = _fit(moments[0])
    y_A3 = y_A3 @ motion[:, :3].T + motion[:, 3]
    found = rows.copy()
    for number in np.unique(table_of[table_of >= 0]):
        table = symmetries.symmetries[number].astype(np.int64)
        places = np.arange(table.shape[1])
        atoms_RL = first[table_of == number][:, None] + places
        squares_RLL = np.square(x_A3[atoms_RL][:, :, None] - y_A3[atoms_RL][:, None]).sum(axis=-1)
        squares_RLL *= resolved[atoms_RL][:, None]
        errors = squares_RLL[:, places, table].sum(axis=-1)
        best = np.argmin(errors.round(_DECIMALS), axis=1)
        found[atoms_RL] = np.take_along_axis(rows[atoms_RL], table[best], axis=1)
    return found


# ---- Alignment from sums


def _centered(y_S3: NDArray[np.floating[Any]], resolved: NDArray[np.bool_]) -> _Floats:
    """Positions about the mean of the resolved ones; zero where not resolved."""
    known = y_S3[resolved].astype(np.float64)
    centered = np.zeros(y_S3.shape)
    centered[resolved] = known - known.sum(axis=0) / max(len(known), 1)
    return centered


def _moments(
    x_A3: _Floats, y_CA3: _Floats, weights_CA: NDArray[np.bool_]
) -> tuple[_Floats, _Floats]:
    """All that alignments and distances need to know of points x and labels y of C candidates.

    Returns:
        [C, 4, 4] Σ w (y, 1) (x, 1)ᵀ, and [C] Σ w (|x|² + |y|²).
    """
    weighted_C4A = (_with_one(y_CA3) * weights_CA[..., None]).swapaxes(1, 2)
    squares = np.square(x_A3).sum(axis=1) + np.square(y_CA3).sum(axis=2)
    return weighted_C4A @ _with_one(x_A3), (weights_CA * squares).sum(axis=1)


def _with_one(points: _Floats) -> _Floats:
    """[..., 3] → [..., 4]."""
    return np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)


def _fit(moments: _Floats) -> _Floats:
    """[3, 4], rotation and shift that move y best onto x (Kabsch); some such, if not unique."""
    count = max(moments[3, 3], 1.0)
    y, x = moments[:3, 3] / count, moments[3, :3] / count
    left, _, right = np.linalg.svd(moments[:3, :3] - count * np.outer(y, x))
    # The flip makes it a rotation where the best orthogonal matrix is a reflection.
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = (right.T * flip) @ left.T
    return np.concatenate([rotation, (x - rotation @ y)[:, None]], axis=1)


def _misfit(motion: _Floats, moments: _Floats, squares: _Floats) -> _Floats:
    """[...] Σ |motion(y) − x|² from moments [..., 4, 4] and squares [...]."""
    rotation, shift = motion[:, :3], motion[:, 3]
    moved = 2 * (moments[..., :3, 3] @ (shift @ rotation)) + moments[..., 3, 3] * (shift @ shift)
    return np.maximum(squares + moved - 2 * np.einsum("ij,...ji", motion, moments[..., :3]), 0.0)
