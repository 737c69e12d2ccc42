"""Sweep files: their cases, and one-line errors."""

import pytest

from bench.errors import UsageError
from bench.run.case_records import CaseRecords
from bench.run.sweep import find_sweep, read_sweep, shipped_sweeps
from workloads.catalogue import catalogue

CASE = '[[case]]\nworkload = "alphafold3-trunk"\n'


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "s.toml"
        path.write_text(text, encoding="utf-8")
        return read_sweep(path, catalogue())

    return read


def axes_of(sweep, *names):
    return sorted(tuple(case.axes[name] for name in names) for case in sweep.cases)


def test_cases_are_the_product_of_axes_without_exclusions(read):
    text = CASE + (
        'axes = { preset = ["tiny", "mini"], tokens = [32, 64], entry = "1ubq" }\n'
        'exclude = [{ preset = "mini", tokens = 64 }]\n'
    )
    sweep = read(text)
    assert axes_of(sweep, "preset", "tokens") == [("mini", 32), ("tiny", 32), ("tiny", 64)]
    assert axes_of(sweep, "alignment_rows") == [(16,), (16,), (64,)]
    assert {case.axes["entry"] for case in sweep.cases} == {"1ubq"}


def test_repeated_combination_is_one_case(read):
    sweep = read(CASE + "axes = { tokens = [32, 64] }\n" + CASE + "axes = { tokens = [64, 96] }\n")
    assert sweep.name == "s"
    assert axes_of(sweep, "tokens") == [(32,), (64,), (96,)]


def test_key_of_a_case_includes_the_threads_of_its_sweep(read, tmp_path, monkeypatch):
    """The key is that of a user's variable with the same value, which takes precedence."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    case = '[[case]]\nworkload = "operators"\naxes = { operator = "layer_norm" }\n'

    def key(text):
        sweep = read(text + case)
        return CaseRecords(sweep, tmp_path, catalogue()).key(sweep.cases[0])

    keys = {
        text: key(text and f"[protocol]\n{text}\n") for text in ("", "threads = 1", "threads = 2")
    }
    assert len(set(keys.values())) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert key("") == key("[protocol]\nthreads = 1\n") == keys["threads = 2"]


def test_order_is_a_function_of_the_seed(read):
    text = "[protocol]\nseed = {}\n" + CASE + "axes = {{ tokens = [8, 16, 24, 32, 40, 48] }}\n"

    def order(seed):
        return [case.axes["tokens"] for case in read(text.format(seed)).cases]

    assert order(1) == order(1)
    assert order(1) != order(2)
    listed = text.format(1).replace("seed = 1", 'order = "listed"')
    assert [case.axes["tokens"] for case in read(listed).cases] == [8, 16, 24, 32, 40, 48]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"there is no \[\[case\]\]"),
        ("[[case", "not TOML"),
        ("speed = 1\n" + CASE, "unknown key 'speed' at the top"),
        ("[protocol]\nseeds = 1\n" + CASE, r"unknown key 'seeds' in \[protocol\]"),
        ("[protocol]\ntimed_steps = 'x'\n" + CASE, "timed_steps='x'.*not of type int"),
        ("[protocol]\ntimed_steps = true\n" + CASE, "timed_steps=True.*not of type int"),
        ("[protocol]\ntimeout_s = -1\n" + CASE, "timeout_s=-1.*is not in"),
        ("[protocol]\ntimed_steps = 0\n" + CASE, "timed_steps=0.*is not in"),
        ("[protocol]\norder = 'up'\n" + CASE, "order='up'"),
        ("[protocol]\ndevice = 'tpu'\n" + CASE, "device='tpu'"),
        ("[[case]]\naxes = {}\n", r"in \[\[case\]\] 1: no workload"),
        ("[[case]]\nworkload = 'alphafold4'\n", "workload 'alphafold4' does not exist"),
        (CASE + "axes = { tokns = 3 }\n", "alphafold3-trunk has no axis 'tokns'; its axes are"),
        (CASE + "axes = { preset = 'huge' }\n", "preset='huge' does not exist; choose one of tiny"),
        (CASE + "axes = { tokens = 'many' }\n", "tokens='many' is not of type int"),
        (CASE + "axes = { tokens = -5 }\n", "tokens=-5 is less than 0"),
        (CASE + "axes = { tokens = [] }\n", "axis tokens has no values"),
        (CASE + "axis = {}\n", "unknown key 'axis'"),
        (CASE + "exclude = [{ tokens = 3 }]\n", "exclude names tokens"),
        (
            CASE + "axes = { tokens = [8] }\nexclude = [{ tokens = 9 }]\n",
            "exclude {'tokens': 9} matches no combination",
        ),
        (
            CASE + "axes = { tokens = [8] }\nexclude = [{ tokens = 8 }]\n",
            "every combination is excluded",
        ),
        ("[protocol]\ntimeout_s = nan\n" + CASE, "timeout_s=nan.*is not in"),
        ("[protocol]\nenergy_s = inf\n" + CASE, "energy_s=inf.*is not in"),
        ("[protocol]\nmemory_limit_gib = 1" + "0" * 400 + "\n" + CASE, "memory_limit_gib=10000"),
        ("[protocol]\nseed = 1" + "0" * 5000 + "\n" + CASE, "not TOML"),
        ("x = " + "[" * 20_000, "not TOML"),
        (CASE + "axes = { tokens = 99999999999 }\n", "tokens=99999999999 is more than"),
        (CASE + "axes = 3\n", "axes=3 is not a table"),
        (CASE + "exclude = 3\n", "exclude is not a list of tables"),
        ("case = 3\n", r"there is no \[\[case\]\]"),
        ("case = [3]\n", "not a table"),
        ("protocol = 3\n" + CASE, "not a table"),
    ],
)
def test_invalid_sweep_is_one_line_that_names_file_and_field(read, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        read(text)
    assert str(caught.value).count("\n") == 0
    assert "s.toml" in str(caught.value)


def test_shipped_sweeps_are_valid_and_found_by_name():
    for name, path in shipped_sweeps().items():
        assert find_sweep(name) == path
        assert read_sweep(path, catalogue()).cases
    with pytest.raises(UsageError, match="neither a file nor one of"):
        find_sweep("no-such-sweep")


def test_block_may_change_the_protocol_of_its_cases(read):
    text = "[protocol]\ntimed_steps = 3\nwarmup_steps = 1\n" + CASE + "axes = { tokens = 32 }\n"
    text += "protocol = { timed_steps = 50 }\n" + CASE + "axes = { tokens = 64 }\n"
    found = {case.axes["tokens"]: case.protocol for case in read(text).cases}
    assert (found[32].timed_steps, found[64].timed_steps) == (50, 3)
    assert found[32].warmup_steps == 1
    with pytest.raises(UsageError, match=r"unknown key 'seed' in \[\[case\]\] 1, protocol"):
        read(CASE + "protocol = { seed = 1 }\n")


def test_ranks_are_cases_of_their_own(read):
    sweep = read(CASE + "axes = { tokens = 32 }\nranks = [1, 2]\n")
    assert sorted(case.ranks for case in sweep.cases) == [1, 2]
    assert {case.title.endswith("ranks=2") for case in sweep.cases} == {True, False}
    for wrong in ("0", "true", "[]", "1.5"):
        with pytest.raises(UsageError, match="ranks="):
            read(CASE + f"ranks = {wrong}\n")


def test_selection_has_its_own_axes(read):
    with pytest.raises(UsageError, match="leave out axes"):
        read(CASE + 'selection = "quick"\naxes = { tokens = 32 }\n')
    with pytest.raises(UsageError, match="needs a selection"):
        read('[[case]]\nworkload = "*"\n')
