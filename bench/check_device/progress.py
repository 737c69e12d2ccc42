"""State of a device check on disk: how each stage ended, and when the running one has to end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from refsys.files import parse_json, write_json

STAGES = "stages.json"
_FORMAT = 1

# failed: it ran to its end, and what it checks is wrong. skipped: it cannot run here.
Status = Literal["running", "ok", "failed", "skipped", "timeout", "crash"]
# Statuses of stages that do not run again.
FINAL = frozenset({"ok", "failed", "skipped"})
_STATUSES = frozenset({"running", "ok", "failed", "skipped", "timeout", "crash"})


@dataclass(frozen=True, slots=True)
class StageState:
    """State of a stage.

    Attributes:
        status: See `Status`.
        reason: Why the stage was skipped, failed or cut; empty otherwise.
        started: Start, in seconds since the epoch.
        deadline: Time at which it has to end, likewise.
        seconds: Duration; 0 while it runs.
        found: Findings that are not in records, as JSON.
    """

    status: Status
    reason: str = ""
    started: float = 0.0
    deadline: float = 0.0
    seconds: float = 0.0
    found: Mapping[str, Any] = field(default_factory=dict)


class Stages:
    """States of stages, in a file that is read and written as a whole."""

    def __init__(self, folder: Path, identity: str | None = None) -> None:
        """Read the file.

        Args:
            folder: Folder of the file.
            identity: Code, machine, device, software and options of the check. States of another
                identity are dropped; None accepts any identity.
        """
        self._path = folder / STAGES
        self._required_identity = identity
        self._identity = ""
        self._states: dict[str, StageState] = {}
        self.reload()

    def reload(self) -> None:
        """Read the file again; one that is damaged or of another identity counts as empty."""
        identity, states = _read(self._path)
        matches = self._required_identity in {None, identity}
        self._states = states if matches else {}
        self._identity = identity if self._required_identity is None else self._required_identity

    def get(self, name: str) -> StageState | None:
        """Return the state of a stage, None if it has none."""
        return self._states.get(name)

    def running(self) -> str | None:
        """Return the name of the stage that runs, or that ran when its process ended."""
        return next((n for n, state in self._states.items() if state.status == "running"), None)

    def is_final(self, name: str) -> bool:
        """Return True if a stage does not have to run again."""
        state = self._states.get(name)
        return state is not None and state.status in FINAL

    def start(self, name: str, now: float, deadline: float) -> None:
        """Note that a stage begins."""
        self._put(name, StageState("running", started=now, deadline=deadline))

    def end(
        self,
        name: str,
        now: float,
        status: Status,
        reason: str = "",
        findings: Mapping[str, Any] | None = None,
    ) -> None:
        """Note the end of a stage."""
        state = self._states.get(name) or StageState("running", started=now, deadline=now)
        seconds = max(0.0, now - state.started)
        ended = replace(state, status=status, reason=reason, seconds=seconds)
        self._put(name, replace(ended, found=findings or {}))

    def _put(self, name: str, state: StageState) -> None:
        self._states[name] = state
        table = {key: asdict(stage_state) for key, stage_state in self._states.items()}
        content = {"format": _FORMAT, "identity": self._identity, "stages": table}
        write_json(self._path, content)


def _read(path: Path) -> tuple[str, dict[str, StageState]]:
    """Return the identity and the states that a file holds; neither where it is damaged."""
    try:
        table = parse_json(path.read_bytes())
        if table["format"] != _FORMAT:
            return "", {}
        states = {str(name): StageState(**state) for name, state in table["stages"].items()}
        identity = str(table["identity"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", {}
    if not all(state.status in _STATUSES for state in states.values()):
        return "", {}
    return identity, states
