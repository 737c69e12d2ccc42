"""Writer of predicted structures as mmCIF, with gemmi."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.store.columns import Columns
from refsys.errors import DataError
from refsys.files import write_atomically

# Polymer type in mmCIF -> in gemmi.
_POLYMERS = {
    "polypeptide(L)": "PeptideL",
    "polypeptide(D)": "PeptideD",
    "cyclic-pseudo-peptide": "CyclicPseudoPeptide",
    "polyribonucleotide": "Rna",
    "polydeoxyribonucleotide": "Dna",
    "polydeoxyribonucleotide/polyribonucleotide hybrid": "DnaRnaHybrid",
    "peptide nucleic acid": "Pna",
    "polysaccharide(D)": "SaccharideD",
    "polysaccharide(L)": "SaccharideL",
    "other": "Other",
}


def write_mmcif(
    path: Path,
    structure: Columns,
    rows: NDArray[np.int64],
    positions: NDArray[np.float32],
    plddt: NDArray[np.float32],
) -> None:
    """Write one model; its chains have the label_asym_id of the input.

    Args:
        path: The file to write.
        structure: Structure record of the input: chains, residues, names.
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
        atoms = slice(first, last)
        built[number].add_residue(
            _residue(structure, residue, rows[atoms], positions[atoms], plddt[atoms])
        )
    model = gemmi.Model(1)
    for chain in built:
        model.add_chain(chain)
    document = gemmi.Structure()
    document.name = structure.facts["entry"].upper()
    document.add_model(model)
    for name in dict.fromkeys(chain["entity"] for chain in chains):
        document.entities.append(_entity(structure, name))
    text = document.make_mmcif_document()
    # gemmi does not quote these names, and some need quotes.
    names = {"id": [c["name"] for c in chains], "entity_id": [c["entity"] for c in chains]}
    text.sole_block().set_mmcif_category("_struct_asym.", names)
    _add_bonds(text.sole_block(), structure, rows)
    try:
        write_atomically(path, text.as_string().encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def _add_bonds(block: Any, structure: Columns, rows: NDArray[np.int64]) -> None:
    """Add the bonds between residues, and those inside components of several tokens.

    The former tell a reader which leaving atoms are absent, the latter the chemistry of components
    that no dictionary defines.
    """
    chains = structure.facts["chains"]
    owner = np.repeat(
        np.arange(len(structure["residue_chain"])), np.diff(structure["residue_first_atom"])
    )
    bonds = structure["bond_atoms"]
    written = np.isin(bonds, rows).all(axis=1)
    between: dict[str, list[str | None]] = {"id": [], "conn_type_id": []}
    inside: dict[tuple[str, str, str], None] = {}
    for ends in bonds[written].tolist():
        residues = [int(owner[row]) for row in ends]
        components = [structure["residue_component"][r].decode() for r in residues]
        names = [structure["atom_name"][row].decode() for row in ends]
        if residues[0] == residues[1]:
            inside[components[0], names[0], names[1]] = None
            continue
        between["id"].append(f"covale{len(between['id']) + 1}")
        between["conn_type_id"].append("covale")
        for end, residue in enumerate(residues):
            chain = chains[structure["residue_chain"][residue]]
            number = str(structure["residue_number"][residue])
            values = {
                "label_asym_id": chain["name"],
                "label_comp_id": components[end],
                "label_seq_id": number if chain["polymer"] else None,
                "label_atom_id": names[end],
                "auth_seq_id": number,
                "symmetry": "1_555",
            }
            for part, value in values.items():
                between.setdefault(f"ptnr{end + 1}_{part}", []).append(value)
    if between["id"]:
        block.set_mmcif_category("_struct_conn.", between)
    if inside:
        columns = dict(
            zip(("comp_id", "atom_id_1", "atom_id_2"), zip(*inside, strict=True), strict=True)
        )
        block.set_mmcif_category("_chem_comp_bond.", {k: list(v) for k, v in columns.items()})


def _residue(
    structure: Columns,
    residue: int,
    rows: NDArray[np.int64],
    positions: NDArray[np.float32],
    plddt: NDArray[np.float32],
) -> Any:
    import gemmi

    chain = structure.facts["chains"][structure["residue_chain"][residue]]
    polymer = bool(chain["polymer"])
    result = gemmi.Residue()
    result.name = structure["residue_component"][residue].decode()
    result.seqid = gemmi.SeqId(int(structure["residue_number"][residue]), " ")
    result.subchain = chain["name"]
    result.entity_id = chain["entity"]
    result.entity_type = gemmi.EntityType.Polymer if polymer else gemmi.EntityType.NonPolymer
    result.het_flag = "A" if polymer else "H"
    if polymer:
        result.label_seq = int(structure["residue_number"][residue])
    for row, position, confidence in zip(rows, positions.tolist(), plddt.tolist(), strict=True):
        atom = gemmi.Atom()
        atom.name = structure["atom_name"][row].decode()
        atom.element = gemmi.Element(int(structure["atom_element"][row]))
        atom.charge = int(structure["atom_charge"][row])
        atom.pos = gemmi.Position(*position)
        atom.b_iso = confidence
        result.add_atom(atom)
    return result


def _entity(structure: Columns, name: str) -> Any:
    import gemmi

    chains = structure.facts["chains"]
    chain_numbers = [number for number, chain in enumerate(chains) if chain["entity"] == name]
    polymer = chains[chain_numbers[0]]["polymer"]
    entity = gemmi.Entity(name)
    entity.subchains = [chains[number]["name"] for number in chain_numbers]
    entity.entity_type = gemmi.EntityType.NonPolymer
    if polymer:
        entity.entity_type = gemmi.EntityType.Polymer
        entity.polymer_type = getattr(gemmi.PolymerType, _POLYMERS[polymer])
        residues = structure["residue_chain"] == chain_numbers[0]
        components = structure["residue_component"][residues]
        entity.full_sequence = [component.decode() for component in components]
    return entity
