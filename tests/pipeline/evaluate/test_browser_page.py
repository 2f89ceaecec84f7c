"""The page in a real browser: it works, is legible and stays inside its file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fabricated_report import RANKED, make_history, make_inspections, make_report
from headless_chromium import CHROMIUM, OpenPage

from pipeline.evaluate.page.page import render_html

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

SHOWN = """Array.from(document.querySelectorAll("#slice-table tbody tr"))
  .filter((row) => row.getClientRects().length).map((row) => row.cells[0].childNodes[0].textContent.trim())"""
# Every text against the colour behind it; disabled colours and backgrounds that are images do not occur.
LOW_CONTRAST = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => channels(color).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const isClear = (color) => color === "transparent" || channels(color)[3] === 0;
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    let behind = element;
    while (behind && isClear(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    const [text, ground] = [element.closest("svg") ? style.fill : style.color,
                            behind ? getComputedStyle(behind).backgroundColor : "rgb(255, 255, 255)"].map(luminance);
    const ratio = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    if (ratio < 4.5) found.push([walker.currentNode.data.trim(), ratio]);
  }
  return found;
})()"""


def type_text(page: OpenPage, text: str) -> None:
    """Into the field with the focus, key by key."""
    for letter in text:
        page.press(letter, letter)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    render_html(make_report(), file, make_history(), make_inspections(), RANKED)
    return file


@pytest.fixture(scope="module")
def desktop(path: Path) -> Iterator[OpenPage]:
    with OpenPage(path) as page:
        yield page


@pytest.fixture(scope="module")
def phone(path: Path) -> Iterator[OpenPage]:
    with OpenPage(path, width_pixels=390) as page:
        yield page


@pytest.fixture
def whole(desktop: OpenPage) -> OpenPage:
    """With the filter as it is at first."""
    desktop.evaluate("""["task", "dimension", "text"].forEach((name) => {
        const control = document.getElementById("slice-" + name);
        control.value = ""; control.dispatchEvent(new Event("input")); })""")
    return desktop


def test_typing_leaves_the_slices_with_the_text(whole: OpenPage) -> None:
    before = whole.evaluate(SHOWN)
    assert {"br", "us", "nz", "day 1"} <= {*before}
    whole.evaluate("document.getElementById('slice-text').focus()")
    type_text(whole, "BR")
    after = whole.evaluate(SHOWN)
    assert {*after} == {"br"}
    assert whole.evaluate("document.getElementById('slice-count').value") == f"{len(after)} of {len(before)} rows"


def test_a_task_a_dimension_and_small_slices_can_be_filtered(whole: OpenPage) -> None:
    def choose(control: str, change: str) -> Any:
        name = f"document.getElementById('slice-{control}')"
        return whole.evaluate(f"{name}.{change}; {name}.dispatchEvent(new Event('input')); {SHOWN}")

    assert sorted(choose("task", "value = 'watch'")) == ["br", "day 1", "nz", "us"]
    assert sorted(choose("dimension", "value = 'country'")) == ["br", "nz", "us"]
    assert sorted(choose("small", "checked = true")) == ["br", "us"]
    assert sorted(choose("small", "checked = false")) == ["br", "nz", "us"]


def test_a_click_on_a_header_sorts_and_small_slices_stay_last(whole: OpenPage) -> None:
    header = "document.querySelectorAll('#slice-table thead th')[2]"
    values = """Array.from(document.querySelectorAll('#slice-table tbody tr:not(.few)'))
        .map((row) => Number(row.cells[2].dataset.value))"""
    few = "Array.from(document.querySelectorAll('#slice-table tbody tr')).map((row) => row.classList.contains('few'))"
    for order, is_reversed in (("ascending", False), ("descending", True)):
        whole.evaluate(f"{header}.querySelector('button').click()")
        assert whole.evaluate(f"{header}.getAttribute('aria-sort')") == order
        sorted_values = whole.evaluate(values)
        assert sorted_values == sorted(sorted_values, reverse=is_reversed)
        assert len({*sorted_values}) > 3
        is_small = whole.evaluate(few)
        assert is_small == sorted(is_small)


def test_the_table_can_be_sorted_from_the_keyboard(whole: OpenPage) -> None:
    whole.evaluate("document.querySelector('#slice-table thead th button').focus()")
    whole.press("Enter", "\r")
    assert whole.evaluate("document.querySelector('#slice-table thead th').getAttribute('aria-sort')") == "ascending"
    assert whole.evaluate(SHOWN)[0] == "br"


def test_nothing_is_asked_for_and_the_console_is_quiet(desktop: OpenPage, phone: OpenPage, path: Path) -> None:
    for page in (desktop, phone):
        assert page.evaluate("document.querySelectorAll('#slice-table button').length") > 0
        assert {one for one in page.requests if not one.startswith("data:")} == {path.as_uri()}
        assert page.errors == []


def test_a_script_that_is_not_the_pages_own_does_not_run(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "report.html"
    other.write_text(path.read_text().replace("</body>", "<script>document.title = 'changed'</script></body>"))
    with OpenPage(other) as page:
        assert page.evaluate("document.title") == "Evaluation of a small run, test"
        assert len(page.errors) == 1


def test_without_its_script_the_whole_table_is_there_and_no_control(path: Path) -> None:
    with OpenPage(path, has_script=False) as page:
        assert {"br", "us", "nz", "day 1"} == {*page.evaluate(SHOWN)}
        assert page.evaluate("document.querySelector('.controls').getClientRects().length") == 0


@pytest.mark.parametrize("name", ["desktop", "phone"])
def test_every_text_stands_out_from_what_is_behind_it(name: str, request: pytest.FixtureRequest) -> None:
    page: OpenPage = request.getfixturevalue(name)
    assert page.evaluate(LOW_CONTRAST) == []


def test_a_phone_scrolls_a_wide_table_in_its_box_and_not_the_page(phone: OpenPage) -> None:
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    wide = "Array.from(document.querySelectorAll('.scroll')).filter((box) => box.scrollWidth > box.clientWidth)"
    assert phone.evaluate(f"{wide}.length") > 0
    assert phone.evaluate(f"{wide}.every((box) => box.tabIndex === 0 && box.getAttribute('aria-label'))")


def test_the_numbers_of_a_plot_are_legible_on_a_phone(phone: OpenPage) -> None:
    sizes = phone.evaluate("""Array.from(document.querySelectorAll('figure svg text')).map((text) => {
        const matrix = text.getScreenCTM();
        return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(matrix.a, matrix.b); })""")
    assert len(sizes) > 50
    assert min(sizes) > 9.5


def test_every_figure_has_a_name_and_says_in_words_what_it_shows(desktop: OpenPage) -> None:
    figures = "Array.from(document.querySelectorAll('figure:not(:has(figure))'))"
    assert desktop.evaluate(f"{figures}.length") > 10
    assert (
        desktop.evaluate(f"{figures}.filter((figure) => !figure.querySelector('details p').textContent.trim())") == []
    )
    unnamed = "Array.from(document.querySelectorAll('svg')).filter((svg) => !svg.getAttribute('aria-label'))"
    assert desktop.evaluate(f"{unnamed}.length") == 0
