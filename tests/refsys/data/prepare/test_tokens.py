"""Columns of structures: every atom by chemistry, tokens and bonds."""

from itertools import pairwise

import numpy as np
import pytest
from support import mmcif as part
from support.mmcif import mmcif

from refsys.batch import DNA, LIGAND, PROTEIN, RNA
from refsys.data.formats.mmcif import read_structure
from refsys.data.prepare.interfaces import CONTACT_DISTANCE, INTERFACE_DISTANCE
from refsys.data.prepare.tokens import dropped_atoms, structure_columns
from refsys.data.vocabulary import RESIDUE_TYPES, UNKNOWN

MET, GLY = ["N", "CA", "C", "O", "CB", "CG", "SD", "CE"], ["N", "CA", "C", "O"]
MSE, ALA = ["N", "CA", "C", "O", "CB", "CG", "SE", "CE"], ["N", "CA", "C", "O", "CB", "OXT"]


@pytest.fixture
def read(tmp_path):
    def read(**parts):
        path = tmp_path / "x.cif"
        path.write_text(mmcif(**parts), encoding="utf-8")
        structure = read_structure(path)
        return structure, structure_columns(structure)

    return read


def names(columns, rows):
    return [name.decode() for name in columns["atom_name"][rows].tolist()]


def moved(row, old, new):
    """Return the rows of atoms with one row altered."""
    assert old in part.ATOM_ROWS[row]
    return (
        *part.ATOM_ROWS[:row],
        part.ATOM_ROWS[row].replace(old, new),
        *part.ATOM_ROWS[row + 1 :],
    )


def test_structure_has_every_heavy_atom_modelled_or_not(read):
    structure, columns = read()
    assert names(columns, slice(None)) == [*MET, *GLY, *MSE, *ALA, "ZN"]
    resolved = columns["atom_resolved"]
    assert names(columns, resolved) == structure.names.tolist()
    assert (columns["atom_position"][resolved] == structure.positions).all()
    assert not columns["atom_position"][~resolved].any()
    assert dropped_atoms(structure, columns) == 0


def test_standard_residues_are_one_token_and_others_one_per_atom(read):
    _, columns = read()
    met, gly, ala = (RESIDUE_TYPES[name] for name in ("MET", "GLY", "ALA"))
    assert columns["token_residue_type"].tolist() == [met, gly, *[UNKNOWN] * 8, ala, UNKNOWN]
    assert columns["token_element"].tolist() == [0, 0, 7, 6, 6, 8, 6, 6, 34, 6, 0, 30]
    assert columns["token_residue_index"].tolist() == [1, 2, *[3] * 8, 4, 1]
    assert columns["token_chain"].tolist() == [*[0] * 11, 1]
    assert columns["token_molecule"].tolist() == [*[PROTEIN] * 11, LIGAND]
    assert np.diff(columns["token_first_atom"]).tolist() == [8, 4, *[1] * 8, 6, 1]
    assert columns["token_residue"].tolist() == [0, 1, *[2] * 8, 3, 4]
    assert np.diff(columns["residue_first_atom"]).tolist() == [8, 4, 8, 6, 1]


def test_tokens_have_their_centre_representative_and_frame(read):
    _, columns = read()
    residues = [0, 1, 10]
    assert names(columns, columns["token_center"][residues]) == ["CA"] * 3
    assert names(columns, columns["token_representative"][residues]) == ["CB", "CA", "CB"]
    assert names(columns, columns["token_frame"][residues].reshape(-1)) == ["N", "CA", "C"] * 3
    atoms = [*range(2, 10), 11]
    for column in (columns["token_center"], columns["token_representative"]):
        assert column[atoms].tolist() == columns["token_first_atom"][atoms].tolist()
    assert (columns["token_frame"][2:10, 1] == columns["token_first_atom"][2:10]).all()
    # A single atom has no frame.
    assert columns["token_frame"][11].tolist() == [-1, -1, -1]


def test_atoms_foreign_to_their_residue_are_left_out_and_counted(read):
    oxygen = "ATOM 6 O OXT . GLY A 1 2 2 6.0 0.0 0.0 1.0 ? 1"
    structure, columns = read(atoms=(*part.ATOM_ROWS[:6], oxygen, *part.ATOM_ROWS[6:]))
    assert dropped_atoms(structure, columns) == 1
    assert names(columns, slice(8, 12)) == GLY
    last = oxygen.replace("GLY A 1 2 2", "ALA A 1 4 4")
    structure, columns = read(atoms=(*part.ATOM_ROWS[:8], last, *part.ATOM_ROWS[8:]))
    assert dropped_atoms(structure, columns) == 0
    assert names(columns, columns["atom_resolved"])[-2:] == ["OXT", "ZN"]


def test_bonds_join_atom_tokens_and_near_residues(read):
    """Selenomethionine has seven bonds, and one to the zinc if that is near."""
    _, distant = read()
    inside = [set(pair) for pair in np.array(MSE)[distant["bond_atoms"] - 12].tolist()]
    chain = ["N", "CA", "CB", "CG", "SE", "CE"]
    expected = [*pairwise(chain), ("CA", "C"), ("C", "O")]
    assert sorted(map(sorted, inside)) == sorted(map(sorted, expected))
    _, near = read(atoms=moved(8, "4.0 4.0 4.0", "8.5 5.0 0.0"))
    ends = near["bond_atoms"][~(near["bond_atoms"][:, None] == distant["bond_atoms"]).all(2).any(1)]
    assert names(near, ends[0]) == ["SE", "ZN"]
    assert len(near["bond_atoms"]) == 7 + 1


def test_bond_between_residues_removes_leaving_atoms(read):
    """A peptide bond that closes a ring removes the terminal oxygen."""
    connection = "c1 covale A 4 C 1_555 A 1 N ? 1_555"
    rows = [line for line in part.CONNECTIONS.splitlines() if not line.startswith(("c", "#"))]
    carbon = "ATOM 8 C C . ALA A 1 4 4 0.0 1.3 0.0 1.0 ? 1"
    atoms = (*part.ATOM_ROWS[:8], carbon, *part.ATOM_ROWS[8:])
    _, ring = read(connections="\n".join((*rows, connection, "#\n")), atoms=atoms)
    assert names(ring, slice(20, None)) == [*ALA[:-1], "ZN"]
    assert ["N", "C"] in [names(ring, pair) for pair in ring["bond_atoms"]]
    _, line = read(atoms=atoms)
    assert names(line, slice(20, None)) == [*ALA, "ZN"]


def test_copies_of_an_entity_are_numbered(read):
    chains = part.CHAINS.replace("B 2", "B 2\nD 2")
    rows = (*part.ATOM_ROWS[:9], "HETATM 9 ZN ZN . ZN D 2 . 102 1 1 1 1 2 1")
    _, columns = read(chains=chains, atoms=rows)
    assert columns["token_entity"].tolist()[-2:] == [1, 1]
    assert columns["token_symmetry"].tolist()[-2:] == [0, 1]


def test_undefined_component_has_the_atoms_of_the_file(read):
    _, columns = read(
        sequence=part.SEQUENCE.replace("MSE", "XX9Z"),
        bonds=part.BONDS.replace("MSE", "XX9Z"),
        atoms=[row.replace(" MSE ", " XX9Z ") for row in part.ATOM_ROWS],
    )
    assert names(columns, slice(12, 14)) == ["CA", "SE"]
    assert columns["token_element"].tolist() == [0, 0, 6, 34, 0, 30]
    assert columns["bond_atoms"].tolist() == [[12, 13]]
    assert not columns["atom_reference_known"][12:14].any()
    assert (columns["token_frame"][2:4] == -1).all()


def test_undefined_unmodelled_position_is_a_token_without_atoms(read):
    sequence = part.SEQUENCE.replace("1 4 ALA", "1 4 XX9Z")
    _, columns = read(sequence=sequence)
    assert columns["token_residue_type"][10] == UNKNOWN
    assert columns["token_first_atom"][10] == columns["token_first_atom"][11]
    places = ("token_center", "token_representative", "token_frame")
    assert all((columns[column][10] == -1).all() for column in places)


def test_interface_tokens_are_near_another_chain(read):
    _, columns = read()
    # Zinc is within 7 Å of each modelled centre, which alanine and part of the MSE lack.
    center = columns["token_center"]
    modelled = (center >= 0) & columns["atom_resolved"][center]
    assert columns["token_interface"].tolist() == modelled.tolist()
    _, apart = read(atoms=moved(8, "4.0 4.0 4.0", "4.0 4.0 90.0"))
    assert not apart["token_interface"].any()


def test_interface_distances_equal_the_published_ones():
    assert (INTERFACE_DISTANCE, CONTACT_DISTANCE) == (15, 5)


@pytest.mark.parametrize("entry", ["2q2k", "5lwx", "1kd8"])
def test_interface_of_real_chains_equals_brute_force(sources, entry):
    columns = structure_columns(read_structure(sources[entry].structure.cached))
    center = columns["token_center"]
    position = columns["atom_position"][center].astype(np.float64)
    resolved_centers = columns["atom_resolved"][center]
    near = np.linalg.norm(position[:, None] - position, axis=-1) <= INTERFACE_DISTANCE
    near &= columns["token_chain"][:, None] != columns["token_chain"]
    near &= resolved_centers[:, None] & resolved_centers
    assert (columns["token_interface"] == near.any(axis=1)).all()
    assert 0 < columns["token_interface"].sum() < len(center)
    chain = columns["token_chain"]
    resolved = np.flatnonzero(columns["atom_resolved"])
    atoms, owner = columns["atom_position"][resolved].astype(np.float64), columns["atom_token"]
    pairs = []
    for one in range(chain.max() + 1):
        for two in range(one + 1, chain.max() + 1):
            one_atoms, two_atoms = (
                atoms[chain[owner[resolved]] == number] for number in (one, two)
            )
            distance = np.linalg.norm(one_atoms[:, None] - two_atoms, axis=-1)
            pairs += [[one, two]] if distance.min() <= CONTACT_DISTANCE else []
    assert columns["interface_chains"].tolist() == pairs
    for number, (one, two) in enumerate(pairs):
        first, end = columns["interface_first"][number : number + 2]
        at = np.zeros(len(center), bool)
        for first_chain, second_chain in ((one, two), (two, one)):
            at |= (chain == first_chain) & near[:, chain == second_chain].any(axis=1)
        assert columns["interface_token"][first:end].tolist() == np.flatnonzero(at).tolist()


class TestNucleotides:
    def test_nucleotides_have_their_centre_representative_and_frame(self, sources):
        columns = structure_columns(read_structure(sources["2q2k"].structure.cached))
        # Two of the twenty nucleotides are modified, and have one token per atom.
        dna = (columns["token_chain"] == 0) & (columns["token_element"] == 0)
        assert dna.sum() == 18
        assert set(columns["token_residue_type"][dna]) <= {26, 27, 28, 29}
        assert set(names(columns, columns["token_representative"][dna])) == {"C4", "C2"}
        assert set(names(columns, columns["token_center"][dna])) == {"C1'"}
        frames = columns["token_frame"][dna]
        assert {tuple(names(columns, frame)) for frame in frames} == {("C1'", "C3'", "C4'")}
        assert (columns["token_molecule"][columns["token_chain"] == 0] == DNA).all()

    @pytest.mark.parametrize("entry", ["2q2k", "4fxd", "3cz3"])
    def test_only_the_first_nucleotide_has_a_third_phosphate_oxygen(self, sources, entry):
        structure = read_structure(sources[entry].structure.cached)
        columns = structure_columns(structure)
        third = np.flatnonzero(columns["atom_name"] == b"OP3")
        residues = columns["token_residue"][columns["atom_token"][third]]
        assert (columns["residue_number"][residues] == 1).all()
        kinds = [structure.chains[chain].kind for chain in columns["residue_chain"][residues]]
        assert set(kinds) <= {"dna", "rna"}
        assert len(kinds) == sum(chain.kind in {"dna", "rna"} for chain in structure.chains)

    def test_molecule_types_follow_the_chain_kinds(self, sources):
        columns = structure_columns(read_structure(sources["4fxd"].structure.cached))
        kinds = {"protein": PROTEIN, "rna": RNA, "dna": DNA}
        chains = read_structure(sources["4fxd"].structure.cached).chains
        expected = np.array([kinds[chain.kind] for chain in chains])
        assert (columns["token_molecule"] == expected[columns["token_chain"]]).all()
        assert set(expected.tolist()) == {PROTEIN, RNA, DNA}
