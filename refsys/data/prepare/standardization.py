"""Standardization of residues as in AlphaFold 3 (section 2.1 of its supplement).

Selenomethionine, used for phasing, is read as methionine. The two terminal nitrogens of arginine,
whose names depositors exchange, are named by their distance to CD.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.mmcif import Structure
from refsys.data.vocabulary import ATOMIC_NUMBERS


@dataclass(frozen=True, slots=True)
class Standardized:
    """A structure with standardized residues.

    Attributes:
        structure: The structure, with methionines for selenomethionines, and ordered arginines.
        selenomethionines: Number of residues that became methionine, modelled or not.
        arginines: Number of residues whose NH1 and NH2 were exchanged.
    """

    structure: Structure
    selenomethionines: int
    arginines: int


def standardized(structure: Structure) -> Standardized:
    """Read selenomethionine (MSE) as methionine (MET), and name arginine's NH1 the nearer to CD.

    SE becomes SD, a sulphur. Positions, the order of atoms and connections do not change, so that a
    connection stays with its atom under the new name.

    Args:
        structure: Structure as read from the file.
    """
    names, elements = structure.names.copy(), structure.elements.copy()
    residues = list(structure.residues)
    selenomethionines = arginines = 0
    for number, residue in enumerate(residues):
        rows = slice(residue.atoms.start, residue.atoms.stop)
        if residue.component == "MSE":
            residues[number] = replace(residue, component="MET")
            _name_sulphur(names[rows], elements[rows])
            selenomethionines += 1
        elif residue.component == "ARG":
            arginines += _order_arginine(names[rows], structure.positions[rows])
    return Standardized(
        replace(structure, residues=tuple(residues), names=names, elements=elements),
        selenomethionines,
        arginines,
    )


def _name_sulphur(names: NDArray[np.str_], elements: NDArray[np.uint8]) -> None:
    """Rename the selenium of a residue to its sulphur in place, unless it has a sulphur as well."""
    if "SD" in names:
        return
    selenium = names == "SE"
    names[selenium] = "SD"
    elements[selenium] = ATOMIC_NUMBERS["S"]


def _order_arginine(names: NDArray[np.str_], positions: NDArray[np.float32]) -> bool:
    """Exchange the names NH1 and NH2 in place if NH2 is nearer to CD; return whether it was."""
    rows = [np.flatnonzero(names == name) for name in ("CD", "NH1", "NH2")]
    if not all(len(row) for row in rows):
        return False
    cd, nh1, nh2 = (int(row[0]) for row in rows)
    distances = np.linalg.norm(positions[[nh1, nh2]].astype(np.float64) - positions[cd], axis=1)
    if distances[0] <= distances[1]:
        return False
    names[[nh1, nh2]] = names[[nh2, nh1]]
    return True
