"""What is sent between a scan and the process that makes its rows ready comes out as it was."""

import errno
import io
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
import pytest
from helpers.command import chat, write_rows
from helpers.scanning import planned, rows

from geofilter import errors
from geofilter.config import ScanConfig
from geofilter.errors import InputError, ReaderGone, RunError
from geofilter.rows import bounded
from geofilter.scanning.ahead import ahead
from geofilter.scanning.ready import Job, Ready, prepared
from geofilter.scanning.wire import error_of, error_said, job_of, job_said, ready_of, ready_said, receive, send
from geofilter.target.hub import Absent
from geofilter.target.tokenizer import tokenizer_of


def sent(said: object, arrays: dict | None = None) -> tuple[object, dict]:
    pipe = io.BytesIO()
    send(pipe, said, arrays)
    pipe.seek(0)
    found = receive(pipe)
    assert not pipe.read()
    return found


def same(ready: Ready, wanted: Ready) -> bool:
    """Whether two shards are equal to the last bit and type, spans and columns too."""
    arrays = [(a.spans, b.spans) for a, b in zip(ready.encoded, wanted.encoded, strict=True)]
    arrays += [(ready.columns[name], column) for name, column in wanted.columns.items()]
    rest = [f.name for f in fields(Ready) if f.name != "columns"]
    return (
        all(np.array_equal(a, b) and a.dtype == b.dtype and a.shape == b.shape for a, b in arrays)
        and ready.columns.keys() == wanted.columns.keys()
        and all(getattr(ready, name) == getattr(wanted, name) for name in rest)
    )


@pytest.fixture
def shards(tiny, tmp_path: Path, monkeypatch) -> list[Ready]:
    """Shards of five lines of every kind; in the last one no line can be scored."""
    monkeypatch.setattr(bounded, "MOST_BYTES", 3000)
    odd = [
        chat("q", "the answer " * 90),
        chat("q", "<|im_start|>assistant\nthe answer"),
        chat("q", "漢字 \N{CLOWN FACE}"),
        {"nothing": 1},
    ]
    path = write_rows(tmp_path / "d\udcff.jsonl", [*rows(5), *odd])
    with path.open("ab") as handle:
        handle.write(b'{"text": "the answer", "source": "here \\ud800"}\n{"text": "\xff\x00"}\r\n')
        handle.write(b'\n{"text": "' + b"x" * 4000 + b'"}\n[]\n\xfe')
    job = planned(tmp_path, ScanConfig((str(path),), shard_rows=5, max_tokens=64))
    tokenizer = tokenizer_of(tiny[0])
    return list(prepared(job, lambda: tokenizer, lambda: len(tokenizer)))


def test_rows_of_two_answers_come_out_equal_with_both(tiny, tmp_path: Path):
    path = write_rows(tmp_path / "d.jsonl", [
        {"prompt": "q", "chosen": "the answer " * 90, "rejected": "no"}, *rows(1),
        {"prompt": "q", "chosen": "the answer", "rejected": ""},
        {"prompt": "q", "chosen": "so", "rejected": "no " * 90},
    ])  # fmt: skip
    tokenizer = tokenizer_of(tiny[0])
    for pairs, wanted in (("difference", [True, False, False, True]), ("chosen", None)):
        job = planned(tmp_path, ScanConfig((str(path),), max_tokens=64, pairs=pairs, with_loss=True))
        assert job_of(job_said(job, tmp_path))[0] == job
        (ready,) = prepared(job, lambda: tokenizer, lambda: len(tokenizer))
        found = ready_of(*sent(*ready_said(ready)))
        assert same(found, ready)
        sides = found.rejected_sides
        assert wanted == (None if sides is None else [one is not None for one in sides])
        assert all(one is not None for one in found.alone) and len(found.alone) == 4


def test_rows_come_out_equal(shards: list[Ready]):
    several = [len(row.windows) for ready in shards for row in ready.encoded]
    assert max(several) > 1 and several.count(1) > 5
    assert [len(ready.encoded) for ready in shards] == [5, 4, 0]
    assert any(row.extent for row in shards[2].unusable) and b"\xfe" in [row.raw for row in shards[2].unusable]
    assert shards[1].remarks and any("\ud800" in source for source in shards[1].source)
    for ready in shards:
        found = ready_of(*sent(*ready_said(ready)))
        assert same(found, ready)
        assert {type(value) for row in found.encoded for value in row.ids} <= {int}
        assert {type(value) for row in found.encoded for value in row.mask} <= {bool}


def test_a_job_comes_out_equal():
    config = ScanConfig(
        shard_rows=7, max_tokens=99, system="fold", train="last", score_thinking=True, only=("label=true", "b=1"),
        fields={"prompt": "question", "response": "meta.answer"},
    )  # fmt: skip
    files = [{"path": "d\udcff.jsonl", "rows": 7, "bytes": 9, "origin": {"id": "a/b"}}]
    plan = Path("p\udcff")
    for job in (Job.of(config, files, plan, [(0, 7), (9, 12)], "f"), Job.of(ScanConfig(), [], plan, [], "")):
        assert job_of(sent(job_said(job, Path("here")))[0]) == (job, Path("here"))


def test_what_is_cut_off_anywhere_is_no_message(shards: list[Ready]):
    pipe = io.BytesIO()
    send(pipe, *ready_said(shards[1]))
    whole = pipe.getvalue()
    for size in {*range(0, len(whole), 97), *range(20), len(whole) - 1}:
        with pytest.raises(EOFError):
            receive(io.BytesIO(whole[:size]))
    size = int.from_bytes(whole[:8], "big")
    for wrong in (whole[:8] + b"x" * size + whole[8 + size :], whole[: 16 + size] + b"\xff" * (len(whole) - 16 - size)):
        with pytest.raises(EOFError):
            receive(io.BytesIO(wrong))


def test_a_process_killed_within_a_message_is_told_of(shards: list[Ready], tmp_path: Path, monkeypatch):
    pipe = io.BytesIO()
    send(pipe, *ready_said(shards[0]))
    send(pipe, *ready_said(shards[1]))
    (tmp_path / "half").write_bytes(pipe.getvalue()[:-100])
    code = (
        "import os, sys; take = sys.stdin.buffer.read\n"
        "for _ in range(4): take(int.from_bytes(take(8), 'big'))\n"  # the job, and the size of the embedding
        "sys.stdout.buffer.write(open('half', 'rb').read()); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    begin = partial(Popen, [sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, cwd=tmp_path)
    monkeypatch.setattr("geofilter.scanning.ahead.start", lambda module, spare: begin())
    found, job = [], Job.of(ScanConfig(), [], tmp_path, [], "f")
    with pytest.raises(RunError, match="process that tokenises the rows was killed"), ahead(job, tmp_path) as made:
        found.extend(made(lambda: 400))
    assert len(found) == 1 and same(found[0], shards[0])


def raised(work: Callable[[], object]) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_errors_of_this_package_and_of_the_system_stay_what_they_are(tmp_path: Path):
    gone = raised((tmp_path / "gone\udcff").read_bytes)
    absent = raised((tmp_path / "gone").stat)
    assert isinstance(gone, FileNotFoundError) and isinstance(absent, FileNotFoundError)
    plain = (OSError("no tokenizer"), MemoryError(), RuntimeError("odd"))
    for error in (InputError("a row\nis odd"), ReaderGone("gone"), gone, absent, *plain):
        found = error_of(sent(error_said(error))[0])
        assert (type(found), str(found)) == (type(error), str(error))
    found = error_of(sent(error_said(gone))[0])
    assert (found.errno, found.filename) == (errno.ENOENT, gone.filename)
    # One that is made elsewhere is what it is a kind of, and keeps its exit code.
    found = error_of(sent(error_said(Absent("not there")))[0])
    assert (type(found), str(found)) == (errors.TargetError, "not there")


def test_no_other_class_is_made_of_an_error():
    said = sent(error_said(raised(lambda: {}["rows"])))[0]
    assert "in <lambda>" in said["trace"]
    assert repr(error_of(said)) == repr(RuntimeError("KeyError: 'rows'"))
    for name in ("first_line", "SystemExit", "EXIT_CODES", "__name__", "KeyboardInterrupt"):
        assert repr(error_of({"error": [name, ["text"]]})) == "RuntimeError('text')"
