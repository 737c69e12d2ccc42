"""Chains and polymers: listed in any case, inferred, or implied by residues."""

import pytest
from support import mmcif as part
from support.binary_cif import as_binary
from support.mmcif import mmcif

from refsys.data.formats.mmcif import read_structure
from refsys.data.formats.polymers import POLYMER_KINDS, inferred_type, polymer_kind, polymer_type
from refsys.data.prepare.tokens import chain_sequence, residues_of_chains, structure_columns
from refsys.errors import DataError

LISTED = {"entity": "", "entity_poly": "", "sequence": "", "chains": ""}
COLUMNS = (*part.ATOM_COLUMNS[:10], "pdbx_PDB_ins_code", *part.ATOM_COLUMNS[10:])
LACKS = (
    "no _entity, _entity_poly_seq and _struct_asym: the sequence of each polymer is that of the "
    "residues in _atom_site"
)


@pytest.fixture
def read(tmp_path):
    def read(text, name="x.cif"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_structure(path)

    return read


def atoms_alone(*rows, connections=""):
    """Return mmCIF text with these atoms and no other category; see `row`."""
    columns = {"atom_columns": COLUMNS, "bonds": "", "connections": connections}
    return mmcif(atoms=rows, **LISTED, **columns)


def row(component, number, *, name="CA", group="ATOM", chain="A", author=None, code="?", model=1):
    """Return a row of an atom; its element is its first letter, and None is inapplicable."""
    author = number if author is None else author
    x = f"{3.0 * int(author if author != '?' else 0)} {len(name)}.0 0.0"
    return (
        f"{group} 1 {name[0]} {name} . {component} {chain} ? {number or '.'} {author} {code} "
        f"{x} 1.0 ? {model}"
    )


def contents(structure):
    """Return (name, kind, components) of each chain."""
    return [
        (chain.name, chain.kind, [r.component for r in structure.residues if r.chain == number])
        for number, chain in enumerate(structure.chains)
    ]


class TestTypes:
    @pytest.mark.parametrize("name", POLYMER_KINDS)
    def test_polymer_types_are_compared_without_case(self, name):
        assert polymer_type(name.upper()) == polymer_type(name.lower()) == name
        assert polymer_type(f" {name.replace(' ', '  ')}\n") == name

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("L-PEPTIDE LINKING", "protein"),
            ("D-peptide linking", "protein"),
            ("peptide linking", "protein"),
            ("L-peptide NH3 amino terminus", "protein"),
            ("RNA linking", "rna"),
            ("L-DNA LINKING", None),
            ("DNA OH 5 prime terminus", "dna"),
            ("peptide-like", None),
            ("NON-POLYMER", None),
            ("D-saccharide, beta linking", None),
            ("", None),
            (None, None),
        ],
    )
    def test_component_type_determines_the_polymer_kind(self, text, kind):
        assert polymer_kind(text) == kind

    def test_inferred_type_is_that_of_most_components(self):
        kinds = {"ALA": "protein", "A": "rna", "DA": "dna"}.get
        assert inferred_type(["ALA", "ALA", "A"], kinds) == "polypeptide(L)"
        assert inferred_type(["A", "A"], kinds) == "polyribonucleotide"
        assert inferred_type(["DA", "XX9Z"], kinds) == "polydeoxyribonucleotide"
        assert "hybrid" in inferred_type(["DA", "A"], kinds)
        assert inferred_type(["XX9Z"], kinds) == inferred_type([], kinds) == "other"


class TestListed:
    @pytest.mark.parametrize("change", [str.upper, str.title])
    def test_enumerations_are_compared_without_case(self, read, change):
        entity = part.ENTITY
        for word in ("polymer", "non-polymer", "water"):
            entity = entity.replace(f" {word}\n", f" {change(word)}\n")
        poly = part.ENTITY_POLY.replace("polypeptide(L)", change("polypeptide(L)"))
        structure = read(mmcif(entity=entity, entity_poly=poly))
        assert structure.chains == read(mmcif()).chains
        assert [chain.kind for chain in structure.chains] == ["protein", "ligand"]

    def test_names_of_items_are_compared_without_case(self, read):
        text = mmcif().replace("_atom_site.label", "_Atom_Site.LABEL").replace("Cartn", "cartn")
        assert read(text).names.tolist() == read(mmcif()).names.tolist()

    @pytest.mark.parametrize("name", ["protein", "?", "polypeptide"])
    def test_polymer_of_an_unknown_type_is_read_by_its_components(self, read, name):
        structure = read(mmcif(entity_poly=part.ENTITY_POLY.replace("'polypeptide(L)'", name)))
        assert structure.chains[0].polymer == "polypeptide(L)"
        reported = "no type" if name == "?" else name
        assert structure.notes == (
            "1 polymer has an unknown type and is read by its components, "
            f"first: entity 1 ({reported}) as polypeptide(L)",
        )

    def test_polymer_of_kind_other_has_a_terminal_oxygen_at_its_end_alone(self, read):
        for name in ("other", "PEPTIDE NUCLEIC ACID"):
            text = mmcif(entity_poly=part.ENTITY_POLY.replace("polypeptide(L)", name))
            structure = read(text)
            assert structure.chains[0].kind == "other"
            columns = structure_columns(structure)
            owner = columns["token_residue"][columns["atom_token"]]
            assert owner[columns["atom_name"] == b"OXT"].tolist() == [3]

    def test_components_in_lower_case_are_read_in_upper_case(self, read):
        sequence = part.SEQUENCE.replace("GLY", "gly")
        atoms = [row.replace(" MSE ", " mse ") for row in part.ATOM_ROWS]
        structure = read(mmcif(sequence=sequence, atoms=atoms))
        assert chain_sequence(residues_of_chains(structure)[0]) == "MGXA"
        assert structure.notes == ("1 component is read in upper case, first: mse",)

    @pytest.mark.parametrize("name", ["ABCDEF", "Ä", "A{B"])
    def test_component_that_no_column_holds_is_refused(self, read, name):
        with pytest.raises(DataError, match=f"_entity_poly_seq row 2: component '{name}' has"):
            read(mmcif(sequence=part.SEQUENCE.replace("GLY", f"'{name}'")))
        atoms = [row.replace(" ZN  B", f" '{name}' B") for row in part.ATOM_ROWS]
        with pytest.raises(DataError, match=f"_atom_site row 9: {name} B 101: component '{name}'"):
            read(mmcif(atoms=atoms, connections=""))


class TestImplied:
    PEPTIDE = (row("MET", 1), row("GLY", 2), row("ALA", 3))

    def test_residues_imply_the_sequence_with_a_note(self, read):
        structure = read(atoms_alone(*self.PEPTIDE))
        assert contents(structure) == [("A", "protein", ["MET", "GLY", "ALA"])]
        assert structure.notes == (LACKS,)

    def test_text_and_binary_formats_imply_the_same_entities(self, read):
        text = atoms_alone(*self.PEPTIDE, row("ZN", None, name="ZN", group="HETATM", author=9))
        text = text.replace(" Z ZN ", " ZN ZN ")
        one, two = read(text), read(as_binary(text), "x.bcif")
        assert contents(one) == contents(two)
        assert one.notes == two.notes == (LACKS,)

    def test_ligands_and_waters_of_a_polymer_chain_become_other_chains(self, read):
        heme, water = (
            row("HEM", None, name="NA", group="HETATM", author=10),
            row("HOH", None, name="O", group="HETATM", author=11),
        )
        structure = read(atoms_alone(*self.PEPTIDE, heme, heme.replace(" 10 ", " 12 "), water))
        assert contents(structure) == [
            ("A", "protein", ["MET", "GLY", "ALA"]),
            ("A-HEM10", "ligand", ["HEM"]),
            ("A-HEM12", "ligand", ["HEM"]),
        ]
        assert len({chain.entity for chain in structure.chains}) == 2

    def test_modified_residues_belong_to_the_polymer_for_any_record_type(self, read):
        modified = row("MSE", None, group="HETATM", author=2)
        structure = read(atoms_alone(self.PEPTIDE[0], modified, self.PEPTIDE[2]))
        assert contents(structure) == [("A", "protein", ["MET", "MSE", "ALA"])]

    def test_unknown_component_with_a_backbone_belongs_to_the_polymer(self, read):
        residue = [row("XX9Z", 2, name=name) for name in ("N", "CA", "C")]
        structure = read(atoms_alone(self.PEPTIDE[0], *residue, self.PEPTIDE[2]))
        assert contents(structure) == [("A", "protein", ["MET", "XX9Z", "ALA"])]

    def test_equal_sequences_are_one_entity(self, read):
        copy = [line.replace(" A ", " B ") for line in self.PEPTIDE]
        other = [line.replace(" A ", " C ") for line in self.PEPTIDE[:2]]
        chains = read(atoms_alone(*self.PEPTIDE, *copy, *other)).chains
        assert [chain.entity for chain in chains] == ["1", "1", "2"]

    @pytest.mark.parametrize(
        ("components", "kind"),
        [
            (("DA", "DG"), "dna"),
            (("A", "U"), "rna"),
            (("A", "DG"), "dna"),
            (("NAG", "NAG"), "ligand"),
        ],
    )
    def test_kind_of_a_chain_is_that_of_its_components(self, read, components, kind):
        group = "HETATM" if kind == "ligand" else "ATOM"
        rows = [row(name, number, name="C1", group=group) for number, name in enumerate(components)]
        assert contents(read(atoms_alone(*rows))) == [("A", kind, list(components))]

    def test_residues_differ_by_insertion_code(self, read):
        rows = (row("MET", 1), row("GLY", 1, code="A"), row("ALA", 2))
        structure = read(atoms_alone(*rows))
        assert contents(structure) == [("A", "protein", ["MET", "GLY", "ALA"])]
        assert structure.notes == (LACKS,)

    def test_gaps_in_the_numbering_are_noted(self, read):
        structure = read(atoms_alone(row("MET", 1), row("GLY", 2), row("ALA", 7)))
        assert structure.notes[1:] == (
            "1 gap in the numbering of a polymer is not filled, first: A 2 - A 7",
        )

    def test_connections_find_atoms_by_the_identifiers_of_the_file(self, read):
        ligand = row("NAG", None, name="C1", group="HETATM", author=9)
        connection = "".join(
            f"_struct_conn.{name} {value}\n"
            for name, value in {
                "conn_type_id": "covale",
                "ptnr1_label_asym_id": "A",
                "ptnr1_label_seq_id": "2",
                "ptnr1_label_atom_id": "CA",
                "ptnr2_label_asym_id": "A",
                "ptnr2_auth_seq_id": "9",
                "ptnr2_label_atom_id": "C1",
            }.items()
        )
        structure = read(atoms_alone(*self.PEPTIDE, ligand, connections=connection))
        assert structure.connections.tolist() == [[1, 3]]

    def test_ligands_of_one_number_are_distinct_residues(self, read):
        ligands = [row("ZN", number, group="HETATM", author=9) for number in (1, 2)]
        assert contents(read(atoms_alone(*ligands))) == [("A", "ligand", ["ZN", "ZN"])]

    def test_component_that_no_column_holds_is_refused(self, read):
        with pytest.raises(DataError, match="_atom_site row 2: ABCDEF A 2: component 'ABCDEF' has"):
            read(atoms_alone(self.PEPTIDE[0], row("ABCDEF", 2)))

    def test_amino_acid_outside_a_polymer_is_a_ligand(self, read):
        alone = row("GLU", None, group="HETATM", chain="L", author=1)
        structure = read(atoms_alone(*self.PEPTIDE, alone))
        assert contents(structure)[1] == ("L", "ligand", ["GLU"])
