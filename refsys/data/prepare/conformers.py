"""Reference conformers of chemical components, embedded by RDKit."""

import hashlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.components import Component, bonded_atoms, component
from refsys.errors import DataError

# Conformers per component; a batch samples one for each residue.
CONFORMERS = 4
# Larger components use the dictionary's coordinates: embedding takes minutes, and may crash.
_MOST_ATOMS = 200
# Attempts per embedding, and seconds for all embeddings of a component. The attempts end first on
# any usual machine, so that the result does not depend on its speed.
_ATTEMPTS = 10
_SECONDS = 60
# Largest difference of a bond length from the dictionary's, ångström: the force field lacks most
# metals, and embeds them at wrong distances.
_LARGEST_STRAIN = 0.25


def conformer_version() -> str:
    """Return the version of the conformer generator."""
    import rdkit

    return f"rdkit {rdkit.__version__}"


@cache
def conformers(name: str) -> NDArray[np.float32]:
    """Return the conformers of a component that the dictionary defines.

    ETKDGv3 embeds them with the handedness of the dictionary's coordinates. A component that cannot
    be embedded (most with metals, and large ones) gets those coordinates instead.

    Args:
        name: Name of the component.

    Returns:
        [conformer, heavy atom, 3] ångström, each centred at 0.

    Raises:
        DataError: RDKit is missing.
    """
    definition = component(name)
    assert definition is not None, f"{name} has no definition"
    ideal = np.repeat(definition.positions[None], CONFORMERS, axis=0)
    if not 1 < len(definition.names) <= _MOST_ATOMS or not definition.has_position.all():
        return ideal
    embedded = _embedded(definition)
    return ideal if embedded is None else (embedded - embedded.mean(axis=1, keepdims=True))


def _embedded(definition: Component) -> NDArray[np.float32] | None:
    """Return RDKit's conformers [conformer, heavy atom, 3], None if there are too few or strained.

    Raises:
        DataError: RDKit is missing.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdDistGeom
    except ImportError:
        raise DataError("conformers need RDKit: pip install 'foldperf[data]'") from None
    from biotite.interface.rdkit import to_mol

    atoms = bonded_atoms(definition.name)
    if atoms is None:
        return None
    row_of = {atom: row for row, atom in enumerate(atoms.atom_name.tolist())}
    if not all(atom in row_of for atom in definition.names):
        return None
    rows = [row_of[atom] for atom in definition.names]
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = _seed(definition.name)
    parameters.maxIterations = _ATTEMPTS
    parameters.timeout = _SECONDS
    with rdBase.BlockLogs():
        try:
            molecule = to_mol(atoms)
            Chem.SanitizeMol(molecule)
            # Isotopes distinguish equivalent atoms by name, such as the two methyls of leucine.
            for number in rows:
                molecule.GetAtomWithIdx(number).SetIsotope(number + 1)
            Chem.AssignStereochemistryFrom3D(molecule)
            numbers = list(rdDistGeom.EmbedMultipleConfs(molecule, CONFORMERS, parameters))
        except (ValueError, RuntimeError, Chem.MolSanitizeException):
            return None
    if len(numbers) < CONFORMERS:
        return None
    coordinates = [molecule.GetConformer(number).GetPositions()[rows] for number in numbers]
    positions = np.array(coordinates, np.float32)
    strain = np.abs(_lengths(positions, definition) - _lengths(definition.positions, definition))
    return None if (strain > _LARGEST_STRAIN).any() else positions


def _lengths(positions: NDArray[np.float32], definition: Component) -> NDArray[np.float32]:
    """Return bond lengths [..., bond], ångström."""
    ends = positions[..., definition.bonds, :]
    lengths: NDArray[np.float32] = np.linalg.norm(ends[..., 0, :] - ends[..., 1, :], axis=-1)
    return lengths


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1
