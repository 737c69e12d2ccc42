"""Records whose report has a figure of nearly every kind, and the names of its chapters."""

from support.measured import failed, measured

# All chapters except energy and kernel launches.
CHAPTERS = (
    *("peak_memory", "step_time", "memory_by_state", "activations_by_module"),
    *("operator_calls_by_kind", "phase_times", "utilization", "ranks"),
)
SIZES = (32, 48, 64, 96)
RECORDS = [
    *(measured(n, "a workload that nobody knows", "unheard-of") for n in SIZES),
    *(measured(n, "text", "$text$", exponent=1.1, calls=60) for n in SIZES),
    measured(64, "text", "$text$", ranks=2),
    failed(128, "oom", workload="a workload that nobody knows", series="unheard-of"),
    failed(512, "timeout", series="<b>other</b>"),
]
