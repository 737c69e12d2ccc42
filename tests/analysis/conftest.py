"""One report for all tests that look at a page."""

import pytest
from support.reported import RECORDS

from analysis.report import write_report


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    """The page of the report on `RECORDS`, its files beside it."""
    return write_report(RECORDS, tmp_path_factory.mktemp("report") / "out")
