"""Tuned launch options: search, storage, and checks of stored files."""

import json

import pytest
import torch

from bench.cli import main
from bench.devices import find_device
from bench.errors import UsageError
from bench.tuning import keys_of, tune
from refsys.ops import tuning
from refsys.ops.transition import TransitionWeights, transition
from refsys.ops.triton_backend import launch_options, shipped_options, tuning_key, watch_launches
from refsys.ops.tuning import Key, TuningWarning, bucket, keep, path_of, tuned_options
from workloads.backends import Backends
from workloads.catalogue import catalogue
from workloads.workload import ExecutionContext

KERNEL = "transition.forward"
X = torch.zeros(3, 40, 16)
SHIPPED = shipped_options(KERNEL, "interpreter", 16, torch.float32)
OTHER = {name: value // 2 for name, value in SHIPPED.items()}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    tuning._read.cache_clear()
    monkeypatch.setattr(tuning, "_used", set())
    yield
    tuning._read.cache_clear()


@pytest.fixture
def key():
    return tuning_key(KERNEL, X)


def launched():
    """The options with which transition's forward kernel is started."""
    seen = []
    weights = TransitionWeights(
        torch.ones(16), torch.zeros(16), torch.zeros(64, 16), torch.zeros(16, 32)
    )
    with watch_launches(lambda launch: seen.append(launch.options)):
        transition(X, weights, statistics=torch.float32, backend="triton")
    return {name: seen[0][name] for name in SHIPPED}


def test_stored_options_are_launched_for_their_key_alone(key):
    assert launched() == SHIPPED
    keep(key, OTHER, {"best_s": 1e-5})
    assert launched() == OTHER
    assert Backends("triton").notes()["tuned_kernels"] == [KERNEL]
    assert launch_options(KERNEL, X.half()) == SHIPPED
    assert launch_options(KERNEL, torch.zeros(3, 50, 16)) == SHIPPED
    assert launch_options(KERNEL, X.to("meta")) == shipped_options(
        KERNEL, "sm_90", 16, torch.float32
    )
    assert json.loads(path_of(key).read_text(encoding="utf-8"))["best_s"] == 1e-5


def test_stored_options_are_ignored_when_tuning_is_off(key, monkeypatch):
    keep(key, OTHER, {})
    monkeypatch.setenv("FOLDPERF_TUNING", "off")
    assert launched() == SHIPPED


def change(key, **fields):
    path = path_of(key)
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8"
    )


DAMAGES = {
    "half a file": lambda key: path_of(key).write_text(
        path_of(key).read_text(encoding="utf-8")[:40], encoding="utf-8"
    ),
    "no text": lambda key: path_of(key).write_bytes(b"\xff\x00\xfe"),
    "another shape of JSON": lambda key: path_of(key).write_text("[1]", encoding="utf-8"),
    "another format": lambda key: change(key, format=99),
    "another kernel's": lambda key: change(key, kernel="transition.backward_rows"),
    "an unknown option": lambda key: change(key, options=OTHER | {"BLOCK_Q": 16}),
    "a missing option": lambda key: change(key, options={"BLOCK_ROWS": 16}),
    "no power of two": lambda key: change(key, options=OTHER | {"BLOCK_ROWS": 48}),
    "too large": lambda key: change(key, options=OTHER | {"BLOCK_ROWS": 2**40}),
    "a word": lambda key: change(key, options=OTHER | {"BLOCK_ROWS": "many"}),
    "a truth": lambda key: change(key, options=OTHER | {"BLOCK_ROWS": True}),
    "a folder": lambda key: (path_of(key).unlink(), path_of(key).mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_result_is_ignored_with_a_warning(key, damage):
    keep(key, OTHER, {})
    DAMAGES[damage](key)
    tuning._read.cache_clear()
    with pytest.warns(TuningWarning, match=r"transition\.forward-float32-16x128\.json are ignored"):
        assert launched() == SHIPPED


def test_bucket_is_a_width_and_rows_up_to_a_power_of_two():
    assert bucket(torch.empty(3, 40, 16, device="meta")) == "16x128"
    assert bucket(torch.empty(128, 16, device="meta")) == "16x128"
    assert bucket(torch.empty(129, 16, device="meta")) == "16x256"
    assert bucket(torch.empty(1, device="meta")) == "1x1"


def program(operator="triangle_multiplication_epilogue", **axes):
    config = {"operator": operator, "preset": "tiny", "tokens": 6, "backend": "triton", **axes}
    workload = catalogue()["operators"]
    setting = ExecutionContext(device=torch.device("cpu"), store=None)
    return workload.build(workload.configure(config), setting)


class Clock:
    """A device on which a kernel is the faster the smaller its blocks are."""

    torch_device = torch.device("cpu")

    def describe(self):
        return find_device("cpu").describe()

    def stopwatch(self):
        return self

    def mark(self):
        self.marks += 1

    def intervals(self):
        found, self.marks = [self.cost()] * max(self.marks - 1, 1), 0
        return found

    def __init__(self, cost):
        self.cost, self.marks = cost, 0


def keys_of_kernel(step, kernel):
    """Return the keys of one kernel that a step starts: the others are tuned alike."""
    keys = [key for key in keys_of(step) if key.kernel == kernel]
    assert keys
    return keys


def test_fastest_agreeing_candidate_is_stored():
    kernel, rows = "triangle_multiplication.epilogue", [0]

    def note(launch):
        if launch.kernel == kernel:
            rows.append(launch.options["BLOCK_ROWS"])

    with watch_launches(note):
        clock = Clock(lambda: float(rows[-1]))
        step = program()
        (best,) = tune(step, clock, rounds=1, keys=keys_of_kernel(step, kernel))
    assert best.options["BLOCK_ROWS"] == 16 < best.shipped["BLOCK_ROWS"]
    assert best.speedup > 1.9
    assert tuned_options(best.key, best.shipped) == best.options
    kept = json.loads(path_of(best.key).read_text(encoding="utf-8"))
    assert kept["shipped"] == best.shipped
    assert {"device", "software", "source_sha256", "best_s", "shipped_s", "tried"} <= kept.keys()


def test_nothing_is_stored_when_nothing_is_faster(tmp_path):
    step = program()
    keys = keys_of_kernel(step, "triangle_multiplication.epilogue")
    (found,) = tune(step, Clock(lambda: 1.0), rounds=1, keys=keys)
    assert found.tried > 1
    assert found.options == found.shipped
    assert not (tmp_path / "home" / "tuning").exists()


def test_tune_rejects_candidates_with_other_results(monkeypatch):
    monkeypatch.setattr("bench.tuning._AGREEMENT", {"float32": -1.0})
    for each in tune(program(), Clock(lambda: 1.0), rounds=1):
        assert each.tried > 0
        assert each.options == each.shipped


def test_tune_command_replaces_damaged_results(capsys, monkeypatch):
    # Each candidate runs the interpreter several times: one or none for each option.
    monkeypatch.setattr("bench.tuning._BLOCKS", (64, 64))
    arguments = ["operators", "--operator", "pair_bias", "--preset", "tiny", "--tokens", "4"]
    assert main(["tune", "--rounds", "1", "--json", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    kernels = {each["key"]["kernel"] for each in found}
    assert kernels == {"layer_norm_linear.forward", "layer_norm_linear.backward", "planes.fold"}
    path = path_of(Key(**found[0]["key"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{", encoding="utf-8")
    tuning._read.cache_clear()
    with pytest.warns(TuningWarning):
        assert main(["tune", "--rounds", "1", *arguments]) == 0
    assert "layer_norm_linear.forward" in capsys.readouterr().out
    assert json.loads(path.read_text(encoding="utf-8"))["kernel"] == found[0]["key"]["kernel"]


def test_invalid_request_is_refused(capsys, monkeypatch):
    for arguments, message in (
        (["operators", "--operator", "softmax"], "operator='softmax'"),
        (["operators", "--operator", "layer_norm", "--preset", "tiny"], "starts no kernel"),
        (["no-workload"], "no-workload"),
        (["operators", "tokens"], "'tokens': expected --AXIS VALUE"),
    ):
        assert main(["tune", *arguments]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert main(["tune", "operators"]) == 2
    assert "nothing to tune: kernels do not run on a cpu" in capsys.readouterr().err


def test_step_that_leaves_nothing_to_compare_is_not_tuned():
    with pytest.raises(UsageError, match="leaves no gradient to compare"):
        next(tune(program(backward=False), Clock(lambda: 1.0), rounds=1))


def test_keys_are_found_when_tuning_is_off(monkeypatch):
    monkeypatch.setenv("FOLDPERF_TUNING", "off")
    assert keys_of(program())


def test_steps_that_differ_cannot_be_compared():
    class Restless:
        phases = ("forward",)

        def __init__(self):
            self.steps = 0

        def run(self, phase):
            self.steps += 1

        def tensors(self):
            return {"gradients": [torch.tensor(float(self.steps))]}

    with pytest.raises(UsageError, match="two steps have different results"):
        next(tune(Restless(), Clock(lambda: 1.0), rounds=1))
