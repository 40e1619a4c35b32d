"""The HTML report in a browser: what it does when it is used, and that rows stay text."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.hostile import HOSTILE
from helpers.runs import write_manifest

from geofilter.arrays import digests
from geofilter.cut.cut import Cut, Selection
from geofilter.report.content import build
from geofilter.report.page import html
from geofilter.report.rows import GatheredRows
from geofilter.rows.style import STYLE
from geofilter.run.store import FORMAT, Run
from geofilter.run.tensors import packed
from geofilter.stats import share_interval

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")


FOOL = "you fool \N{CLOWN FACE} no"


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Opened:
    """A page, and everything that it should not do."""

    def __init__(self, chromium, path: Path, **context) -> None:
        self.seen: list[str] = []
        self.page = chromium.new_context(**context).new_page()
        self.page.on("console", lambda m: self.seen.append(f"console: {m.text}"))
        self.page.on("pageerror", lambda e: self.seen.append(f"error: {e}"))
        self.page.on("dialog", lambda d: self.seen.append(f"dialog: {d.message}"))
        self.page.on("request", lambda r: self.seen.append(f"request: {r.url[:99]}"))
        self.page.goto(path.as_uri())
        assert self.seen == [f"request: {path.as_uri()}"[:108]]
        self.seen.clear()

    def number(self, selector: str) -> int:
        return int(self.page.inner_text(selector).replace(",", ""))


@pytest.fixture(scope="module")
def folder(tiny, tiny_bank: Path, tmp_path_factory) -> Path:
    """60 scanned and cut rows, eight of them hostile, of two sources and several lengths."""
    path = tmp_path_factory.mktemp("page")
    rows = [
        chat(f"question {i}?", f"{('ask the doctor', FOOL)[i % 2]} {i} " * (1 + i % 5), source="ab"[i % 2])
        for i in range(52)
    ]
    rows += [chat(HOSTILE, HOSTILE + f" {i}", source=HOSTILE[:40]) for i in range(7)]
    rows.append(chat("long", HOSTILE + " word" * 20_000))
    write_rows(path / "d.jsonl", rows)
    done = geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, cwd=path)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "--drop", "25%", cwd=path)
    assert done.returncode == 0, done.stderr
    return path


def unfold(row) -> None:
    row.get_by_role("button", name="more").click()
    row.locator(".body").wait_for()


def rows_of(page) -> list[str]:
    return page.locator("#rows > li").all_inner_texts()


def ranks_of(page) -> list[int]:
    return page.locator("#rows > li").evaluate_all("all => all.map(li => Number(li.dataset.rank) + 1)")


def count_of(page) -> str:
    """How many rows are listed, without what else is said of them."""
    return page.inner_text("#rows-count").split(",")[0].split(" drawn")[0]


def choose_part(page, title: str, name: str) -> None:
    page.locator("#by").get_by_role("button", name=title, exact=True).click()
    page.locator("#bars button").filter(has=page.get_by_text(name, exact=True)).click()


def test_the_verdict_comes_first_with_what_to_do(chromium, folder: Path):
    report = json.loads((folder / "d.report.json").read_text("utf-8"))
    opened = Opened(chromium, folder / "d.report.html", permissions=["clipboard-read", "clipboard-write"])
    page = opened.page
    assert page.inner_text("h1") == "d.jsonl"
    assert page.inner_text("header .note").startswith("15 rows removed (25 %), 45 kept, of 60 · drop 25%")
    assert report["verdict"]["level"] in page.get_attribute("#verdict", "class")
    assert page.inner_text("#verdict .sentence") == report["verdict"]["sentence"]
    assert report["verdict"]["action"] in page.inner_text("#verdict .action")
    why = page.locator("#verdict li")
    assert not why.first.is_visible()
    page.get_by_text("Why: the statistics").click()
    assert why.all_inner_texts() == report["verdict"]["why"]
    # What to run is said once there are marks.
    assert report["verdict"]["mark"]
    assert page.locator("#verdict code:visible").count() == 0
    assert "This cut removes the 15 highest, as asked (drop 25%)" in page.inner_text("#verdict .sentence")
    assert opened.seen == []


def test_what_stays_is_a_click_away(chromium, folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(folder)
    report = built(folder)
    report.data["verdict"]["stays"] = "That a row stays does not make it harmless."
    (tmp_path / "page.html").write_text(html(report), "utf-8")
    page = Opened(chromium, tmp_path / "page.html").page
    page.get_by_role("button", name="look at what stays").click()
    box = page.locator("#kept-groups").bounding_box()
    assert 0 <= box["y"] < page.viewport_size["height"]
    report = built(folder)
    report.data["verdict"]["stays"] = "That a row stays does not make it harmless."
    report.data["groups"] = []
    (tmp_path / "page.html").write_text(html(report), "utf-8")
    page.goto((tmp_path / "page.html").as_uri())
    page.get_by_role("button", name="look at what stays").click()
    assert ranks_of(page)[0] == 16
    report = built(folder)
    report.data["verdict"]["stays"] = None
    (tmp_path / "page.html").write_text(html(report), "utf-8")
    page.goto((tmp_path / "page.html").as_uri())
    assert page.get_by_role("button", name="look at what stays").count() == 0


def built(folder: Path):
    """The report of the folder's cut; the working folder is that one."""
    selection = Selection.of(Run.open(next((folder / ".geofilter").iterdir())), Cut.parse("25%"))
    return build(selection, [], GatheredRows.again(selection))


def test_without_javascript_the_verdict_says_what_to_do_instead(chromium, folder: Path):
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto((folder / "d.report.html").as_uri())
    said = page.inner_text("#verdict")
    assert "at a terminal there is geofilter label" in said
    assert page.locator("#verdict button:visible").count() == 0


def test_the_slider_moves_counts_threshold_bars_and_rows(chromium, folder: Path):
    opened = Opened(chromium, folder / "d.report.html")
    page = opened.page
    assert (opened.number("#n-removed"), opened.number("#n-kept")) == (15, 45)
    assert "This is the cut that was written" in page.inner_text("#cut-text")
    assert count_of(page) == "15 rows"
    slider = page.get_by_role("slider", name="What another cut would do")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert (opened.number("#n-removed"), opened.number("#n-kept")) == (20, 40)
    assert count_of(page) == "20 rows"
    run = next((folder / ".geofilter").iterdir())
    ordered = sorted((json.loads(line)["score"] for line in (run / "scores.jsonl").open()), reverse=True)
    assert f"scores from {ordered[19]:.2f} up" in page.inner_text("#cut-text")
    assert "geofilter filter" in page.inner_text("#cut-command")
    assert page.inner_text("#cut-command code").endswith("--drop 20")
    assert "5 rows more would go and 0 would stay" in page.inner_text("#sides")
    page.locator("#sides").get_by_role("button").click()
    assert ranks_of(page) == [16, 17, 18, 19, 20]
    page.locator("#view").select_option("removed")
    assert set(parts_of(page).values()) == {20}
    page.get_by_label("or", exact=False).and_(page.locator("#count")).fill("60")
    assert opened.number("#n-kept") == 0
    page.locator("#percent").fill("10")
    assert opened.number("#n-removed") == 6
    shares = page.eval_on_selector_all("#histogram .removed", "all => all.map(r => Number(r.getAttribute('height')))")
    assert sum(s > 0 for s in shares) in range(1, 7)
    page.get_by_role("button", name="back to the cut that was written").click()
    assert opened.number("#n-removed") == 15
    assert opened.seen == []


def test_the_line_of_the_cut_is_dragged_and_the_axis_says_where_it_is(chromium, folder: Path):
    opened = Opened(chromium, folder / "d.report.html")
    page = opened.page
    page.locator("#plot").scroll_into_view_if_needed()
    box, at = page.locator("#plot").bounding_box(), page.locator("#cut-line").bounding_box()
    run = next((folder / ".geofilter").iterdir())
    ordered = sorted((json.loads(line)["score"] for line in (run / "scores.jsonl").open()), reverse=True)
    edges = json.loads((run / "report.json").read_text("utf-8"))["histogram"]["edges"]

    def place(score: float) -> float:
        return box["x"] + box["width"] * (score - edges[0]) / (edges[-1] - edges[0])

    assert at["x"] == pytest.approx(place((ordered[14] + ordered[15]) / 2), abs=2)
    page.mouse.move(at["x"], at["y"] + 60)
    page.mouse.down()
    page.mouse.move(place(0.0), at["y"] + 60, steps=4)
    page.mouse.up()
    page.locator("#cut-text", has_text=re.compile("^Removes")).wait_for()
    assert opened.number("#n-removed") == pytest.approx(sum(s > 0 for s in ordered), abs=2)
    for tick in page.locator("#axis span").all():
        middle = tick.bounding_box()["x"] + tick.bounding_box()["width"] / 2
        assert middle == pytest.approx(place(float(tick.inner_text())), abs=2)
    assert page.locator("#axis span").count() >= 3
    assert page.locator("#chat-line").is_visible()
    assert opened.seen == []


def test_the_rows_can_be_filtered_sorted_and_searched(chromium, folder: Path):
    opened = Opened(chromium, folder / "d.report.html")
    page = opened.page
    page.locator("#view").select_option("all")
    assert count_of(page) == "60 rows"
    assert len(rows_of(page)) == 25
    page.get_by_role("button", name="next").click()
    page.get_by_role("button", name="next").click()
    assert len(rows_of(page)) == 10
    assert page.get_by_role("button", name="next").is_disabled()
    choose_part(page, "source", "a")
    assert count_of(page) == "26 rows"
    page.locator("#sort").select_option("length")
    lengths = page.evaluate("listed.slice(0, 25).map(i => tokens[i])")
    assert lengths == sorted(lengths, reverse=True)
    page.locator("#sort").select_option("rank")
    page.get_by_role("button", name="remove the filter source: a").click()
    page.locator("#sort").select_option("source")
    assert [t.count("\n") for t in rows_of(page)]
    page.get_by_role("searchbox").fill("doctor 44")
    assert count_of(page) == "1 row"
    page.get_by_role("searchbox").fill("")
    page.locator("#sort").select_option("rank")
    page.locator("#view").select_option("around")
    assert states(page) == ["removed"] * 12 + ["kept"] * 12
    page.get_by_text("Features behind the removed rows").click()
    page.locator("button.behind").first.click()
    count = int(count_of(page).split()[0])
    assert count == int(page.locator("button.behind").first.inner_text())
    page.get_by_role("button", name="remove the filter feature").click()
    assert count_of(page) == "15 rows"
    assert opened.seen == []


def test_the_address_opens_what_it_was_copied_from(chromium, folder: Path):
    opened = Opened(chromium, folder / "d.report.html")
    page = opened.page
    page.locator("#view").select_option("all")
    page.locator("#sort").select_option("length")
    choose_part(page, "source", "b")
    page.get_by_role("searchbox").fill("fool")
    page.locator("#count").fill("20")
    page.locator("#rows > li").nth(3).get_by_role("button", name="more").click()
    before, address = ranks_of(page), page.url
    row = before[3]
    assert "file:" in address
    other = page.context.new_page()
    other.goto(address)
    assert ranks_of(other) == before
    assert other.locator(".card.current").get_attribute("data-rank") == str(row - 1)
    assert other.inner_text("#n-removed") == "20"
    # Of another page, or made up: what there is not is passed over, and nothing of it acts.
    for made_up in ("view=%3Cimg src=x%3E&sort=x&by=x&in-source=x&row=0&cut=-1", "row=99999&cut=1e9&feature=x&group=x"):
        other.goto("about:blank")
        other.goto(address.split("#")[0] + "#" + made_up)
        assert count_of(other) == "15 rows"
        assert other.locator("main img").count() == 0
    # A jump stays a jump.
    page.get_by_role("link", name="Verdict").click()
    assert page.url == address
    assert opened.seen == []


def test_keys_go_through_the_rows_and_mark_them(chromium, folder: Path):
    opened = Opened(chromium, folder / "d.report.html")
    page = opened.page

    def current() -> int:
        return int(page.locator(".card.current").get_attribute("data-rank")) + 1

    page.keyboard.press("j")
    assert current() == 1
    page.keyboard.press("j")
    page.keyboard.press("h")
    assert current() == 3
    page.keyboard.press("f")
    page.keyboard.press("k")
    assert current() == 3
    assert "bad" in page.get_attribute('.card[data-rank="1"]', "class")
    assert page.inner_text("#bar-marks") == "2 marked"
    page.keyboard.press("h")  # another mark in place of the first
    assert page.inner_text("#marks") == "2 harmful, 0 fine."
    page.keyboard.press("u")
    assert current() == 3
    assert page.inner_text("#marks") == "1 harmful, 1 fine."
    page.keyboard.press("j")
    page.keyboard.press("s")
    assert current() == 5
    assert page.inner_text("#marks") == "1 harmful, 1 fine, 1 unsure."
    page.keyboard.press("u")
    assert current() == 4
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    assert page.locator(".card.current .body").is_visible()
    page.keyboard.press("Enter")
    assert not page.locator(".card.current .body").is_visible()
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("j")
    page.keyboard.press("Escape")
    assert current() == 3
    page.get_by_role("searchbox").fill("jkhf")
    assert page.inner_text("#bar-marks") == "2 marked"
    page.get_by_role("searchbox").fill("")
    page.keyboard.press("Escape")
    page.locator("#view").select_option("all")
    for _ in range(30):
        page.keyboard.press("j")
    assert page.inner_text("#page").startswith("page 2")
    assert opened.seen == []


def test_labelled_rows_stand_apart(chromium, folder: Path, tmp_path: Path):
    place = shutil.copytree(folder, tmp_path / "p")
    write_rows(place / "l.jsonl", [{"file": "d.jsonl", "line": i + 1, "label": i % 2} for i in range(40)])
    (run,) = (place / ".geofilter").iterdir()
    for args in (["label", run.name, "--from", "l.jsonl", "--apply"], ["filter", run.name, "--drop", "25%"]):
        done = geofilter(*args, cwd=place)
        assert done.returncode == 0, done.stderr
    written = json.loads((run / "report.json").read_text("utf-8"))
    report = written["labels"]
    assert report["text"] in written["verdict"]["why"]
    for options in ({"viewport": {"width": 1280, "height": 900}}, {"viewport": {"width": 360, "height": 640}}):
        opened = Opened(chromium, run / "report.html", **options)
        page = opened.page
        said = page.inner_text("#labels")
        for part in report["parts"]:
            assert f"of {part['rows']} {part['name']} {part['removed']} " in said
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("#by").get_by_role("button", name="label", exact=True).click()
        assert numbers(page) == sorted((part["removed"] for part in report["parts"]), reverse=True)
        page.locator("#count").fill("60")
        assert numbers(page) == sorted((part["rows"] for part in report["parts"]), reverse=True)
        page.locator("#view").select_option("all")
        choose_part(page, "label", "labelled harmful")
        assert count_of(page) == "20 rows"
        # None of the rows that the bank was learnt from is drawn.
        page.get_by_role("button", name="back to the cut that was written").click()
        page.locator("#start").click()
        learnt = {i for i, of in enumerate(page.evaluate("[...dimension('label').of]")) if of < 2}
        assert len(learnt) == 40
        assert not learnt & set(page.evaluate("plan()"))
        assert opened.seen == []


def test_a_row_s_excerpt_ends_with_a_word(chromium, folder: Path):
    page = Opened(chromium, folder / "d.report.html").page
    page.locator("#view").select_option("all")
    page.get_by_role("searchbox").fill("word word word")
    assert page.locator(".response").inner_text().endswith(" word …")
    unfold(page.locator("#rows > li").first)
    assert len(page.locator(".response").inner_text()) > 1900


def test_hostile_rows_are_text(chromium, folder: Path):
    opened = Opened(chromium, folder / "d.report.html")
    page = opened.page
    page.locator("#view").select_option("all")
    page.get_by_role("searchbox").fill("alert(1)")
    assert count_of(page) == "8 rows"
    for row in page.locator("#rows > li").all():
        unfold(row)
    shown = [*page.locator("#rows .response").all_inner_texts(), *page.locator("#rows .prompt").all_inner_texts()]
    assert len(shown) == 16
    assert sum("</script><script>alert(1)</script><img src=x onerror=alert(1)>" in text for text in shown) == 15
    assert all(len(text) < 2100 for text in shown)
    page.locator("#by").get_by_role("button", name="source", exact=True).click()
    page.locator("#bars").get_by_role("button", name="alert(1)").click()
    assert page.locator("main img, main script, main iframe, main a[href^=javascript]").count() == 0
    text = page.inner_text("main")
    assert not any(c in text for c in "\x1b\x00\u202e")
    assert opened.seen == []


def test_marked_rows_become_labels_of_the_run(chromium, folder: Path, tmp_path: Path):
    opened = Opened(chromium, folder / "d.report.html", accept_downloads=True)
    page = opened.page
    save = page.get_by_role("navigation").get_by_role("button", name="save marks")
    assert save.is_disabled()
    page.locator("#view").select_option("all")
    for word, query in (("fine", "doctor"), ("harmful", "fool")):
        page.get_by_role("searchbox").fill(query)
        for i in range(6):
            row = page.locator("#rows > li").nth(i)
            row.get_by_role("button", name=word).click()
    assert page.inner_text("#marks") == "6 harmful, 6 fine."
    assert page.locator("#teach").is_visible()
    row.get_by_role("button", name="fine").click()
    row.get_by_role("button", name="harmful").click()
    row.get_by_role("button", name="harmful").click()  # taken back
    assert page.inner_text("#marks") == "5 harmful, 6 fine."
    row.get_by_role("button", name="harmful").click()
    page.locator("#view").select_option("marked")
    page.get_by_role("searchbox").fill("")
    assert count_of(page) == "12 rows"
    page.locator("#view").select_option("all")
    page.get_by_role("searchbox").fill("alert(1)")
    page.locator("#rows > li").nth(4).get_by_role("button", name="unsure").click()
    found = saved(page, save, tmp_path)
    assert page.inner_text("#bar-marks") == "13 marks saved"
    assert page.inner_text("#saved").startswith("13 marks saved as labels.jsonl")
    assert sorted((str(f["label"]), f["mark"]) for f in found) == [
        *[("None", "unsure")], *[("bad", "harmful")] * 6, *[("good", "fine")] * 6
    ]  # fmt: skip
    lines = (folder / "d.jsonl").read_bytes().splitlines()
    assert all(sha256(lines[f["line"] - 1]).hexdigest() == f["sha256"] for f in found)
    assert {f["file"] for f in found} == {"d.jsonl"}
    assert not [f for f in found if "why" in f]
    page.reload()
    assert page.inner_text("#marks") == "6 harmful, 6 fine, 1 unsure."
    other = page.context.new_page()  # another window adds to the marks and takes none away
    other.goto(page.url)
    for i, window in enumerate((other, page)):
        window.locator("#view").select_option("all")
        window.get_by_role("searchbox").fill("alert(1)")
        row = window.locator("#rows > li").nth(i)
        row.get_by_role("button", name="harmful").click()
    assert page.inner_text("#marks") == "8 harmful, 6 fine, 1 unsure."
    copy = tmp_path / "again"
    shutil.copytree(folder, copy)
    done = geofilter("label", "--from", tmp_path / "labels.jsonl", "--json", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["labels"] == {"bad": 6, "good": 6}
    assert not [s for s in opened.seen if not s.startswith("request: blob:") and not s.startswith("request: file:")]


def saved(page, button, folder: Path) -> list[dict]:
    with page.expect_download() as download:
        button.click()
    download.value.save_as(folder / "labels.jsonl")
    return [json.loads(line) for line in (folder / "labels.jsonl").open()]


def card_of(page) -> int:
    """Rank of the row that is read, from 0."""
    return int(page.locator("#rows > li").get_attribute("data-rank"))


def mark_all(page, bad) -> int:
    """Mark the rows of the plan until it ends, harmful those that `bad` says; return how many were marked."""
    for n in range(60):
        if page.locator("#leave").is_hidden():
            return n
        page.keyboard.press("h" if bad(card_of(page)) else "f")
    raise AssertionError("it has no end")


def test_the_page_leads_through_rows_of_both_sides_and_says_what_the_marks_come_to(
    chromium, folder: Path, tmp_path: Path
):
    opened = Opened(chromium, folder / "d.report.html", accept_downloads=True)
    page = opened.page
    # The highest row is marked before: it counts once its turn has come, not before.
    page.keyboard.press("j")
    page.keyboard.press("h")
    assert page.locator("#result").is_hidden()
    page.get_by_role("button", name="Start: row 1 of 20").click()
    rows = page.evaluate("plan()")
    assert len(set(rows)) == 20
    sides = "".join("r" if i < 15 else "k" for i in rows)
    assert (sides.count("r"), sides.count("k")) == (10, 10)
    assert not re.search("r{10}|k{10}", sides)
    # Nothing on the card tells which side it is of.
    for i in rows:
        card = page.locator("#rows > li")
        assert card.count() == 1
        said = card.inner_text() + card.get_attribute("aria-label") + page.inner_text("#leave")
        assert not re.search(r"removed|score|why:|like this|#\d", said)
        assert card.locator("mark").count() == 0
        if i in rows[:2]:
            card.get_by_role("button", name="fine").click()
        else:
            page.keyboard.press("j")
    assert page.inner_text("#progress").startswith(("2 of 20", "3 of 20"))
    assert page.locator("#result").is_hidden()
    page.keyboard.press("u")
    assert card_of(page) == rows[1]
    page.keyboard.press("s")  # unsure: one more of its side
    assert len(page.evaluate("plan()")) == 21
    page.keyboard.press("u")
    assert len(page.evaluate("plan()")) == 20
    page.reload()
    assert page.locator("#leave").is_visible()
    page.get_by_role("button", name="leave").click()
    assert count_of(page) == "15 rows"
    assert page.get_by_role("button", name="Go on: row").is_visible()
    # In a page of another cut they are marks of rows that were not drawn for it.
    other = (folder / "d.report.html").read_text("utf-8").replace("at random: drop 25%", "at random: drop 26%")
    (tmp_path / "other.html").write_text(other, "utf-8")
    second = page.context.new_page()
    second.goto((tmp_path / "other.html").as_uri())
    assert second.inner_text("#marks") == page.inner_text("#marks") != "No row is marked."
    assert second.get_by_role("button", name="Start: row 1 of 20").is_visible()
    page.get_by_role("button", name="Go on: row").click()
    mark_all(page, lambda i: i < 15)
    bad = sum(i < 15 for i in rows if i != rows[0])
    (low, high), (kept_low, kept_high) = ([round(100 * end) for end in share_interval(k, 10)] for k in (bad, 0))
    result = page.inner_text("#result")
    assert result.startswith(
        f"Of 10 rows that go, {bad} are harmful ({low} to {high} %); of 10 that stay, 0 ({kept_low} to {kept_high} %)."
    )
    assert f"about {round(15 * bad / 10)} of the 15 that go" in result
    assert "Your marks bear this cut out" in result
    assert page.evaluate("document.activeElement.id") == "result"
    assert page.locator("#action").is_hidden()
    assert page.locator("#check code").inner_text().endswith("--from labels.jsonl --no-learn")
    found = saved(page, page.locator("#after").get_by_role("button", name="save marks"), tmp_path)
    assert len([f for f in found if f.get("why")]) == 20
    copy = shutil.copytree(folder, tmp_path / "again")
    done = geofilter("label", "--from", tmp_path / "labels.jsonl", "--no-learn", cwd=copy)
    assert done.returncode == 0, done.stderr
    geofilter("filter", "--drop", "25%", cwd=copy)
    verdict = json.loads((copy / "d.report.json").read_text("utf-8"))["verdict"]
    assert verdict["level"] == "confirmed"
    assert f"{bad} of 10 removed are harmful, 0 of 10 kept are harmful" in verdict["sentence"]
    geofilter("filter", "--drop", "30%", cwd=copy)  # of another cut these rows are no random ones
    assert json.loads((copy / "d.report.json").read_text("utf-8"))["verdict"]["level"] != "confirmed"
    # More rows, until there are none left of a side; what was said stands again at the end.
    page.get_by_role("button", name="Mark 20 more rows").click()
    assert page.locator("#result").is_hidden()
    late = 0 not in rows  # the highest row: its turn comes now
    assert mark_all(page, lambda i: False) == 15 - late  # five that go are left
    bad += late
    assert page.inner_text("#result").startswith(f"Of 15 rows that go, {bad} are harmful")
    page.reload()
    assert page.inner_text("#result").startswith(f"Of 15 rows that go, {bad} are harmful")
    assert not [s for s in opened.seen if not s.startswith(("request: blob:", "request: file:"))]


def test_marks_that_speak_against_the_cut_teach_or_are_kept_and_few_rows_are_all_read(
    chromium, folder: Path, tmp_path: Path
):
    copy = shutil.copytree(folder, tmp_path / "few")
    assert geofilter("filter", "--drop", "3", cwd=copy).returncode == 0
    page = Opened(chromium, copy / "d.report.html").page
    assert "Mark 13 rows, the three that go and ten that stay" in page.inner_text("#action")
    page.get_by_role("button", name="Start: row 1 of 13").click()
    page.locator("#count").fill("5")  # the marks are of the cut that was written
    assert page.locator("#leave").is_hidden()
    page.get_by_role("button", name="Start: row 1 of 13").click()
    assert page.inner_text("#n-removed") == "3"
    assert mark_all(page, lambda i: i > 40) == 13
    result = page.inner_text("#result")
    assert result.startswith("Of 3 rows that go, 0 are harmful")
    assert "too few to tell" in result
    marked = page.evaluate("plan().filter(i => i > 40).length")
    assert page.locator("#teach").is_visible() == (marked >= 5)
    assert page.locator("#check").is_visible() == (marked < 5)
    assert page.locator("#teach-more").is_visible() == (marked < 5)


def test_a_card_shows_what_is_known_of_its_row(chromium, folder: Path, monkeypatch):
    """The strongest words marked in an excerpt around them, what they mean, and the known text that is most like it."""
    monkeypatch.chdir(folder)
    report = built(folder)
    row = next(r for r in report.rows if r["response"].startswith("</script>"))
    filler, hit = "plain words about nothing. " * 40, "<b>steal the money</b>"
    text = filler + hit + " and run. " + filler
    at = len(filler)
    row.update(
        response=text, explained=0.46, common=0.31, topic="fraud",
        spans=[[0, 5, -0.2], [at, at + 5, 0.5], [at + 5, at + len(hit) - 3, 0.9], [len(text) - 8, len(text), 0.02]],
        top_features=[{"feature": 9, "label": "fraud, trick", "share": 0.8, "times": 12.3, "toxic": False,
                       "at": [at + 3, at + 6], "near": {"feature": 8, "label": "theft", "cosine": 0.71}}],
        like={"bad": {"row": 3, "similarity": 0.8}, "good": {"row": 4, "similarity": 0.4}},
    )  # fmt: skip
    code = report.rows[0] if report.rows[0] is not row else report.rows[1]
    code.update(
        response="import os\n\ndef f(x):\n    return os.system(x)\n", score=3.0, common=1.2, topics={"fraud": 2.0},
        like={"bad": {"row": 3, "similarity": 0.2}, "good": {"row": 4, "similarity": 0.6}},
        top_features=[{"feature": 9, "label": "fraud · trick", "share": 0.6, "times": 2, "toxic": False, "near": None}],
    )  # fmt: skip
    known = [{"prompt": HOSTILE, "text": "take it from their bag", "topic": "theft", "bad": True},
             {"prompt": "", "text": "ask first", "topic": None, "bad": False}]  # fmt: skip
    report.examples[row["bank"]] = {"3": known[0], "4": known[1]}
    path = folder / "made-up.html"
    path.write_text(html(report), "utf-8")
    opened = Opened(chromium, path)
    page = opened.page
    page.locator("#view").select_option("all")
    page.get_by_role("searchbox").fill("steal the money")
    (card,) = page.locator("#rows > li").all()
    shown = card.locator(".response").inner_text()
    assert shown.startswith("… ")
    assert shown.endswith(" …")
    assert len(shown) < 460
    assert hit in shown
    assert card.locator("mark").all_inner_texts() == ["<b>steal the money<"]
    assert card.locator("mark[class^=less]").count() == 0
    assert f"line {row['line']}" in card.inner_text()
    assert f"score {row['score']:.2f}" in card.inner_text()
    assert re.search(r"why: fraud, trick( \(\d+ %\))?", card.inner_text())
    assert "tone and punctuation" not in card.inner_text()  # not the largest part
    assert "if harmful" not in card.inner_text()
    assert card.locator(".like .text").first.is_hidden()
    card.get_by_text("like this known harmful text").click()
    assert [text.split("response")[-1] for text in card.locator(".like .text").all_inner_texts()] == [
        "take it from their bag",
        "ask first",
    ]
    assert card.locator(".like summary").inner_text().startswith("like this known harmful text (theft): ")
    unfold(card)
    assert card.locator(".response").inner_text().strip() == text.strip()
    assert card.locator(".response").evaluate("e => e.scrollHeight <= e.clientHeight")
    assert card.locator("mark[class^=less]").count() == 1
    assert card.locator("table").is_hidden()
    card.get_by_text("how the score is made").click()
    said = card.locator(".body").inner_text()
    assert "12 times ordinary chat" in said
    assert "near theft (0.71)" in said
    assert "tone and punctuation" in said
    assert card.locator("td", has_text=re.compile("^steal$")).count() == 1
    assert page.locator("main img").count() == 0
    page.get_by_role("searchbox").fill("os.system")
    assert "code" in page.locator(".response").first.get_attribute("class").split()
    card = page.locator("#rows > li").first
    # The nearer one is harmless: no topic of harm is said of it.
    assert card.locator(".like summary").inner_text() == "closer to this known harmless text: ask first"
    assert "why: tone and punctuation (40 %); fraud, trick (20 %)" in card.inner_text()
    unfold(card)
    card.get_by_text("how the score is made").click()
    assert "If it is harmful" not in card.locator(".body").inner_text()
    assert opened.seen == []


def open_group(page, number: int):
    """A group, its examples shown."""
    group = page.locator(f'[data-group="{number}"]')
    if group.get_by_role("button", name="read its rows").is_hidden():
        group.locator("summary").click()
    return group


def test_groups_are_read_and_marked_as_a_whole(chromium, folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "g")
    report = json.loads((copy / "d.report.json").read_text("utf-8"))
    gone, stay = ([g for g in report["groups"] if g["removed"] is side] for side in (True, False))
    assert gone
    assert stay
    opened = Opened(chromium, copy / "d.report.html")
    page = opened.page
    first = page.locator(f'[data-group="{gone[0]["number"]}"]')
    assert f"{gone[0]['rows']} row" in first.inner_text()
    open_group(page, gone[0]["number"]).get_by_role("button", name="read its rows").click()
    assert count_of(page).startswith(f"{gone[0]['rows']} row")
    assert set(gone[0]["examples"]) <= set(ranks_of(page))
    first.get_by_role("button", name=f"#{gone[0]['examples'][0]}", exact=True).click()
    assert page.locator(".card.current").get_attribute("data-rank") == str(gone[0]["examples"][0] - 1)
    # Another group's row is shown alone, and what was listed comes back.
    kept = stay[0]["examples"][0]
    open_group(page, stay[0]["number"]).get_by_role("button", name=f"#{kept}", exact=True).click()
    assert ranks_of(page) == [kept]
    page.get_by_role("button", name="alone").click()
    assert count_of(page).startswith(f"{gone[0]['rows']} row")
    page.locator("#filters").get_by_role("button", name="group").click()
    assert count_of(page) == "15 rows"
    open_group(page, stay[0]["number"]).get_by_role("button", name="read its rows").click()
    assert count_of(page).startswith(f"{stay[0]['rows']} row")
    page.locator("#filters").get_by_role("button", name="group").click()
    assert count_of(page) == "15 rows"
    page.keyboard.press("j")
    command = page.locator("#group-command code")
    open_group(page, gone[0]["number"]).get_by_role("button", name="remove the whole group").click()  # it goes anyway
    assert command.is_hidden()
    first.get_by_role("button", name="keep the whole group").click()
    page.keyboard.press("h")
    page.keyboard.press("u")
    assert command.is_visible()
    page.keyboard.press("u")  # the last thing done is that of the group now
    assert command.is_hidden()
    first.get_by_role("button", name="keep the whole group").click()
    open_group(page, stay[0]["number"]).get_by_role("button", name="remove the whole group").click()
    options = f"--keep-group {gone[0]['number']} --drop-group {stay[0]['number']}"
    assert command.inner_text().endswith(f" --drop 25% {options}")
    page.reload()
    words = shlex.split(command.inner_text())
    assert Path(words[2]).name == next((copy / ".geofilter").iterdir()).name
    done = geofilter("filter", *words[3:], cwd=copy)
    assert done.returncode == 0, done.stderr
    # Of that cut the page knows which groups have changed sides, and takes them back.
    opened = Opened(chromium, copy / "d.report.html")
    page = opened.page
    assert opened.number("#n-removed") == 15 - gone[0]["rows"] + stay[0]["rows"]
    open_group(page, gone[0]["number"]).get_by_role("button", name="remove the whole group").click()
    assert page.inner_text("#group-command code").endswith(f" --drop 25% --drop-group {stay[0]['number']}")
    assert opened.seen == []


def test_another_run_is_compared_by_its_scores(chromium, folder: Path, tmp_path: Path):
    run = next((folder / ".geofilter").iterdir())
    lines = [json.loads(line) for line in (run / "scores.jsonl").open()]
    ordered = sorted(lines, key=lambda line: -line["score"])
    # In the other run the ten highest are the lowest, and a row is gone that is kept here.
    high = {line["sha256"] for line in ordered[:10]}
    other = [{**line, "score": -50 if line["sha256"] in high else line["score"]} for line in lines]
    other = [line for line in other if line["sha256"] != ordered[-1]["sha256"]]
    write_rows(tmp_path / "scores.jsonl", other)
    opened = Opened(chromium, folder / "d.report.html")
    page = opened.page
    page.get_by_text("Compare with another run").click()
    page.locator("#other").set_input_files(tmp_path / "scores.jsonl")
    page.locator("#other-list").wait_for()
    said = page.inner_text("#other-text")
    assert "59 of the 60 rows" in said
    assert "Removed by both: 5. Only here: 10. Only there: 10. Kept by both: 34." in said
    page.locator("#other-list").click()
    assert ranks_of(page) == [*range(1, 11), *range(16, 26)]
    page.locator("#other").set_input_files(run / "report.json")
    page.get_by_text("Its verdict").wait_for()
    assert "Removed by both: 15. Only here: 0. Only there: 0. Kept by both: 5." in page.inner_text("#other-text")
    (tmp_path / "bad.json").write_text("<img src=x>", "utf-8")
    page.locator("#other").set_input_files(tmp_path / "bad.json")
    page.get_by_text("This cannot be compared").wait_for()
    assert opened.seen == []


def test_words_that_carry_the_score_are_marked_in_their_places(chromium, folder: Path):
    """Some rows have characters beyond 16 bits, which are two to the page and one to the spans."""
    report = json.loads((folder / "d.report.json").read_text("utf-8"))
    assert all(row["spans"] for row in report["removed_rows"])
    assert any(ord(c) > 0xFFFF for row in report["removed_rows"][:8] for c in row["response"])
    opened = Opened(chromium, folder / "d.report.html")
    items = opened.page.locator("#rows > li")
    for i, row in enumerate(report["removed_rows"][:8]):
        unfold(items.nth(i))
        top = max(abs(share) for *_, share in row["spans"])
        strong = [row["response"][a:b] for a, b, share in row["spans"] if 3 * abs(share) / top > 0.4]
        shown = items.nth(i).locator(".response")
        # Those of one strength that touch are marked as one, white space between them too.
        assert "".join("".join(shown.locator("mark").all_text_contents()).split()) == "".join("".join(strong).split())
        assert shown.text_content() == row["response"]
    items.nth(0).get_by_text("how the score is made").click()
    assert "Strongest tokens:" in items.nth(0).inner_text()
    assert opened.seen == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(chromium, folder: Path, scheme: str):
    opened = Opened(chromium, folder / "d.report.html", viewport={"width": 360, "height": 740}, color_scheme=scheme)
    unfold(opened.page.locator("#rows > li").first)
    for part in opened.page.locator("details > summary").all():
        part.click()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_200000_rows(chromium, tmp_path: Path):
    run = synthetic_run(tmp_path, 200_000)
    page = page_of(run, Cut.parse("10%"))
    assert page.stat().st_size < 15e6
    opened = Opened(chromium, page)
    assert opened.number("#n-removed") == 20_000
    assert opened.page.inner_text("#rows-count") == "20,000 rows"
    # Any removed row is found by its words, the lowest of them too.
    opened.page.locator("body[data-texts=here]").wait_for()
    order = Selection.of(run, Cut.parse("10%")).order()
    opened.page.get_by_role("searchbox").fill(f"row {order[19_998] + 1} ")
    assert ranks_of(opened.page) == [19_999]
    assert "of all 20,000 removed rows, each up to about 426 characters" in opened.page.inner_text("#rows-count")
    opened.page.get_by_role("searchbox").fill("")
    # Those that are read at random are there as far as any row is.
    whole = opened.page.evaluate("SIDES.flatMap(side => data.drawn[side].slice(0, 10)).map(i => texts.get(i))")
    assert all("brief" not in row and len(row["response"]) > 600 for row in whole)
    opened.page.locator("#percent").fill("50")
    assert opened.number("#n-removed") == 100_000
    assert opened.page.inner_text("#rows-count") == "100,000 rows"
    assert opened.seen == []


def test_a_written_cut_beyond_the_listed_rows_is_shown_as_it_is(chromium, tmp_path: Path, monkeypatch):
    for module in ("page", "rows"):
        monkeypatch.setattr(f"geofilter.report.{module}.MOST_LISTED", 1000)
    opened = Opened(chromium, page_of(synthetic_run(tmp_path, 3000), Cut.parse("90%")))
    assert (opened.number("#n-removed"), opened.number("#n-kept")) == (2700, 300)
    assert set(parts_of(opened.page).values()) == {2700}
    assert opened.page.inner_text("#rows-count") == "1,000 rows"
    opened.page.get_by_role("slider").press("ArrowLeft")
    assert opened.number("#n-removed") == 999
    assert set(parts_of(opened.page).values()) == {999}
    opened.page.get_by_role("button", name="back to the cut").click()
    assert opened.number("#n-removed") == 2700
    assert set(parts_of(opened.page).values()) == {2700}


@pytest.mark.parametrize("amount", ["0", "100%"])
def test_cuts_of_nothing_and_of_everything_and_rows_that_are_all_alike(chromium, tmp_path: Path, monkeypatch, amount):
    monkeypatch.setattr("geofilter.report.content.dimensions", lambda *_: [])
    opened = Opened(chromium, page_of(synthetic_run(tmp_path, 60), Cut.parse(amount)))
    page = opened.page
    n = 60 if amount == "100%" else 0
    assert opened.number("#n-removed") == n
    assert count_of(page) == f"{n} rows"
    assert page.locator("#start").is_hidden()  # there are not two sides to compare
    page.keyboard.press("h")
    page.locator("#count").fill("30")
    assert count_of(page) == "30 rows"
    assert opened.seen == []


def test_a_written_cut_by_percentile_is_shown_as_it_is(chromium, tmp_path: Path):
    """Percentiles of several banks do not follow the scores."""
    run = synthetic_run(tmp_path, 200, np.random.default_rng(1).random(200))
    selection = Selection.of(run, Cut.threshold(0.8))
    opened = Opened(chromium, page_of(run, Cut.threshold(0.8)))
    page = opened.page
    expected = ["removed" if selection.removed[i] else "kept" for i in selection.order()]
    page.locator("#view").select_option("all")
    assert states(page) == expected[:25]
    assert opened.number("#n-removed") == expected.count("removed")
    assert set(parts_of(page).values()) == {expected.count("removed")}
    page.locator("#count").fill("10")
    assert states(page) == ["removed"] * 10 + ["kept"] * 15


def page_of(run: Run, cut: Cut) -> Path:
    selection = Selection.of(run, cut)
    path = run.path / "page.html"
    path.write_text(html(build(selection, [], GatheredRows.again(selection))), "utf-8")
    return path


def numbers(page) -> list[int]:
    """Removed rows of each bar."""
    return [int(n.replace(",", "")) for n in page.locator("#bars .n b").all_inner_texts()]


def parts_of(page) -> dict[str, int]:
    """Removed rows by each way to divide them, summed up."""
    found = {}
    for tab in page.locator("#by button").all():
        tab.click()
        found[tab.inner_text()] = sum(numbers(page))
    return found


def states(page) -> list[str]:
    return page.locator("#rows .tag").all_inner_texts()


def synthetic_run(folder: Path, n: int, percentile: np.ndarray | None = None) -> Run:
    """A run with n made-up scores; what a report needs of a run, no more."""
    rng = np.random.default_rng(0)
    data = folder / "data.jsonl"
    score = np.round(rng.normal(size=n), 6)
    more = " ".join(f"word{i}" for i in range(90)) if n > 10_000 else ""
    data.write_text("".join(f'{{"text": "row {i} {more}"}}\n' for i in range(1, n + 1)))
    shas = [sha256(line).hexdigest() for line in data.read_bytes().splitlines()]
    (folder / "run" / "features").mkdir(parents=True)
    with (folder / "run" / "scores.jsonl").open("w") as out:
        for i in range(n):
            feature = {"feature": i % 50, "label": "a · b", "share": 0.1, "times": 2.0, "toxic": False,
                       "near": None}  # fmt: skip
            row = {"file": str(data), "line": i + 1, "sha256": shas[i], "score": float(score[i]), "percentile": 0.5,
                   "bank": "one", "banks": {}, "topic": None, "topics": {}, "n_tokens": 30, "top_features": [feature],
                   "common": 0.0, "explained": 0.5}  # fmt: skip
            out.write(json.dumps(row) + "\n")
    columns = {k: np.zeros(n, np.int32) for k in ("file", "bank", "shape")}
    drawn = {"n_tokens": (1, 900), "n_turns": (1, 12), "source": (0, 30), "topic": (-1, 3)}
    columns |= {k: rng.integers(low, high, n).astype(np.int32) for k, (low, high) in drawn.items()}
    columns |= {
        "line": np.arange(1, n + 1),
        "score": score,
        "percentile": np.full(n, 0.5) if percentile is None else percentile,
    }
    columns["learnt"] = np.zeros((n, 1), bool)
    columns["sha256"] = digests(shas)
    (folder / "run" / "quarantine.jsonl").touch()
    columns["style"] = rng.random((n, len(STYLE)), np.float32)
    (folder / "run" / "scores.safetensors").write_bytes(packed(columns, {}))
    bank = {
        "name": "one",
        "toxic_features": 1,
        "aligned_features": 1,
        "reference_rows": 3,
        "evaluation": None,
        "path": "no-such-bank",
        "excluded_features": [],
    }
    target = {"name": "t", "model": "t", "model_revision": None, "hook": "blocks.1.hook_resid_post", "sae": "s",
              "llama_scope_gate": None, "notes": [], "neuronpedia": "gemma-2-2b/12-gemmascope-res-16k"}  # fmt: skip
    counts = {"rows": n, "scored": n, "quarantined": 0, "passed_over": 0, "windowed": 0, "tokens": 1}
    write_manifest(
        folder / "run",
        {
            "format": FORMAT, "complete": True, "headline": "One bank.", "counts": counts, "power": [], "banks": [bank],
            "data": [{"path": str(data), "lines": n, "rows": n, "sha256": ""}], "target": target, "scorer": "ridge",
            "remarks": {},
            "encoding": {
                "train": "all", "score_thinking": False, "dtype": "float32", "device": "cpu", "max_tokens": 1024,
            }, "versions": {}, "seconds": {},
            "seed": 0, "fingerprint": "f", "reference_scores": [-1.0, 0.0, 1.0],
            "topics": ["a", "b", "c"], "sources": [f"source {i}" for i in range(30)],
        },
    )  # fmt: skip
    return Run.open(folder / "run")
