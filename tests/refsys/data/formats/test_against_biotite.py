"""Counts of our mmCIF reader equal those of biotite and a pinned table."""

import pytest
from support.independent import counts, residue_names

from refsys.data.formats.mmcif import read_structure
from refsys.data.prepare.tokens import structure_columns

WHAT = ("chains", "tokens", "atoms", "modelled", "bonds", "frames")
PINNED = {
    "1ubq": (1, 76, 602, 602, 0, 76),  # a protein, all of it modelled
    "8vkf": (5, 468, 3196, 3079, 63, 466),  # heme, inhibitor, ions
    "2q2k": (4, 213, 1576, 1184, 61, 213),  # a protein on modified DNA
    "3en2": (3, 124, 778, 691, 27, 122),  # selenomethionines, as deposited
    "5lwx": (17, 763, 4766, 4550, 184, 757),  # glycans
    "3cz3": (8, 356, 3944, 3546, 0, 356),  # RNA
    "8ufz": (8, 334, 3126, 2826, 66, 334),  # DNA, atoms of zero occupancy
    "4fxd": (6, 1872, 15588, 13910, 0, 1872),  # DNA and RNA
    "19hc": (25, 1378, 5136, 5079, 951, 1378),  # eighteen hemes, atoms of zero occupancy
    "6yfy": (32, 496, 712, 704, 484, 496),  # D-peptides, sugars
    "2hyy": (8, 1240, 9048, 8502, 164, 1240),  # a drug
    "2dty": (24, 1347, 7903, 7713, 400, 1339),  # branched glycans
    "3kpr": (10, 1652, 13318, 13318, 0, 1652),  # ten chains
    "3jqh": (1, 167, 1347, 185, 0, 167),  # BinaryCIF
    "10sb": (6, 521, 3384, 2931, 97, 491),  # components that the dictionary lacks
}


@pytest.mark.parametrize("entry", PINNED)
@pytest.mark.filterwarnings("ignore:The coordinates are missing")
def test_counts_and_residues_equal_those_of_biotite(sources, entry):
    path = sources[entry].structure.cached
    structure = read_structure(path)
    columns = structure_columns(structure)
    result = (
        len(structure.chains),
        len(columns["token_residue_type"]),
        len(columns["atom_token"]),
        int(columns["atom_resolved"].sum()),
        len(columns["bond_atoms"]),
        int((columns["token_frame"] >= 0).all(axis=1).sum()),
    )
    biotite_counts = counts(path)
    assert result == PINNED[entry]
    assert tuple(biotite_counts[what] for what in WHAT) == PINNED[entry]
    names = [structure.chains[number].name for number in columns["residue_chain"].tolist()]
    components = columns["residue_component"].astype(str).tolist()
    assert list(zip(names, components, strict=True)) == residue_names(path)
