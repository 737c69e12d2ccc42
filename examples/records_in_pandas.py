"""Records in pandas: growth of peak memory with tokens, and the largest part of it.

    python examples/records_in_pandas.py results/recorded/demo-2-core-cpu.jsonl

Reads records into one DataFrame (a row for each record, the unit in each column's name), fits the
exponent of peak memory for every series, and splits the peak of tensors by what they are for. Takes
3 s.
"""

import sys

import numpy as np
import pandas as pd

from analysis import load_records
from analysis.nested import parts

SERIES = ["workload", "series", "variant"]


def exponent(sizes: pd.DataFrame) -> float:
    """Return the slope of log peak memory against log tokens."""
    logs = np.log(sizes[["tokens", "peak_tracked_bytes"]].astype(float))
    return float(np.polyfit(logs["tokens"], logs["peak_tracked_bytes"], 1)[0])


def main(paths: list[str]) -> None:
    """Print both tables of the records in files or folders."""
    table = load_records(paths)
    measured = table[(table["status"] == "ok") & table["peak_tracked_bytes"].notna()]
    groups = measured.groupby(SERIES, observed=True)
    exponents = {
        " ".join(map(str, name)): exponent(sizes)
        for name, sizes in groups
        if sizes["tokens"].nunique() > 1
    }
    print(pd.Series(exponents, name="exponent of peak memory").to_string(float_format="%.2f"))

    largest = measured.loc[measured["peak_tracked_bytes"].astype(float).idxmax()]
    states = parts(measured[measured["run_id"] == largest["run_id"]], "peak_tracked_bytes")
    share = states.set_index("part")["peak_tracked_bytes"] / largest["peak_tracked_bytes"]
    print(f"\nlargest peak: {largest['workload']} at {largest['tokens']} tokens, by state")
    print(share.sort_values(ascending=False).head(5).to_string(float_format="{:.0%}".format))


if __name__ == "__main__":
    main(sys.argv[1:] or ["results/recorded/demo-2-core-cpu.jsonl"])
