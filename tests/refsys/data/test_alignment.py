"""A3M in: rows, deletions, profiles, and what is refused."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refsys.data.alignment import query_only, read_a3m
from refsys.data.vocabulary import AMINO_ACIDS, GAP, PROTEIN_LETTERS, UNKNOWN
from refsys.errors import DataError

LETTERS = "".join(AMINO_ACIDS.values())


@pytest.fixture
def read(tmp_path):
    def read(text, query=None, name="x.a3m"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_a3m(path, query)

    return read


def codes(row):
    return PROTEIN_LETTERS[np.frombuffer(row.encode(), np.uint8)].tolist()


def test_rows_and_deletions(read):
    found = read("#a comment\n>q\nMKV\n>1 x\nM-V\n>2\naaMk\nAcV\n\n>3\nMKVgg\n")
    assert found["codes"].tolist() == [codes("MKV"), codes("M-V"), codes("MAV")]
    assert found["deletions"].tolist() == [[0, 0, 0], [0, 0, 0], [2, 1, 1]]


def test_repeated_rows_are_dropped_and_order_is_kept(read):
    found = read(">q\nMKV\n>1\nM-V\n>2\nM-aV\n>3\nMKV\n>4\nMAV\n")
    assert found["codes"].tolist() == [codes("MKV"), codes("M-V"), codes("MAV")]


def test_profile_and_deletion_mean(read):
    found = read(">q\nMK\n>1\nM-\n>2\naAK\n>3\nMW\n")
    assert found["profile"].sum(axis=1).tolist() == [1, 1]
    assert found["profile"][0, codes("M")[0]] == 0.75
    assert found["profile"][1, GAP] == 0.25
    assert found["deletion_mean"].tolist() == [0.25, 0]


def test_rare_letters_are_read_as_the_released_model_does_and_deletions_saturate(read):
    found = read(">q\nXBZJOU\n>1\n" + "a" * 300 + "AAAAAA\n")
    assert found["codes"][0].tolist() == [UNKNOWN, *codes("DE"), UNKNOWN, UNKNOWN, *codes("C")]
    assert found["deletions"][1, 0] == 255


def test_gzip_and_query(read):
    assert len(read(gzip.compress(b">q\nMKV\n"), "MKV", "x.a3m.gz")["codes"]) == 1
    assert len(read(">q\nMKV\n", "MXV")["codes"]) == 1
    assert query_only("MXV")["codes"].tolist() == [codes("MXV")]


@pytest.mark.parametrize(
    ("text", "query", "message"),
    [
        ("", None, "no rows: empty or truncated"),
        ("\n\n", None, "no rows"),
        ("MKV\n", None, "line 1: not A3M: expected '>'"),
        (">q\nMKV\n>1\n", None, "line 3: a header without a sequence"),
        (">q\nMKV\n>1\nMK\n", None, "line 3: 2 aligned columns; the query has 3"),
        (">q\nMKV\n>1\nMK*\n", None, "line 3: '\\*' in column 3 is not a residue or a gap"),
        (">q\nM-V\n", None, "line 1: the query has a gap in column 2"),
        (bytes(range(256)), None, "line 1: not A3M"),
        (b">q\nMK\xff\n", None, "is not a residue or a gap"),
        (">q\nMKV\n", "MKVA", "the query has 3 residues; the chain has 4"),
        (">q\nMKV\n", "MAV", "the query has K in column 2; the chain has A"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(read, text, query, message):
    with pytest.raises(DataError, match=message) as caught:
        read(text, query)
    assert "x.a3m" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_truncated_files(read, tmp_path):
    with pytest.raises(DataError, match="not readable"):
        read_a3m(tmp_path / "none.a3m")
    with pytest.raises(DataError, match="not readable"):
        read(gzip.compress(b">q\n" + b"MKV" * 400)[:-12], name="x.a3m.gz")
    with pytest.raises(DataError, match="not readable"):
        read(b"not gzip", name="x.a3m.gz")


rows = st.integers(1, 12).flatmap(
    lambda width: st.lists(
        st.lists(
            st.tuples(st.text("acdefg", max_size=3), st.sampled_from(LETTERS + "-")),
            min_size=width,
            max_size=width,
        ),
        min_size=1,
        max_size=8,
    )
)


@given(rows)
def test_a_written_alignment_is_read_back(tmp_path_factory, drawn):
    query = [("", "A" if letter == "-" else letter) for _, letter in drawn[0]]
    seen = []
    for row in (tuple(query), *map(tuple, drawn[1:])):
        letters = [letter for _, letter in row]
        if letters not in [[letter for _, letter in other] for other in seen]:
            seen.append([(len(inserted), letter) for inserted, letter in row])
    text = "".join(
        f">{number}\n{''.join(inserted + letter for inserted, letter in row)}\n"
        for number, row in enumerate((query, *drawn[1:]))
    )
    path = tmp_path_factory.mktemp("a3m") / "x.a3m"
    path.write_text(text)
    found = read_a3m(path)
    assert found["codes"].tolist() == [codes("".join(x for _, x in row)) for row in seen]
    assert found["deletions"].tolist() == [[n for n, _ in row] for row in seen]


def test_the_real_alignment(sources, store):
    alignment = store.open("8vkf").alignments[0]
    assert alignment["codes"].shape == (10_000, 410)
    lines = sources["8vkf"].alignments["A"].cached.read_text().split("\n>")
    for number in (0, 1, 4321, 9_999):
        sequence = "".join(lines[number].splitlines()[1:])
        upper = [letter for letter in sequence if not letter.islower()]
        assert alignment["codes"][number].tolist() == codes("".join(upper))
        counts, pending = [], 0
        for letter in sequence:
            if letter.islower():
                pending += 1
            else:
                counts.append(pending)
                pending = 0
        assert alignment["deletions"][number].tolist() == counts
