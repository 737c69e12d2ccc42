"""Method of a number: measured, traced or predicted.

A measured number is of a step that ran. A traced one is counted, exactly, in a step that was traced
with shapes alone. A predicted one follows from a model: of time, of energy, of a device's rates.
"""

from collections.abc import Iterable

from bench.records.record import RecordJson

MEASURED, TRACED, PREDICTED = "measured", "traced", "predicted"
METHODS = (MEASURED, TRACED, PREDICTED)

# First words of a metric's method in records, for numbers that no step was run for.
_WORDS = {
    "traced with shapes alone": TRACED,
    "dispatch mode over fake tensors": TRACED,
    "traced peak and baseline": PREDICTED,
    "time model over a trace": PREDICTED,
}
# Metrics of a model of the device, whatever their method's words are.
_MODELS = ("roofline_bound_s", "achieved_bound_s")


def method_of(metric: str, words: str) -> str:
    """Return the method of a metric's value.

    Args:
        metric: Name of the metric, or of a part of it.
        words: Method as the record has it.
    """
    for first, method in _WORDS.items():
        if words.startswith(first):
            return method
    model = metric.startswith("predicted_") or metric.partition(".")[0] in _MODELS
    return PREDICTED if model else MEASURED


def method_of_all(methods: Iterable[str]) -> str:
    """Return the method of a record: measured if any number is, else traced if any number is."""
    present = set(methods)
    return next((method for method in METHODS if method in present), MEASURED)


def method_of_record(record: RecordJson) -> str:
    """Return the method of a record: see `method_of_all`; measured if it has no numbers."""
    return method_of_all(
        method_of(name, metric["method"])
        for name, metric in record["metrics"].items()
        if metric["value"] is not None
    )
