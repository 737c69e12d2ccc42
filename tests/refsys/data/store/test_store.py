"""Store of prepared entries: building, damage, sweeping and concurrency."""

import multiprocessing
import shutil

import pytest
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.examples import Examples
from refsys.data.prepare import entries
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store
from refsys.errors import DataError
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError


@pytest.fixture
def structure(tmp_path):
    path = tmp_path / "test.cif"
    path.write_text(mmcif(), encoding="utf-8")
    return path


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
