"""Sweeps: cases to run and the way to measure them, as a TOML file.

::

    description = "What the sweep is for."

    [protocol]                    # all optional
    seed = 0                      # of the cases' order and of everything random in them
    replicates = 1                # replicate r runs with seed + r
    order = "random"              # or "listed"
    device = "auto"               # or "cpu", "cuda"
    threads = 1                   # CPU threads of each process; if left out, all of its cores
    share_cores = false           # true: more ranks than cores run on a CPU, their times flagged
    timeout_s = 300               # on the reference; longer where the machine is slower
    memory_limit_gib = 16.0       # if left out, and at most: what this process can have
    warmup_steps = 2
    timed_steps = 7
    counts = true
    energy_s = 5.0

    [[case]]                      # as many as needed; each is a product of its axes
    workload = "alphafold3-trunk"
    axes = { preset = "tiny", tokens = [32, 64], entry = ["1ubq", "8vkf"] }
    exclude = [{ tokens = 64, entry = "1ubq" }]
    ranks = [1, 2]                # processes that work on a case together; as many as divide an
                                  # example (context_ranks), or 1, if left out.
                                  # More than there are devices or cores are unsupported,
                                  # unless share_cores is set.
    protocol = { timed_steps = 50 }  # of warmup_steps, timed_steps, counts, energy_s

    [[case]]
    workload = "*"                # every workload there is,
    selection = "quick"           # in the cases that it names for this use
"""

import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from bench.cgroup import usable_memory_bytes
from bench.errors import UsageError
from bench.run.measure import Protocol
from refsys.streams import Draw
from workloads.errors import WorkloadError
from workloads.workload import Axes, Catalogue, Config, Value, Workload

SWEEPS = Path(__file__).parents[1] / "sweeps"
_LIMITS = {
    "seed": 0,
    "replicates": 1,
    "order": "random",
    "device": "auto",
    "threads": 0,
    "share_cores": False,
    "timeout_s": 300.0,
    "memory_limit_gib": math.inf,
}
# Bound of every number; anything larger is a mistake.
_LARGEST = 1e9
_MOST_RANKS = 1024
EVERY = "*"
_ORDERS = ("random", "listed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Case of a sweep.

    Attributes:
        title: Title in one line.
        workload: Name of the workload.
        config: Configuration, of the workload's own type.
        axes: Value of every axis, as records and requests hold the configuration.
        device: auto, cpu or cuda.
        ranks: Number of processes that work on the case together.
        replicate: Number among the repetitions of the case.
        seed: Seed of everything random in the case.
        protocol: Passes, numbers of steps and energy window.
        share_cores: Whether it runs with more ranks than cores, where there is no accelerator.
    """

    title: str
    workload: str
    config: Config
    axes: Axes
    device: str
    ranks: int
    replicate: int
    seed: int
    protocol: Protocol
    share_cores: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Sweep that has been read and checked.

    Attributes:
        name: Name of the file without its suffix.
        description: Purpose, in a sentence.
        cases: Cases in the order in which they run.
        timeout_s: Longest time of a case, on an idle machine like the reference.
        scale_timeout: True if the limit grows on a slower machine (`bench.run.time_limits`).
        memory_limit_bytes: Most resident memory of a case: the file's limit, or less where the
            machine or the process's control group has less.
        threads: CPU threads of each process of a case; as many as its cores if 0.
        environment: Environment variables of each case, where the user's have no other value.
    """

    name: str
    description: str
    cases: tuple[Case, ...]
    timeout_s: float
    memory_limit_bytes: int
    scale_timeout: bool = True
    threads: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


def shipped_sweeps() -> dict[str, Path]:
    """Return the sweeps that come with the project, by name."""
    return {path.stem: path for path in sorted(SWEEPS.glob("*.toml"))}


def find_sweep(name_or_path: str) -> Path:
    """Return the path of a sweep, by its name or as a path.

    Raises:
        UsageError: There is neither.
    """
    shipped = shipped_sweeps()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise UsageError(
            f"sweep {name_or_path!r} is neither a file nor one of {', '.join(shipped) or 'none'}"
        )
    return path


def read_sweep(path: Path, catalogue: Catalogue, ranks: int | None = None) -> Sweep:
    """Read and check a sweep.

    Args:
        path: The file.
        catalogue: The workloads that it may name.
        ranks: The number of ranks of every case, in place of the file's.

    Raises:
        UsageError: the file cannot be read, or something in it is unknown or malformed.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    try:
        return _sweep(path.stem, table, catalogue, ranks)
    except (UsageError, WorkloadError) as error:
        raise UsageError(f"{path}: {error}") from None


def _sweep(
    name: str, table: Mapping[str, Any], catalogue: Catalogue, given_ranks: int | None
) -> Sweep:
    _check_keys(table, {"description", "protocol", "case"}, "at the top")
    blocks = table.get("case", [])
    if not isinstance(blocks, list) or not blocks:
        raise UsageError("there is no [[case]]")
    limits, protocol = _protocol(table.get("protocol", {}))
    configured: dict[str, tuple[Workload, Config, int, Protocol]] = {}
    for number, block in enumerate(blocks, start=1):
        where = f"in [[case]] {number}"
        for workload, config, ranks in _expand(block, where, catalogue, given_ranks):
            case_protocol = _changed(protocol, block.get("protocol", {}), where)
            same = digest([workload.name, workload.values(config), ranks])
            configured.setdefault(same, (workload, config, ranks, case_protocol))
    cases = [
        Case(
            title=_title(workload, config, ranks, replicate),
            workload=workload.name,
            config=config,
            axes=workload.values(config),
            device=limits["device"],
            ranks=ranks,
            replicate=replicate,
            seed=limits["seed"] + replicate,
            protocol=case_protocol,
            share_cores=limits["share_cores"],
        )
        for workload, config, ranks, case_protocol in configured.values()
        for replicate in range(limits["replicates"])
    ]
    if limits["order"] == "random":
        cases = [cases[k] for k in Draw(limits["seed"], "sweep order").permutation(len(cases))]
    return Sweep(
        name=name,
        description=str(table.get("description", "")),
        cases=tuple(cases),
        timeout_s=limits["timeout_s"],
        memory_limit_bytes=int(min(limits["memory_limit_gib"] * 2**30, usable_memory_bytes())),
        threads=limits["threads"],
    )


def _protocol(table: Mapping[str, Any]) -> tuple[dict[str, Any], Protocol]:
    settings = _settings(asdict(Protocol()) | _LIMITS, table, "in [protocol]")
    for key, choices in (("order", _ORDERS), ("device", ("auto", "cpu", "cuda"))):
        if settings[key] not in choices:
            raise UsageError(
                f"{key}={settings[key]!r} in [protocol]; choose one of {', '.join(choices)}"
            )
    measured = {field.name: settings[field.name] for field in fields(Protocol)}
    return {key: settings[key] for key in _LIMITS}, Protocol(**measured)


def _changed(protocol: Protocol, table: Mapping[str, Any], where: str) -> Protocol:
    """Return the protocol of a block's cases: the sweep's, with the changes of the block."""
    return Protocol(**_settings(asdict(protocol), table, f"{where}, protocol"))


def _settings(defaults: dict[str, Any], table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings with the values of a table, which must have the types of the defaults."""
    _check_keys(table, set(defaults), where)
    settings = dict(defaults)
    for key, value in table.items():
        kind = type(defaults[key])
        allowed = {int, float} if kind is float else {kind}
        if type(value) not in allowed:
            raise UsageError(f"{key}={value!r} {where} is not of type {kind.__name__}")
        if kind in {int, float}:
            smallest = 0 if key in {"seed", "warmup_steps"} else 1e-9
            if not smallest <= value <= _LARGEST:
                raise UsageError(
                    f"{key}={value!s:.40} {where} is not in {smallest:g} to {_LARGEST:g}"
                )
        settings[key] = kind(value)
    return settings


def _title(workload: Workload, config: Config, ranks: int, replicate: int) -> str:
    title = workload.title(config) + (f" ranks={ranks}" if ranks > 1 else "")
    return title + (f" #{replicate}" if replicate else "")


def _expand(
    block: Mapping[str, Any], where: str, catalogue: Catalogue, given_ranks: int | None
) -> Iterator[tuple[Workload, Config, int]]:
    """Yield the cases of a block."""
    allowed = {"workload", "selection", "axes", "exclude", "ranks", "protocol"}
    _check_keys(block, allowed, where)
    if "workload" not in block:
        raise UsageError(f"{where}: no workload")
    name = str(block["workload"])
    if "selection" not in block:
        if name == EVERY:
            raise UsageError(f"{where}: workload = {EVERY!r} needs a selection")
        tables: list[tuple[Workload, Mapping[str, Any]]] = [(catalogue[name], block)]
    elif {"axes", "exclude"} & set(block):
        raise UsageError(f"{where}: a selection has axes of its own; leave out axes and exclude")
    else:
        workloads = catalogue.workloads.values() if name == EVERY else [catalogue[name]]
        use = str(block["selection"])
        tables = [
            (selected, {"axes": axes}) for selected in workloads for axes in selected.selection(use)
        ]
    for workload, table in tables:
        configs = _product(table, where, workload)
        numbers = _ranks(given_ranks or block.get("ranks", 1), where)
        if max(numbers) > 1 and not workload.data_parallel:
            raise UsageError(f"{where}: {workload.name} runs on one rank alone")
        for ranks in numbers:
            for config in configs:
                # Without more ranks, as many as one example is divided among.
                least = workload.context_ranks(config)
                if ranks % least and ranks > 1:
                    raise UsageError(
                        f"{where}: ranks={ranks} is no multiple of context_ranks={least}"
                    )
                yield workload, config, max(ranks, least)


def _ranks(value: object, where: str) -> list[int]:
    """Return the numbers of ranks of a block."""
    counts: list[Any] = value if isinstance(value, list) else [value]
    if not counts or not all(type(n) is int and 1 <= n <= _MOST_RANKS for n in counts):
        raise UsageError(f"{where}: ranks={value!r}; expected numbers from 1 to {_MOST_RANKS}")
    return counts


def _product(table: Mapping[str, Any], where: str, workload: Workload) -> list[Config]:
    """Return the product of a table's axes, without excluded combinations."""
    axes = table.get("axes", {})
    if not isinstance(axes, Mapping):
        raise UsageError(f"{where}: axes={axes!r} is not a table")
    values = {name: value if isinstance(value, list) else [value] for name, value in axes.items()}
    if empty := [name for name, choices in values.items() if not choices]:
        raise UsageError(f"{where}: axis {empty[0]} has no values")
    excluded: list[dict[str, Value]] = table.get("exclude", [])
    if not isinstance(excluded, list) or not all(isinstance(p, dict) for p in excluded):
        raise UsageError(f"{where}: exclude is not a list of tables")
    for pattern in excluded:
        if unknown := set(pattern) - set(values):
            raise UsageError(f"{where}: exclude names {sorted(unknown)[0]}, which axes do not list")
    combinations = [
        dict(zip(values, combination, strict=True)) for combination in product(*values.values())
    ]
    for pattern in excluded:
        if not any(_matches(pattern, combination) for combination in combinations):
            raise UsageError(f"{where}: exclude {pattern} matches no combination of the axes")
    configs = [
        workload.configure(combination)
        for combination in combinations
        if not any(_matches(pattern, combination) for pattern in excluded)
    ]
    if not configs:
        raise UsageError(f"{where}: every combination is excluded")
    return configs


def _matches(pattern: Mapping[str, Value], combination: Mapping[str, Value]) -> bool:
    return all(combination[name] == value for name, value in pattern.items())


def _check_keys(table: Mapping[str, Any], allowed: set[str], where: str) -> None:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: not a table")
    if unknown := sorted(set(table) - allowed):
        raise UsageError(
            f"unknown key {unknown[0]!r} {where}; known are {', '.join(sorted(allowed))}"
        )


def digest(value: object) -> str:
    """Return 20 hexadecimal digits of the SHA-256 of a JSON value."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
