"""Removed rows answered again in every format that is read: the file keeps its format, and all else in it."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import geofilter
from helpers.tables import arrow, saved, write_files

from geofilter.rows.formats import format_of
from geofilter.rows.lines import read_lines
from geofilter.rows.packing import _zstd
from geofilter.run.store import Run
from geofilter.verify.findings import Findings
from geofilter.verify.outputs import check_outputs

NEW = 'ask a "doctor",\nor two'
PLAIN = [
    {"id": str(i), "prompt": f'q, "{i}"', "completion": "you utter fool" if i % 3 == 1 else f"it is {i}\nor, {i + 1}"}
    for i in range(9)
]
LINES = b"".join(json.dumps(row, separators=(",  ", ":")).encode() + b" \r\n" for row in PLAIN)
ARRAY = b"[\n" + b",\n\n".join(b"  " + json.dumps(row, indent=2).encode() for row in PLAIN) + b"\n]\n"


def cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def table(between: str) -> bytes:
    rows = [[cell("id"), "prompt", "completion"], *([row["id"], *map(cell, [*row.values()][1:])] for row in PLAIN)]
    return "\r\n".join(between.join(row) for row in rows).encode()  # the last line does not end


def chats() -> pa.Table:
    """Conversations with columns that JSON has no form for, in several batches."""
    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.int8())]))
    messages = [
        [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["completion"], "weight": 1}]
        for r in PLAIN
    ]
    columns = {
        "at": pa.array(range(9), pa.timestamp("ns", "UTC")),
        "messages": pa.array(messages, chat),
        "raw": pa.array([bytes([i]) for i in range(9)]),
        "kind": pa.array(list("aabbaabba")).dictionary_encode(),
        "n": pa.array([None, *range(8)], pa.int64()),
    }
    return pa.table(columns).replace_schema_metadata({"made": "here"})


FILES: dict[str, bytes | Callable[[Path], object]] = {
    "a.jsonl": LINES,
    "b.jsonl.gz": gzip.compress(LINES),
    "c.jsonl.bz2": bz2.compress(LINES),
    "c2.jsonl.zst": _zstd().compress(LINES),
    "d.json": ARRAY,
    "e.json.xz": lzma.compress(ARRAY),
    "f.csv": table(","),
    "g.tsv.gz": gzip.compress(table("\t")),
    "h.parquet": lambda path: pq.write_table(chats(), path, row_group_size=4),
    "i.arrow": arrow(pa.ipc.new_file, chats),
    "j.arrow": arrow(pa.ipc.new_stream, chats),
    "sub/a.jsonl": LINES,
    "saved": saved(PLAIN),
    "store.jsonl": LINES,
}


@pytest.fixture(scope="module")
def base(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all of them, cut, its removed rows answered."""
    folder = tmp_path_factory.mktemp("formats")
    data = write_files(folder, FILES)
    calls = [
        ("scan", *data, "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q"),
        ("filter", "run", "--drop", str(3 * len(FILES)), "--prompts", "p.jsonl", "-q"),
    ]
    for call in calls:
        done = geofilter(*call, cwd=folder)
        assert done.returncode == 0, done.stderr
    asked = [json.loads(line) for line in (folder / "p.jsonl").read_text("utf-8").splitlines()]
    for row in asked:
        if "messages" in row:
            row["messages"][-1]["content"] = NEW
        else:
            row["completion"] = NEW
    (folder / "a.txt").write_text("".join(json.dumps(row) + "\n" for row in asked), "utf-8")
    done = geofilter("replace", "run", "--answers", "a.txt", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "done.json").write_text(done.stdout, "utf-8")
    return folder


def written(base: Path, name: str) -> tuple[Path, Path, set[int]]:
    """An input, its file with answered rows, and the places of these."""
    said = json.loads((base / "done.json").read_text("utf-8"))["files"][[*FILES].index(name)]
    found = [json.loads(line) for line in (base / "run" / "scores.jsonl").read_text("utf-8").splitlines()]
    removed = sorted(found, key=lambda row: -row["score"])[: 3 * len(FILES)]
    gone = {row["line"] - 1 for row in removed if row["file"] == said["input"]}
    assert len(gone) == said["replaced"] > 0
    assert said["kept"] == 9 - len(gone) > 0
    return base / said["input"], base / said["output"], gone


def content(path: Path) -> bytes:
    packed = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress, ".zst": _zstd().decompress}
    return packed.get(path.suffix, bytes)(path.read_bytes())


@pytest.mark.parametrize("name", FILES)
def test_a_file_keeps_its_format_and_all_that_was_not_removed(base: Path, name: str):
    before, after, gone = written(base, name)
    assert type(format_of(before)) is type(format_of(after))
    assert before.suffixes[-1:] == after.suffixes[-1:]
    rows = [[json.loads(line) for line in read_lines(path)] for path in (before, after)]
    for i, (old, new) in enumerate(zip(*rows, strict=True)):
        if i not in gone:
            assert old == new
        elif "messages" in old:
            assert new["messages"][-1] == {"role": "assistant", "content": NEW, "weight": 1}
            assert {**old, "messages": old["messages"][:-1]} == {**new, "messages": new["messages"][:-1]}
        else:
            assert new == {**old, "completion": NEW}
    if name.endswith((".parquet", ".arrow")):
        found = [(pq.read_table if name.endswith("t") else read_arrow)(path) for path in (before, after)]
        assert found[0].schema.equals(found[1].schema, check_metadata=True)
        same = [column for column in found[0].column_names if column != "messages"]
        assert found[0].select(same).equals(found[1].select(same))
    elif name != "saved":  # which is kept as Parquet
        pieces = content(before).replace(b"\r\n", b"\n\n").split(b"\n\n"), content(after)
        kept = [piece for i, piece in enumerate(pieces[0][name.endswith(("csv", "tsv.gz")) :]) if i not in gone]
        assert all(piece.strip(b"[] \n") in pieces[1] for piece in kept)
        assert (b"\r\n" in content(before)) == (b"\r\n" in content(after))


def read_arrow(path: Path) -> pa.Table:
    opened = pa.ipc.open_file if path.read_bytes()[:6] == b"ARROW1" else pa.ipc.open_stream
    with pa.memory_map(str(path)) as source, opened(source) as file:
        return file.read_all()


def test_the_files_are_read_again_and_a_pattern_passes_them_over(base: Path, tiny, tiny_bank: Path):
    done = geofilter("scan", *(written(base, name)[1] for name in FILES), "--check", "--json", cwd=base)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(NEW.split()[1][1:-2]) > 0
    assert geofilter("scan", "*.replaced.jsonl", "--check", cwd=base).returncode == 2


def test_the_reports_say_how_many_were_answered_and_verify_holds_the_files_to_it(base: Path, monkeypatch):
    report = json.loads((base / "run" / "report.json").read_text("utf-8"))
    jsonschema.validate(report, json.loads(files("geofilter.data").joinpath("report.schema.json").read_text("utf-8")))
    said = json.loads((base / "done.json").read_text("utf-8"))["files"]
    keys = ("input", "output", "kept", "replaced", "left_out")
    assert report["replaced"] == [{key: of[key] for key in keys} for of in said]
    for page in ("report.html", "report.md"):
        assert (base / "run" / page).read_text("utf-8").count("put back with another answer") == len(FILES)
    # Of a file that was changed both commands say so, and of no other.
    place = written(base, "f.csv")[1]
    whole = place.read_bytes()
    place.write_bytes(whole[:-1])
    try:
        done = geofilter("report", "run", cwd=base)
        monkeypatch.chdir(base)
        run, found = Run.open(Path("run")), Findings()
        check_outputs(run, run.manifest, found)
    finally:
        place.write_bytes(whole)
    n = said[0]["replaced"]
    first = f"{n} of {n} removed rows of a.jsonl put back with another answer: {said[0]['output']}"
    assert (done.returncode, first in done.stderr.splitlines()) == (0, True), done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("note")] == [
        "note: f.replaced.csv: is not what geofilter replace wrote"
    ]
    assert found.doubts == [{"file": "f.replaced.csv", "place": "", "text": "is not what geofilter replace wrote"}]
