"""The run folder: what is refused when it is opened."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import write_manifest
from helpers.tiny import random_pooled

from geofilter.errors import RunError
from geofilter.files import write_json
from geofilter.rows.style import STYLE
from geofilter.run.shard import Shard, Span
from geofilter.run.store import FORMAT, Run
from geofilter.sums import sealed


def manifest(folder: Path, **changes) -> Path:
    write_manifest(folder, {"format": FORMAT, "complete": True, **changes})
    return folder


def test_a_run_of_another_format_is_refused(tmp_path: Path):
    with pytest.raises(RunError) as caught:
        Run.open(manifest(tmp_path, format=FORMAT - 1))
    assert str(caught.value) == f"{tmp_path}: run format {FORMAT - 1} is not readable here; scan again"
    assert Run.open(manifest(tmp_path)).path == tmp_path


def test_an_unfinished_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="the scan is not complete; run the same geofilter scan command again"):
        Run.open(manifest(tmp_path, complete=False))


def test_a_damaged_manifest_is_named(tmp_path: Path):
    manifest(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text[:-5])
    with pytest.raises(RunError, match=r"manifest.json: damaged \(.*\); run the same geofilter scan again, which"):
        Run.open(tmp_path)


@pytest.mark.parametrize("missing", ["format", "complete", "fingerprint", "encoding", "data"])
def test_a_manifest_that_lacks_what_every_one_has_is_damaged(tmp_path: Path, missing: str):
    manifest(tmp_path)
    text = json.loads((tmp_path / "manifest.json").read_bytes())
    write_json(tmp_path / "manifest.json", sealed({name: of for name, of in text.items() if name != missing}))
    with pytest.raises(RunError, match=r"manifest.json: damaged \(.*\); run the same geofilter scan again, which"):
        Run.open(tmp_path)


def test_what_only_looks_like_a_shard_is_none(tmp_path: Path):
    (tmp_path / "features").mkdir()
    for name in ("part-00001", "part-00000", "part-xx", "part-", "part--1"):
        (tmp_path / "features" / f"{name}.safetensors").touch()
    assert [path.stem for path in Run(tmp_path).parts] == ["part-00000", "part-00001"]


def test_scores_that_lack_lines_are_named(tmp_path: Path):
    (tmp_path / "scores.jsonl").write_text('{"line": 1}\n{"line": 2}\n')
    run = Run.open(manifest(tmp_path))
    assert list(run.score_lines(np.array([1]))) == [(1, {"line": 2})]
    with pytest.raises(RunError) as caught:
        list(run.score_lines(np.array([0, 2])))
    assert str(caught.value) == (
        f"{tmp_path / 'scores.jsonl'}: is not what the scan wrote; make it again with: the same geofilter scan"
    )


def test_a_shard_has_the_same_bytes_whenever_it_is_written(tmp_path: Path):
    """safetensors writes the entries of its metadata in another order each time."""
    pooled, _ = random_pooled(3)
    rows = {name: np.zeros(3, np.int32) for name in ("file", "response_tokens", "windows", "n_turns", "shape")}
    shard = Shard(
        **rows, line=np.arange(1, 4), sha256=np.zeros((3, 32), np.uint8), content=np.zeros((3, 32), np.uint8),
        style=np.zeros((3, len(STYLE)), np.float32), source=("", "", ""), pooled=pooled, span=Span("f", 0, 0, 3),
        d_sae=128,
    )  # fmt: skip
    for i in range(5):
        shard.save(tmp_path / f"{i}")
    assert len({(tmp_path / f"{i}").read_bytes() for i in range(5)}) == 1
    assert Shard.load(tmp_path / "0").span == shard.span
