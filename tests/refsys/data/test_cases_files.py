"""Small files of other tools and failed downloads, each with its expected outcome."""

import gzip
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support import mmcif as parts
from support.mmcif import SEQUENCE

from bench.cli import main
from refsys.data.store.store import Store
from refsys.data.vocabulary import PROTEIN_LETTERS

CASES = Path(__file__).resolve().parents[2] / "cases"
QUERY = "MGSKACDHFWLV"
HIT = "MGTKACDHYWLV"
# The connections of the parts are too long for bonds, which is said.
mmcif = partial(parts.mmcif, connections="")


@pytest.fixture
def prepare(tmp_path, capsys):
    """Run ``foldperf prepare`` and return status, store, output and error output."""

    def run(*words):
        store = tmp_path / "store"
        status = main(["prepare", *map(str, words), "--store", str(store)])
        captured = capsys.readouterr()
        return status, Store(store), captured.out, captured.err

    return run


@pytest.fixture
def folder(tmp_path):
    """Write files into a folder and return it."""

    def write(files):
        folder = tmp_path / "folder"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write


def letters(sequence):
    return PROTEIN_LETTERS[np.frombuffer(sequence.encode(), np.uint8)].tolist()


@pytest.mark.parametrize(
    ("case", "note"),
    [
        ("aln_bom", ""),
        ("aln_colabfold_nul_end", ""),
        ("aln_star_end", ""),
        (
            "aln_hhsuite_ss",
            "foldperf: q.cif: in_A.a3m: skipped ss_pred, ss_conf: annotation, not sequences\n",
        ),
    ],
)
def test_msa_of_another_tool_is_read_as_its_two_sequences(prepare, case, note):
    files = CASES / case
    for _ in range(2):
        status, store, _, errors = prepare(
            files / "q.cif", "--alignment", f"A={files / 'in_A.a3m'}"
        )
        assert (status, errors) == (0, note)
    (entry,) = store.entries()
    assert store.open(entry).alignments[0]["codes"].tolist() == [letters(QUERY), letters(HIT)]


def test_msa_with_a_lower_case_query_is_refused(prepare):
    files = CASES / "aln_lower_query"
    status, store, _, errors = prepare(files / "q.cif", "--alignment", f"A={files / 'in_A.a3m'}")
    assert status == 2
    assert errors == (
        f"foldperf: {files / 'in_A.a3m'}: line 1: the query has no aligned column; it is in lower "
        "case, which A3M has for insertions: write it in upper case\n"
    )
    assert not store.entries()


def test_structure_with_a_byte_order_mark_is_read(prepare):
    status, store, out, errors = prepare("--from", CASES / "bom")
    assert (status, errors) == (0, "")
    assert out == "in: 12 tokens, 2 records built; data block crlf\n"
    assert store.open("in").tokens == 12


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("pdb_as_cif", "in PDB format; convert it, for example with 'gemmi convert', or download"),
        ("gz_named_cif", "gzip-compressed; add .gz to its name, or unpack it"),
    ],
)
def test_structure_of_another_format_is_refused(prepare, case, kind):
    status, store, _, errors = prepare("--from", CASES / case)
    assert status == 2
    path = CASES / case / "in.cif"
    assert errors.startswith(f"foldperf: {path}: not readable as mmCIF: the file is {kind}")
    assert errors.count("\n") == 1
    assert not store.entries()


def test_files_that_share_a_data_block_are_separate_entries(prepare):
    status, store, out, errors = prepare("--from", CASES / "folder_same_block", "--workers", 0)
    assert (status, errors) == (0, "")
    assert store.entries() == ["p0", "p1", "p2"]
    for entry in store.entries():
        assert f"{entry}: 12 tokens, " in out
        facts = store.open(entry).structure.facts
        assert (facts["entry"], facts["block"], facts["entry_id"]) == (entry, "model", "")
    assert out.count("; data block model\n") == 3


def test_structure_that_cannot_be_stored_does_not_stop_the_others_of_its_folder(prepare):
    status, store, out, errors = prepare("--from", CASES / "folder_nonascii", "--workers", 0)
    assert status == 2
    assert errors.startswith(f"foldperf: {CASES / 'folder_nonascii' / 'b.cif'}: ")
    assert errors.count("\n") == 1
    assert "b.cif: not prepared" in out
    assert store.entries() == ["a", "c"]


def test_compressed_files_are_read_for_any_case_of_their_suffixes(prepare, folder):
    text = mmcif().encode()
    inputs = folder({"One.CIF.GZ": gzip.compress(text), "two.mmCIF": b"\xef\xbb\xbf" + text})
    status, store, _, errors = prepare("--from", inputs, "--workers", 0)
    assert (status, errors) == (0, "")
    assert store.entries() == ["one", "two"]


@pytest.mark.parametrize(
    ("blocks", "note"),
    [
        (
            [mmcif(), mmcif(header="data_SECOND\n")],
            "data block TEST is read; ignored: 1 other structure (SECOND)",
        ),
        (
            ["data_comment\n_a.b c\n", *(mmcif(header=f"data_m{i}\n") for i in range(5))],
            "data block m0 is read; ignored: 4 other structures (m1, m2, m3, ...) and 1 data block "
            "without atoms",
        ),
        (
            [mmcif(), "data_comp_ZN\n_a.b c\n", "data_comp_MSE\n_a.b c\n"],
            "data block TEST is read; ignored: 2 data blocks without atoms",
        ),
    ],
)
def test_other_data_blocks_of_a_file_are_reported(prepare, folder, blocks, note):
    inputs = folder({"x.cif": "".join(blocks)})
    for _ in range(2):
        status, store, _, errors = prepare("--from", inputs)
        assert (status, errors) == (0, f"foldperf: x.cif: {note}\n")
    (entry,) = store.entries()
    assert store.open(entry).structure.facts["notes"] == [note]


def test_names_inside_a_file_are_printed_when_they_differ_from_the_entry(prepare, folder):
    entry_id = "_entry.id 9XYZ\n"
    inputs = folder(
        {
            "test.cif": mmcif(),
            "a.cif": mmcif(header=f"data_9XYZ\n{entry_id}"),
            "b.cif": mmcif(header=f"data_model\n{entry_id}"),
            "9xyz.cif": mmcif(header=f"data_9XYZ\n{entry_id}# again\n"),
            "c.cif": mmcif(header="data_\n"),
        }
    )
    _, store, out, _ = prepare("--from", inputs, "--workers", 0)
    lines = dict(line.partition("] ")[2].split(": ", 1) for line in out.splitlines()[:5])
    identity = {entry: text.partition("built; ")[2] for entry, text in lines.items()}
    assert identity == {
        "test": "",
        "a": "data block 9XYZ",
        "b": "data block model, _entry.id 9XYZ",
        "9xyz": "",
        "c": "data block (without a name)",
    }
    assert store.open("b").structure.facts["entry_id"] == "9XYZ"


def test_single_file_is_named_by_its_data_block(prepare, folder):
    inputs = folder({"p0.cif": mmcif()})
    status, store, out, _ = prepare(inputs / "p0.cif")
    assert status == 0
    assert out.startswith("test: ")
    assert store.entries() == ["test"]


FIVE_BROKEN = {
    "b0.cif": mmcif()[:900],
    "b1.cif": b"\x1f\x8b\x08 not a whole stream",
    "b2.cif": "<!DOCTYPE html><html><body>404</body></html>",
    "b3.cif": mmcif().replace(" 8.5 3.0 0.0 ", " 8.5 nan 0.0 "),
    "b4.cif": "",
}


def test_broken_files_are_one_line_each_beside_the_prepared_ones(prepare, folder):
    sound = {f"s{number}.cif": f"# {number}\n{mmcif()}" for number in range(45)}
    status, store, out, errors = prepare("--from", folder(sound | FIVE_BROKEN), "--workers", 0)
    assert status == 2
    assert store.entries() == sorted(Path(name).stem for name in sound)
    lines = sorted(errors.splitlines())
    assert len(lines) == 5
    for name, line in zip(FIVE_BROKEN, lines, strict=True):
        assert f"/{name}: " in line
        assert f"{name}: not prepared" in out


def test_misplaced_msa_of_a_folder_is_reported_beside_the_prepared_ones(prepare, folder):
    inputs = folder({"x.cif": mmcif(), "y_A.a3m": ">q\nMGXA\n"})
    status, store, _, errors = prepare("--from", inputs)
    assert status == 2
    assert errors == (
        f"foldperf: {inputs / 'y_A.a3m'}: not used: no structure is called y; expected NAME_CHAIN\n"
    )
    assert store.entries() == ["x"]


def test_files_with_names_of_any_bytes_are_prepared_and_printed(prepare, folder):
    inputs = folder({"x.cif": mmcif(), "α β.cif": f"# 2\n{mmcif()}", "two\nlines.cif": "data_\n"})
    shutil.copy(inputs / "x.cif", bytes(inputs) + b"/\xff.cif")
    status, store, out, errors = prepare("--from", inputs, "--workers", 0)
    assert status == 2
    assert len(store.entries()) == 3
    assert errors.count("\n") == 1
    assert "two lines.cif: no _atom_site category" in errors
    out.encode("utf-8")


def test_msa_of_an_alternative_component_is_accepted(prepare, folder):
    sequence = SEQUENCE.replace("1 2 GLY\n", "1 2 GLY\n1 2 SER\n1 2 SEP\n")
    text = mmcif(sequence=sequence)
    inputs = folder(
        {"x.cif": text, "x_A.a3m": ">q\nMSXA\n>1\nMSXA\n", "y.cif": text, "y_A.a3m": ">q\nMTXA\n"}
    )
    status, store, _, errors = prepare("--from", inputs, "--workers", 0)
    assert status == 2
    assert errors == (
        f"foldperf: {inputs / 'y_A.a3m'}: the query has T in column 2; the chain has G or S\n"
    )
    (entry,) = store.entries()
    example = store.open(entry)
    assert example.structure.facts["chains"][0]["sequence"] == "MGMA"
    assert example.alignments[0]["codes"].tolist() == [letters("MGMA"), letters("MSXA")]
