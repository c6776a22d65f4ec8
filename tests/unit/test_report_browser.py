"""The report in a real browser: nothing goes wrong, nothing is fetched, everything answers."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise

import pytest

from tests.browser import NAMES, Browser, find
from tests.unit.test_report import REFERENCE, RUN, joined, make, render, variant
from tests.unit.test_report_matches import record as matched

PROGRAM = find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no browser: none of {', '.join(NAMES)}")

EVIL = '"><script>document.title = "broken"</script>コル'
SHOWN = '[...document.querySelectorAll("#table-latency tbody tr:not([hidden])")]'


def rows():
    parts = [
        variant(name="int8", ms=25.0, mb=30.0),
        variant(name="fp32", ms=60.0, mb=120.0),
        variant(name=EVIL, ms=40.0, ndcg=0.7, delta=-0.1, p=0.01),
        variant(name="fp16", provider="CUDAExecutionProvider"),
    ]
    for item in parts[-1]["latency"]:
        item.update(status="unsupported", reason="no GPU", p50_ms=None, speedup_vs_pytorch=None)
    return joined(REFERENCE, *parts)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(PROGRAM, tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(render(make(rows()), RUN), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def page(browser, address):
    browser.size(1440)
    browser.open(address)
    yield browser
    assert browser.messages == []
    assert {request.partition(":")[0] for request in browser.requests} <= {"file", "data", "blob"}
    assert sum(request.startswith("file:") for request in browser.requests) == 1


def column(page, name: str) -> list[str]:
    """A column of the latency table's visible rows, from the top."""
    place = 1 + page.run(f'{headers(page)}.indexOf("{name}")')
    assert place
    return page.run(f"{SHOWN}.map((row) => row.children[{place - 1}].innerText.trim())")


def headers(page) -> str:
    return '[...document.querySelectorAll("#table-latency thead th")].map((h) => h.textContent)'


def link(page) -> str:
    return page.run("decodeURIComponent(location.hash)")


def test_a_header_sorts_and_the_link_says_so(page):
    place = 1 + page.run(f'{headers(page)}.indexOf("p50, ms")')
    header = f"#table-latency thead th:nth-child({place})"
    page.click(f"{header} button")
    assert column(page, "p50, ms") == sorted(column(page, "p50, ms"), key=float)
    assert page.run(f"document.querySelector('{header}').ariaSort") == "ascending"
    assert link(page) == "#table-latency?latency.sort=p50_ms"
    page.press("Enter")
    assert column(page, "p50, ms") == sorted(column(page, "p50, ms"), key=float, reverse=True)
    assert page.run(f"document.querySelector('{header}').ariaSort") == "descending"
    page.press(" ")
    assert link(page) == "#table-latency"
    assert page.run("document.querySelectorAll('[aria-sort]').length") == 0


def test_rows_are_filtered_by_words_and_by_choice(page):
    assert len(column(page, "Variant")) == 8  # unsupported rows are not visible at first
    page.click("#table-latency .filter input")
    page.type("INT8 query")
    assert column(page, "Variant") == ["int8"]
    assert page.run("document.querySelector('#table-latency output').textContent") == "1 of 10 rows"
    page.click("#table-latency .reset")
    assert len(column(page, "Variant")) == 8
    page.run(
        "const choice = document.querySelector('#table-latency select[aria-label^=Status]');"
        "choice.value = 'unsupported'; choice.dispatchEvent(new Event('change'))"
    )
    assert column(page, "Variant") == ["fp16", "fp16"]
    assert link(page) == "#table-latency?latency.status=unsupported"


def test_columns_are_shown_and_hidden(page):
    visible = (
        "[...document.querySelectorAll('#table-latency thead th')]"
        ".filter((header) => header.offsetWidth).map((header) => header.textContent)"
    )
    first = page.run(visible)
    assert "p99, ms" not in first
    page.click("#table-latency .menu summary")
    labels = page.run(
        "[...document.querySelectorAll('#table-latency .menu label')].map((l) => l.textContent)"
    )
    for name in ("p99, ms", "Samples"):
        page.click(f"#table-latency .menu label:nth-of-type({labels.index(name) + 1})")
    changed = page.run(visible)
    assert set(changed) - set(first) == {"p99, ms"}
    assert set(first) - set(changed) == {"Samples"}
    assert link(page) == "#table-latency?latency.show=p99_ms&latency.hide=samples"
    page.press("Escape")
    assert page.run("document.querySelector('#table-latency .menu').open") is False


def test_a_link_brings_the_view_back(browser, address):
    browser.size(1440)
    view = "latency.sort=-p50_ms&latency.q=document&latency.hide=samples&latency.variant=fp32"
    browser.open(f"{address}#table-latency?{view}&summary.sort=size_mb&unknown.x=1")
    assert column(browser, "Variant") == ["fp32"]
    assert browser.run("scrollY") > 200
    assert browser.run("document.querySelector('#table-latency .filter input').value") == "document"
    assert (
        browser.run("document.querySelectorAll('#table-summary [aria-sort=ascending]').length") == 1
    )
    browser.click("nav a[href='#problems']")
    browser.settle()
    assert (
        link(browser)
        == f"#problems?summary.sort=size_mb&{'&'.join(sorted(view.split('&'), key=_order))}"
    )
    assert browser.messages == []


def _order(part: str) -> int:
    return ["sort", "q", "variant", "hide"].index(part.partition("=")[0].removeprefix("latency."))


def test_a_mark_shows_its_row_to_pointer_and_keyboard(page):
    tip = "document.querySelector('.tip')"
    page.hover("#latency-0 .points circle:nth-child(2)")
    assert page.run(f"{tip}.hidden") is False
    assert page.run(f"{tip}.firstChild.textContent") == "int8 CPU"
    assert "NDCG@5 0.800" in page.run(f"{tip}.textContent")
    page.run("document.querySelector('#latency-0 .points circle').focus()")
    page.press("ArrowRight")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.run(focused).startswith("int8 CPU; Document p50, ms 25.0;")
    page.press("End")
    assert "broken" in page.run(focused)
    assert page.run(f"{tip}.hidden") is False
    page.press("Escape")
    assert page.run(f"{tip}.hidden") is True
    assert page.run("document.title") == RUN["title"]


def test_files_hold_what_the_page_shows(page):
    page.click("#table-latency .downloads button")
    found = list(csv.DictReader(io.StringIO(page.downloaded("latency.csv"))))
    assert len(found) == 10
    assert [row["variant"] for row in found].count(EVIL) == 2
    page.click("#sizes-0 summary")
    page.click("#sizes-0 .download")
    sizes = list(csv.DictReader(io.StringIO(page.downloaded("sizes-0.csv"))))
    assert (sizes[0]["variant"], sizes[0]["size_mb"]) == ("fp32", "120")


def test_the_keyboard_reaches_the_recommendation_first(page):
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter")
    assert link(page) == "#recommendation"


NAMED = {"button", "combobox", "image", "link", "region", "searchbox", "table"}


def test_a_screen_reader_is_told_a_name_for_everything(browser, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(render(make(rows()), RUN, [matched()]), encoding="utf-8")
    browser.open(file.as_uri())
    told = browser.accessible()
    assert {role for role, _, _ in told} >= NAMED
    assert [role for role, name, _ in told if role in NAMED and not name] == []
    levels = [level for role, _, level in told if role == "heading"]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_nothing_is_cut_off_and_text_has_contrast(browser, address, width, dark):
    browser.size(width, dark=dark)
    browser.open(address)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(f"({CONTRAST})()") == []
    assert browser.messages == []


@pytest.mark.parametrize("width", [390, 768, 1000, 1280])
def test_the_summary_shows_its_figures_without_swiping(browser, address, width):
    browser.size(width)
    browser.open(address)
    box = "document.querySelector('.ships')"
    assert browser.run(f"{box}.getBoundingClientRect().right") <= width
    assert "4.00" in browser.run(f"{box}.innerText")
    assert browser.run("document.querySelector('.ships thead').offsetHeight > 0") == (width > 1168)
    if width == 390:
        scroll = "document.querySelector('#table-summary .scroll')"
        assert browser.run(f"{scroll}.scrollWidth <= {scroll}.clientWidth")
        labels = browser.run(
            f"[...{scroll}.querySelectorAll('tbody tr:not([hidden]) :is(th, td)')]"
            ".filter((cell) => cell.offsetWidth).map((cell) => cell.dataset.label)"
        )
        assert {"Model", "Size", "NDCG@5"} <= set(labels)
        assert "p-value" not in labels  # as in the table, what is not shown is hidden
        assert browser.run(f"{scroll}.querySelectorAll('tbody tr[hidden]').length") == 1
        assert browser.run(f"{scroll}.querySelector('tr[hidden]').offsetHeight") == 0


CONTRAST = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = channels(colour).map((channel) => linear(channel / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if ((channels(colour)[3] ?? 1) === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = new Set();
  document.querySelectorAll("body *").forEach((element) => {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.getClientRects().length || element.closest("script, style")) return;
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(ink), light(ground(element))].sort((x, y) => y - x);
    const name = `${element.tagName}.${element.getAttribute("class")}: ${ink}`;
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.add(name);
  });
  return [...poor];
}"""
"""Elements with text of less contrast than WCAG 2.2 asks for (1.4.3): 4.5 to 1."""


def test_many_rows_are_sorted_and_filtered(browser, tmp_path):
    parts = [variant(model=f"model-{i}", name=f"v{j}") for i in range(20) for j in range(10)]
    complete = make(joined(*parts))
    assert len(complete["latency"]) == 400
    file = tmp_path / "large.html"
    file.write_text(render(complete, RUN), encoding="utf-8")
    browser.size(1440)
    browser.open(file.as_uri())
    browser.run(
        """(() => {
          document.querySelector("#table-latency thead th:nth-child(2) button").click();
          const search = document.querySelector("#table-latency .filter input");
          search.value = "model-1 v3";
          search.dispatchEvent(new Event("input"));
          document.body.offsetHeight; // lays the page out
        })()"""
    )
    assert browser.run(f"{SHOWN}.length") == 22  # model-1 and model-10 to 19, query and document
    assert browser.messages == []


def test_data_in_the_page_is_what_the_tables_hold(page):
    texts = page.run(
        "[...document.querySelectorAll('.table-block script')]"
        ".map((script) => JSON.parse(script.textContent).name)"
    )
    assert texts == ["summary", "retrieval", "parity", "latency", "export"]
    assert json.loads(page.run("JSON.stringify(document.title)")) == RUN["title"]
