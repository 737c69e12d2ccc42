"""Checks of values against the width of their column."""

import numpy as np
import pytest

from refsys.data.store.columns import ATOM_NAME, COMPONENT, narrowed
from refsys.errors import DataError


def test_text_column_stores_every_allowed_letter():
    letters = [chr(code) for code in range(32, 96)]
    assert ATOM_NAME.array(letters).tolist() == [letter.strip("\0").encode() for letter in letters]
    assert COMPONENT.array(["A1ZZZ", "ZN"]).dtype == np.dtype("S5")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("C1001", "has 5 characters"),
        ("", "has 0 characters"),
        ("Cl1", "has the character 'l'"),
        ("O`", "has the character '`'"),
        ("O{}", "has the character '{'"),
        ("Cα", "has the character 'α'"),
        ("C\0", r"has the character '\\x00'"),
        ("C\n", r"has the character '\\n'"),
    ],
)
def test_text_beyond_its_column_is_refused(text, reason):
    with pytest.raises(DataError, match=reason) as caught:
        ATOM_NAME.array(["CA", text])
    assert "\n" not in str(caught.value)


def test_normalized_text_is_upper_case_without_blanks():
    assert [ATOM_NAME.normalized(text) for text in ("Cl1", " CA ", "c 1", "CA")] == [
        *("CL1", "CA", "C 1", "CA")
    ]
    # The upper case of these is a different number of other letters.
    assert [ATOM_NAME.normalized(text) for text in ("ß", "ı", "ﬁ")] == ["ß", "ı", "ﬁ"]


@pytest.mark.parametrize(
    ("dtype", "inside", "outside"),
    [(np.int8, [-128, 127], 128), (np.uint8, [0, 255], -1), (np.uint16, [0, 65535], 65536)],
)
def test_integer_beyond_its_column_is_refused(dtype, inside, outside):
    assert narrowed(inside, dtype, "charge").tolist() == inside
    assert narrowed(inside, dtype, "charge").dtype == dtype
    with pytest.raises(DataError, match=f"^charge {outside} is not within"):
        narrowed([*inside, outside], dtype, "charge")
