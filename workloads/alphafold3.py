"""The full AlphaFold 3 in training: trunk, rollout, confidence head, diffusion samples, losses."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from refsys.batch import ATOM_WINDOW
from refsys.data.batches.synthetic import ATOMS_PER_TOKEN
from refsys.data.store.store import Store
from refsys.options import option
from refsys.run_config import FULL
from refsys.training.loading import SYNTHETIC, Batches, Loaded, is_synthetic, load
from workloads.conventional import CACHED, PATHS, PREPARED, files_of
from workloads.errors import WorkloadError
from workloads.host_programs import PATH_HELP, ConventionalProgram
from workloads.structure_training import StructureCase, StructureTraining
from workloads.workload import ExecutionContext

# Proteins have 8 atoms a token, nucleic acids up to 23; most complexes stay below this.
_REAL_ATOMS_PER_TOKEN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class AlphaFold3Case(StructureCase):
    """Configuration of a case.

    Attributes:
        path: Pipeline that the batches come through; all but the first are contrasts.
    """

    path: str = option(PREPARED, PATH_HELP, choices=PATHS)


class AlphaFold3Workload(StructureTraining[AlphaFold3Case]):
    """Cases of training the full model."""

    name = "alphafold3"
    model = FULL
    configuration = AlphaFold3Case
    device_check = "training step"
    plan_goal = "training"
    summary = "AlphaFold 3 in training: trunk, diffusion module, confidence head, all losses"
    selections: ClassVar = {
        "exact": (
            {"preset": "tiny", "precision": "bfloat16", "entry": SYNTHETIC},
            {"preset": "tiny", "entry": SYNTHETIC, "tokens": 32, "context_ranks": 4},
        ),
        "timing": ({"entry": SYNTHETIC, "tokens": 16, "samples": 4, "workers": 0},),
        "quick": ({"entry": "8vkf", "tokens": [32, 64]},),
    }

    def configure(self, values: Mapping[str, object]) -> AlphaFold3Case:
        """See `Workload`; the atom axis has a fixed size, and contrasts run in the step."""
        config = super().configure(values)
        run, data = config.run, config.run.data
        per_token = ATOMS_PER_TOKEN if is_synthetic(run) else _REAL_ATOMS_PER_TOKEN
        # Each context rank owns a window of atoms, which may be padding.
        windows = max(-(-data.tokens * per_token // ATOM_WINDOW), run.parallel.context_ranks)
        atoms = windows * ATOM_WINDOW
        if data.atoms % ATOM_WINDOW:
            raise WorkloadError(
                f"atoms={data.atoms} is not a multiple of the window, {ATOM_WINDOW}"
            )
        data = replace(data, atoms=data.atoms or atoms)
        if config.path != PREPARED:
            if is_synthetic(run) or len(data.entries) > 1:
                raise WorkloadError(
                    f"path={config.path} parses the files of one structure; "
                    f"entry={' '.join(data.entries)} has others"
                )
            data = replace(data, workers=0)
        return replace(config, run=replace(run, data=data))

    def notes(self, config: AlphaFold3Case) -> tuple[str, ...]:
        """See `StructureTraining`."""
        return (
            *super().notes(config),
            f"{config.run.data.atoms} atoms, {config.run.preset.templates} templates",
            "the rollout of 20 steps is not differentiated",
        )

    def batches(self, config: AlphaFold3Case, setting: ExecutionContext) -> Batches:
        """See `StructureTraining`; a conventional path runs as well, for its time.

        Its output is no batch of this model: its crop and rows are as large, its encoding is
        one-hot.
        """
        batches = super().batches(config, setting)
        if config.path == PREPARED:
            return batches
        run = config.run
        (entry,) = run.data.entries
        program = ConventionalProgram(
            files_of(entry),
            run.data.tokens,
            run.data.alignment_rows,
            setting,
            cached=config.path == CACHED,
        )
        assert batches.examples is not None, "a conventional path reads a structure"
        load_step = partial(_after_conventional, program, partial(load, batches.examples, run))
        store = Store(setting.store)
        return Batches(run, store, setting.device, rank=setting.rank, load_step=load_step)


def _after_conventional(program: ConventionalProgram, load_step: Any, step: int) -> Loaded:
    for phase in program.phases:
        program.run(phase)
    loaded: Loaded = load_step(step)
    return loaded
