"""The command line called in this process, and rows for it."""

import io
import json
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def use_hub(hub, monkeypatch) -> None:
    from huggingface_hub import constants

    from helpers.family_saes import shrink_fixed_sizes

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shrink_fixed_sizes(monkeypatch)


def chat(prompt: str, answer: str, **extra) -> dict:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **extra}


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


@dataclass
class Done:
    """What a command left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def geofilter(*args: object, cwd: Path | None = None) -> Done:
    """The command line's own entry point, called in this process: importing torch anew costs seconds each time."""
    from geofilter.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    code = 0
    argv, sys.argv = sys.argv, ["geofilter", *map(str, args)]
    try:
        with chdir(cwd or Path.cwd()), redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = argv
    return Done(code, out.getvalue(), err.getvalue())


def quiet(_text: str) -> None:
    """A `notify` that nobody listens to."""


def scan_one(tmp_path: Path, *args: Any) -> tuple[int, str]:
    """Scan one row from the command line: exit code and the last line on stderr."""
    write_rows(tmp_path / "d.jsonl", [chat("q", "the answer")])
    done = geofilter("scan", "d.jsonl", *args, cwd=tmp_path)
    return done.returncode, done.stderr.splitlines()[-1].removeprefix("geofilter: error: ")
