"""Records and the store: names, damage, concurrency, and no pickle."""

import dataclasses
import json
import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.examples import Examples
from refsys.data.prepare import entries
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.columns import FORMAT_VERSION, open_columns, record_name, write_columns
from refsys.data.store.store import Store
from refsys.errors import DataError
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "record"
    columns = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.array([b"CA", b"N"])}
    write_columns(path, "test", columns, {"source": "here"})
    return path


@pytest.fixture
def structure(tmp_path):
    path = tmp_path / "test.cif"
    path.write_text(mmcif(), encoding="utf-8")
    return path


class TestRecord:
    def test_written_record_is_read_back(self, record):
        result = open_columns(record, "test")
        assert set(result) == {"a", "b"}
        assert result["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert result["b"].tolist() == [b"CA", b"N"]
        assert result.facts == {"source": "here"}
        assert isinstance(result["a"], np.memmap)
        result.verify()

    def test_record_name_hashes_kind_and_sources(self):
        names = {
            record_name("structure", {"file": "a"}),
            record_name("structure", {"file": "b"}),
            record_name("alignment", {"file": "a"}),
        }
        assert len(names) == 3

    def test_altered_column_is_detected(self, record):
        path = record / "a.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a.npy: altered since it was written"):
            open_columns(record, "test").verify()

    def test_altered_facts_are_detected(self, record):
        path = record / "record.json"
        path.write_text(path.read_text(encoding="utf-8").replace("here", "there"), encoding="utf-8")
        with pytest.raises(DataError, match=r"record\.json: altered since it was written"):
            open_columns(record, "test").verify()

    @pytest.mark.parametrize("keep", [0, 10, 130])
    def test_truncated_column_is_detected(self, record, keep):
        path = record / "a.npy"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError, match=r"a.npy: (damaged|holds)"):
            _ = open_columns(record, "test")["a"]

    def test_column_of_another_shape_is_detected(self, record):
        np.save(record / "a.npy", np.zeros(3))
        with pytest.raises(DataError, match="not the"):
            _ = open_columns(record, "test")["a"]

    def test_pickled_column_is_refused(self, record):
        (record / "a.npy").write_bytes(pickle.dumps([1, 2]))
        with pytest.raises(DataError, match="damaged"):
            _ = open_columns(record, "test")["a"]
        np.save(record / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match="damaged"):
            _ = open_columns(record, "test")["a"]

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": "test"}', "[" * 10**5])
    def test_unreadable_header_is_refused(self, record, text):
        (record / "record.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"record\.json: unreadable"):
            open_columns(record, "test")

    def test_record_of_another_kind_or_format_is_refused(self, record):
        with pytest.raises(DataError, match="a record of kind 'test'"):
            open_columns(record, "alignment")
        header = json.loads((record / "record.json").read_text(encoding="utf-8"))
        header["format"] = FORMAT_VERSION + 1
        (record / "record.json").write_text(json.dumps(header), encoding="utf-8")
        with pytest.raises(
            DataError,
            match=f"format {FORMAT_VERSION + 1}; expected 'test', format {FORMAT_VERSION}",
        ):
            open_columns(record, "test")

    def test_missing_record_and_unwritable_folder_are_refused(self, tmp_path):
        with pytest.raises(DataError, match="no such record"):
            open_columns(tmp_path / "none", "test")
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(
            DataError, match=r"cannot write the record: (Not a directory|File exists)"
        ):
            write_columns(tmp_path / "file" / "r", "test", {}, {})


class TestStore:
    def test_entry_is_built_once(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        assert prepare(store, Sources(structure=structure)).built == 2
        assert prepare(store, Sources(structure=structure)).built == 0
        assert store.entries() == ["test"]
        assert store.open("test").tokens == 5

    def test_changed_source_builds_another_record(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        structure.write_text(mmcif() + "# a comment\n", encoding="utf-8")
        assert prepare(store, Sources(structure=structure)).built == 1

    def test_changed_code_builds_another_record(self, tmp_path, structure, monkeypatch):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        monkeypatch.setattr(entries, "_sources_digest", lambda kind: "other code")
        assert prepare(store, Sources(structure=structure)).built == 2

    def test_damaged_records_are_rebuilt(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        for path in (tmp_path / "store" / "records").rglob("*.npy"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        assert prepare(store, Sources(structure=structure)).built == 2
        assert store.open("test").tokens == 5

    def test_prepared_summary_lists_repairs(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        assert prepare(store, Sources(structure=structure)).repaired == ()
        record = store.open("test").structure.path
        (record / "atom_position.npy").write_bytes(b"")
        (store.open("test").alignments[0].path / "record.json").unlink()
        one, two = prepare(store, Sources(structure=structure)).repaired
        assert "atom_position.npy: damaged column" in one
        assert "no such record" in two
        assert prepare(store, Sources(structure=structure)).repaired == ()

    def test_sweep_removes_unfinished_files(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        record = store.open("test").structure.path
        half = record.with_name(f".{record.name}.99999.0123abcd")
        half.mkdir()
        (half / "atom_position.npy").write_bytes(b"x")
        (tmp_path / "store" / "examples" / ".test.json.99999.0123abcd").write_text(
            "{", encoding="utf-8"
        )
        assert store.sweep() == 2
        assert store.sweep() == 0
        assert not list((tmp_path / "store").rglob(".*"))
        store.open("test").verify()

    def test_sweep_spares_records_being_built(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        record = store.open("test").structure.path
        record.with_name(f".{record.name}.1.0123abcd").mkdir()
        context = multiprocessing.get_context("spawn")
        with store._held(record), context.Pool(1) as pool:
            assert pool.apply(store.sweep) == 0
        with context.Pool(1) as pool:
            assert pool.apply(store.sweep) == 1

    def test_msa_is_shared_by_chains_of_its_sequence(self, tmp_path, structure):
        alignment = tmp_path / "a.a3m"
        alignment.write_text(">q\nMGXA\n>1\nMG-A\n", encoding="utf-8")
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure, alignments={"A": alignment}))
        assert len(store.open("test").alignments[0]["codes"]) == 2

    def test_given_msa_of_a_chain_is_not_shared(self, tmp_path):
        structure = tmp_path / "dimer.cif"
        chains = part.CHAINS.replace("A 1\n", "A 1\nD 1\n")
        rows = [*part.ATOM_ROWS[:8], part.ATOM_ROWS[5].replace(" A 1 ", " D 1 ")]
        structure.write_text(
            mmcif(chains=chains, atoms=[*rows, part.ATOM_ROWS[8]]), encoding="utf-8"
        )
        for name, other in (("a", ""), ("d", ">1\nMG-A\n")):
            (tmp_path / f"{name}.a3m").write_text(f">q\nMGXA\n{other}", encoding="utf-8")
        store = Store(tmp_path / "store")
        alignments = {"A": tmp_path / "a.a3m", "D": tmp_path / "d.a3m"}
        prepare(store, Sources(structure=structure, alignments=alignments))
        result = store.open("test").alignments
        assert {number: len(record["codes"]) for number, record in result.items()} == {0: 1, 1: 2}

    @pytest.mark.parametrize(
        "block", ["/tmp/victim", "../../x", "", "a/b", "x" * 300, "synthetic", "Synthetic"]
    )
    def test_entry_is_named_by_its_file_when_the_data_block_cannot_name_it(
        self, tmp_path, structure, block
    ):
        structure = structure.rename(tmp_path / "My File.cif")
        structure.write_text(mmcif(header=f"data_{block}\n#\n"), encoding="utf-8")
        done = prepare(Store(tmp_path / "store"), Sources(structure=structure))
        assert done.entry == "my-file"
        assert done.identity == f"data block {block or '(without a name)'}"
        assert Store(tmp_path / "store").open("my-file").structure.facts["block"] == block

    @pytest.mark.parametrize("entry", ["../examples/test", "", "/etc/passwd"])
    def test_path_is_refused_as_entry_name(self, tmp_path, structure, entry):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        with pytest.raises(DataError, match="is not the name of an entry"):
            store.open(entry)

    def test_replaced_source_file_is_reported(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        assert prepare(store, Sources(structure=structure)).replaced is None
        assert prepare(store, Sources(structure=structure)).replaced is None
        other = tmp_path / "other.cif"
        other.write_text(mmcif() + "# another\n", encoding="utf-8")
        assert prepare(store, Sources(structure=other)).replaced == "test.cif"

    def test_file_in_place_of_a_record_is_replaced(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        path = store.open("test").structure.path
        shutil.rmtree(path)
        path.write_text("", encoding="utf-8")
        assert prepare(store, Sources(structure=structure)).built == 1

    def test_unwritable_store_is_refused_in_one_line(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        shutil.rmtree(tmp_path / "store" / "examples")
        (tmp_path / "store" / "examples").write_text("", encoding="utf-8")
        with pytest.raises(DataError, match="examples: "):
            prepare(store, Sources(structure=structure))

    @pytest.mark.parametrize(
        "manifest",
        [
            *('{"structure": null}', '{"structure": "x", "alignments": [1]}', "[]", "[" * 10**5),
            '{"structure": "x", "alignments": {"A": "y"}}',
            '{"structure": "x", "alignments": {}, "templates": {}}',
        ],
    )
    def test_damaged_manifest_is_refused_in_one_line(self, tmp_path, structure, manifest):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        (tmp_path / "store" / "examples" / "test.json").write_text(manifest, encoding="utf-8")
        with pytest.raises(DataError, match=r"test\.json: unreadable .* again"):
            store.open("test")

    def test_damaged_record_is_detected_before_use(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=structure))
        path = store.open("test").structure.path / "atom_position.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"atom_position\.npy: altered"):
            Examples(store, ["test"], ExampleSpec(tokens=4, alignment_rows=1))
        trunk = catalogue()["alphafold3-trunk"]
        with pytest.raises(UnsupportedError, match=r"altered.*run 'foldperf prepare' again"):
            trunk.inputs(trunk.configure({"entry": "test"}), store.root)

    def test_msa_of_another_sequence_is_refused(self, tmp_path, structure):
        alignment = tmp_path / "a.a3m"
        alignment.write_text(">q\nMGMW\n", encoding="utf-8")
        store = Store(tmp_path / "store")
        with pytest.raises(DataError, match=r"a\.a3m: the query has W in column 4"):
            prepare(store, Sources(structure=structure, alignments={"A": alignment}))

    def test_msa_of_a_chain_that_is_not_a_protein_is_refused(self, tmp_path, structure):
        wrong = {"B": tmp_path / "a.a3m"}
        with pytest.raises(DataError, match="an MSA is given for B, but its protein chains"):
            prepare(Store(tmp_path / "store"), Sources(structure=structure, alignments=wrong))

    def test_missing_entry_is_refused_with_the_available_ones(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        with pytest.raises(DataError, match=r"1abc is not prepared \(have: nothing\)"):
            store.open("1abc")
        prepare(store, Sources(structure=structure))
        with pytest.raises(DataError, match=r"\(have: test\)"):
            store.open("1abc")
        (tmp_path / "store" / "examples" / "test.json").write_text("{", encoding="utf-8")
        with pytest.raises(DataError, match="unreadable"):
            store.open("test")

    def test_concurrent_processes_build_one_record(self, tmp_path, structure):
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            arguments = [(Store(tmp_path / "store"), Sources(structure=structure))] * 8
            result = pool.starmap(prepare, arguments)
        assert {done.tokens for done in result} == {5}
        assert sum(done.built for done in result) == 2, "one process builds, the others wait"
        Store(tmp_path / "store").open("test").structure.verify()
        assert not list((tmp_path / "store").rglob(".*")), "unfinished files"


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
