"""Readers of A3M and Parquet: rows, deletions, profiles, species, and refusals."""

import gzip
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from refsys.data.formats.msa import query_only, read_msa
from refsys.data.vocabulary import AMINO_ACIDS, GAP, PROTEIN_LETTERS, UNKNOWN
from refsys.errors import DataError

LETTERS = "".join(AMINO_ACIDS.values())


@pytest.fixture
def read(tmp_path):
    def read(text, query=None, name="x.a3m"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_msa(path, query)

    return read


def codes(row):
    return PROTEIN_LETTERS[np.frombuffer(row.encode(), np.uint8)].tolist()


def test_a3m_has_expected_rows_and_deletions(read):
    result = read("#a comment\n>q\nMKV\n>1 x\nM-V\n>2\naaMk\nAcV\n\n>3\nMKVgg\n")
    assert result["codes"].tolist() == [codes("MKV"), codes("M-V"), codes("MAV")]
    assert result["deletions"].tolist() == [[0, 0, 0], [0, 0, 0], [2, 1, 1]]


def test_repeated_rows_are_dropped_in_order(read):
    result = read(">q\nMKV\n>1\nM-V\n>2\nM-aV\n>3\nMKV\n>4\nMAV\n")
    assert result["codes"].tolist() == [codes("MKV"), codes("M-V"), codes("MAV")]


def test_profile_and_deletion_mean_are_averages_over_rows(read):
    result = read(">q\nMK\n>1\nM-\n>2\naAK\n>3\nMW\n")
    assert result["profile"].sum(axis=1).tolist() == [1, 1]
    assert result["profile"][0, codes("M")[0]] == 0.75
    assert result["profile"][1, GAP] == 0.25
    assert result["deletion_mean"].tolist() == [0.25, 0]


def test_rare_letters_map_as_in_the_released_model_and_deletions_saturate(read):
    result = read(">q\nXBZJOU\n>1\n" + "a" * 300 + "AAAAAA\n")
    assert result["codes"][0].tolist() == [UNKNOWN, *codes("DE"), UNKNOWN, UNKNOWN, *codes("C")]
    assert result["deletions"][1, 0] == 255


def test_compressed_a3m_and_unknown_residues_match_the_query(read):
    assert len(read(gzip.compress(b">q\nMKV\n"), "MKV", "x.a3m.gz")["codes"]) == 1
    assert len(read(">q\nMKV\n", "MXV")["codes"]) == 1
    assert query_only("MXV")["codes"].tolist() == [codes("MXV")]


@pytest.mark.parametrize(("first", "chain"), [("MXV", "MKV"), ("MKV", "MXV"), ("MUV", "MXV")])
def test_first_row_is_the_chains_own_sequence_where_either_has_an_x(read, first, chain):
    result = read(f">q\n{first}\n>1\n{first}\n>2\n{chain}\n>3\nMA-\n", chain)
    assert result["codes"].tolist() == [codes(chain), codes(first), codes("MA-")]
    assert result["profile"][1, codes(chain)[1]] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "query", "message"),
    [
        ("", None, "no rows: empty or truncated"),
        ("\n\n", None, "no rows"),
        ("MKV\n", None, "line 1: not A3M: expected '>'"),
        (">q\nMKV\n>1\n", None, "line 3: a header without a sequence"),
        (">q\nMKV\n>1\nMK\n", None, "line 3: 2 aligned columns; the query has 3"),
        (">q\nMKV\n>1\nM*V\n", None, "line 3: '\\*' in column 2 is not a residue or a gap"),
        (">q\nM-V\n", None, "line 1: the query has a gap in column 2"),
        (">q\nmkv\n>1\nmk\n", None, "line 1: the query has no aligned column"),
        (bytes(range(256)), None, "line 1: not A3M"),
        (b">q\nMK\xff\n", None, "is not a residue or a gap"),
        (">q\nMKV\n", "MKVA", "the query has 3 residues; the chain has 4"),
        (">q\nMKV\n", "MAV", "the query has K in column 2; the chain has A"),
    ],
)
def test_unusable_a3m_is_refused_in_one_line(read, text, query, message):
    with pytest.raises(DataError, match=message) as caught:
        read(text, query)
    assert "x.a3m" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_truncated_files_are_refused(read, tmp_path):
    with pytest.raises(DataError, match="not readable"):
        read_msa(tmp_path / "none.a3m")
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
def test_written_a3m_is_read_back(tmp_path_factory, generated):
    query = [("", "A" if letter == "-" else letter) for _, letter in generated[0]]
    distinct_rows = []
    for row in (tuple(query), *map(tuple, generated[1:])):
        letters = [letter for _, letter in row]
        if letters not in [[letter for _, letter in other] for other in distinct_rows]:
            distinct_rows.append([(len(inserted), letter) for inserted, letter in row])
    text = "".join(
        f">{number}\n{''.join(inserted + letter for inserted, letter in row)}\n"
        for number, row in enumerate((query, *generated[1:]))
    )
    path = tmp_path_factory.mktemp("a3m") / "x.a3m"
    path.write_text(text, encoding="utf-8")
    result = read_msa(path)
    assert result["codes"].tolist() == [codes("".join(x for _, x in row)) for row in distinct_rows]
    assert result["deletions"].tolist() == [[n for n, _ in row] for row in distinct_rows]


headers = st.sampled_from(["OX=1", "OX=9606", "OX=9598", "OX=9598 GN=B2M", "no species"])


@pytest.fixture
def write_parquet(tmp_path):
    def write(name="x.pqt", **columns):
        path = tmp_path / name
        parquet.write_table(pa.table(columns), path)
        return path

    return write


@given(rows, st.data())
def test_parquet_equals_a3m(tmp_path_factory, generated, data):
    texts = ["".join(inserted + letter for inserted, letter in row) for row in generated]
    texts[0] = texts[0].replace("-", "A")
    comments = [f"{number} {data.draw(headers)}" for number in range(len(texts))]
    folder = tmp_path_factory.mktemp("both")
    (folder / "x.a3m").write_text(
        "".join(f">{comment}\n{text}\n" for comment, text in zip(comments, texts, strict=True)),
        encoding="utf-8",
    )
    keys = ["" if "no species" in comment else "Somebody" for comment in comments]
    table = pa.table({"sequence": texts, "pairing_key": keys, "comment": comments, "other": texts})
    parquet.write_table(table, folder / "x.pqt")
    a3m, parquet_record = read_msa(folder / "x.a3m"), read_msa(folder / "x.pqt")
    assert a3m.keys() == parquet_record.keys()
    for name, column in a3m.items():
        np.testing.assert_array_equal(parquet_record[name], column)


@given(rows, st.data())
def test_row_has_the_species_of_all_its_repetitions(tmp_path_factory, generated, data):
    letters = ["".join(letter for _, letter in row) for row in generated * 2]
    letters[0] = letters[0].replace("-", "A")
    species = data.draw(st.lists(st.integers(3, 6), min_size=len(letters), max_size=len(letters)))
    path = tmp_path_factory.mktemp("species") / "x.a3m"
    path.write_text(
        "".join(f">x OX={s}\n{row}\n" for s, row in zip(species, letters, strict=True)),
        encoding="utf-8",
    )
    result = read_msa(path)
    distinct = list(dict.fromkeys(letters))
    first = {row: s for s, row in reversed(list(zip(species, letters, strict=True)))}
    assert result["species"].tolist() == [first[row] for row in distinct]
    pairs = [
        *enumerate(result["species"].tolist()),
        *map(tuple, result["further_species"].tolist()),
    ]
    assert len(set(pairs)) == len(pairs)
    expected = {(distinct.index(row), s) for s, row in zip(species, letters, strict=True)}
    assert set(pairs) == expected


def test_repetition_without_species_adds_none(read):
    result = read(">q\nMK\n>1\nMK\n>2 OX=9606\nMK\n>3 OX=9598\nMK\n>4\nMA\n")
    assert result["species"].tolist() == [9606, -1]
    assert result["further_species"].tolist() == [[0, 9598]]
    assert {result[name].dtype for name in ("species", "further_species")} == {np.dtype(np.int32)}
    assert query_only("MK")["species"].tolist() == [-1]
    assert query_only("MK")["further_species"].shape == (0, 2)


def test_parquet_species_are_names_numbers_or_absent(write_parquet):
    result = read_msa(
        write_parquet(
            sequence=["MKV", "MKA", "MKC", "MKD", "MKE"],
            pairing_key=["", "Homo sapiens", "homo  sapiens", "9606", ""],
            comment=["q", "1", "2 OS=Homo", "3", "UniRef90_X n=1 TaxID=9606"],
        )
    )
    species = result["species"].tolist()
    assert species[0] == species[4] == -1
    assert species[1] == species[2] > 2**30
    assert species[3] == 9606


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sequence": ["MK"], "comment": ["q"]}, "no column pairing_key; it has sequence, comment"),
        ({"sequence": [], "pairing_key": [], "comment": []}, "no rows: empty or truncated"),
        ({"sequence": ["MK", ""]}, "row 2: no sequence"),
        ({"sequence": ["MK", None]}, "row 2: no sequence"),
        ({"sequence": ["MK", "MKV"]}, "row 2: 3 aligned columns; the query has 2"),
        ({"sequence": ["MK", "*K"]}, r"row 2: '\*' in column 1 is not a residue"),
        ({"sequence": ["M-"]}, "row 1: the query has a gap in column 2"),
        ({"sequence": [["M"], ["K"]]}, "not readable"),
    ],
)
def test_unusable_parquet_is_refused_in_one_line(write_parquet, columns, message):
    if len(columns) == 1:
        rows = len(columns["sequence"])
        columns = columns | {"pairing_key": ["x"] * rows, "comment": [""] * rows}
    path = write_parquet(**columns)
    with pytest.raises(DataError, match=message) as caught:
        read_msa(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_damaged_parquet_gives_a_value_or_a_one_line_error(write_parquet):
    path = write_parquet(sequence=["MKV", "MK-"], pairing_key=["", "9606"], comment=["q", "1"])
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    refused = []
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="not readable"):
            read_msa(path)
    for _ in range(400):
        content = bytearray(whole)
        content[draw.integers(len(whole))] ^= 1 << int(draw.integers(8))
        path.write_bytes(content)
        try:
            read_msa(path)
        except DataError as error:
            refused.append(str(error))
    assert refused
    assert not any("\n" in text for text in refused)
    with pytest.raises(DataError, match="not readable: No such file"):
        read_msa(path.with_name("none.pqt"))


def test_parquet_needs_pyarrow_and_a3m_does_not(monkeypatch, write_parquet):
    path = write_parquet(sequence=["MKV"], pairing_key=[""], comment=["q"])
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'foldperf\[data\]'"):
        read_msa(path)
    path.with_suffix(".a3m").write_text(">q\nMKV\n", encoding="utf-8")
    assert len(read_msa(path.with_suffix(".a3m"))["codes"]) == 1


def test_record_of_real_a3m_equals_a_plain_reading(sources, store):
    alignment = store.open("8vkf").alignments[0]
    assert alignment["codes"].shape == (10_000, 410)
    lines = sources["8vkf"].alignments["A"].cached.read_text(encoding="utf-8").split("\n>")
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
