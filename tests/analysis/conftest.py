"""Report shared by the tests of the page."""

import pytest
from support.reported import RECORDS

from analysis.report import write_report


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    """Path of the report's page for `RECORDS`, with the report's files in its folder."""
    return write_report(RECORDS, tmp_path_factory.mktemp("report") / "out")
