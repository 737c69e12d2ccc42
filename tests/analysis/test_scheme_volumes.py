"""Figure of the volumes of sharding schemes: its lines go through the measured points."""

import pytest
from support.documents import ROOT

from analysis.scheme_volumes import BLOCK, CANNON, MULTIPLICATIONS, block, draw, measured
from analysis.scheme_volumes import multiplications as both

FOUND = measured((ROOT / "docs/sharding.md").read_text(encoding="utf-8"))


def test_formulas_equal_the_measured_volumes():
    assert {operators for operators, _ in FOUND} == {MULTIPLICATIONS, BLOCK}
    for (operators, scheme), by_ranks in FOUND.items():
        assert by_ranks
        for ranks, volume in by_ranks.items():
            expected = (both if operators == MULTIPLICATIONS else block)(scheme, ranks)
            assert volume == pytest.approx(expected, abs=0.006), (operators, scheme, ranks)


def test_figure_has_a_line_and_points_for_each_scheme():
    left, right = draw(FOUND).axes
    assert len(left.get_lines()) == 2 * 4
    assert len(right.get_lines()) == 2 * 3


def test_attention_of_cannons_scheme_is_refused():
    with pytest.raises(ValueError, match="not implemented"):
        block(CANNON, 4)
