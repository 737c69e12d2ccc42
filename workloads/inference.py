"""AlphaFold 3 predicting the structures of one example: what `foldperf fold` computes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from refsys.batch import ALPHAFOLD3_FIELDS, ATOM_WINDOW, Batch
from refsys.config import PRESETS, ModelConfig, preset
from refsys.costs.flops import flops_by_component, parameter_counts
from refsys.data.batches.atom_features import LIGAND_BONDS
from refsys.data.batches.construction import BONDS_PER_TOKEN, example_batch
from refsys.data.batches.synthetic import ATOMS_PER_TOKEN, synthetic_alphafold3_batch
from refsys.errors import CapacityError
from refsys.fold import FoldConfig, InferencePass, Prediction, inference_spec
from refsys.model.alphafold3 import AlphaFold3
from refsys.model.chunks import ALL_AT_ONCE
from refsys.model.diffusion import SamplerConfig
from refsys.model.initialization import initialize
from refsys.ops.rounds import shortened
from refsys.options import option
from refsys.parallel import mesh
from refsys.parallel.batch_layouts import Layouts, RowSlabLayouts, SingleRankLayouts
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import LEDGER
from refsys.parallel.monitor import explained
from refsys.precision import PRECISIONS, precision
from refsys.run_config import ParallelOptions, run_config
from refsys.training.build import chunks_of
from refsys.training.loading import SYNTHETIC
from workloads import backends
from workloads.backends import Backends, backend_option
from workloads.errors import UnsupportedError, WorkloadError
from workloads.structure_training import OTHER, entry_inputs, open_entry
from workloads.workload import ExecutionContext, Program, StaticCosts, Value, Workload

# Proteins have 8 atoms a token, nucleic acids up to 23; most complexes stay below this.
_REAL_ATOMS_PER_TOKEN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceCase:
    """Configuration of a case."""

    preset: str = option("tiny", "model size", choices=tuple(PRESETS), titled=True)
    tokens: int = option(0, "tokens of the example; 0 is the preset's crop", minimum=0)
    alignment_rows: int = option(0, "MSA depth; 0 is the preset's own", minimum=0)
    entry: str = option(
        "8vkf", "prepared structure, of which tokens are predicted, or synthetic", titled=True
    )
    atoms: int = option(
        0, f"size of the atom axis; 0 is {_REAL_ATOMS_PER_TOKEN} a token", minimum=0
    )
    samples: int = option(5, "structures that are sampled", minimum=1)
    cycles: int = option(4, "recycling iterations", minimum=1, maximum=64)
    steps: int = option(200, "steps of the sampler", minimum=1)
    precision: str = option("float32", "dtype table", choices=tuple(PRECISIONS))
    backend: str = backend_option()
    chunk_rows: int = option(
        0,
        "rows of pairs at once; 0 is all of them, or a quarter of a context rank's without fused "
        "kernels",
        minimum=0,
    )
    chunk_samples: int = option(0, "structures denoised at once; 0 is all of them", minimum=0)
    context_ranks: int = option(
        1, "ranks that divide the tokens and atoms of the example", minimum=1, maximum=4096
    )
    exchange_chunks: int = option(
        1,
        "parts of the channels that context ranks exchange one by one",
        minimum=1,
        maximum=64,
    )


class InferenceWorkload(Workload[InferenceCase]):
    """Cases of predicting structures with random weights, whose costs are those of any weights."""

    name = "alphafold3-inference"
    summary = "AlphaFold 3 predicting structures: trunk, conditioning, sampler, confidence head"
    configuration = InferenceCase
    data_parallel = True
    plan_goal = "inference"
    selections: ClassVar = {
        "exact": (
            {
                "preset": "tiny",
                "precision": "bfloat16",
                "entry": SYNTHETIC,
                "tokens": 32,
                "chunk_rows": 8,
                "steps": 20,
            },
        ),
        "timing": ({"entry": SYNTHETIC, "tokens": 16, "cycles": 1, "samples": 1, "steps": 2},),
        "quick": ({"entry": "8vkf", "tokens": [32, 64], "cycles": 2, "steps": 10},),
    }

    def configure(self, values: Mapping[str, object]) -> InferenceCase:
        """See `Workload`; sizes of 0 become those that they stand for."""
        config = super().configure(values)
        model = preset(config.preset)
        tokens = config.tokens or model.tokens
        per_token = ATOMS_PER_TOKEN if config.entry == SYNTHETIC else _REAL_ATOMS_PER_TOKEN
        # Each context rank owns a window of atoms, which may be padding.
        windows = max(-(-tokens * per_token // ATOM_WINDOW), config.context_ranks)
        atoms = config.atoms or windows * ATOM_WINDOW
        if atoms % ATOM_WINDOW:
            raise WorkloadError(f"atoms={atoms} is not a multiple of the window, {ATOM_WINDOW}")
        if tokens < config.context_ranks:
            raise WorkloadError(
                f"tokens={tokens} are too few for context_ranks={config.context_ranks}; "
                "take as many at least"
            )
        return replace(
            config,
            tokens=tokens,
            alignment_rows=config.alignment_rows or model.alignment_rows,
            atoms=atoms,
        )

    def entries(self, config: InferenceCase) -> frozenset[str]:
        """See `Workload`."""
        return frozenset({config.entry}) - {SYNTHETIC}

    def inputs(self, config: InferenceCase, store: Path) -> dict[str, str]:
        """See `Workload`."""
        return {} if config.entry == SYNTHETIC else entry_inputs(config.entry, store)

    def labels(self, config: InferenceCase) -> dict[str, Value]:
        """See `Workload`."""
        values = self.values(config)
        # Some defaults follow from these: they must not make a series of every size.
        determined = {name: values[name] for name in ("preset", "tokens", "entry", "context_ranks")}
        usual = self.values(self.configure(determined)) | {"context_ranks": 1}
        named = (*("preset", "tokens", "entry"), "backend", "precision")
        synthetic = config.entry == SYNTHETIC
        parts = (
            config.backend,
            config.precision,
            *self.chosen(config, usual, named, titled=False),
            *([SYNTHETIC] * synthetic),
        )
        return {
            "tokens": config.tokens,
            "series": f"{self.name} {config.preset}",
            "variant": ", ".join(parts),
            "synthetic": synthetic,
        }

    def context_ranks(self, config: InferenceCase) -> int:
        """See `Workload`."""
        return config.context_ranks

    def exchange_chunks(self, config: InferenceCase) -> int:
        """See `Workload`."""
        return config.exchange_chunks

    def unsupported_reason(self, config: InferenceCase, device: torch.device) -> str | None:
        """See `Workload`."""
        return backends.unsupported_reason(config.backend, device)

    def parameters(self, config: InferenceCase) -> Mapping[str, int]:
        """See `Workload`."""
        with torch.device("meta"):
            return parameter_counts(_model(config, preset(config.preset)))

    def static_costs(self, config: InferenceCase) -> StaticCosts:
        """See `Workload`; a step is one forward pass, of which a rank has an equal part."""
        with torch.device("meta"):
            model = _model(config, preset(config.preset))
            batch = _placeholder(config)
            layout = SingleRankLayouts().of(batch)
        options = replace(_fold_config(config, torch.device("meta"), 0), chunks=ALL_AT_ONCE)
        inference = InferencePass(model, batch, layout, options)
        with shortened(), flops_by_component(model) as spent:
            for run in inference.phases.values():
                run()
        counts = parameter_counts(model)
        flops = {name: spent[name] // config.context_ranks for name in (*counts, "")}
        forward = sum(spent.values()) // config.context_ranks
        other = {OTHER: flops.pop("")}
        table = precision(config.precision)
        return StaticCosts(
            parameters=sum(counts.values()),
            components=counts,
            forward_flops=forward,
            forward_flops_by_component=flops | (other if other[OTHER] else {}),
            step_flops=forward,
            arithmetic=str(table.activations).removeprefix("torch."),
            minimum_bytes=sum(counts.values()) * table.parameters.itemsize + batch.nbytes,
            notes=(
                f"{config.cycles} recycling iteration(s), {config.samples} structure(s), "
                f"{config.steps} steps of the sampler",
                f"{config.atoms} atoms, {preset(config.preset).templates} templates",
                "weights are random and read once; nothing is differentiated",
                "pointwise work, normalization and softmax are not counted as FLOPs",
            ),
        )

    def build(self, config: InferenceCase, setting: ExecutionContext) -> "InferenceProgram":
        """See `Workload`; each group of context ranks predicts an example of its own.

        Raises:
            UnsupportedError: the structure is not prepared or smaller than the case, or the ranks
                are no multiple of the context ranks.
        """
        groups, left = divmod(setting.ranks, config.context_ranks)
        if left:
            raise UnsupportedError(
                f"context_ranks={config.context_ranks} needs a multiple of as many ranks, not "
                f"{setting.ranks}"
            )
        parallel = ParallelOptions(data_ranks=groups, context_ranks=config.context_ranks)
        build_batch = _batches(config, setting)
        ranks = mesh.join(parallel, setting.device, run=self.values(config))
        layouts: Layouts = SingleRankLayouts()
        if config.context_ranks > 1:
            layouts = RowSlabLayouts(
                GroupExchange(ranks.context_group),
                chunks=config.exchange_chunks,
                agreement=ranks.context_agreement,
            )
        with setting.device:
            model = _model(config, preset(config.preset))
        initialize(model, setting.seed)
        options = _fold_config(config, setting.device, setting.seed)
        return InferenceProgram(model, build_batch, layouts, options, config.backend)

    def build_abstract(self, config: InferenceCase) -> "InferenceProgram":
        """See `Workload`; the phase of the host is left out."""
        return abstract_program(config, preset(config.preset))


class InferenceProgram(Program):
    """Structure prediction as a program that is measured: each step has a crop of its own."""

    forward_phases = ("trunk", "conditioning", "sampling", "confidence")

    def __init__(
        self,
        model: AlphaFold3,
        build_batch: Callable[[int], Batch],
        layouts: Layouts,
        options: FoldConfig,
        backend: str,
    ) -> None:
        """Join the parts; nothing runs.

        Args:
            model: Model with its weights, on the device.
            build_batch: Function from a step to its batch, on the host.
            layouts: Layouts of the batches.
            options: Options of sampling.
            backend: Implementation of the operators.
        """
        self.phases = ("data", *self.forward_phases)
        self._model, self._build_batch = model, build_batch
        self._layouts, self._options = layouts, options
        self._backends = Backends(backend)
        self._steps = count()
        self._batch: Batch | None = None
        self._inference: InferencePass | None = None
        self._prediction: Prediction | None = None

    def run(self, phase: str) -> None:
        """See `Program`.

        Raises:
            UnsupportedError: no crop of the structure fits the sizes of the case.
        """
        with LEDGER.during(phase), explained(), self._backends():
            if phase == "data":
                self._data()
                return
            if phase == self.forward_phases[0]:
                assert self._batch is not None, "the data phase comes first"
                layout = self._layouts.of(self._batch)
                self._inference = InferencePass(self._model, self._batch, layout, self._options)
                self._prediction = None
            assert self._inference is not None, "the trunk comes first"
            self._inference.phases[phase]()
            if phase == self.forward_phases[-1]:
                self._prediction, self._inference = self._inference.prediction, None

    def _data(self) -> None:
        self._batch = None
        try:
            batch = self._build_batch(next(self._steps))
        except CapacityError as error:
            raise UnsupportedError(str(error)) from None
        self._layouts.plan(batch)
        self._batch = batch.to(next(self._model.parameters()).device)

    @property
    def module(self) -> nn.Module:
        """See `Program`."""
        return self._model

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {
            "parameters": list(self._model.parameters()),
            "inputs": list(self._batch.values()) if self._batch else [],
        }

    def outcome(self) -> dict[str, float]:
        """See `Program`; confidence is the mean over structures, and says nothing of weights."""
        prediction, batch = self._prediction, self._batch
        if prediction is None or batch is None:
            return {}
        return {
            "plddt": float(prediction.plddt_DA[:, batch["atom_mask"][0]].double().mean()),
            "ptm": float(prediction.ptm_D.double().mean()),
            "tokens": float(batch["token_mask"].sum()),
        }

    def implementations(self) -> dict[str, str]:
        """See `Program`."""
        return self._backends.implementations()

    def notes(self) -> dict[str, object]:
        """See `Program`."""
        return self._backends.notes()


def abstract_program(config: InferenceCase, model: ModelConfig) -> InferenceProgram:
    """Return the program of a case for shapes alone, without the phase of the host.

    Args:
        config: Configuration of the case.
        model: Hyper-parameters of the model.
    """
    layouts: Layouts = SingleRankLayouts()
    if config.context_ranks > 1:
        layouts = RowSlabLayouts(GroupExchange(), chunks=config.exchange_chunks, traced=True)
    options = _fold_config(config, torch.get_default_device(), 0)
    program = InferenceProgram(
        _model(config, model),
        lambda _step: _placeholder(config),
        layouts,
        options,
        config.backend,
    )
    program.run("data")
    program.phases = program.forward_phases
    return program


def _model(config: InferenceCase, model: ModelConfig) -> AlphaFold3:
    return AlphaFold3(model, precision(config.precision)).requires_grad_(False)


def _fold_config(config: InferenceCase, device: torch.device, seed: int) -> FoldConfig:
    run = run_config(
        backend=config.backend,
        context_ranks=config.context_ranks,
        chunk_rows=config.chunk_rows,
        chunk_samples=config.chunk_samples,
    )
    return FoldConfig(
        samples=config.samples,
        cycles=config.cycles,
        alignment_rows=config.alignment_rows,
        seed=seed,
        sampler=SamplerConfig(steps=config.steps),
        chunks=chunks_of(run, config.tokens, device),
    )


def _batches(config: InferenceCase, setting: ExecutionContext) -> Callable[[int], Batch]:
    """Return the function from a step to the batch of this rank.

    Raises:
        UnsupportedError: the structure is not prepared, or is smaller than the case.
    """
    index = setting.rank // config.context_ranks
    spec = inference_spec(
        config.tokens,
        config.alignment_rows,
        seed=setting.seed,
        cycles=config.cycles,
        templates=preset(config.preset).templates,
        atoms=config.atoms,
    )
    if config.entry == SYNTHETIC:
        return partial(synthetic_alphafold3_batch, replace(spec, first=index))
    example = open_entry(config.entry, setting.store)
    if example.tokens < config.tokens:
        raise UnsupportedError(
            f"{example.entry} has {example.tokens} tokens, and {config.tokens} would measure "
            f"padding; take a longer structure, or entry={SYNTHETIC}"
        )
    return lambda step: example_batch(example, spec, step, index)


def _placeholder(config: InferenceCase) -> Batch:
    """Return a batch of the shapes of a case, on the default device."""
    return Batch.empty(
        ALPHAFOLD3_FIELDS,
        batch=1,
        token=config.tokens,
        alignment_row=config.alignment_rows,
        cycle=config.cycles,
        bond=config.tokens * BONDS_PER_TOKEN,
        atom=config.atoms,
        template=preset(config.preset).templates,
        ligand_bond=LIGAND_BONDS,
    )
