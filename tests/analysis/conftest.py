"""Report shared by the tests of the page."""

import pytest
from support.reported import RECORDS

from analysis.report import PAGE, write_report


@pytest.fixture(scope="session")
def page(build_once):
    """Path of the report's page for `RECORDS`, with the report's files in its folder."""
    return build_once("report", lambda folder: write_report(RECORDS, folder)) / PAGE
