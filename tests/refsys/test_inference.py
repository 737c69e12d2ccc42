"""Inference in place: the same bits as with every result in a tensor of its own, and its memory."""

from dataclasses import replace

import pytest
import torch
from support.inference_scale import MODEL, UNIT_BYTES, traced_inference
from support.sharded_steps import MODEL as SMALL
from support.sharded_steps import step_batch
from support.trunks import randomize, whole

from refsys.fold import FoldConfig, InferencePass
from refsys.model.alphafold3 import AlphaFold3
from refsys.model.chunks import Chunks
from refsys.model.diffusion import SamplerConfig
from refsys.precision import PRECISIONS

TOKENS, PADDED = 20, 23
# Of one device, 10⁹ bytes.
MEMORY = 192e9
# Squared tokens for each 10⁹ bytes of all ranks together.
LEAST_TOKENS_SQUARED = 255e3


def predicted(model, batch, rows, *, in_place):
    config = FoldConfig(
        samples=2, cycles=2, sampler=SamplerConfig(steps=2), chunks=Chunks(rows=rows)
    )
    inference = InferencePass(model, batch, whole(batch), config)
    inference._context = replace(inference._context, in_place=in_place)
    for run in inference.phases.values():
        run()
    return inference.prediction


@pytest.mark.bits
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_inference_in_place_has_the_bits_of_inference_with_separate_results(precision):
    batch = step_batch(TOKENS, PADDED)
    model = AlphaFold3(SMALL, PRECISIONS[precision])
    randomize(model)
    for rows in (1, 6, PADDED - 1, PADDED):
        expected, found = (
            predicted(model, batch, rows, in_place=in_place) for in_place in (False, True)
        )
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other), rows


def test_inference_leaves_the_output_of_the_trunk_to_the_confidence_head():
    """The head writes over a slab of its own: equal positions have equal scores."""
    batch = step_batch(TOKENS, PADDED)
    model = AlphaFold3(SMALL, PRECISIONS["float64"])
    randomize(model)
    config = FoldConfig(samples=1, cycles=1, sampler=SamplerConfig(steps=1), chunks=Chunks(rows=5))
    inference = InferencePass(model, batch, whole(batch), config)
    phases = inference.phases
    for name in ("trunk", "conditioning", "sampling"):
        phases[name]()
    before = inference._state.z_BRNC.clone()
    state = inference._state
    inference._positions_BDA3 = inference._positions_BDA3.expand(-1, 2, -1, -1)
    phases["confidence"]()
    assert torch.equal(state.z_BRNC, before)
    plddt, ptm = inference.prediction.plddt_DA, inference.prediction.ptm_D
    assert torch.equal(plddt[0], plddt[1])
    assert torch.equal(ptm[0], ptm[1])


def test_inference_of_30720_tokens_fits_on_64_ranks():
    """With the widths of the full model; memory does not grow with depth, cycles or samples."""
    tokens, ranks = 30_720, 64
    once = {"cycles": 1, "samples": 1, "steps": 2}
    trace = traced_inference(tokens, ranks, model=MODEL, chunk_rows=80, **once)
    peaks = {phase: peak.nbytes for phase, peak in trace.phase_peaks.items()}
    assert max(peaks.values()) < MEMORY
    assert tokens**2 / (ranks * peaks["trunk"] / 1e9) >= LEAST_TOKENS_SQUARED
    unit = tokens**2 * UNIT_BYTES / ranks
    # No phase holds more than eight pair slabs.
    assert max(peaks.values()) <= 8 * unit, {name: p / unit for name, p in peaks.items()}
