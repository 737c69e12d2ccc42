"""The example of an operator in someone else's Pairformer: run as a reader would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "operators" / "swap.py"


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_example_reports_equal_results_of_both_operators(backend):
    variables = os.environ | {"TRITON_INTERPRET": "1", "FOLDPERF_BACKEND": backend}
    ran = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, encoding="utf-8", env=variables, check=False
    )
    assert ran.returncode == 0, ran.stderr
    *lines, last = ran.stdout.splitlines()
    assert last == f"ran on: gated_triangle_attention ({backend})"
    assert len(lines) == 22
    assert all("of its largest value" in line for line in lines)


def test_example_block_does_not_import_this_project():
    text = SCRIPT.with_name("pairformer.py").read_text(encoding="utf-8")
    assert "import refsys" not in text
    assert "from refsys" not in text
