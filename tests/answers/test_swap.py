"""Removed pairs whose chosen answer scores higher: exchanged, told of, and put back in every format."""

import gzip
import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.scanning import errors_of
from helpers.tables import arrow, saved, write_files

from geofilter.rows.formats import format_of
from geofilter.rows.lines import read_lines
from geofilter.rows.pairs import exchanged
from geofilter.run.store import Run

FOOL, SOUND = "you utter fool, no", "the answer is to ask, and\nthen it is so"
PAIRS = [
    {"id": str(i), "prompt": f"q, {i}", "chosen": f"{a} {i}", "rejected": f"{b} {i}", "score_chosen": "1",
     "score_rejected": "2"}
    for i, (a, b) in enumerate([(FOOL, SOUND), (SOUND, FOOL), (SOUND, SOUND)] * 3)
]  # fmt: skip
CHATS = [
    {"messages": chat(pair["prompt"], pair["chosen"])["messages"], "rejected": pair["rejected"], "n": i}
    for i, pair in enumerate(PAIRS)
]
LINES = b"".join(json.dumps(row, separators=(",  ", ":")).encode() + b"\r\n" for row in PAIRS)


def table(between: str) -> bytes:
    def cell(text: str) -> str:
        return f'"{text}"'

    rows = [[*map(cell, PAIRS[0])], *([*map(cell, pair.values())] for pair in PAIRS)]
    return "\r\n".join(between.join(row) for row in rows).encode()


def whole() -> pa.Table:
    return pa.Table.from_pylist(CHATS)


FILES: dict[str, bytes | Callable[[Path], object]] = {
    "a.jsonl": LINES,
    "b.jsonl.gz": gzip.compress(LINES),
    "c.json": json.dumps(PAIRS, indent=1).encode(),
    "d.csv": table(","),
    "e.tsv.gz": gzip.compress(table("\t")),
    "f.parquet": lambda path: pq.write_table(whole(), path, row_group_size=4),
    "g.arrow": arrow(pa.ipc.new_file, whole),
    "h.arrow": arrow(pa.ipc.new_stream, whole),
    "sub/a.jsonl": LINES,
    "saved": saved(PAIRS),
    "store.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in CHATS),
}


@pytest.fixture(scope="module")
def base(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all of them, cut by a half; its worse pairs are exchanged and put back."""
    folder = tmp_path_factory.mktemp("swap")
    data = write_files(folder, FILES)
    calls = [
        ("scan", *data, "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q", "--pairs",
         "difference"),
        ("filter", "run", "--drop", "50%", "--swap", "swapped.jsonl"),
        ("replace", "run", "--answers", "swapped.jsonl", "--json"),
    ]  # fmt: skip
    for call in calls:
        done = geofilter(*call, cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / f"{call[0]}.txt").write_text(done.stdout + done.stderr, "utf-8")
    return folder


def test_the_worse_of_the_removed_pairs_are_written_exchanged_in_the_order_of_the_inputs(base: Path):
    run = Run.open(base / "run")
    a = run.arrays()
    assert (a["difference"].reshape(-1, 3)[:, 0] > 0).all() and (a["difference"].reshape(-1, 3)[:, 1] < 0).all()
    n = len(a["score"])
    gone = sorted(sorted(range(n), key=lambda i: -a["difference"][i])[: round(n / 2)])
    worse = [i for i in gone if a["difference"][i] > 0]
    assert len(FILES) * 3 <= len(worse) < len(gone)
    lines = [json.loads(line) for line in (base / "swapped.jsonl").read_text("utf-8").splitlines()]
    paths = [info["path"] for info in run.manifest["data"]]
    wanted: dict[str, tuple[str, int]] = {}
    for i in worse:  # of rows of the same bytes the first
        wanted.setdefault(a["sha256"][i].tobytes().hex(), (paths[a["file"][i]], int(a["line"][i])))
    found = {line["geofilter"]["sha256"]: (line["geofilter"]["file"], line["geofilter"]["line"]) for line in lines}
    assert found == wanted and list(found) == list(wanted)
    for line in lines:
        note = line.pop("geofilter")
        (row,) = (json.loads(raw) for i, raw in enumerate(read_lines(base / note["file"]), 1) if i == note["line"])
        assert line == exchanged(row) and exchanged(line) == row


def test_the_report_says_what_became_of_the_pairs(base: Path):
    report = json.loads((base / "run" / "report.json").read_text("utf-8"))
    jsonschema.validate(report, json.loads(files("geofilter.data").joinpath("report.schema.json").read_text("utf-8")))
    a = Run.open(base / "run").arrays()
    n = len(FILES) * 9
    pairs = report["pairs"]
    assert (pairs["rows"], pairs["worse"]) == (n, int((a["difference"] > 0).sum()))
    assert pairs["removed"] == round(n / 2) == report["counts"]["removed"]
    lines = (base / "swapped.jsonl").read_text("utf-8").splitlines()
    assert pairs["swapped"] == {"file": "swapped.jsonl", "rows": pairs["removed_worse"]}
    assert 0 < len(lines) < pairs["removed_worse"]  # some rows are the same
    assert report["ranked_by"] == "difference"
    removed = sorted(a["difference"])[-pairs["removed"] :]
    assert report["cutoff_score"] == pytest.approx(removed[0])
    assert not any(report["histogram"]["ordinary_chat"])
    rows = [*report["removed_rows"], *report["nearest_kept_rows"]]
    by = [row["score"] - row["rejected_score"] for row in rows]
    assert by == sorted(by, reverse=True) and rows[0]["rank"] == 1
    assert all(row["rejected"].startswith((FOOL[:8], SOUND[:8])) for row in rows)
    assert rows[0]["reason"].endswith(
        f"the chosen answer scores {rows[0]['score']:.2f}, the rejected one {rows[0]['rejected_score']:.2f}"
    )
    said = f"{pairs['swapped']['rows']} pairs of these, in swapped.jsonl"
    for text in ("filter.txt", "run/report.md", "run/report.html"):
        assert said in " ".join((base / text).read_text("utf-8").split()), text
    page = (base / "run" / "report.html").read_text("utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    assert data["ranked_by"] == "difference" and data["rows"][0]["rejected"] == rows[0]["rejected"]


@pytest.mark.parametrize("name", FILES)
def test_replace_puts_them_into_the_data_in_its_own_format(base: Path, name: str):
    said = json.loads((base / "replace.txt").read_text("utf-8"))["files"][[*FILES].index(name)]
    before, after = base / said["input"], base / said["output"]
    assert type(format_of(before)) is type(format_of(after))
    assert said["replaced"] >= 3 and said["kept"] + said["replaced"] + said["left_out"] == 9
    run = Run.open(base / "run")
    a = run.arrays()
    file = [info["path"] for info in run.manifest["data"]].index(said["input"])
    highest = sorted(range(len(a["difference"])), key=lambda i: -a["difference"][i])[: round(len(a["difference"]) / 2)]
    gone = {int(a["line"][i]): a["difference"][i] for i in highest if a["file"][i] == file}
    wanted = []
    for number, row in enumerate((json.loads(line) for line in read_lines(before)), start=1):
        if number not in gone:
            wanted.append(row)
        elif gone[number] > 0:
            wanted.append(exchanged(row))
    assert [json.loads(line) for line in read_lines(after)] == wanted


def test_the_data_with_exchanged_pairs_score_lower(base: Path, tiny, tiny_bank: Path):
    done = geofilter("verify", "run", cwd=base)
    assert done.returncode == 0, done.stdout + done.stderr
    args = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "after", "-q", "--pairs", "difference")
    assert geofilter("scan", "a.replaced.jsonl", *args, cwd=base).returncode == 0
    assert (Run.open(base / "after").arrays()["difference"] < 1e-6).all()


def test_explain_and_its_rank_go_by_the_difference(base: Path):
    first = json.loads((base / "run" / "report.json").read_text("utf-8"))["removed_rows"][0]
    done = geofilter("explain", "run", "--row", "#1", cwd=base)
    assert done.returncode == 0 and f"{first['file']}, line {first['line']}: rank 1 of" in done.stdout
    said = " ".join(done.stdout.split())
    assert f"the rejected one {first['rejected_score']:.2f}" in said and f"rejected answer {SOUND.split()[0]}" in said


def test_evaluate_sets_the_difference_beside_either_answer(base: Path):
    labels = [{"sha256": line["sha256"], "label": "bad" if FOOL in row.get("chosen", row.get("messages", [{}])[-1].get(
        "content", "")) else "good"} for line, row in scored(base)]  # fmt: skip
    write_rows(base / "labels.jsonl", list({of["sha256"]: of for of in labels}.values()))
    done = geofilter("evaluate", "run", "--labels", "labels.jsonl", "--drop", "25%", "--json", cwd=base)
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout)["lines"]
    assert [line["kind"] for line in lines[:3]] == ["score", "scorer", "scorer"]
    assert lines[0]["name"].endswith("chosen less rejected") and lines[0]["auroc"] == 1
    assert lines[1]["name"].endswith("chosen answers alone")
    assert lines[2]["name"].endswith("rejected answers alone, lowest first")


def scored(base: Path) -> list[tuple[dict, dict]]:
    lines = list(Run.open(base / "run").scores())
    rows = {path: [json.loads(line) for line in read_lines(base / path)] for path in {line["file"] for line in lines}}
    return [(line, rows[line["file"]][line["line"] - 1]) for line in lines]


def test_what_cannot_be_exchanged_is_refused_before_anything_is_written(base: Path, tiny, tiny_bank: Path, tmp_path):
    write_rows(tmp_path / "d.jsonl", PAIRS)
    args = ("d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "-q")
    assert geofilter("scan", *args, "--run", "chosen", cwd=tmp_path).returncode == 0
    assert geofilter("scan", *args, "--run", "both", "--pairs", "difference", cwd=tmp_path).returncode == 0
    before = {path.name for path in tmp_path.rglob("*")}
    for run, place, code, why in (
        ("chosen", "s.jsonl", 4, "scanned without --pairs difference"),
        ("both", "d.jsonl", 2, "--swap d.jsonl"),
        ("both", "d.removed.jsonl", 2, "is written by this cut too"),
        ("both", "no/s.jsonl", 2, "no such folder"),
        ("both", "s.jsonl.gz", 2, "written as plain JSONL"),
    ):
        refused = geofilter("filter", run, "--drop", "3", "--swap", place, cwd=tmp_path)
        assert refused.returncode == code and why in errors_of(refused), (place, refused.stderr)
    refused = geofilter("filter", "both", "--drop", "3", "--swap", "s", "--prompts", "./s", cwd=tmp_path)
    assert refused.returncode == 2 and "--swap s: --prompts takes this place too" in errors_of(refused)
    assert {path.name for path in tmp_path.rglob("*")} - before <= {"lock"}
    changed = [{**PAIRS[0], "geofilter": {"sha256": "0" * 64}}]
    write_rows(tmp_path / "strange.jsonl", changed)
    assert geofilter("filter", "both", "--drop", "3", "--swap", "s.jsonl", cwd=tmp_path).returncode == 0
    refused = geofilter("replace", "both", "--answers", "strange.jsonl", cwd=tmp_path)
    assert refused.returncode == 2 and "answers no row that the last cut" in errors_of(refused)


def test_lines_may_be_edited_but_for_what_was_asked(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [*PAIRS[:3], CHATS[3], {"chosen": FOOL, "rejected": SOUND}])
    args = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "-q", "--run", "run", "--pairs", "difference")
    assert geofilter("scan", "d.jsonl", *args, cwd=tmp_path).returncode == 0
    assert geofilter("filter", "run", "--drop", "3", "--swap", "s.jsonl", cwd=tmp_path).returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 3
    lines[0]["chosen"], lines[0]["more"] = "ask a doctor", 1
    lines[1]["messages"][-1]["content"] = "ask a doctor"
    lines[2]["chosen"] = "ask a doctor"
    write_rows(tmp_path / "a.jsonl", lines)
    done = geofilter("replace", "run", "--answers", "a.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "d.replaced.jsonl").read_text("utf-8").splitlines()]
    assert [found[i] for i in (0, 3, 4)] == [{k: v for k, v in line.items() if k != "geofilter"} for line in lines]
    write_rows(tmp_path / "a.jsonl", [{**lines[0], "prompt": "else"}])
    refused = geofilter("replace", "run", "--answers", "a.jsonl", cwd=tmp_path)
    assert refused.returncode == 2 and "asked something else" in errors_of(refused)
