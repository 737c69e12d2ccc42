"""Exact facts: parameters against the oracle, FLOPs against closed forms and their slopes."""

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from support.trunks import context, random_batch
from torch.utils.flop_counter import FlopCounterMode

from refsys.config import PRESETS
from refsys.errors import ArgumentError
from refsys.model.initialization import initialize
from refsys.model.pairformer import PairformerStack
from refsys.model.trunk import Trunk
from refsys.ops.triangle_multiplication import contraction
from refsys.precision import PRECISIONS, precision
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError
from workloads.workload import ExecutionContext

TRUNK = catalogue()["alphafold3-trunk"]

# Counted from the released model, with 31 residue classes.
ORACLE = {
    "tiny": {"trunk_glue": 28_624, "msa": 73_472, "pairformer": 211_072, "distogram": 2_048},
    "mini": {"trunk_glue": 141_280, "msa": 449_024, "pairformer": 3_075_840, "distogram": 4_096},
    "small": {
        "trunk_glue": 499_648,
        "msa": 1_516_544,
        "pairformer": 24_566_784,
        "distogram": 8_192,
    },
    "base": {
        "trunk_glue": 499_648,
        "msa": 3_033_088,
        "pairformer": 49_133_568,
        "distogram": 8_192,
    },
    "full": {
        "trunk_glue": 499_648,
        "msa": 3_033_088,
        "pairformer": 147_400_704,
        "distogram": 8_192,
    },
}


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_equal_the_oracle(name):
    facts = TRUNK.static_costs(TRUNK.configure({"preset": name, "tokens": 16, "alignment_rows": 2}))
    assert ORACLE[name].items() <= facts.components.items()
    assert facts.parameters == sum(facts.components.values())


def test_describe_prints_the_facts_of_full(foldperf):
    done = foldperf("describe", "alphafold3-trunk", "--preset", "full", "--json", check=0)
    found = json.loads(done.stdout)
    assert found["components"]["pairformer"] == 147_400_704
    assert found["components"]["msa"] == 3_033_088
    assert found["parameters"] == sum(found["components"].values()) == 151_003_456
    text = foldperf("describe", "alphafold3-trunk", "--preset=full", check=0).stdout
    assert "147,400,704" in text


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_equal_the_closed_forms(name):
    """Every width, head count and depth by itself, from the algorithms' own formulas."""
    c = PRESETS[name]
    d, h, n = c.c_z // c.pair_heads, c.pair_heads, c.transition_factor
    z, s, m, u = c.c_z, c.c_s, c.c_m, c.outer_product_width
    pair = 2 * (6 * z * z + 4 * z) + 2 * (5 * z * h * d + z * h + 2 * z) + 3 * n * z * z + 2 * z
    single = 2 * z + z * c.single_heads + 5 * s * s + 3 * s + 3 * n * s * s + 2 * s
    outer = 2 * m + 2 * u * m + u * u * z + z
    averaging = 2 * m + 2 * z + c.pair_weighted_heads * z + 3 * m * m
    block = outer + averaging + 2 * m + 3 * n * m * m + pair
    facts = TRUNK.static_costs(TRUNK.configure({"preset": name, "tokens": 8, "alignment_rows": 1}))
    assert facts.components["pairformer"] == c.pairformer_blocks * (pair + single)
    assert facts.components["msa"] == c.msa_blocks * block


@cache
def pairformer_flops(tokens):
    """Counted on the meta device, for one block of `full`."""
    config = replace(PRESETS["full"], pairformer_blocks=1)
    with torch.device("meta"):
        stack = PairformerStack(config, PRECISIONS["bfloat16"])
        s = torch.empty(1, tokens, config.c_s, dtype=torch.bfloat16)
        z = torch.empty(1, tokens, tokens, config.c_z, dtype=torch.bfloat16)
        mask = torch.ones(1, tokens, dtype=torch.bool)
    this = context(random_batch(tokens, 1))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        stack(s, z, mask, mask.unsqueeze(2) & mask.unsqueeze(1), this)
    return counter.get_total_flops()


def closed_form(n):
    """A Pairformer block of `full`: projections, triangles, and the single representation."""
    return 1_121_792 * n**2 + 1_536 * n**3 + 5.0e6 * n


def slope(values, sizes):
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


def test_pairformer_flops_equal_the_closed_form_and_grow_as_it_does():
    sizes = (384, 768, 1536)
    counted = [pairformer_flops(n) for n in sizes]
    for n, flops in zip(sizes, counted, strict=True):
        assert flops == pytest.approx(closed_form(n), rel=0.005)
    for pair in ((0, 1), (1, 2), (0, 2)):
        ours = slope([counted[k] for k in pair], [sizes[k] for k in pair])
        theirs = slope([closed_form(sizes[k]) for k in pair], [sizes[k] for k in pair])
        assert ours == pytest.approx(theirs, abs=0.02)


def test_triangle_contraction_is_cubic():
    def flops(n):
        a = torch.empty(1, n, n, 128, device="meta")
        with FlopCounterMode(display=False) as counter:
            contraction(a, a, outgoing=True)
        return counter.get_total_flops()

    sizes = (384, 768, 1536)
    assert slope([flops(n) for n in sizes], sizes) == pytest.approx(3.0, abs=1e-9)


def test_facts_of_full_are_those_of_its_blocks():
    facts = TRUNK.static_costs(TRUNK.configure({"preset": "full"}))
    assert facts.forward_flops_by_component["pairformer"] == 48 * pairformer_flops(384)
    assert facts.step_flops == 3 * facts.forward_flops
    assert sum(facts.forward_flops_by_component.values()) == facts.forward_flops


def test_only_the_last_cycle_is_differentiated_and_costs_threefold():
    def static_costs(cycles):
        return TRUNK.static_costs(
            TRUNK.configure({"tokens": 16, "alignment_rows": 2, "cycles": cycles})
        )

    one, three = static_costs(1), static_costs(3)
    assert one.step_flops == 3 * one.forward_flops
    assert three.step_flops == three.forward_flops + 2 * one.forward_flops
    assert three.forward_flops > 2 * one.forward_flops


def test_variant_names_every_axis_without_its_usual_value():
    def variant(**axes):
        return TRUNK.labels(TRUNK.configure(axes))["variant"]

    assert variant() == variant(tokens=96, entry="1ubq", preset="mini") == "reference, float32"
    assert variant(cycles=2, checkpointing=False) == (
        "reference, float32, cycles=2, checkpointing=False"
    )
    assert variant(entry="synthetic") == "reference, float32, synthetic"


def test_structure_smaller_than_the_crop_is_unsupported(store):
    setting = ExecutionContext(device=torch.device("cpu"), store=store.root)
    with pytest.raises(UnsupportedError, match="1ubq has 76 tokens, and a crop of 77"):
        TRUNK.build(TRUNK.configure({"entry": "1ubq", "tokens": 77}), setting)
    program = TRUNK.build(TRUNK.configure({"entry": "1ubq", "tokens": 76}), setting)
    for phase in program.phases:
        program.run(phase)
    assert program.outcome().items() >= {"tokens": 76, "alignment_rows": 1}.items()
    assert set(program.implementations().values()) == {"reference"}
    assert program.implementations() == {}


def test_inputs_are_named_by_their_content(store):
    config = TRUNK.configure({"entry": "8vkf"})
    names = TRUNK.inputs(config, store.root)
    assert set(names) >= {"8vkf structure", "8vkf alignment 0"}
    assert TRUNK.inputs(TRUNK.configure({"entry": "synthetic"}), store.root) == {}
    with pytest.raises(UnsupportedError, match="9zzz is not prepared"):
        TRUNK.inputs(TRUNK.configure({"entry": "9zzz"}), store.root)


def test_last_msa_update_is_counted_but_frozen():
    trunk = Trunk(PRESETS["mini"], PRECISIONS["float32"])
    frozen = {name for name, p in trunk.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(name.startswith("msa.blocks.1.") for name in frozen)
    assert not any("pair_stack" in name or "outer_product" in name for name in frozen)


def test_initialization_depends_on_seed_and_name_alone():
    one, two, other = (Trunk(PRESETS["tiny"], PRECISIONS["float32"]) for _ in range(3))
    initialize(one, 1)
    initialize(two, 1)
    initialize(other, 2)
    differs = False
    for (name, a), b, c in zip(
        one.named_parameters(), two.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        assert a.isfinite().all(), name
        differs |= not torch.equal(a, c)
    assert differs
    weight = one.pairformer.blocks[0].single_transition.weight_in
    assert weight.detach().std() == pytest.approx(math.sqrt(2 / weight.shape[1]), rel=0.05)
    assert (one.pairformer.blocks[0].single_transition.weight_out == 0).all()


def test_unknown_names_are_in_the_error():
    with pytest.raises(ArgumentError, match="precision='float8' does not exist"):
        precision("float8")
    with pytest.raises(Exception, match="preset='huge' does not exist; choose one of tiny"):
        TRUNK.configure({"preset": "huge"})
