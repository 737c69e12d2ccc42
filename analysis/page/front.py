"""Front of the page: findings at full size, their records, and repeated traces of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.page.findings import RETRACED_TOKENS, Finding, find
from analysis.published import PublishedSeries
from bench.records.agreement import Agreement
from bench.records.record import RecordJson

# Names of figures, by the record that a repeated trace differs from.
_NO_FIGURE = "no figure"


@dataclass(frozen=True, slots=True)
class Front:
    """Front of the page.

    Attributes:
        findings: Findings whose records are recorded.
        missing: Titles of the others.
        agreements: Comparisons of records with repeated traces; empty if none was repeated.
    """

    findings: tuple[Finding, ...] = ()
    missing: tuple[str, ...] = ()
    agreements: tuple[Agreement, ...] = ()

    @property
    def records(self) -> list[RecordJson]:
        """Records of all findings, each once."""
        used = {record["run_id"]: record for f in self.findings for record in f.records}
        return list(used.values())

    @property
    def origins(self) -> list[tuple[str, str]]:
        """Shortened commits of the records, each with the start of its newest case."""
        newest: dict[str, str] = {}
        for record in self.records:
            commit = (record["git"]["sha"] or "unknown")[:8]
            newest[commit] = max(newest.get(commit, ""), record["started_at"])
        return sorted(newest.items())

    @property
    def disagreements(self) -> list[str]:
        """Sentences on the repeated traces that differ, each with the figures concerned."""
        return [self._sentence(a) for a in self.agreements if a.differences]

    def _sentence(self, agreement: Agreement) -> str:
        figures = [
            finding.name
            for finding in self.findings
            if agreement.run_id in {record["run_id"] for record in finding.records}
        ]
        shown = "; ".join(str(difference) for difference in agreement.differences[:3])
        further = len(agreement.differences) - 3
        more = f"; and {further} more" if further > 0 else ""
        versions = f" (torch {agreement.other_torch})" if agreement.other_torch else ""
        return (
            f"{', '.join(figures) or _NO_FIGURE}: {agreement.case} traced again{versions} differs "
            f"from its record in {len(agreement.differences)} of {agreement.compared} counts: "
            f"{shown}{more}"
        )


def front_of(records: Sequence[RecordJson], published: Sequence[PublishedSeries] = ()) -> Front:
    """Return the front of recorded traces.

    Args:
        records: Recorded traces; those of no finding are left out.
        published: Published numbers.
    """
    findings, missing = find(records, published)
    return Front(tuple(findings), tuple(missing))


def retraced(front: Front) -> list[str]:
    """Return the records of the findings' smallest common size, which are cheap to trace again."""
    return [
        record["run_id"]
        for record in front.records
        if record["workload"]["labels"].get("tokens") == RETRACED_TOKENS
        and record["workload"]["ranks"] == 1
    ]
