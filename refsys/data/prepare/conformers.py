"""Reference conformers of chemical components: several of each, made by RDKit."""

import hashlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.components import Component, component
from refsys.errors import DataError

# Of each component; a batch draws which one a residue has.
CONFORMERS = 4
# Larger components have the dictionary's coordinates: embedding takes minutes, and may crash.
_MOST_ATOMS = 200
# Attempts at an embedding, and seconds for all of a component's. The attempts end first on any
# usual machine, so that what comes out does not depend on its speed.
_ATTEMPTS = 10
_SECONDS = 60
# A bond that differs by more from the dictionary's is none, ångström: the force field does not know
# most metals.
_LARGEST_STRAIN = 0.25


def conformer_version() -> str:
    """What decides the conformers beside the dictionary."""
    import rdkit

    return f"rdkit {rdkit.__version__}"


@cache
def conformers(name: str) -> NDArray[np.float32]:
    """The conformers of a component that the dictionary defines.

    Embedded by ETKDGv3, with the handedness of the dictionary's coordinates, which stand in for
    what cannot be embedded: most that has metals in it, or is too large.

    Args:
        name: The component.

    Returns:
        [conformer, heavy atom, 3] ångström, each with its centre at 0.

    Raises:
        DataError: RDKit is missing.
    """
    definition = component(name)
    assert definition is not None, f"{name} has no definition"
    ideal = np.repeat(definition.positions[None], CONFORMERS, axis=0)
    if not 1 < len(definition.names) <= _MOST_ATOMS or not definition.known.all():
        return ideal
    found = _embedded(definition)
    return ideal if found is None else (found - found.mean(axis=1, keepdims=True))


def _embedded(definition: Component) -> NDArray[np.float32] | None:
    """[conformer, heavy atom, 3] of RDKit, None where it finds fewer than are wanted."""
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdDistGeom
    except ImportError:
        raise DataError("conformers need RDKit: pip install 'foldperf[data]'") from None
    from biotite.interface.rdkit import to_mol
    from biotite.structure.info import residue

    atoms = residue(definition.name)
    place = {atom: row for row, atom in enumerate(atoms.atom_name.tolist())}
    if not all(atom in place for atom in definition.names):
        return None
    rows = [place[atom] for atom in definition.names]
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = _seed(definition.name)
    parameters.maxIterations = _ATTEMPTS
    parameters.timeout = _SECONDS
    with rdBase.BlockLogs():
        try:
            molecule = to_mol(atoms)
            Chem.SanitizeMol(molecule)
            # Names tell apart what chemistry alone does not, such as the two methyls of leucine.
            for number in rows:
                molecule.GetAtomWithIdx(number).SetIsotope(number + 1)
            Chem.AssignStereochemistryFrom3D(molecule)
            numbers = list(rdDistGeom.EmbedMultipleConfs(molecule, CONFORMERS, parameters))
        except (ValueError, RuntimeError, Chem.MolSanitizeException):
            return None
    if len(numbers) < CONFORMERS:
        return None
    found = [molecule.GetConformer(number).GetPositions()[rows] for number in numbers]
    positions = np.array(found, np.float32)
    strain = np.abs(_lengths(positions, definition) - _lengths(definition.positions, definition))
    return None if (strain > _LARGEST_STRAIN).any() else positions


def _lengths(positions: NDArray[np.float32], definition: Component) -> NDArray[np.float32]:
    """[..., bond] ångström."""
    ends = positions[..., definition.bonds, :]
    lengths: NDArray[np.float32] = np.linalg.norm(ends[..., 0, :] - ends[..., 1, :], axis=-1)
    return lengths


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1
