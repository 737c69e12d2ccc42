"""Predicted peaks, FLOPs, launches and collective bytes equal those of real steps."""

import subprocess
import sys

from support import HANG_S, peak_errors


def test_predicted_costs_equal_those_of_real_steps():
    """Plain operators and kernels without a body; recomputed, chunked, moved, on two ranks."""
    command = [sys.executable, peak_errors.__file__, "--quick"]
    done = subprocess.run(
        command, check=False, timeout=HANG_S, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("MiB") == len(peak_errors.QUICK)


def test_a_difference_is_named():
    figures = peak_errors.Figures(1, 2, 3, 4, 5, 6, 7)
    assert not peak_errors.differences(figures, figures._replace(peak=9))
    assert peak_errors.differences(figures, figures._replace(launches=9)) == {"launches": (3, 9)}
