"""Inputs of a folder: structures, MSAs of their chains, and files that fit none."""

import os
import re

import pytest

from refsys.data.prepare.folder import folder_contents
from refsys.errors import DataError


def test_names_in_a_folder_may_have_dots_and_underscores(tmp_path):
    for name in ("my_x.1.cif.gz", "my_x.1_A.a3m.gz", "b.BCIF", ".hidden.cif", "notes.txt"):
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / "folder.cif").mkdir()
    one, two = folder_contents(tmp_path).sources
    assert one.structure.name == "b.BCIF"
    assert two.alignments == {"A": tmp_path / "my_x.1_A.a3m.gz"}


@pytest.mark.parametrize("names", [(), ("notes.txt",), ("x.pdb", "x_A.a3m")])
def test_folder_without_a_structure_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="no structure: no file ends in"):
        folder_contents(tmp_path)


@pytest.mark.parametrize(
    ("names", "entries", "reason"),
    [
        (
            ("a.cif", "a.bcif.gz"),
            ["a"],
            r"/a\.cif: not prepared: a\.bcif\.gz is already the entry a",
        ),
        (("A.cif", "a.cif"), ["a"], r"/a\.cif: not prepared: A\.cif is already the entry a"),
        (
            ("a b.cif", "a-b.cif"),
            ["a-b"],
            r"/a-b\.cif: not prepared: a b\.cif is already the entry a-b",
        ),
        (
            ("a.cif", "b_A.a3m"),
            ["a"],
            r"/b_A\.a3m: not used: no structure is called b; expected",
        ),
        (("a.cif", "a.a3m"), ["a"], r"/a\.a3m: not used: no structure is called a; expected"),
        (("a.cif", "a_.a3m"), ["a"], r"/a_\.a3m: not used: no structure is called a; expected"),
        (
            ("a.cif", "a_A.a3m", "a_A.sto"),
            ["a"],
            r"/a_A\.sto: not used: a_A\.a3m is of the same chain; remove one of them",
        ),
        (("A.cif", "a.cif", "a_B.a3m"), ["a"], r"/a_B\.a3m: not used: its structure a\.cif is"),
    ],
)
def test_file_without_an_entry_is_an_error_beside_the_sources(tmp_path, names, entries, reason):
    for name in names:
        (tmp_path / name).write_text("", encoding="utf-8")
    contents = folder_contents(tmp_path)
    assert [sources.name for sources in contents.sources] == entries
    assert re.search(reason, str(contents.errors[-1]))
    assert len(contents.errors) == (2 if names[0] == "A.cif" and len(names) == 3 else 1)


def test_msa_belongs_to_the_longest_matching_name_in_any_case(tmp_path):
    for name in ("a.cif", "a_b.cif", "a_b_c_d.a3m", "A_x_1.a3m", "a_b.a3m"):
        (tmp_path / name).write_text("", encoding="utf-8")
    contents = folder_contents(tmp_path)
    msas_of = {sources.name: dict(sources.alignments) for sources in contents.sources}
    assert msas_of == {
        "a": {"x_1": tmp_path / "A_x_1.a3m", "b": tmp_path / "a_b.a3m"},
        "a_b": {"c_d": tmp_path / "a_b_c_d.a3m"},
    }
    assert not contents.errors


def test_broken_link_counts_as_a_structure(tmp_path):
    (tmp_path / "gone.cif").symlink_to(tmp_path / "nowhere.cif")
    os.mkfifo(tmp_path / "pipe.cif")
    assert [s.name for s in folder_contents(tmp_path).sources] == ["gone"]


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="none: No such file"):
        folder_contents(tmp_path / "none")
