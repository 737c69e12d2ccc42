"""Reader of mmCIF: content of the structure, and one-line refusals that name the location."""

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data.formats.mmcif import read_structure
from refsys.data.prepare.tokens import chain_sequence, residues_of_chains, structure_columns
from refsys.errors import DataError


@pytest.fixture
def read(tmp_path):
    def read(text, name="x.cif"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_structure(path)

    return read


class TestKept:
    def test_structure_has_heavy_atoms_of_the_first_model_without_water(self, read):
        structure = read(mmcif())
        assert structure.names.tolist() == ["N", "CA", "CB", "CA", "CA", "SE", "ZN"]
        assert [chain.name for chain in structure.chains] == ["A", "B"]
        assert [chain.kind for chain in structure.chains] == ["protein", "ligand"]
        assert structure.charges.tolist() == [0, 0, 0, 0, 0, 0, 2]

    def test_alternative_location_is_the_better_occupied(self, read):
        assert read(mmcif()).positions[2].tolist() == [2.0, 1.5, 0.0]
        assert read(changed(2, " 0.4 ", " 0.7 ")).positions[2].tolist() == [2.0, 1.0, 0.0]

    def test_polymer_has_every_residue_of_the_sequence(self, read):
        structure = read(mmcif())
        polymer = [r for r in structure.residues if r.chain == 0]
        assert [r.component for r in polymer] == ["MET", "GLY", "MSE", "ALA"]
        assert [len(r.atoms) for r in polymer] == [3, 1, 2, 0]
        assert chain_sequence(residues_of_chains(structure)[0]) == "MGXA"

    def test_structure_has_covalent_connections_and_component_bonds(self, read):
        structure = read(mmcif())
        assert [structure.names[pair].tolist() for pair in structure.connections] == [["SE", "ZN"]]
        assert structure.component_bonds == {
            "MSE": (("CA", "SE"),),
            "MET": (("N", "CA"), ("CA", "CB")),
        }
        bare = read(mmcif(bonds="", connections=""))
        assert bare.connections.shape == (0, 2)
        assert not bare.component_bonds

    @pytest.mark.parametrize(
        ("text", "resolution"),
        [
            ("_refine.ls_d_res_high 1.80", 1.8),
            ("_em_3d_reconstruction.resolution 3.2", 3.2),
            ("_refine.ls_d_res_high ?\n#\n_em_3d_reconstruction.resolution 3.2", 3.2),
            ("_refine.ls_d_res_high .", 0.0),
            ("_refine.ls_d_res_high 1e9", 0.0),
            ("_refine.ls_d_res_high nan", 0.0),
            ("_exptl.method 'SOLUTION NMR'", 0.0),
        ],
    )
    def test_resolution_is_that_of_the_experiment_or_zero(self, read, text, resolution):
        assert read(f"{mmcif()}{text}\n").resolution == resolution

    def test_position_of_two_components_has_the_better_occupied(self, read):
        sequence = part.SEQUENCE.replace("1 2 GLY", "1 2 GLY\n1 2 SER")
        rows = (*part.ATOM_ROWS[:5], *part.ATOM_ROWS[6:])
        rows = (
            *rows[:5],
            "ATOM 6 C CA A GLY A 1 2 2 5.0 0.0 0.0 0.3 ? 1",
            "ATOM 6 C CA B SER A 1 2 2 5.0 1.0 0.0 0.7 ? 1",
            *rows[5:],
        )
        structure = read(mmcif(sequence=sequence, atoms=rows))
        assert structure.residues[1].component == "SER"
        assert len(structure.residues[1].atoms) == 1

    def test_compressed_mmcif_is_read(self, read):
        assert len(read(gzip.compress(mmcif().encode()), "x.cif.gz").names) == 7


FIRST_MODEL = part.ATOM_ROWS[:10]


def changed(row, old, new):
    """Return mmCIF text with one row of atoms altered."""
    rows = list(part.ATOM_ROWS)
    assert old in rows[row]
    rows[row] = rows[row].replace(old, new)
    return mmcif(atoms=rows)


REFUSED = {
    "a chain that is not listed": (
        changed(6, " A 1 3 3 ", " Q 1 3 3 "),
        "_atom_site row 7: chain Q is not in _struct_asym",
    ),
    "an atom of a protein among the water": (
        changed(5, " A 1 2 2 ", " C 1 2 2 "),
        "_atom_site row 6: label_entity_id 1 is not the entity 3 of chain C",
    ),
    "two components in one residue": (
        changed(1, " MET ", " ZZZ "),
        "_atom_site row 2: ZZZ in a residue of MET",
    ),
    "a model in two places": (
        changed(0, " ? 1", " ? 2"),
        "_atom_site row 1: pdbx_PDB_model_num 2 stands in several places",
    ),
    "a charge beyond reason": (changed(8, " 2 1", " 300 1"), "pdbx_formal_charge 300 is beyond"),
    "half a charge": (changed(8, " 2 1", " 1.5 1"), "pdbx_formal_charge 1.5 is not whole"),
    "a coordinate beyond reason": (changed(1, "1.5 0.0", "1e30 0.0"), "Cartn_x 1e30 is beyond"),
    "an occupancy beyond reason": (changed(1, " 1.0 ? 1", " 1e9 ? 1"), "occupancy 1e9 is beyond"),
    "a sequence that begins at nought": (
        mmcif(sequence=part.SEQUENCE.replace("1 1 MET", "1 0 MET")),
        "_entity_poly_seq row 1: num 0 is out of order",
    ),
    "empty": ("", "not readable as mmCIF: the file is empty"),
    "no categories": ("data_x\n", "no _atom_site"),
    "text": ("hello", "not readable as mmCIF"),
    "binary": (bytes(range(256)) * 4, "not readable as mmCIF"),
    "no atoms": (mmcif(atoms=()), "no _atom_site"),
    "truncated in a row": (mmcif()[: mmcif().index("SE SE") + 5], "not readable as mmCIF"),
    "truncated after the atoms of a chain": (
        mmcif(atoms=part.ATOM_ROWS[:8]),
        "chain B has no heavy atoms; is the file truncated?",
    ),
    "two categories in one loop": (
        mmcif(entity=part.ENTITY.replace("_entity.type\n", "_other.type\n")),
        "_entity: Tag _other.type in loop with _entity.",
    ),
    "no entities": (mmcif(entity=""), "no _entity category"),
    "no chains": (mmcif(chains=""), "no _struct_asym category"),
    "no sequence": (mmcif(sequence=""), "no _entity_poly_seq category"),
    "no kind of polymer": (mmcif(entity_poly=""), "polymer 1 is not in _entity_poly"),
    "entity that is not listed": (
        mmcif(chains=part.CHAINS.replace("B 2", "B 9")),
        "_struct_asym row 2: entity 9 is not in _entity",
    ),
    "chain listed twice": (
        mmcif(chains=part.CHAINS.replace("B 2", "A 2")),
        "_struct_asym row 2: chain A is unnamed or listed twice",
    ),
    "sequence out of order": (
        mmcif(sequence=part.SEQUENCE.replace("1 3 MSE", "1 5 MSE")),
        "_entity_poly_seq row 3: num 5 is out of order",
    ),
    "residue beyond the sequence": (
        mmcif(atoms=(*FIRST_MODEL, "ATOM 9 C CA . ALA A 1 9 9 0 0 0 1 ? 1")),
        "_atom_site row 11: label_seq_id 9 is not a position of the sequence of chain A",
    ),
    "another residue than the sequence's": (
        mmcif(atoms=(*FIRST_MODEL, "ATOM 9 C CA . TRP A 1 4 4 0 0 0 1 ? 1")),
        "TRP stands where _entity_poly_seq has ALA",
    ),
    "another entity than the chain's": (
        mmcif(atoms=(*FIRST_MODEL, "ATOM 9 C CA . ALA A 2 4 4 0 0 0 1 ? 1")),
        "label_entity_id 2 is not the entity 1 of chain A",
    ),
    "an atom twice": (
        mmcif(atoms=(part.ATOM_ROWS[0], *part.ATOM_ROWS)),
        "_atom_site row 2: atom N occurs twice in its residue",
    ),
    "a coordinate that is not a number": (
        mmcif(atoms=(part.ATOM_ROWS[0].replace("0.0 0.0 0.0", "0.0 x 0.0"), *part.ATOM_ROWS[1:])),
        "_atom_site row 1: Cartn_y x is not a number",
    ),
    "a coordinate that is not finite": (
        mmcif(atoms=(part.ATOM_ROWS[0].replace("0.0 0.0 0.0", "nan 0 0"), *part.ATOM_ROWS[1:])),
        "_atom_site row 1: Cartn_x nan is not finite",
    ),
    "a coordinate that is missing": (
        mmcif(atoms=(part.ATOM_ROWS[0].replace("0.0 0.0 0.0", "0 0 ?"), *part.ATOM_ROWS[1:])),
        "_atom_site row 1: no Cartn_z",
    ),
    "an element that does not exist": (
        mmcif(atoms=(part.ATOM_ROWS[0].replace(" N  N ", " Qq N "), *part.ATOM_ROWS[1:])),
        "_atom_site row 1: type_symbol Qq is not an element",
    ),
    "nothing but water": (
        mmcif(
            entity=part.ENTITY.replace("1 polymer\n2 non-polymer\n", ""),
            chains=part.CHAINS.replace("A 1\nB 2\n", ""),
        ),
        "nothing but water",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_mmcif_is_refused_in_one_line(read, name):
    text, message = REFUSED[name]
    with pytest.raises(DataError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "x.cif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_damaged_gzip_are_refused(tmp_path, read):
    with pytest.raises(DataError, match=r"none\.cif"):
        read_structure(tmp_path / "none.cif")
    with pytest.raises(DataError, match=r"x\.cif\.gz"):
        read(gzip.compress(mmcif().encode())[:60], "x.cif.gz")


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_mutated_mmcif_gives_a_value_or_a_one_line_error(sources, tmp_path, data):
    """Cut the file, repeat lines and replace bytes at random positions."""
    text = bytearray(sources["1ubq"].structure.cached.read_bytes())
    start = text.index(b"_entity.id")
    for _ in range(data.draw(st.integers(1, 3))):
        offset = data.draw(st.integers(start, len(text) - 1))
        length = data.draw(st.integers(1, 400))
        what = data.draw(st.sampled_from(("cut", "drop", "noise", "repeat")))
        if what == "cut":
            del text[offset:]
            text += b"\n" * (start + 2)
        elif what == "drop":
            del text[offset : offset + length]
        elif what == "repeat":
            text[offset:offset] = text[offset : offset + length]
        else:
            text[offset : offset + 4] = data.draw(st.binary(min_size=4, max_size=4))
    path = tmp_path / "fuzzed.cif"
    path.write_bytes(text)
    reason = ""
    try:
        structure_columns(read_structure(path))
    except DataError as error:
        reason = str(error)
    assert "\n" not in reason
