"""Standardization of selenomethionine and arginine, zero occupancy, bonds between tokens."""

import shlex

import numpy as np
import pytest
from support import mmcif as part
from support.mmcif import mmcif

from bench.cli import main
from refsys.batch import LIGAND
from refsys.data.batches.construction import ExampleSpec, example_batch
from refsys.data.formats.mmcif import read_structure
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.prepare.standardization import standardized
from refsys.data.prepare.tokens import (
    chain_sequence,
    dropped_atoms,
    residues_of_chains,
    structure_columns,
)
from refsys.data.store.store import Store
from refsys.data.vocabulary import RESIDUE_TYPES

MET = ["N", "CA", "C", "O", "CB", "CG", "SD", "CE"]
# Positions of arginine's nitrogens: the first is nearer to CD.
NEAR, FAR = "2.0 1.5 0.0", "2.0 -1.5 0.0"


def names_of(columns, residue):
    first, end = columns["residue_first_atom"][residue : residue + 2]
    return [name.decode() for name in columns["atom_name"][first:end].tolist()]


def spec(tokens):
    return ExampleSpec(tokens=tokens, alignment_rows=1, whole=True)


@pytest.fixture
def written(tmp_path):
    def written(**parts):
        path = tmp_path / "x.cif"
        path.write_text(mmcif(**parts), encoding="utf-8")
        return path

    return written


@pytest.fixture(scope="module")
def selenomethionines(store, sources, tmp_path_factory):
    """Return the entry 3en2 in its standardized form, and as deposited."""
    other = Store(tmp_path_factory.mktemp("as-deposited"))
    prepare(other, Sources(structure=sources["3en2"].structure.cached, as_deposited=True))
    return store.open("3en2"), other.open("3en2")


class TestSelenomethionine:
    def test_selenium_becomes_the_sulphur_of_methionine(self, written):
        read = read_structure(written())
        changes = standardized(read)
        assert changes.selenomethionines == 1
        structure = changes.structure
        assert [r.component for r in structure.residues[:4]] == ["MET", "GLY", "MET", "ALA"]
        selenium = read.names.tolist().index("SE")
        assert structure.names[selenium] == "SD"
        assert structure.elements[selenium] == 16
        assert (structure.positions == read.positions).all()
        assert chain_sequence(residues_of_chains(structure)[0]) == "MGMA"
        columns = structure_columns(structure)
        assert names_of(columns, 2) == MET
        assert columns["token_residue_type"].tolist()[:4] == [
            RESIDUE_TYPES[name] for name in ("MET", "GLY", "MET", "ALA")
        ]
        assert dropped_atoms(structure, columns) == 0

    def test_bond_to_selenium_becomes_a_bond_to_sulphur(self, written):
        atoms = [row.replace("4.0 4.0 4.0", "8.5 5.0 0.0") for row in part.ATOM_ROWS]
        columns = structure_columns(standardized(read_structure(written(atoms=atoms))).structure)
        ends = [[columns["atom_name"][row] for row in pair] for pair in columns["bond_atoms"]]
        assert ends == [[b"SD", b"ZN"]]

    def test_standardization_leaves_its_input_unchanged(self, written):
        read = read_structure(written())
        before = read.names.copy()
        standardized(read)
        assert (read.names == before).all()

    def test_record_of_3en2_has_methionines_with_sulphur(self, selenomethionines):
        example, deposited = selenomethionines
        structure, original = example.structure, deposited.structure
        modified = np.flatnonzero(original["residue_component"] == b"MSE")
        assert len(modified) == 3
        assert example.tokens == deposited.tokens - 3 * 7 == 103
        assert b"MSE" not in structure["residue_component"]
        for residue in modified:
            assert structure["residue_component"][residue] == b"MET"
            first, end = structure["residue_first_atom"][residue : residue + 2]
            assert names_of(structure, residue) == MET
            sulphur = first + MET.index("SD")
            assert structure["atom_element"][sulphur] == 16
            row = original["residue_first_atom"][residue]
            selenium = row + names_of(original, residue).index("SE")
            for column in ("atom_position", "atom_resolved"):
                assert np.array_equal(structure[column][sulphur], original[column][selenium])
            token = structure["atom_token"][first]
            assert (structure["atom_token"][first:end] == token).all()
            assert structure["token_residue_type"][token] == RESIDUE_TYPES["MET"]

    def test_standardization_is_in_the_facts_and_the_name_of_the_record(self, selenomethionines):
        example, deposited = selenomethionines
        facts, original = example.structure.facts, deposited.structure.facts
        assert (facts["as_deposited"], original["as_deposited"]) == (False, True)
        assert (facts["selenomethionines"], original["selenomethionines"]) == (3, 0)
        assert original["reordered_arginines"] == 0
        assert example.records()["structure"] != deposited.records()["structure"]

    def test_option_as_deposited_keeps_selenomethionine(self, written, tmp_path):
        path, store = written(), Store(tmp_path / "store")
        for option, tokens in (("", 5), ("--as-deposited", 12), ("", 5)):
            command = f"prepare {path} --store {store.root} {option}"
            assert main(shlex.split(command)) == 0
            assert store.open("test").tokens == tokens


def arginine(nh1, nh2):
    """Return parts of the file with its glycine replaced by an arginine."""
    row = "ATOM 6 {} {} . ARG A 1 2 2 {} 1.0 ? 1"
    rows = [row.format("C", "CA", "5.0 0.0 0.0"), row.format("C", "CD", "0.0 1.0 0.0")]
    rows += [
        row.format("N", name, position)
        for name, position in (("NH1", nh1), ("NH2", nh2))
        if position
    ]
    return {
        "atoms": (*part.ATOM_ROWS[:5], *rows, *part.ATOM_ROWS[6:]),
        "sequence": part.SEQUENCE.replace("1 2 GLY", "1 2 ARG"),
    }


class TestArginine:
    @pytest.mark.parametrize(("nh1", "nh2", "exchanged"), [(NEAR, FAR, 0), (FAR, NEAR, 1)])
    def test_nh1_is_the_nitrogen_nearer_to_cd(self, written, nh1, nh2, exchanged):
        changes = standardized(read_structure(written(**arginine(nh1, nh2))))
        assert changes.arginines == exchanged
        columns = structure_columns(changes.structure)
        names, first = names_of(columns, 1), columns["residue_first_atom"][1]
        places = columns["atom_position"][first:]
        assert places[names.index("NH1")].tolist() == [float(x) for x in NEAR.split()]
        assert places[names.index("NH2")].tolist() == [float(x) for x in FAR.split()]

    def test_arginine_with_equal_distances_or_missing_atoms_is_unchanged(self, written):
        for nh1, nh2 in ((NEAR, NEAR), (FAR, None), (None, NEAR)):
            read = read_structure(written(**arginine(nh1, nh2)))
            changes = standardized(read)
            assert changes.arginines == 0
            not_selenium = read.names != "SE"
            assert (changes.structure.names[not_selenium] == read.names[not_selenium]).all()

    @pytest.mark.parametrize("entry", ["3en2", "8vkf", "2q2k", "5vht"])
    def test_standardization_of_real_arginines_only_reorders_nitrogens(self, store, sources, entry):
        structure = store.open(entry).structure
        original = structure_columns(read_structure(sources[entry].structure.cached))
        residues = np.flatnonzero(structure["residue_component"] == b"ARG")
        exchanged = 0
        for residue in residues:
            first, end = structure["residue_first_atom"][residue : residue + 2]
            names = names_of(structure, residue)
            rows = [first + names.index(name) for name in ("CD", "NH1", "NH2")]
            before = original["residue_first_atom"][residue] + np.arange(end - first)
            positions, old = structure["atom_position"], original["atom_position"][before]
            if structure["atom_resolved"][rows].all():
                cd, nh1, nh2 = positions[rows].astype(np.float64)
                assert np.linalg.norm(nh1 - cd) <= np.linalg.norm(nh2 - cd)
            changed = np.flatnonzero((positions[first:end] != old).any(axis=1)).tolist()
            assert changed in ([], [names.index("NH1"), names.index("NH2")])
            exchanged += bool(changed)
        assert structure.facts["reordered_arginines"] == exchanged


class TestZeroOccupancy:
    def unoccupied(self, *rows):
        return [
            row.replace(" 1.0 ? 1", " 0.0 ? 1") if number in rows else row
            for number, row in enumerate(part.ATOM_ROWS)
        ]

    def test_atoms_of_zero_occupancy_are_present_and_unresolved(self, written):
        structure = read_structure(written(atoms=self.unoccupied(1, 5)))
        plain = structure_columns(read_structure(written()))
        columns = structure_columns(structure)
        lost = plain["atom_resolved"] & ~columns["atom_resolved"]
        assert columns["atom_name"][lost].tolist() == [b"CA", b"CA"]
        assert not columns["atom_position"][lost].any()
        assert (columns["token_residue_type"] == plain["token_residue_type"]).all()
        assert dropped_atoms(structure, columns) == 0
        assert set(plain["modelled_token"]) - set(columns["modelled_token"]) == {0, 1}

    def test_ligand_of_zero_occupancy_has_its_token_and_bonds(self, written):
        atoms = self.unoccupied(8)
        atoms[8] = atoms[8].replace("4.0 4.0 4.0 1.0 2", "8.5 5.0 0.0 0.0 2")
        columns = structure_columns(read_structure(written(atoms=atoms)))
        assert columns["token_element"][-1] == 30
        assert columns["atom_resolved"].tolist()[-1] is False
        ends = [[columns["atom_name"][row] for row in pair] for pair in columns["bond_atoms"]]
        assert [b"SE", b"ZN"] in ends

    def test_location_of_zero_occupancy_loses_to_an_occupied_one(self, written):
        atoms = [row.replace("0.6 ? 1", "0.0 ? 1") for row in part.ATOM_ROWS]
        columns = structure_columns(read_structure(written(atoms=atoms)))
        beta = names_of(columns, 0).index("CB")
        assert columns["atom_position"][beta].tolist() == [2.0, 1.0, 0.0]
        assert columns["atom_resolved"][beta]

    def test_structure_of_zero_occupancy_gives_a_batch_without_labels(self, written, tmp_path):
        atoms = [row.replace(" 1.0 ", " 0.0 ").replace("0.6 ?", "0.0 ?") for row in part.ATOM_ROWS]
        atoms = [row.replace("0.4 ?", "0.0 ?") for row in atoms]
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=written(atoms=atoms)))
        batch = example_batch(store.open("test"), spec(3), step=0)
        assert not batch["atom_resolved"].any()
        assert not batch["pseudo_beta_mask"].any()

    def test_atoms_of_8vkf_are_all_resolved(self, sources):
        structure = read_structure(sources["8vkf"].structure.cached)
        assert len(structure.resolved) == len(structure.names)
        assert structure.resolved.all()


def token_bonds(example):
    """Return the pairs of bonded tokens in an uncropped batch."""
    bonds = example_batch(example, spec(example.tokens), step=0)["bonds"][0].numpy()
    return {tuple(pair) for pair in bonds[(bonds >= 0).all(axis=1)].tolist()}


class TestTokenBonds:
    def prepared(self, tmp_path, path):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=path, as_deposited=True))
        return store.open("test")

    def test_token_bonds_exclude_peptide_bonds_of_modified_residues(self, written, tmp_path):
        """The file lists the peptide bonds of a modified residue between two others."""
        rows = [line for line in part.CONNECTIONS.splitlines() if line.startswith(("loop", "_"))]
        rows += [
            "c1 covale A 2 C 1_555 A 3 N ? 1_555",
            "c2 covale A 3 C 1_555 A 4 N ? 1_555",
            "c3 covale A 3 SE 1_555 B ? ZN 101 1_555",
            "#\n",
        ]
        atom = "ATOM 9 {0} {1} . {2} A 1 {3} {3} {4} 1.0 ? 1"
        near = [
            atom.format("C", "C", "GLY", 2, "6.0 0.0 0.0"),
            atom.format("N", "N", "MSE", 3, "7.3 0.0 0.0"),
            atom.format("C", "C", "MSE", 3, "9.0 0.0 0.0"),
            atom.format("N", "N", "ALA", 4, "10.0 0.0 0.0"),
        ]
        zinc = part.ATOM_ROWS[8].replace("4.0 4.0 4.0", "8.5 5.0 0.0")
        atoms = (*part.ATOM_ROWS[:6], near[0], *part.ATOM_ROWS[6:8], *near[1:], zinc)
        path = written(atoms=atoms, connections="\n".join(rows))
        example = self.prepared(tmp_path, path)
        structure = example.structure
        assert len(structure["bond_atoms"]) == 7 + 3
        # Tokens 2 to 9 are the modified residue's atoms; 11 is the zinc.
        bonds = token_bonds(example)
        assert {pair for pair in bonds if not set(pair) <= set(range(2, 10))} == {(8, 11)}
        assert len(bonds) == 7 + 1

    @pytest.mark.parametrize("entry", ["2q2k", "8vkf", "3en2"])
    def test_token_bonds_of_real_entries_are_inside_residues_or_to_ligands(
        self, store, selenomethionines, entry
    ):
        example = selenomethionines[1] if entry == "3en2" else store.open(entry)
        structure = example.structure
        expected = set()
        for atoms in structure["bond_atoms"]:
            one, two = structure["atom_token"][atoms].tolist()
            same = structure["token_residue"][one] == structure["token_residue"][two]
            if same or LIGAND in structure["token_molecule"][[one, two]]:
                expected.add((min(one, two), max(one, two)))
        assert token_bonds(example) == expected
        assert len(expected) < len(structure["bond_atoms"]) or entry == "8vkf"
