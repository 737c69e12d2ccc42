"""Recording of simulated cases by the scripts that list them."""

import sys
from collections.abc import Iterable
from pathlib import Path

from bench.errors import BenchError
from bench.records.record import Record
from bench.records.record_file import RecordFile
from refsys.errors import RefsysError
from workloads.errors import WorkloadError


def append_records(path: Path, records: Iterable[Record]) -> int:
    """Append the records that a file does not have, and print each; return 0, or 2 on an error."""
    try:
        with RecordFile(path).locked() as file:
            known = {record.key for record in file.records()}
            for record in records:
                if record.key not in known:
                    file.append(record)
                    known.add(record.key)
                    print(record.workload.name, record.workload.labels, record.devices[0].name)
    except (BenchError, RefsysError, WorkloadError) as error:
        print(f"foldperf: {error}", file=sys.stderr)
        return 2
    return 0
