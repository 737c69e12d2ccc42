"""The AlphaFold 3 trunk in training: input embedding, MSA module, Pairformer, heads."""

from typing import ClassVar

from refsys.config import PRESETS
from refsys.run_config import TRUNK
from refsys.training.loading import SYNTHETIC
from workloads.structure_training import StructureCase, StructureTraining

_BFLOAT16 = {"precision": "bfloat16", "entry": SYNTHETIC}


class TrunkWorkload(StructureTraining[StructureCase]):
    """Cases of trunk training: each step samples its own crop and MSA rows."""

    name = "alphafold3-trunk"
    model = TRUNK
    summary = "the AlphaFold 3 trunk in training: MSA module, Pairformer, distogram"
    unused = frozenset({"stage", "samples", "chunk_samples", "atoms"})
    selections: ClassVar = {
        "exact": (
            {**_BFLOAT16, "preset": list(PRESETS)},
            {**_BFLOAT16, "preset": "mini", "cycles": 2},
            {**_BFLOAT16, "preset": "mini", "chunk_rows": 64},
            {**_BFLOAT16, "preset": "small", "checkpointing": False},
        ),
        "timing": ({"entry": SYNTHETIC, "tokens": 32, "workers": 0},),
        "quick": ({"entry": "8vkf", "tokens": [32, 64, 96]},),
    }
