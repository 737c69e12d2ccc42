"""Published series that correspond to simulated cases, and the axes of those cases.

The cases themselves are those of `bench.simulation.published_cases`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# Predicted metrics of records.
PEAK, STEP, FORWARD = (
    "peak_tracked_bytes",
    "predicted_step_time_s",
    "predicted_phase_time_s.forward",
)
TRAINING, INFERENCE, OPERATORS = "alphafold3", "alphafold3-inference", "operators"
# Stages of training by their number on the axis of a published figure.
STAGES: Mapping[float, Mapping[str, Any]] = {
    0: {"stage": "initial", "tokens": 384},
    1: {"stage": "fine_tuning_1", "tokens": 640},
    2: {"stage": "fine_tuning_2", "tokens": 768},
    3: {"stage": "fine_tuning_3", "tokens": 768},
}
_A100, _H100, _H200 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB", "NVIDIA H200"
_MI250, _B300 = "AMD Instinct MI250", "NVIDIA B300"
_EAGER, _FUSED = {"backend": "reference"}, {"backend": "triton"}


class Match(NamedTuple):
    """Simulated cases that correspond to a published series.

    Attributes:
        name: Name of the implementation in tables and legends.
        work: Short name of the published work.
        figure: Subject of the published figure.
        system: Published system.
        metric: Predicted metric of the records.
        workload: Workload of the records.
        axes: Axes of all records of the series.
        device: Beginning of the name of the records' device.
        positions: Axes of the records by position on the published axis; tokens if empty.
    """

    name: str
    work: str
    figure: str
    system: str
    metric: str
    workload: str
    axes: Mapping[str, Any]
    device: str
    positions: Mapping[float, Mapping[str, Any]] = {}

    def axes_at(self, position: float) -> dict[str, Any] | None:
        """Return the axes of the record of a published point; None if it has no counterpart."""
        if not self.positions:
            return {**self.axes, "tokens": int(position)}
        axes = self.positions.get(position)
        return None if axes is None else {**self.axes, **axes}


def matches() -> list[Match]:
    """Return all published series that have simulated counterparts.

    An eager implementation corresponds to the reference backend, one with kernels of its own to
    the fused one; Protenix's training to both, as its table does not state its kernels.
    """
    return [*_megafold(), *_protenix(), *_alphafold3(), *_fold_cp(), *_turbo_pair_former()]


def _megafold() -> Iterator[Match]:
    for name, system, backend in (
        ("MegaFold's baseline, eager", "PyTorch", _EAGER),
        ("MegaFold", "MegaFold", _FUSED),
    ):
        for figure, metric, device in (
            ("time of a training iteration, H200", STEP, _H200),
            ("peak memory allocated, H200", PEAK, _H200),
            ("time of a training iteration, MI250", STEP, _MI250),
        ):
            yield Match(
                name=name,
                work="MegaFold",
                figure=figure,
                system=system,
                metric=metric,
                workload=TRAINING,
                axes={"stage": "initial", "cycles": 2, "checkpointing": True, **backend},
                device=device,
            )


def _protenix() -> Iterator[Match]:
    for kernels, backend in (("eager", _EAGER), ("fused", _FUSED)):
        for quantity, metric in (("peak memory", PEAK), ("time", STEP)):
            yield Match(
                name=f"Protenix training, as {kernels}",
                work="Protenix",
                figure=f"{quantity} of a training step by stage, A100 with 80 GB",
                system="Protenix",
                metric=metric,
                workload=TRAINING,
                axes={"cycles": 2, "checkpointing": True, **backend},
                device=_A100,
                positions=STAGES,
            )
    for figure, metric in (("peak memory of inference", PEAK), ("inference time", STEP)):
        yield Match(
            name="Protenix inference",
            work="Protenix",
            figure=figure,
            system="Protenix",
            metric=metric,
            workload=INFERENCE,
            axes={"cycles": 10, **_FUSED},
            device=_A100,
        )


def _alphafold3() -> Iterator[Match]:
    longest: Mapping[float, Mapping[str, Any]] = {1: {"tokens": 5120}}
    for device, part in ((_A100, "A100"), (_H100, "H100")):
        for figure, metric, positions in (
            ("inference time", STEP, {}),
            ("longest sequence predicted", PEAK, longest),
        ):
            yield Match(
                name="AlphaFold 3 inference",
                work="AlphaFold 3",
                figure=f"{figure}, {part} with 80 GB",
                system="AlphaFold 3",
                metric=metric,
                workload=INFERENCE,
                axes={"cycles": 11, **_FUSED},
                device=device,
                positions=positions,
            )


def _fold_cp() -> Iterator[Match]:
    yield Match(
        name="Fold-CP inference",
        work="Fold-CP",
        figure="longest sequence predicted, B300",
        system="Fold-CP",
        metric=PEAK,
        workload=INFERENCE,
        axes=_FUSED,
        device=_B300,
        positions={64: {"tokens": 30_000, "context_ranks": 64}},
    )


def _turbo_pair_former() -> Iterator[Match]:
    forward, both = "triangle attention, forward", "triangle attention, forward and backward"
    for name, system, backend, figure, metric in (
        ("TurboPairFormer's attention", "TurboPairFormer 0.1.0", _FUSED, forward, FORWARD),
        ("TurboPairFormer's attention", "TurboPairFormer 0.1.0", _FUSED, both, STEP),
        ("eager attention", "stock", _EAGER, both, STEP),
    ):
        yield Match(
            name=name,
            work="TurboPairFormer",
            figure=figure,
            system=system,
            metric=metric,
            workload=OPERATORS,
            axes={"operator": "triangle_attention", **backend},
            device=_H100,
        )
