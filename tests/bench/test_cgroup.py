"""Limits of control groups: recorded files of both versions, and a real group made as root."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import HANG_S
from support.records import valid_records
from support.third_party import install

from bench import cgroup
from bench.cgroup import KillWatch, cpu_limit, memory_limit, usable_cores, usable_memory_bytes
from bench.records import provenance
from bench.run.isolation import Ended, run_isolated
from bench.run.runner import case_environment
from bench.run.sweep import read_sweep
from bench.run.time_limits import TimeLimit
from bench.run.verdict import verdict
from workloads.catalogue import catalogue

MIB = 2**20
V1_NO_LIMIT = "9223372036854771712\n"
# As `mount` and `docker run` leave them; the names of groups are shortened.
V2_MOUNT = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "31 30 0:27 {top} /sys/fs/cgroup/memory ro,nosuid master:11 - cgroup cgroup rw,memory\n"
    "32 30 0:28 {top} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    "33 30 0:29 {top} /sys/fs/cgroup/systemd ro - cgroup cgroup rw,xattr,name=systemd\n"
)
OTHER_MOUNTS = (
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n25 27 0:9 / /a\\040b rw - tmpfs none rw\n"
)


class Machine:
    """Recorded files below a folder, as the modules read them below ``/``."""

    def __init__(self, root):
        self.root = root

    def write(self, path, text):
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def process(self, groups, mounts):
        self.write("/proc/self/cgroup", groups)
        self.write("/proc/self/mountinfo", OTHER_MOUNTS + mounts)

    def v2_group(self, path, memory="max", cpu="max 100000", kills=0):
        folder = f"/sys/fs/cgroup{path}"
        events = f"low 0\nhigh 0\nmax 27\noom {kills}\noom_kill {kills}\noom_group_kill 0\n"
        self.write(f"{folder}/memory.max", f"{memory}\n")
        self.write(f"{folder}/memory.high", "1048576\n")
        self.write(f"{folder}/cpu.max", f"{cpu}\n")
        self.write(f"{folder}/memory.events", events)

    def v1_group(self, path, memory=V1_NO_LIMIT, quota=-1, kills=0):
        memory_folder, cpu_folder = (f"/sys/fs/cgroup/{x}{path}" for x in ("memory", "cpu,cpuacct"))
        self.write(f"{memory_folder}/memory.limit_in_bytes", f"{memory}".strip() + "\n")
        control = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
        self.write(f"{memory_folder}/memory.oom_control", control)
        self.write(f"{cpu_folder}/cpu.cfs_quota_us", f"{quota}\n")
        self.write(f"{cpu_folder}/cpu.cfs_period_us", "100000\n")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def systemd_service(machine):
    """A service with a limit below a slice with a smaller one; the root group has no files."""
    machine.process("0::/work.slice/run.service\n", V2_MOUNT.format(top="/"))
    machine.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    machine.v2_group("/work.slice", memory=300 * MIB, cpu="150000 100000", kills=2)
    machine.v2_group("/work.slice/run.service", memory=400 * MIB, cpu="800000 100000", kills=1)
    return "/sys/fs/cgroup/work.slice"


def container_v2(machine):
    """With a namespace of control groups the container's group is the top."""
    machine.process("0::/\n", V2_MOUNT.format(top="/"))
    machine.v2_group("", memory=300 * MIB, cpu="150000 100000", kills=1)
    return "/sys/fs/cgroup"


def container_v2_of_host_names(machine):
    """Without one, the process's group has the host's name, of which the mount shows the inside."""
    top = "/system.slice/docker-0f3a.scope"
    machine.process(f"0::{top}/init\n", V2_MOUNT.format(top=top))
    machine.v2_group("", memory=300 * MIB, cpu="150000 100000", kills=1)
    machine.v2_group("/init", kills=1)
    return "/sys/fs/cgroup"


def joined_from_outside(machine):
    """A process that joined a container's namespace from another group: the path leads upwards."""
    machine.process("0::/../../user.slice/s.scope\n", V2_MOUNT.format(top="/"))
    machine.v2_group("", memory=300 * MIB, cpu="150000 100000", kills=1)
    return "/sys/fs/cgroup"


def container_v1(machine):
    names = "11:memory:{0}\n10:cpu,cpuacct:{0}\n1:name=systemd:{0}\n"
    machine.process(names.format("/docker/0f3a"), V1_MOUNTS.format(top="/docker/0f3a"))
    machine.v1_group("", memory=300 * MIB, quota=150_000, kills=1)
    return "/sys/fs/cgroup/memory"


def batch_job_v1(machine):
    """A job of a cluster: the limit is in the job's group, the process in a step's."""
    names = "9:cpu,cpuacct:/slurm/job_7\n4:memory:/slurm/job_7/step_0\n1:name=systemd:/x\n0::/x\n"
    hybrid = "34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    machine.process(names, V1_MOUNTS.format(top="/") + hybrid)
    machine.write("/sys/fs/cgroup/unified/x/cgroup.procs", "")
    machine.v1_group("")
    machine.v1_group("/slurm")
    machine.v1_group("/slurm/job_7", memory=300 * MIB, quota=150_000)
    machine.v1_group("/slurm/job_7/step_0", kills=1)
    return "/sys/fs/cgroup/memory/slurm/job_7"


LIMITED = [
    systemd_service,
    container_v2,
    container_v2_of_host_names,
    joined_from_outside,
    container_v1,
    batch_job_v1,
]


@pytest.mark.parametrize("record", LIMITED)
def test_limits_are_the_least_of_the_group_and_those_above(machine, record):
    group = record(machine)
    limit = memory_limit(machine.root)
    assert limit.nbytes == usable_memory_bytes(machine.root) == 300 * MIB
    assert limit.group == machine.root / group[1:]
    assert cpu_limit(machine.root) == 1.5


@pytest.mark.parametrize("record", LIMITED)
def test_kill_is_seen_in_the_group_and_names_the_limit(machine, record):
    group = record(machine)
    watch = KillWatch(machine.root)
    assert watch.reason() == ""
    for path in [*machine.root.rglob("memory.events"), *machine.root.rglob("memory.oom_control")]:
        path.write_text(
            path.read_text(encoding="utf-8").replace("oom_kill 1", "oom_kill 2"), encoding="utf-8"
        )
    assert watch.reason().startswith("killed by the kernel at the limit of 0.29 GiB of the cgroup")
    assert watch.reason().endswith(group)


def test_kill_without_a_limit_is_the_machines(machine):
    machine.process("0::/user.slice\n", V2_MOUNT.format(top="/"))
    machine.v2_group("/user.slice")
    watch = KillWatch(machine.root)
    machine.v2_group("/user.slice", kills=1)
    assert watch.reason() == "killed by the kernel: the machine ran out of memory"


def unlimited_v2(machine):
    machine.process("0::/user.slice\n", V2_MOUNT.format(top="/"))
    machine.v2_group("/user.slice")


def unlimited_v1(machine):
    machine.process("4:memory:/\n2:cpu,cpuacct:/\n", V1_MOUNTS.format(top="/"))
    machine.v1_group("")


def malformed(machine):
    machine.process("\n::\n0::/a\nx", V2_MOUNT.format(top="/") + "1 2\n - \n")
    machine.v2_group("/a", memory="lots", cpu="1 0", kills="many")


@pytest.mark.parametrize("record", [unlimited_v2, unlimited_v1, malformed, lambda machine: None])
def test_memory_limit_is_the_machines_without_a_group_limit(machine, record):
    record(machine)
    assert memory_limit(machine.root) is None
    assert cpu_limit(machine.root) is None
    assert usable_cores(machine.root) == len(os.sched_getaffinity(0))
    assert usable_memory_bytes(machine.root) == os.sysconf("SC_PAGE_SIZE") * os.sysconf(
        "SC_PHYS_PAGES"
    )
    assert KillWatch(machine.root).reason() == ""


@pytest.mark.parametrize(
    ("quota", "allowed", "cores"),
    [("10000", 8, 1), ("100000", 8, 1), ("110000", 8, 2), ("400000", 8, 4), ("900000", 8, 8)],
)
def test_usable_cores_are_the_quota_rounded_up_and_those_allowed_at_most(
    machine, monkeypatch, quota, allowed, cores
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)))
    machine.process("0::/\n", V2_MOUNT.format(top="/"))
    machine.v2_group("", cpu=f"{quota} 100000")
    assert usable_cores(machine.root) == cores


def test_limit_above_the_machines_memory_is_not_reached(machine):
    machine.process("0::/\n", V2_MOUNT.format(top="/"))
    machine.v2_group("", memory=2**50)
    assert usable_memory_bytes(machine.root) < 2**50


def test_host_and_sweep_have_what_the_group_grants(machine, monkeypatch):
    container_v2(machine)
    for function in (memory_limit, cpu_limit, usable_cores, usable_memory_bytes):
        monkeypatch.setattr(function, "__defaults__", (machine.root,))
    host = provenance.host()
    assert host.memory_bytes == host.cgroup_memory_bytes == 300 * MIB
    assert host.cores == min(2, len(os.sched_getaffinity(0)))
    assert host.cgroup_cores == 1.5
    case = '[[case]]\nworkload = "alphafold3-trunk"\naxes = { tokens = 8, entry = "synthetic" }\n'
    for protocol, limit in (("", 300), ("memory_limit_gib = 6", 300), ("memory_limit_gib=0.1", 0)):
        machine.write("s.toml", f"[protocol]\n{protocol}\n{case}")
        sweep = read_sweep(machine.root / "s.toml", catalogue())
        assert sweep.memory_limit_bytes == (limit * MIB or int(0.1 * 2**30))


def test_quota_limits_the_threads_of_a_case(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    threads = {
        (ranks, cores): case_environment(ranks, cores).get("OMP_NUM_THREADS")
        for ranks, cores in ((1, 8), (1, 2), (2, 8), (4, 2))
    }
    assert threads == {(1, 8): None, (1, 2): "2", (2, 8): "4", (4, 2): "1"}
    for ranks, cores in ((1, 8), (1, 2), (4, 2)):
        assert case_environment(ranks, cores, threads=5)["OMP_NUM_THREADS"] == "5"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert case_environment(1, 2)["OMP_NUM_THREADS"] == "3"
    assert case_environment(1, 2, threads=5)["OMP_NUM_THREADS"] == "3", "the user's comes first"


class TestVerdict:
    KILLED = "killed by the kernel at the limit of 0.29 GiB of the cgroup /x"

    def verdict(self, tmp_path, status, ranks=1, kill=KILLED, cause=None, results=()):
        paths = [tmp_path / f"result.{rank}" for rank in range(ranks)]
        for rank, result in results:
            paths[rank].write_text(json.dumps(result), encoding="utf-8")
        ended = Ended(status, cause, 1.0, 2**30, "", kill)
        result = verdict(ended, paths, TimeLimit(5.0, None), 2**30, ["host"] * ranks)
        return result.status, result.reason

    def test_case_that_the_kernel_killed_is_oom(self, tmp_path):
        reason = f"{self.KILLED} (killed by SIGKILL)"
        assert self.verdict(tmp_path, -9) == ("oom", reason)

    def test_case_that_lost_a_rank_or_a_child_to_the_kernel_is_oom(self, tmp_path):
        lost = {"status": "crash", "reason": "RuntimeError: Connection closed by peer"}
        status, reason = self.verdict(tmp_path, 1, ranks=2, results=[(0, lost)])
        assert status == "oom"
        assert reason == f"{self.KILLED} (rank 0: {lost['reason']})"

    def test_case_killed_by_another_process_is_a_crash(self, tmp_path):
        assert self.verdict(tmp_path, -9, kill="") == ("crash", "killed by SIGKILL")

    def test_other_ends_stay_as_they_are_when_the_kernel_killed_another_process(self, tmp_path):
        assert self.verdict(tmp_path, -9, cause="timeout")[0] == "timeout"
        blocked = {"status": "blocked", "reason": "PermissionError: no"}
        assert self.verdict(tmp_path, 0, results=[(0, blocked)]) == ("blocked", blocked["reason"])


@pytest.fixture
def group():
    """A real control group with a memory limit below this process's own."""
    own = next(cgroup._groups("memory", Path("/")), None)
    if own is None or os.geteuid() != 0:
        pytest.skip("control groups of memory are made by root alone, where they are mounted")
    folder = own / f"foldperf-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made in {own}: {error.strerror}")
    try:
        names = ("memory.limit_in_bytes", "memory.max")
        limits = [folder / name for name in names if (folder / name).exists()]
        if not limits:
            pytest.skip(f"{own} gives its groups no memory controller")
        yield folder, limits[0]
    finally:
        for pid in (folder / "cgroup.procs").read_text(encoding="utf-8").split():
            os.kill(int(pid), 9)
        for _ in range(100):
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.05)
        assert not folder.exists()


def test_command_that_a_real_group_cannot_hold_is_killed_for_memory(group):
    folder, limit = group
    limit.write_text(str(200 * MIB), encoding="utf-8")
    script = (
        "import json, sys; from dataclasses import asdict; from bench.run import isolation;"
        f"found = isolation.run_isolated([sys.executable, '-c', sys.argv[1]], timeout_s={HANG_S},"
        " memory_limit_bytes=2**40); print(json.dumps(asdict(found)))"
    )
    for size, status in ((50, 0), (400, -9)):
        done = subprocess.run(
            [sys.executable, "-c", script, f"x = bytearray({size} << 20)"],
            preexec_fn=lambda: (folder / "cgroup.procs").write_text(
                str(os.getpid()), encoding="utf-8"
            ),
            env=os.environ | {"PYTHONPATH": str(provenance.ROOT)},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        found = json.loads(done.stdout)
        assert (found["status"], found["cause"]) == (status, None)
        kill = f"killed by the kernel at the limit of 0.20 GiB of the cgroup {folder}"
        assert found["memory_kill"] == (kill if status else "")


def test_case_that_a_real_group_cannot_hold_is_oom(group, tmp_path):
    folder, limit = group
    limit.write_text(str(800 * MIB), encoding="utf-8")
    (tmp_path / "toys").mkdir()
    toys = install(tmp_path / "toys")
    (tmp_path / "toy.toml").write_text(
        '[[case]]\nworkload = "toy"\naxes = { behaviour = "eat at once" }\n', encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "toy.toml"],
        preexec_fn=lambda: (folder / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{toys}{os.pathsep}{provenance.ROOT}"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (record,) = valid_records(tmp_path / "results/runs/toy/records.jsonl")
    assert record["status"] == "oom"
    assert "the limit of 0.78" in record["reason"]
    assert record["protocol"]["memory_limit_bytes"] == record["host"]["memory_bytes"] == 800 * MIB


def test_case_is_killed_before_what_waits_for_it():
    script = "while open('/proc/self/oom_score_adj').read() != '1000\\n': pass"
    ended = run_isolated([sys.executable, "-c", script], timeout_s=HANG_S, memory_limit_bytes=2**40)
    assert (ended.status, ended.cause) == (0, None)
