"""Figures of the paper: all are drawn, by the rules, from records that their files name."""

import re
from math import sqrt

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from support.paper_records import RECORDED, fused_step, recorded, recorded_table

import analysis.paper
from analysis.drawing import COLUMN, PAGE, paper_style
from analysis.errors import AnalysisError
from analysis.frame import frame
from analysis.paper.catalogue import FIGURES, figure_named
from analysis.paper.folder import CAPTIONS, write_paper
from analysis.paper.growth import LENGTHS, local_exponents
from analysis.paper.memory import by_operator
from analysis.paper.plots import label_of
from analysis.paper.selection import Curve, select
from analysis.paper.sharding import longest
from analysis.paper.time import compiled_bound
from bench.cli import main

NAMES = [figure.name for figure in FIGURES]


@pytest.mark.parametrize("name", NAMES)
def test_figure_has_a_paper_width_and_a_legend_under_a_fifth(name):
    figure = analysis.paper.draw(name, recorded_table())
    with paper_style():
        figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    assert width in (COLUMN, PAGE)
    for legend in figure.legends:
        assert legend.get_window_extent().height / figure.dpi < 0.2 * height
    plt.close(figure)


def test_names_and_titles_are_unique_and_every_figure_says_its_command():
    assert len(set(NAMES)) == len({figure.title for figure in FIGURES}) == len(FIGURES)
    assert all(figure.command and figure.caption.endswith(".") for figure in FIGURES)


def test_files_are_the_same_bytes_and_name_their_records(tmp_path):
    figures = [figure_named("energy_per_residue")]
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        assert write_paper(recorded_table(), folder, figures).figures == ["energy_per_residue"]
    for name in ("energy_per_residue.pdf", "energy_per_residue.png", CAPTIONS):
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second
    pdf = (folders[0] / "energy_per_residue.pdf").read_bytes()
    summary = re.search(rb"/Subject \((\d+) records, hash [0-9a-f]{16} of commit (\w+)", pdf)
    keywords = re.search(rb"/Keywords \(([0-9a-f \\\n]+)\)", pdf)
    assert int(summary[1]) == len(keywords[1].replace(b"\\\n", b"").split())
    assert b"/Type3" not in pdf


def test_figure_without_records_says_the_command_and_leaves_no_old_file(tmp_path):
    (tmp_path / "peak_memory.png").write_bytes(b"old")
    nothing = recorded_table().iloc[:0]
    outcome = write_paper(nothing, tmp_path, [figure_named("peak_memory")])
    assert outcome.figures == []
    (line,) = outcome.missing
    assert line.startswith("peak_memory is not drawn")
    assert "python -m bench.simulation.paper_cases" in line
    assert not (tmp_path / "peak_memory.png").exists()


def test_command_draws_what_it_can_and_names_the_rest(tmp_path, capsys):
    records = RECORDED / "pipeline-2-core-cpu.jsonl"
    assert main(["report", str(records), "--paper", "--out", str(tmp_path)]) == 0
    first, *missing = capsys.readouterr().out.splitlines()
    drawn = {path.stem for path in tmp_path.glob("*.pdf")}
    assert first == f"{len(drawn)} figures in {tmp_path}"
    assert "batch_time" in drawn
    assert {line.split()[0] for line in missing} == set(NAMES) - drawn


def test_unknown_figure_is_an_error():
    with pytest.raises(AnalysisError, match="no figure is named 'x'; choose of peak_memory"):
        analysis.paper.draw("x", recorded_table())


def test_methods_are_named_in_labels():
    for method in ("measured", "traced", "predicted"):
        assert label_of(Curve("AF3, fused", method, [])) == f"AF3, fused ({method})"


def test_selection_is_the_newest_record_of_each_case():
    step = fused_step(recorded())
    old = {**step, "started_at": "2001-01-01T00:00:00+00:00", "run_id": "0" * 32}
    chosen = select(frame([step, old]), workload="alphafold3")
    assert list(chosen["run_id"]) == [step["run_id"]]
    assert select(frame([step]), no_such_axis=1).empty


def test_operators_have_all_bytes_of_the_paths():
    paths = {"": 5, "a.triangle_attention_ending": 7, "msa.transition": 2, "x.transition.y": 1}
    assert by_operator(paths) == {"other": 5, "triangle attention": 7, "transition": 3}


def test_longest_length_follows_the_square_of_the_nearest_peak():
    rows = pd.DataFrame({"tokens": [1000, 2000], "peak_tracked_bytes": [10.0, 40.0]})
    assert longest(rows, 44.0) == 2000 * sqrt(1.1) // 32 * 32
    assert longest(rows, 1000.0) is None
    assert longest(rows.iloc[:0], 44.0) is None


@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_local_exponents_of_a_power_law_are_its_exponent(exponent):
    points = [(float(n), float(n) ** exponent) for n in (128, *LENGTHS)]
    slopes = local_exponents(Curve("AF3, fused", "traced", points)).points
    assert [n for n, _ in slopes] == list(LENGTHS[1:])
    assert [slope for _, slope in slopes] == pytest.approx([exponent] * 3)


def test_compiled_bound_is_below_the_predicted_time():
    step = frame([fused_step(recorded())]).iloc[0]
    assert 0 < compiled_bound(step) < step["predicted_step_time_s"]
