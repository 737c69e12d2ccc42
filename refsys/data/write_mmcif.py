"""Writing a predicted structure as mmCIF, with gemmi."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.columns import Columns
from refsys.errors import DataError
from refsys.files import write_atomically

_POLYMERS = {"protein": "PeptideL", "rna": "Rna", "dna": "Dna", "other": "Other"}


def write_mmcif(
    path: Path,
    structure: Columns,
    rows: NDArray[np.int64],
    positions: NDArray[np.float32],
    plddt: NDArray[np.float32],
) -> None:
    """Writes one model; its chains are named as the input's label_asym_id.

    Args:
        path: The file.
        structure: The structure record: chains, residues, names.
        rows: [atom] rows of the record, ascending.
        positions: [atom, 3] ångström.
        plddt: [atom] confidence, 0 to 100, written as B factor.

    Raises:
        DataError: the file cannot be written.
    """
    import gemmi

    chains = structure.facts["chains"]
    built = [gemmi.Chain(chain["name"]) for chain in chains]
    starts = structure["residue_first_atom"]
    for residue, number in enumerate(structure["residue_chain"]):
        first, last = np.searchsorted(rows, starts[residue : residue + 2])
        here = slice(first, last)
        built[number].add_residue(
            _residue(structure, residue, rows[here], positions[here], plddt[here])
        )
    model = gemmi.Model(1)
    for chain in built:
        model.add_chain(chain)
    document = gemmi.Structure()
    document.name = structure.facts["entry"].upper()
    document.add_model(model)
    for name in dict.fromkeys(chain["entity"] for chain in chains):
        document.entities.append(_entity(structure, name))
    text = document.make_mmcif_document().as_string()
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def _residue(
    structure: Columns,
    residue: int,
    rows: NDArray[np.int64],
    positions: NDArray[np.float32],
    plddt: NDArray[np.float32],
) -> Any:
    import gemmi

    chain = structure.facts["chains"][structure["residue_chain"][residue]]
    polymer = chain["kind"] != "ligand"
    made = gemmi.Residue()
    made.name = structure["residue_component"][residue].decode()
    made.seqid = gemmi.SeqId(int(structure["residue_number"][residue]), " ")
    made.subchain = chain["name"]
    made.entity_id = chain["entity"]
    made.entity_type = gemmi.EntityType.Polymer if polymer else gemmi.EntityType.NonPolymer
    made.het_flag = "A" if polymer else "H"
    if polymer:
        made.label_seq = int(structure["residue_number"][residue])
    for row, position, confidence in zip(rows, positions.tolist(), plddt.tolist(), strict=True):
        atom = gemmi.Atom()
        atom.name = structure["atom_name"][row].decode()
        atom.element = gemmi.Element(int(structure["atom_element"][row]))
        atom.charge = int(structure["atom_charge"][row])
        atom.pos = gemmi.Position(*position)
        atom.b_iso = confidence
        made.add_atom(atom)
    return made


def _entity(structure: Columns, name: str) -> Any:
    import gemmi

    chains = structure.facts["chains"]
    own = [number for number, chain in enumerate(chains) if chain["entity"] == name]
    kind = chains[own[0]]["kind"]
    made = gemmi.Entity(name)
    made.subchains = [chains[number]["name"] for number in own]
    made.entity_type = gemmi.EntityType.NonPolymer
    if kind in _POLYMERS:
        made.entity_type = gemmi.EntityType.Polymer
        made.polymer_type = getattr(gemmi.PolymerType, _POLYMERS[kind])
        residues = structure["residue_chain"] == own[0]
        components = structure["residue_component"][residues]
        made.full_sequence = [component.decode() for component in components]
    return made
