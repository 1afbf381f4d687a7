"""The pages in a real browser: nothing overflows, nothing complains, tables sort by mouse and keyboard."""

import numpy as np
import pytest
from browser import MISSING, Browser, find_browser
from report_cases import HOSTILE, hostile_result, realistic_result, refuted_result, tiny_result, uncertified_result

from lipcert.report import Audit, render_comparison, render_html, report_document

pytestmark = pytest.mark.skipif(find_browser() is None, reason=MISSING)

A4 = 680
"""Width of the text on A4 paper with margins of 15 mm, in CSS pixels."""
UNSORTABLE = {"", "\N{EM DASH}", "none found"}


def realistic():
    return realistic_result(np.zeros((12, 1, 28, 28), np.float32), np.arange(400) % 10, attacked=120, ratio=(1.0, 2.0))


def comparison():
    results = {"first": realistic(), "second": refuted_result(), "third": uncertified_result(), HOSTILE: tiny_result()}
    return render_comparison([Audit(name, f"{name}.json", report_document(item)) for name, item in results.items()])


PAGES = {
    "realistic": lambda: render_html(realistic()),
    "refuted": lambda: render_html(refuted_result()),
    "uncertified": lambda: render_html(uncertified_result()),
    "hostile": lambda: render_html(hostile_result()),
    "comparison": comparison,
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    started = Browser(find_browser(), tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Every page in a file."""
    folder = tmp_path_factory.mktemp("pages")
    for name, render in PAGES.items():
        (folder / f"{name}.html").write_text(render(), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PAGES}


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_overflows_and_nothing_complains(browser, pages, name, width):
    for dark in (False, True):
        assert browser.open(pages[name], width=width, dark=dark) == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert too_wide(browser, width) == []
        style = "getComputedStyle(document.body)"
        paper, ink = browser.evaluate(f"[{style}.backgroundColor, {style}.color]")
        assert (brightness(paper) < brightness(ink)) == dark


def test_what_is_too_wide_or_broken_is_noticed(browser, pages, tmp_path):
    html = pages["realistic"].read_text(encoding="utf-8")
    page = tmp_path / "wide.html"
    page.write_text(html.replace("<main>", '<main><div style="width: 400px">wide</div>'))
    assert browser.open(page, width=360) == []
    assert browser.evaluate("document.documentElement.scrollWidth") > 360
    assert len(too_wide(browser, 360)) == 1
    page.write_text(html.replace("<script>", "<script>missing();"))  # another script than the policy allows
    assert len(browser.open(page, width=360)) == 1


@pytest.mark.parametrize("name", ["realistic", "comparison"])
def test_a_printed_page_is_as_wide_as_its_paper(browser, pages, name):
    assert browser.open(pages[name], width=A4, dark=True, media="print") == []
    items = '[...document.querySelectorAll("table, figure")]'
    edges = browser.evaluate(f"{items}.map((item) => item.getBoundingClientRect().right)")
    assert max(edges) <= A4
    # paper is white, whatever the screen was
    assert brightness(browser.evaluate("getComputedStyle(document.body).backgroundColor")) == 3 * 255
    assert browser.evaluate('getComputedStyle(document.querySelector("th button"), "::after").content') == "none"


SORT_EVERYTHING = """[...document.querySelectorAll("table.sortable")].flatMap((table) => {
    const headings = [...table.tHead.rows[0].cells];
    const texts = () => [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.innerText.trim()));
    const before = texts();
    return headings.flatMap((heading, column) => ["ascending", "descending"].map((direction) => {
        heading.querySelector("button").click();
        const said = headings.map((other) => other.getAttribute("aria-sort"));
        return {before, column, direction, said, after: texts(), numeric: heading.classList.contains("n")};
    }));
})"""


@pytest.mark.parametrize("name", ["realistic", "refuted", "uncertified", "comparison"])
def test_every_column_of_every_table_sorts_both_ways(browser, pages, name):
    browser.open(pages[name], width=1400)
    done = browser.evaluate(SORT_EVERYTHING)
    assert len(done) > 20
    for step in done:
        column, direction = step["column"], step["direction"]
        assert step["said"] == [direction if place == column else None for place in range(len(step["said"]))]
        assert sorted(step["after"]) == sorted(step["before"])
        texts = [row[column] for row in step["after"]]
        assert_sorted(texts, numeric=step["numeric"], falling=direction == "descending")
    assert browser.complaints() == []


def test_a_table_is_sorted_from_the_keyboard(browser, pages):
    browser.open(pages["realistic"], width=1400)
    focused = "document.activeElement.tagName"
    for _ in range(60):
        browser.press("Tab")
        if browser.evaluate(focused) == "BUTTON":
            break
    heading = 'document.activeElement.closest("th").getAttribute("aria-sort")'
    assert browser.evaluate(heading) is None
    browser.press("Enter")
    assert browser.evaluate(heading) == "ascending"
    browser.press(" ")
    assert browser.evaluate(heading) == "descending"
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_equal_values_keep_their_order(browser, pages):
    browser.open(pages["realistic"], width=1400)
    table = '[...document.querySelectorAll("table.sortable")].find((t) => t.textContent.includes("Nearest by"))'
    before = rows(browser, table)
    column = 6  # every certificate stood
    assert len({row[column] for row in before}) == 1
    browser.evaluate(f'{table}.tHead.rows[0].cells[{column}].querySelector("button").click()')
    assert rows(browser, table) == before


def test_without_scripts_the_page_is_complete(browser, pages):
    text = "document.querySelector('main').innerText.replace(/\\s+/g, ' ')"
    assert browser.open(pages["realistic"], width=1400, scripts=False) == []
    assert browser.evaluate('document.querySelectorAll("button").length') == 0
    plain = browser.evaluate(text)
    browser.open(pages["realistic"], width=1400)
    assert browser.evaluate('document.querySelectorAll("button").length') > 20
    assert browser.evaluate(text) == plain


def test_a_hostile_page_runs_nothing_but_the_sorting(browser, pages, tmp_path):
    browser.open(pages["hostile"], width=1400)
    assert browser.evaluate("document.scripts.length") == 1
    page = tmp_path / "smuggled.html"
    page.write_text(pages["hostile"].read_text(encoding="utf-8").replace("</main>", "<script>ran = 1</script></main>"))
    complaints = browser.open(page, width=1400)
    assert "violates the following Content Security Policy" in complaints[0]["entry"]["text"]
    assert browser.evaluate("typeof ran") == "undefined"


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_and_control_has_a_name_for_those_who_do_not_see_it(browser, pages, name):
    browser.open(pages[name], width=1400)
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"image", "img", "button", "link", "region", "columnheader"}
    named = [(node["role"]["value"], node.get("name", {}).get("value")) for node in tree if not node["ignored"]]
    assert [role for role, said in named if role in roles and not (said or "").strip()] == []
    assert {"image", "button", "columnheader", "region"} <= {role for role, _ in named}


def too_wide(browser, width):
    """What ends right of the page and does not scroll by itself; a phone zooms out, so innerWidth says nothing."""
    items = "[...document.querySelectorAll('body *:not(.scroll *, svg *)')]"
    edges = f"{items}.filter((item) => item.getBoundingClientRect().right > {width + 0.5})"
    return browser.evaluate(f"{edges}.map((item) => item.outerHTML)")


def rows(browser, table):
    """The texts of the cells of a table's body."""
    cells = "(row) => [...row.cells].map((cell) => cell.innerText.trim())"
    return browser.evaluate(f"[...{table}.tBodies[0].rows].map({cells})")


def assert_sorted(texts, *, numeric, falling):
    """Numbers by their value, texts by their letters, what is missing last."""
    known = [text for text in texts if text not in UNSORTABLE]
    assert texts[: len(known)] == known
    if not numeric and any(character.isdigit() for text in known for character in text):
        return  # numbers within texts are compared as numbers
    keys = list(map(number if numeric else letters, known))
    assert keys == sorted(keys, reverse=falling), texts


def number(text):
    return float(text.replace(",", "").split("\N{NO-BREAK SPACE}")[0].replace("\N{INFINITY}", "inf"))


def letters(text):
    """Signs come before letters, whatever they are."""
    return [(character.isalpha(), character) for character in text.casefold()]


def brightness(colour):
    """Sum of red, green and blue of a computed colour."""
    return sum(int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
