"""The HTML report in a browser: what it does when it is used, and that rows stay text."""

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.hostile import HOSTILE
from helpers.runs import write_manifest

from geofilter.cut.cut import Cut, Selection
from geofilter.report.content import build
from geofilter.report.page import html
from geofilter.report.rows import GatheredRows
from geofilter.rows.style import STYLE
from geofilter.run.store import FORMAT, Run
from geofilter.run.tensors import packed

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")


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
        chat(
            f"question {i}?", f"{'you fool, no' if i % 2 else 'ask the doctor'} {i} " * (1 + i % 5), source="ab"[i % 2]
        )
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
    row.locator("summary").click()
    row.locator(".body").wait_for()


def rows_of(page) -> list[str]:
    return page.locator("#rows > li").all_inner_texts()


def test_the_slider_moves_counts_threshold_bars_and_rows(chromium, folder: Path):
    opened = Opened(chromium, folder / "d.report.html")
    page = opened.page
    assert (opened.number("#n-removed"), opened.number("#n-kept")) == (15, 45)
    assert "This is the cut that was written" in page.inner_text("#cut-text")
    assert page.inner_text("#rows-count") == "15 rows"
    slider = page.get_by_role("slider", name="What another cut would do")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert (opened.number("#n-removed"), opened.number("#n-kept")) == (20, 40)
    assert page.inner_text("#rows-count") == "20 rows"
    run = next((folder / ".geofilter").iterdir())
    ordered = sorted((json.loads(line)["score"] for line in (run / "scores.jsonl").open()), reverse=True)
    assert f"scores from {ordered[19]:.2f} up" in page.inner_text("#cut-text")
    assert "geofilter filter" in page.inner_text("#cut-command")
    assert page.inner_text("#cut-command code").endswith("--drop 20")
    assert set(parts_of(page)) == {20}
    page.get_by_label("or", exact=False).and_(page.locator("#count")).fill("60")
    assert opened.number("#n-kept") == 0
    page.locator("#percent").fill("10")
    assert opened.number("#n-removed") == 6
    shares = page.eval_on_selector_all("#histogram .removed", "all => all.map(r => Number(r.getAttribute('height')))")
    assert sum(s > 0 for s in shares) in range(1, 7)
    page.get_by_role("button", name="back to the cut that was written").click()
    assert opened.number("#n-removed") == 15
    assert opened.seen == []


def test_the_rows_can_be_filtered(chromium, folder: Path):
    opened = Opened(chromium, folder / "d.report.html")
    page = opened.page
    page.locator("#view").select_option("all")
    assert page.inner_text("#rows-count") == "60 rows"
    assert len(rows_of(page)) == 25
    page.get_by_role("button", name="next").click()
    page.get_by_role("button", name="next").click()
    assert len(rows_of(page)) == 10
    assert page.get_by_role("button", name="next").is_disabled()
    page.locator('select[data-key="source"]').select_option(label="a")
    assert page.inner_text("#rows-count") == "26 rows"
    page.locator('select[data-key="source"]').select_option(label="any")
    page.get_by_role("searchbox").fill("doctor 44")
    assert page.inner_text("#rows-count") == "1 row"
    page.get_by_role("searchbox").fill("")
    page.locator("#view").select_option("around")
    assert states(page) == ["removed"] * 12 + ["kept"] * 12
    page.locator("button.behind").first.click()
    count = int(page.inner_text("#rows-count").split()[0])
    assert count == int(page.locator("button.behind").first.inner_text())
    page.get_by_role("button", name="all features").click()
    assert page.inner_text("#rows-count") == "15 rows"
    assert opened.seen == []


def test_labelled_rows_stand_apart(chromium, folder: Path, tmp_path: Path):
    place = shutil.copytree(folder, tmp_path / "p")
    write_rows(place / "l.jsonl", [{"file": "d.jsonl", "line": i + 1, "label": i % 2} for i in range(40)])
    (run,) = (place / ".geofilter").iterdir()
    for args in (["label", run.name, "--from", "l.jsonl"], ["filter", run.name, "--drop", "25%"]):
        done = geofilter(*args, cwd=place)
        assert done.returncode == 0, done.stderr
    report = json.loads((run / "report.json").read_text("utf-8"))["labels"]
    for options in ({"viewport": {"width": 1280, "height": 900}}, {"viewport": {"width": 360, "height": 640}}):
        opened = Opened(chromium, run / "report.html", **options)
        page = opened.page
        said = page.inner_text("#labels")
        assert said.startswith("Removed by the written cut: ")
        for part in report["parts"]:
            assert f"{part['removed']} of {part['rows']} {part['name']}" in said
        assert report["text"] in said
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        cells = page.locator('section[data-key="label"] tr td:nth-child(3)').all_inner_texts()
        assert list(map(int, cells)) == [part["removed"] for part in report["parts"]]
        page.locator("#count").fill("60")
        cells = page.locator('section[data-key="label"] tr td:nth-child(3)').all_inner_texts()
        assert list(map(int, cells)) == [part["rows"] for part in report["parts"]]
        page.locator("#view").select_option("all")
        page.locator('select[data-key="label"]').select_option(label="labelled harmful")
        assert page.inner_text("#rows-count") == "20 rows"
        assert opened.seen == []


def test_a_row_s_line_ends_with_a_word(chromium, folder: Path):
    page = Opened(chromium, folder / "d.report.html").page
    page.locator("#view").select_option("all")
    page.get_by_role("searchbox").fill("word word word")
    assert page.locator(".begin").inner_text().endswith(" word…")


def test_hostile_rows_are_text(chromium, folder: Path):
    opened = Opened(chromium, folder / "d.report.html")
    page = opened.page
    page.locator("#view").select_option("all")
    page.get_by_role("searchbox").fill("alert(1)")
    assert page.inner_text("#rows-count") == "8 rows"
    for row in page.locator("#rows > li").all():
        unfold(row)
    shown = page.locator("#rows .text").all_inner_texts()
    assert len(shown) == 16
    assert sum("</script><script>alert(1)</script><img src=x onerror=alert(1)>" in text for text in shown) == 15
    assert all(len(text) < 2100 for text in shown)
    assert page.locator("main img, main script, main iframe, main a[href^=javascript]").count() == 0
    text = page.inner_text("main")
    assert not any(c in text for c in "\x1b\x00\u202e")
    assert opened.seen == []


def test_marked_rows_become_labels_of_the_run(chromium, folder: Path, tmp_path: Path):
    opened = Opened(chromium, folder / "d.report.html", accept_downloads=True)
    page = opened.page
    save = page.get_by_role("button", name="save labels.jsonl")
    assert save.is_disabled()
    page.locator("#view").select_option("all")
    page.get_by_role("searchbox").fill("doctor")
    for word, query in (("fine", "doctor"), ("harmful", "fool")):
        page.get_by_role("searchbox").fill(query)
        for i in range(6):
            row = page.locator("#rows > li").nth(i)
            unfold(row)
            row.get_by_role("button", name=word).click()
    assert page.inner_text("#marks") == "6 harmful and 6 fine."
    row.get_by_role("button", name="fine").click()
    row.get_by_role("button", name="harmful").click()
    page.locator("#view").select_option("marked")
    page.get_by_role("searchbox").fill("")
    assert page.inner_text("#rows-count") == "12 rows"
    with page.expect_download() as download:
        save.click()
    download.value.save_as(tmp_path / "labels.jsonl")
    found = [json.loads(line) for line in (tmp_path / "labels.jsonl").open()]
    assert sorted(f["label"] for f in found) == ["bad"] * 6 + ["good"] * 6
    page.reload()
    assert page.inner_text("#marks") == "6 harmful and 6 fine."
    other = page.context.new_page()  # another window adds to the marks and takes none away
    other.goto(page.url)
    for i, window in enumerate((other, page)):
        window.locator("#view").select_option("all")
        window.get_by_role("searchbox").fill("alert(1)")
        row = window.locator("#rows > li").nth(i)
        unfold(row)
        row.get_by_role("button", name="harmful").click()
    assert page.inner_text("#marks") == "8 harmful and 6 fine."
    copy = tmp_path / "again"
    shutil.copytree(folder, copy)
    done = geofilter("label", "--from", tmp_path / "labels.jsonl", "--json", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["labels"] == {"bad": 6, "good": 6}
    assert not [s for s in opened.seen if not s.startswith("request: blob:") and not s.startswith("request: file:")]


def test_shaded_tokens_are_the_response_and_sum_to_what_they_say(chromium, folder: Path, tmp_path: Path):
    copy = tmp_path / "shaded"
    shutil.copytree(folder, copy)
    done = geofilter("report", "--shade", "4", cwd=copy)
    assert done.returncode == 0, done.stderr
    report = json.loads((copy / "d.report.json").read_text("utf-8"))
    with_tokens = [r for r in report["removed_rows"] if "tokens" in r]
    assert [r["rank"] for r in with_tokens] == [1, 2, 3, 4]
    for row in with_tokens:
        text = "".join(t[0] for t in row["tokens"])
        assert text.strip() == row["response"].strip()
    opened = Opened(chromium, copy / "d.report.html")
    unfold(opened.page.locator("#rows > li").first)
    assert opened.page.locator("#rows mark").count() > 0
    assert "Strongest tokens:" in opened.page.inner_text("#rows > li:first-child")
    assert opened.seen == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(chromium, folder: Path, scheme: str):
    opened = Opened(chromium, folder / "d.report.html", viewport={"width": 360, "height": 740}, color_scheme=scheme)
    unfold(opened.page.locator("#rows > li").first)
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
    opened.page.locator("#percent").fill("50")
    assert opened.number("#n-removed") == 100_000
    assert opened.page.inner_text("#rows-count") == "100,000 rows"
    assert opened.seen == []


def test_a_written_cut_beyond_the_listed_rows_is_shown_as_it_is(chromium, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("geofilter.report.page.MOST_LISTED", 1000)
    opened = Opened(chromium, page_of(synthetic_run(tmp_path, 3000), Cut.parse("90%")))
    assert (opened.number("#n-removed"), opened.number("#n-kept")) == (2700, 300)
    assert set(parts_of(opened.page)) == {2700}
    assert opened.page.inner_text("#rows-count") == "1,000 rows"
    opened.page.get_by_role("slider").press("ArrowLeft")
    assert opened.number("#n-removed") == 999
    assert set(parts_of(opened.page)) == {999}
    opened.page.get_by_role("button", name="back to the cut").click()
    assert opened.number("#n-removed") == 2700
    assert set(parts_of(opened.page)) == {2700}


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
    assert set(parts_of(page)) == {expected.count("removed")}
    page.locator("#count").fill("10")
    assert states(page) == ["removed"] * 10 + ["kept"] * 15


def page_of(run: Run, cut: Cut) -> Path:
    selection = Selection.of(run, cut)
    path = run.path / "page.html"
    path.write_text(html(build(selection, [], GatheredRows.again(selection))), "utf-8")
    return path


def parts_of(page) -> list[int]:
    """Removed rows by each way to divide them, summed up."""
    return [
        sum(int(n.replace(",", "")) for n in section.locator("tr td:nth-child(3)").all_inner_texts())
        for section in page.locator("#parts section").all()
    ]


def states(page) -> list[str]:
    return [text.split("\n")[3] for text in rows_of(page)]


def synthetic_run(folder: Path, n: int, percentile: np.ndarray | None = None) -> Run:
    """A run with n made-up scores; what a report needs of a run, no more."""
    rng = np.random.default_rng(0)
    data = folder / "data.jsonl"
    score = np.round(rng.normal(size=n), 6)
    data.write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(1, n + 1)))
    shas = [sha256(line).hexdigest() for line in data.read_bytes().splitlines()]
    (folder / "run" / "features").mkdir(parents=True)
    with (folder / "run" / "scores.jsonl").open("w") as out:
        for i in range(n):
            feature = {"feature": i % 50, "label": "a · b", "share": 0.1, "times": 2.0, "toxic": False,
                       "near": None}  # fmt: skip
            row = {"file": str(data), "line": i + 1, "sha256": shas[i], "score": float(score[i]), "percentile": 0.5,
                   "bank": "one", "topic": None, "topics": {}, "n_tokens": 30, "top_features": [feature],
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
    columns["sha256"] = np.zeros((n, 32), np.uint8)
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
