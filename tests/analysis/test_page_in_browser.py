"""Page of the report in Chromium, if installed: filters, records, themes, no error, no request."""

import base64
import json

import pytest
from support.browser import BINARY, Browser

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine")

WIDTHS = {"phone": 360, "tablet": 800, "desktop": 1600}
LOUD = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


@pytest.fixture(scope="module")
def opened(page, tmp_path_factory):
    """Browser that has loaded the page."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        browser.open(page)
        yield browser
    finally:
        browser.close()


@pytest.fixture(params=["phone", "desktop"])
def browser(opened, page, request):
    """Browser with the page as a visitor finds it, at a phone's width and at a desktop's."""
    resize(opened, WIDTHS[request.param])
    opened.open(page)
    yield opened
    assert [event for event in opened.events if event.get("method") in LOUD] == []
    urls = opened.requested()
    assert urls, "the request of the page itself is missing"
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}


def resize(browser, width):
    browser.ask(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=width < 500,
    )


def visible_rows(browser):
    return browser.value(
        "Array.from(document.querySelectorAll('#records tbody tr'))"
        ".filter(row => !row.hidden).map(row => ({ ...row.dataset }))"
    )


def choose(browser, name, value):
    browser.value(
        f"(s => {{ s.value = {json.dumps(value)};"
        " s.dispatchEvent(new Event('change', { bubbles: true })) })"
        f"(document.querySelector('#filters select[name={name}]'))"
    )


KEYS = {"Escape": 27, "Tab": 9, "Enter": 13}


def press(browser, key):
    text = {"text": "\r"} if key == "Enter" else {}
    named = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
    browser.ask("Input.dispatchKeyEvent", type="keyDown", **named, **text)
    browser.ask("Input.dispatchKeyEvent", type="keyUp", **named)


def test_filters_show_matching_records_alone_and_hide_other_chapters(browser):
    everything = visible_rows(browser)
    for name in ("workload", "machine", "variant", "method"):
        values = {row[name] for row in everything}
        assert len(values) > 1, name
        for value in sorted(values):
            choose(browser, name, value)
            shown = visible_rows(browser)
            assert shown == [row for row in everything if row[name] == value]
            count = browser.value("document.querySelector('#filters output').textContent")
            assert count == f"{len(shown)} of {len(everything)} records"
        choose(browser, name, "")
    choose(browser, "method", "traced")
    hidden = "document.querySelector('#step_time').hidden"
    assert browser.value(hidden), "no traced record has a step time"
    browser.value("document.querySelector('#filters button').click()")
    browser.until(f"!({hidden})")
    assert visible_rows(browser) == everything


def test_number_leads_to_its_record_and_escape_returns_to_it(browser):
    numbers = "a.number[data-records]"
    record, metric, text = browser.value(
        f"(a => {{ a.focus(); return [a.dataset.records.split(' ')[0], a.dataset.metric,"
        f" a.textContent] }})(document.querySelector('#records {numbers}'))"
    )
    press(browser, "Enter")
    browser.until("document.getElementById('record').open")
    stored = json.loads(browser.value("document.querySelector('dialog pre').textContent"))
    assert stored["run_id"] == record
    assert metric in stored["metrics"]
    assert metric in browser.value("document.querySelector('dialog dl').textContent")
    press(browser, "Escape")
    browser.until("!document.getElementById('record').open")
    assert browser.value("document.activeElement.textContent") == text


def test_every_number_has_a_method_and_a_stored_record(browser):
    broken = browser.value(
        "Array.from(document.querySelectorAll('a.number')).filter(a =>"
        " !a.nextElementSibling?.classList.contains('badge')"
        " || !a.classList.contains(a.nextElementSibling.textContent)"
        " || (a.dataset.records ?? '').split(' ').some("
        "   id => id && !document.getElementById('record-' + id))).map(a => a.outerHTML)"
    )
    assert broken == []


def test_chapter_lists_its_numbers_with_their_records(browser):
    browser.value("document.querySelector('#peak_memory details').open = true")
    table = "document.querySelector('#peak_memory details table')"
    browser.until(f"{table} !== null")
    cells = browser.value(
        f"Array.from({table}.querySelectorAll('a.number'), a =>"
        " [a.dataset.metric, a.nextElementSibling.textContent,"
        "  document.getElementById('record-' + a.dataset.records) !== null])"
    )
    assert len(cells) > 4
    assert {tuple(cell[1:]) for cell in cells} == {("measured", True)}


def test_theme_is_that_of_the_system_until_it_is_switched(browser):
    background = "getComputedStyle(document.body).backgroundColor"
    colours = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.ask("Emulation.setEmulatedMedia", features=[feature])
        colours.append(browser.value(background))
    assert colours[0] != colours[1]
    browser.value("document.getElementById('theme').click()")
    assert browser.value(background) == colours[0]
    browser.value("document.getElementById('theme').click()")
    assert browser.value(background) == colours[1]
    browser.value("localStorage.clear()")
    browser.ask("Emulation.setEmulatedMedia", features=[])


def test_keyboard_reaches_the_skip_link_first(browser):
    press(browser, "Tab")
    assert browser.value("document.activeElement.className") == "skip"
    assert browser.value("document.activeElement.getBoundingClientRect().left") >= 0


def test_first_screen_has_the_findings(opened, page):
    resize(opened, 1440)
    opened.open(page)
    bottoms = opened.value(
        "Array.from(document.querySelectorAll('.card'), c => c.getBoundingClientRect().bottom)"
    )
    assert len(bottoms) == 5
    assert min(bottoms) > 0
    # The screen of a laptop, less its browser's bars.
    assert max(bottoms) < 900


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_page_fits_the_screen(opened, page, width):
    resize(opened, width)
    assert opened.value("innerWidth") == width
    assert opened.value("document.documentElement.scrollWidth") <= width
    images = opened.value(
        "Array.from(document.images, i => [i.complete, i.clientWidth, i.parentElement.clientWidth,"
        " i.naturalWidth])"
    )
    assert len(images) == page.read_text(encoding="utf-8").count("<img")
    for complete, displayed, box, natural in images:
        assert complete
        assert box <= width
        # 8 points of print are 8 pixels or more: 300 pixels an inch hold 96 of the screen.
        assert displayed >= min(0.85 * box, natural * 96 / 300)


def test_page_can_be_printed(opened):
    opened.ask("Emulation.clearDeviceMetricsOverride")
    pdf = base64.b64decode(opened.ask("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF")
    opened.ask("Emulation.setEmulatedMedia", media="print")
    assert opened.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    opened.ask("Emulation.setEmulatedMedia", media="")
