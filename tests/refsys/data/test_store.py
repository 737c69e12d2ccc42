"""Records and the store: names, damage, concurrency, and no pickle."""

import json
import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data import store as store_module
from refsys.data.columns import FORMAT_VERSION, open_columns, record_name, write_columns
from refsys.data.examples import Examples, ExampleSpec
from refsys.data.store import Store
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
    path.write_text(mmcif())
    return path


class TestRecord:
    def test_round_trip(self, record):
        found = open_columns(record, "test")
        assert set(found) == {"a", "b"}
        assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found["b"].tolist() == [b"CA", b"N"]
        assert found.facts == {"source": "here"}
        assert isinstance(found["a"], np.memmap)
        found.verify()

    def test_names_hash_everything(self):
        names = {
            record_name("structure", {"file": "a"}),
            record_name("structure", {"file": "b"}),
            record_name("alignment", {"file": "a"}),
        }
        assert len(names) == 3

    def test_altered_bytes_are_found(self, record):
        path = record / "a.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a.npy: altered since it was written"):
            open_columns(record, "test").verify()

    def test_altered_facts_are_found(self, record):
        path = record / "record.json"
        path.write_text(path.read_text().replace("here", "there"))
        with pytest.raises(DataError, match=r"record\.json: altered since it was written"):
            open_columns(record, "test").verify()

    @pytest.mark.parametrize("keep", [0, 10, 130])
    def test_truncated_columns_are_found(self, record, keep):
        path = record / "a.npy"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError, match=r"a.npy: (damaged|holds)"):
            _ = open_columns(record, "test")["a"]

    def test_foreign_columns_are_found(self, record):
        np.save(record / "a.npy", np.zeros(3))
        with pytest.raises(DataError, match="not the"):
            _ = open_columns(record, "test")["a"]

    def test_pickles_are_not_read(self, record):
        (record / "a.npy").write_bytes(pickle.dumps([1, 2]))
        with pytest.raises(DataError, match="damaged"):
            _ = open_columns(record, "test")["a"]
        np.save(record / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match="damaged"):
            _ = open_columns(record, "test")["a"]

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": "test"}', "[" * 10**5])
    def test_an_unreadable_header_is_named(self, record, text):
        (record / "record.json").write_text(text)
        with pytest.raises(DataError, match=r"record\.json: unreadable"):
            open_columns(record, "test")

    def test_another_kind_or_format_is_refused(self, record):
        with pytest.raises(DataError, match="a record of kind 'test'"):
            open_columns(record, "alignment")
        header = json.loads((record / "record.json").read_text())
        header["format"] = FORMAT_VERSION + 1
        (record / "record.json").write_text(json.dumps(header))
        with pytest.raises(
            DataError,
            match=f"format {FORMAT_VERSION + 1}; expected 'test', format {FORMAT_VERSION}",
        ):
            open_columns(record, "test")

    def test_a_missing_record_and_an_unwritable_place(self, tmp_path):
        with pytest.raises(DataError, match="no such record"):
            open_columns(tmp_path / "none", "test")
        (tmp_path / "file").write_text("")
        with pytest.raises(
            DataError, match=r"cannot write the record: (Not a directory|File exists)"
        ):
            write_columns(tmp_path / "file" / "r", "test", {}, {})


class TestStore:
    def test_prepared_once(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        assert store.prepare(structure, {}).built == 2
        assert store.prepare(structure, {}).built == 0
        assert store.entries() == ["test"]
        assert store.open("test").tokens == 6

    def test_a_changed_source_is_another_record(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        store.prepare(structure, {})
        structure.write_text(mmcif() + "# a comment\n")
        assert store.prepare(structure, {}).built == 1

    def test_changed_code_is_another_record(self, tmp_path, structure, monkeypatch):
        store = Store(tmp_path / "store")
        store.prepare(structure, {})
        monkeypatch.setattr(store_module, "_makers_digest", lambda kind: "other code")
        assert store.prepare(structure, {}).built == 2

    def test_damaged_records_are_built_again(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        store.prepare(structure, {})
        for path in (tmp_path / "store" / "records").rglob("*.npy"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        assert store.prepare(structure, {}).built == 2
        assert store.open("test").tokens == 6

    def test_alignments_go_to_every_chain_of_their_sequence(self, tmp_path, structure):
        alignment = tmp_path / "a.a3m"
        alignment.write_text(">q\nMGXA\n>1\nMG-A\n")
        store = Store(tmp_path / "store")
        store.prepare(structure, {"A": alignment})
        assert len(store.open("test").alignments[0]["codes"]) == 2

    def test_each_chain_has_its_own_alignment_where_one_is_given(self, tmp_path):
        structure = tmp_path / "dimer.cif"
        chains = part.CHAINS.replace("A 1\n", "A 1\nD 1\n")
        rows = [*part.ATOM_ROWS[:8], part.ATOM_ROWS[5].replace(" A 1 ", " D 1 ")]
        structure.write_text(mmcif(chains=chains, atoms=[*rows, part.ATOM_ROWS[8]]))
        for name, other in (("a", ""), ("d", ">1\nMG-A\n")):
            (tmp_path / f"{name}.a3m").write_text(f">q\nMGXA\n{other}")
        store = Store(tmp_path / "store")
        store.prepare(structure, {"A": tmp_path / "a.a3m", "D": tmp_path / "d.a3m"})
        found = store.open("test").alignments
        assert {number: len(record["codes"]) for number, record in found.items()} == {0: 1, 1: 2}

    @pytest.mark.parametrize(
        "block", ["/tmp/victim", "../../x", "", "a/b", "x" * 300, "synthetic", "Synthetic"]
    )
    def test_a_data_block_that_cannot_name_an_entry_is_refused(self, tmp_path, structure, block):
        structure.write_text(mmcif(header=f"data_{block}\n#\n"))
        with pytest.raises(DataError, match=r"test\.cif: data block .* cannot name an entry"):
            Store(tmp_path / "store").prepare(structure, {})
        assert not (tmp_path / "store").exists()

    @pytest.mark.parametrize("entry", ["../examples/test", "", "/etc/passwd"])
    def test_a_path_is_not_an_entry(self, tmp_path, structure, entry):
        store = Store(tmp_path / "store")
        store.prepare(structure, {})
        with pytest.raises(DataError, match="is not the name of an entry"):
            store.open(entry)

    def test_replacing_an_entry_by_another_file_is_said(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        assert store.prepare(structure, {}).replaced is None
        assert store.prepare(structure, {}).replaced is None
        other = tmp_path / "other.cif"
        other.write_text(mmcif() + "# another\n")
        assert store.prepare(other, {}).replaced == "test.cif"

    def test_what_stands_in_a_records_place_is_replaced(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        store.prepare(structure, {})
        path = store.open("test").structure.path
        shutil.rmtree(path)
        path.write_text("")
        assert store.prepare(structure, {}).built == 1

    def test_a_store_that_cannot_be_written_is_one_line(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        store.prepare(structure, {})
        shutil.rmtree(tmp_path / "store" / "examples")
        (tmp_path / "store" / "examples").write_text("")
        with pytest.raises(DataError, match="examples: "):
            store.prepare(structure, {})

    @pytest.mark.parametrize(
        "manifest",
        [
            *('{"structure": null}', '{"structure": "x", "alignments": [1]}', "[]", "[" * 10**5),
            '{"structure": "x", "alignments": {"A": "y"}}',
        ],
    )
    def test_a_damaged_manifest_is_one_line(self, tmp_path, structure, manifest):
        store = Store(tmp_path / "store")
        store.prepare(structure, {})
        (tmp_path / "store" / "examples" / "test.json").write_text(manifest)
        with pytest.raises(DataError, match=r"test\.json: unreadable .* again"):
            store.open("test")

    def test_damage_is_found_before_it_is_used(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        store.prepare(structure, {})
        path = store.open("test").structure.path / "atom_position.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"atom_position\.npy: altered"):
            Examples(store, ["test"], ExampleSpec(tokens=4, alignment_rows=1))
        trunk = catalogue()["alphafold3-trunk"]
        with pytest.raises(UnsupportedError, match=r"altered.*run 'foldperf prepare' again"):
            trunk.inputs(trunk.configure({"entry": "test"}), store.root)

    def test_an_alignment_of_another_sequence_is_refused(self, tmp_path, structure):
        alignment = tmp_path / "a.a3m"
        alignment.write_text(">q\nMGWW\n")
        with pytest.raises(DataError, match=r"a\.a3m: the query has W in column 4"):
            Store(tmp_path / "store").prepare(structure, {"A": alignment})

    def test_an_alignment_of_a_chain_that_is_no_protein_is_refused(self, tmp_path, structure):
        with pytest.raises(DataError, match="an alignment is given for B, but its protein chains"):
            Store(tmp_path / "store").prepare(structure, {"B": tmp_path / "a.a3m"})

    def test_an_entry_that_is_not_there_says_what_is(self, tmp_path, structure):
        store = Store(tmp_path / "store")
        with pytest.raises(DataError, match=r"1abc is not prepared \(have: nothing\)"):
            store.open("1abc")
        store.prepare(structure, {})
        with pytest.raises(DataError, match=r"\(have: test\)"):
            store.open("1abc")
        (tmp_path / "store" / "examples" / "test.json").write_text("{")
        with pytest.raises(DataError, match="unreadable"):
            store.open("test")

    def test_several_processes_build_the_same_at_once(self, tmp_path, structure):
        context = multiprocessing.get_context("spawn")
        with context.Pool(4) as pool:
            arguments = [(tmp_path / "store", structure)] * 8
            assert set(pool.starmap(prepare, arguments)) == {6}
        Store(tmp_path / "store").open("test").structure.verify()
        assert not list((tmp_path / "store").rglob(".*")), "something half-written was left"


def prepare(root, structure):
    store = Store(root)
    store.prepare(structure, {})
    return store.open("test").tokens
