"""Records and their documentation match the manifest of records."""

import re
from pathlib import Path

import numpy as np
import pytest

from refsys.data.store.record_manifest import RECORDS

PAGE = Path(__file__).resolve().parents[4] / "docs" / "pipeline.md"


def records_of(store, entry):
    """Yield the kind and the columns of every record of an entry."""
    example = store.open(entry)
    yield "structure", example.structure
    yield from (("alignment", record) for record in example.alignments.values())
    yield from (("templates", record) for record in example.templates.values())
    if example.pairing:
        yield "pairing", example.pairing
    (hits,) = (store.root / "records" / "hits").iterdir()
    yield "hits", store.record("hits", hits.name)


@pytest.mark.parametrize("entry", ["3pwp", "8vkf", "2hyy-assembly1", "1yjp", "6zu5"])
def test_records_match_the_manifest(everything, entry):
    kinds = set()
    for kind, record in records_of(everything, entry):
        kinds.add(kind)
        columns = {column.name: column for column in RECORDS[kind]}
        assert sorted(record) == [column.name for column in RECORDS[kind]]
        sizes = {}
        for name, array in record.items():
            assert array.dtype == np.dtype(columns[name].dtype), name
            assert array.ndim == len(columns[name].axes), name
            for axis, size in zip(columns[name].axes, array.shape, strict=True):
                counted, _, more = axis.partition(" + ")
                assert sizes.setdefault(counted, size - int(more or 0)) == size - int(more or 0)
        assert sizes.get("xyz", 3) == sizes.get("corner", 3) == 3
        assert sizes.get("end", 2) == 2
    assert kinds >= {"structure", "hits"}


def test_documented_columns_match_the_manifest():
    documented = re.findall(
        r"^\| (\w+) \| `(\w+)` \| (\w+) \| ([^|]+) \| ([^|]+) \|$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    expected = [
        (kind, column.name, column.dtype, ", ".join(column.axes), column.meaning)
        for kind, columns in RECORDS.items()
        for column in columns
    ]
    assert documented == expected
