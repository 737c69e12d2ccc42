"""Report shared by the tests of the page."""

import pytest
from support.reported import RECORDS
from support.traced import TRACES

from analysis.page.front import Front, front_of
from analysis.published import FOLDER, read_published
from analysis.report import PAGE, write_report


@pytest.fixture(scope="session")
def front() -> Front:
    """Return the findings of `TRACES`."""
    return front_of(TRACES, read_published(FOLDER))


@pytest.fixture(scope="session")
def page(build_once, front):
    """Path of the report's page for `RECORDS`, with the report's files in its folder."""

    def build(folder):
        write_report(RECORDS, folder, front=front)

    return build_once("report", build) / PAGE
