"""Records of the earlier schema, brought to the current one."""

from typing import Any

from bench.records.record import SCHEMA, RecordJson

EARLIER = "foldperf.record/1"

# Fields that the earlier schema let a record leave out, by part, with the value that says so.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "facts": {"exponentials": 0, "instructions": 0},
    "git": {"reason": None},
    "host": {"cgroup_cores": None, "cgroup_memory_bytes": None},
    "protocol": {"timeout_factor": None, "harness": None},
}
_DEVICE_DEFAULTS: dict[str, Any] = {"energy_scope": None}
# Metrics that have another name in the current schema, with their parts ("floor_s.bytes").
_RENAMED = {
    "floor_s": "roofline_bound_s",
    "times_floor": "ratio_to_roofline",
    "times_achieved_bound": "ratio_to_achieved_bound",
}
_METRIC_DEFAULTS: dict[str, Any] = {"ranks": []}


def migrate(table: RecordJson) -> RecordJson:
    """Return a record of the earlier schema as one of the current schema; others as they are.

    No value is changed or left out; some metrics have a new name. A part of another type than the
    schema wants is left for the check of the result to name.
    """
    if table.get("schema") != EARLIER:
        return table
    migrated = table | {"schema": SCHEMA}
    for name, defaults in _DEFAULTS.items():
        if name in table:
            migrated[name] = _complete(table[name], defaults)
    if isinstance(table.get("devices"), list):
        migrated["devices"] = [_complete(device, _DEVICE_DEFAULTS) for device in table["devices"]]
    if isinstance(table.get("metrics"), dict):
        migrated["metrics"] = {
            _renamed(name): _complete(metric, _METRIC_DEFAULTS)
            for name, metric in table["metrics"].items()
        }
    return migrated


def _renamed(metric: str) -> str:
    """Return the current name of a metric or of its part."""
    name, dot, part = metric.partition(".")
    return _RENAMED.get(name, name) + dot + part


def _complete(part: Any, defaults: dict[str, Any]) -> Any:
    return defaults | part if isinstance(part, dict) else part
