"""Predicted time and energy of a traced step on a listed device, as metrics and notes."""

from dataclasses import dataclass
from typing import Any

from bench.prediction.stored_fit import stored_fractions
from bench.records.metrics import Quality, Value, Values, missing
from bench.records.record import RecordedDevice
from bench.simulation.baseline import assumed_baseline
from refsys.costs.achievable import Achievable
from refsys.costs.devices import ListedDevice, named_device
from refsys.costs.energy_model import EnergyPrediction, predict_energy
from refsys.costs.machines import Machine, machine_of
from refsys.costs.time_model import TimePrediction, predict_time
from refsys.costs.trace import Trace

METHOD = "time model over a trace"


@dataclass(frozen=True, slots=True)
class Target:
    """Device that cases are simulated for.

    Attributes:
        entry: Its entry in the table of devices.
        machine: Its rates.
        fractions: Fractions that operators achieve: fitted ones if there are, else assumed.
        ranks_per_node: Ranks of a node; as many as the device's link connects if None.
    """

    entry: ListedDevice
    machine: Machine
    fractions: Achievable
    ranks_per_node: int | None = None

    @classmethod
    def named(cls, name: str, ranks_per_node: int | None = None) -> "Target":
        """Return the target of a device's name.

        Raises:
            ArgumentError: no device has that name.
        """
        entry = named_device(name)
        machine = machine_of(entry)
        return cls(entry, machine, stored_fractions(entry.name), ranks_per_node)

    def memory_needed(self, peak_bytes: int, ranks: int) -> int:
        """Return the memory of a rank whose tensors have a peak: see `assumed_baseline`."""
        return assumed_baseline(ranks).with_tensors(peak_bytes)

    def fits(self, peak_bytes: int, ranks: int) -> bool:
        """Return whether tensors of a peak fit; False where the device's memory is not listed."""
        memory = self.entry.memory_bytes
        return memory is not None and self.memory_needed(peak_bytes, ranks) <= memory

    def recorded(self) -> RecordedDevice:
        """Return the device as a record has it; its name says that it is simulated."""
        memory = self.entry.memory_bytes
        return RecordedDevice(
            vendor=self.entry.maker,
            name=f"{self.entry.name} (simulated)",
            kind="cuda",
            memory_bytes=None if memory is None else int(memory),
        )

    def predict(
        self, trace: Trace, exchange_chunks: int = 1
    ) -> tuple[TimePrediction, EnergyPrediction]:
        """Return the time and energy of a step of one rank."""
        time = predict_time(
            trace,
            self.machine,
            ranks_per_node=self.ranks_per_node,
            fractions=self.fractions,
            exchange_chunks=exchange_chunks,
        )
        return time, predict_energy(trace, self.machine, time, fractions=self.fractions)


def predicted_values(time: TimePrediction, energy: EnergyPrediction) -> Values:
    """Return predicted times and energy as metrics, flagged with their assumptions."""
    assumed = time.assumed_s / time.known_s if time.known_s else 1.0
    flags = (f"{100 * assumed:.0f} % of the time is by assumed fractions", time.accuracy_text)
    quality: Quality = "degraded"

    def predicted(value: float | None, flags: tuple[str, ...], unknown: tuple[str, ...]) -> Value:
        if value is None:
            return missing(f"not known: {', '.join(unknown)}"[:300], METHOD)
        return Value(value, METHOD, quality=quality, flags=flags)

    values = {"predicted_step_time_s": predicted(time.step_s, flags, time.unknown)}
    if time.step_s is not None:
        for name, phase in time.phases.items():
            values[f"predicted_phase_time_s.{name}"] = predicted(phase.seconds, flags, ())
    energy_flags = (f"assumed: {', '.join(energy.assumed)}",) if energy.assumed else ()
    values["predicted_energy_per_step_j"] = predicted(energy.step_j, energy_flags, energy.unknown)
    return values


def prediction_notes(time: TimePrediction) -> dict[str, Any]:
    """Return the times by kind of operator and by term, and what is not known."""
    return {
        "predicted_s_by_kind": dict(time.by_kind.items()),
        "predicted_s_by_term": dict(time.by_term),
        "assumed_s": time.assumed_s,
        "unknown": list(time.unknown),
        "accuracy": time.accuracy_text,
    }
