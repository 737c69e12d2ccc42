"""Records of an entry: names by all sources, shared MSAs and templates, pairing."""

import dataclasses

import numpy as np
import pytest
from support.mmcif import mmcif

from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store
from refsys.errors import DataError


@pytest.fixture
def structure(tmp_path):
    path = tmp_path / "test.cif"
    path.write_text(mmcif(), encoding="utf-8")
    return path


class TestSources:
    """Sources of an entry beside its structure, which all determine the names of records."""

    def test_realign_option_is_passed_to_the_reader(self, tmp_path, structure):
        alignment = tmp_path / "a.a3m"
        alignment.write_text(">q\nMGMAW\n>1\nMG-AW\n", encoding="utf-8")
        store = Store(tmp_path / "store")
        files = Sources(structure=structure, alignments={"A": alignment})
        with pytest.raises(DataError, match=r"a\.a3m: the query has 5 residues; the chain has 4"):
            prepare(store, files)
        prepare(store, dataclasses.replace(files, realign=True))
        result = store.open("test").alignments[0]["codes"]
        assert result[:, 0].tolist() == [result[0, 0]] * 2

    def test_unusable_template_is_refused(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        for invalid, reason in (
            ({"B": [(structure, "A")]}, "a template is given for B, but its protein chains are A"),
            ({"A": [(structure, "B")]}, "template test: no protein chain B; it has A"),
            ({"A": [(structure, "A")]}, r"template test A: 4 residues in common with the chain"),
            ({"A": [(tmp_path / "none.cif", "A")]}, r"none\.cif: No such file"),
        ):
            with pytest.raises(DataError, match=reason):
                prepare(store, Sources(structure=structure, templates=invalid))

    def test_given_template_of_a_chain_is_not_shared(self, tmp_path, sources):
        """Two copies of a chain, each its own template: they lie in different places."""
        path, store = sources["2q2k"].structure.cached, Store(tmp_path / "store")
        both = {"B": [(path, "B")], "C": [(path, "C")]}
        prepare(store, Sources(structure=path, templates=both))
        example = store.open("2q2k")
        for number, template in example.templates.items():
            residues = np.flatnonzero(example.structure["residue_chain"] == number)
            starts = example.structure["residue_first_atom"][residues]
            # The first three atoms of a residue are N, Cα and C.
            atoms = starts[:, None] + np.arange(3)
            modelled = example.structure["atom_resolved"][atoms].all(axis=1)
            assert (template["backbone_mask"][0] == modelled).all()
            expected = example.structure["atom_position"][atoms][modelled]
            assert (template["backbone"][0, modelled] == expected).all()
        assert sorted(example.templates) == [1, 2]
        prepare(store, Sources(structure=path, templates={"C": both["C"]}))
        names = {record.path.name for record in store.open("2q2k").templates.values()}
        assert len(names) == 1

    def test_pairing_record_exists_for_distinct_msas_alone(self, tmp_path, structure, sources):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        assert store.open("test").pairing is None
        prepare(store, Sources(structure=sources["2q2k"].structure.cached))
        example = store.open("2q2k")
        assert len(example.alignments) == 2
        assert example.pairing is None
        prepare(store, Sources(structure=sources["1kd8"].structure.cached))
        example = store.open("1kd8")
        every = example.pairing.facts["alignments"]
        assert every == [example.alignments[0].path.name, example.alignments[1].path.name]
        assert example.pairing["rows"].tolist() == [[0, 0]]
        assert "pairing" in example.records()
