"""The run folder: what is refused when it is opened."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import write_manifest
from helpers.tiny import D_SAE, random_pooled

from geofilter.bank.features import Pooled
from geofilter.errors import InputError, RunError
from geofilter.files import write_json
from geofilter.rows.keys import SHAPES
from geofilter.rows.style import STYLE
from geofilter.run.rows import find_row
from geofilter.run.shard import Shard, Span, checked
from geofilter.run.store import FORMAT, Run
from geofilter.run.tensors import packed, unpacked
from geofilter.sums import sealed


def manifest(folder: Path, **changes) -> Path:
    write_manifest(folder, {"format": FORMAT, "complete": True, **changes})
    return folder


def test_a_run_of_another_format_is_refused(tmp_path: Path):
    with pytest.raises(RunError) as caught:
        Run.open(manifest(tmp_path, format=FORMAT - 1))
    assert str(caught.value) == f"{tmp_path}: run format {FORMAT - 1} is not readable here; scan again"
    assert Run.open(manifest(tmp_path)).path == tmp_path


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path):
    with pytest.raises(RunError, match=r"not a run folder \(no manifest.json\); make one with geofilter scan"):
        Run.open(tmp_path)


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


def test_a_field_of_the_manifest_that_was_changed_is_named(tmp_path: Path):
    text = manifest(tmp_path, fingerprint="f").joinpath("manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"f"', '"g"', 1))
    with pytest.raises(RunError, match=r"damaged \(its field fingerprint is not what was written\)"):
        Run.open(tmp_path)


def test_a_run_whose_scoring_was_stopped_is_opened_by_that_command_alone(tmp_path: Path):
    manifest(tmp_path, complete=False, scoring="label")
    assert Run.open(tmp_path, "label").path == tmp_path
    for other in ("", "scan"):
        with pytest.raises(RunError, match="not complete; geofilter label was stopped while it scored the rows anew"):
            Run.open(tmp_path, other)


def test_scores_that_lack_lines_are_named(tmp_path: Path):
    (tmp_path / "scores.jsonl").write_text('{"line": 1}\n{"line": 2}\n')
    run = Run.open(manifest(tmp_path))
    assert list(run.score_lines(np.array([1]))) == [(1, {"line": 2})]
    with pytest.raises(RunError) as caught:
        list(run.score_lines(np.array([0, 2])))
    assert str(caught.value) == (
        f"{tmp_path / 'scores.jsonl'}: is not what the scan wrote; make it again with: the same geofilter scan"
    )


def shard(n: int = 3, number: int = 0, first: int = 0, **values) -> Shard:
    """A shard of n lines, all of them scored, with some of its arrays as given."""
    names = ("file", "response_tokens", "windows", "n_turns", "shape")
    arrays = {name: np.array(values.pop(name, [0] * n), np.int32) for name in names}
    sha256 = np.zeros((n, 32), np.uint8)
    sha256[:, 0] = np.arange(first, first + n)
    whole = {
        **arrays, "line": np.array(values.pop("line", range(first + 1, first + n + 1)), np.int64), "sha256": sha256,
        "content": sha256, "style": np.zeros((n, len(STYLE)), np.float32), "source": ("",) * n,
        "pooled": random_pooled(n or 1, seed=number)[0].take(np.arange(n)),
        "span": Span("f", number, first, n), "d_sae": D_SAE,
    }  # fmt: skip
    return Shard(**{**whole, **values})


def test_a_shard_has_the_same_bytes_whenever_it_is_written(tmp_path: Path):
    """safetensors writes the entries of its metadata in another order each time."""
    written = shard()
    for i in range(5):
        written.save(tmp_path / f"{i}")
    assert len({(tmp_path / f"{i}").read_bytes() for i in range(5)}) == 1
    assert Shard.load(tmp_path / "0").span == written.span


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"file": [-1, 0, 0]}, "lines that do not ascend"),
        ({"line": [0, 1, 2]}, "lines that do not ascend"),
        ({"line": [1, 2, 2]}, "lines that do not ascend"),
        ({"file": [0, 1, 0], "line": [1, 2, 3]}, "lines that do not ascend"),
        ({"shape": [0, -1, 0]}, "a shape that there is not"),
        ({"shape": [0, len(SHAPES), 0]}, "a shape that there is not"),
        ({"windows": [1, -1, 1]}, "a count below 0"),
        ({"response_tokens": [1, 1, -1]}, "a count below 0"),
        ({"n_turns": [-1, 1, 1]}, "a count below 0"),
        ({"source": ("", "")}, "3 rows, 3 of them with features, of 3 lines"),
        ({"pooled": random_pooled(2)[0]}, "3 rows, 2 of them with features, of 3 lines"),
        ({"span": Span("f", 0, 0, 2)}, "3 rows, 3 of them with features, of 2 lines"),
        ({"span": Span("f", 0, -1, 3)}, "3 rows, 3 of them with features, of 3 lines"),
        ({"content": np.zeros((3, 31), np.uint8)}, r"content is uint8 \(3, 31\), not uint8 \(3, 32\)"),
        ({"style": np.full((3, len(STYLE)), np.nan, np.float32)}, r"style\[0, 0\] is not finite"),
        ({"d_sae": 2}, "pooled."),
    ],
)
def test_values_of_a_shard_that_nothing_may_be_computed_with(tmp_path: Path, values: dict, why: str):
    """Whatever the hashes say: they fit here."""
    shard(**values).save(tmp_path / "part")
    with pytest.raises(RunError, match=rf"part: damaged \({why}.*; the same geofilter scan makes it again"):
        Shard.load(tmp_path / "part")


def test_the_least_and_the_greatest_values_of_a_shard_are_taken(tmp_path: Path):
    for i, taken in enumerate([
        shard(file=[0, 1, 1], line=[7, 1, 2], shape=[0, 1, len(SHAPES) - 1], span=Span("f", 0, 0, 3)), shard(0),
    ]):  # fmt: skip
        taken.save(tmp_path / f"{i}")
        assert Shard.load(tmp_path / f"{i}").line.tolist() == taken.line.tolist()


def outcomes(folder: Path, *shards: Shard) -> list[str]:
    """Why each of some shards is not believed, saved under the numbers 0, 1, ...; nothing for one that is."""
    paths = [folder / f"part-{i:05d}.safetensors" for i in range(len(shards))]
    for path, one in zip(paths, shards, strict=True):
        one.save(path)
    return [why if found is None else "" for _, found, why in checked(paths, "f", Shard.load)]


def test_a_shard_is_believed_only_in_its_place(tmp_path: Path):
    first, second, third = shard(), shard(2, 1, 3), shard(4, 2, 5)
    other = shard(2, 1, span=Span("g", 1, 3, 2))
    assert outcomes(tmp_path, first, second, third) == ["", "", ""]
    assert outcomes(tmp_path, first, other, third) == ["", "of another scan", ""]
    assert outcomes(tmp_path, first, first, third) == ["", "a copy of shard 0", ""]
    assert outcomes(tmp_path, first, shard(2, 1, 4), third) == ["", "begins after 4 lines, not 3", ""]
    assert outcomes(tmp_path, shard(3, 0, 1), second) == ["begins after 1 lines, not 0", ""]
    assert outcomes(tmp_path, first, shard(2, 1, 3, windows=[0, -1]), third) == ["", "damaged (a count below 0)", ""]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of nine lines of two inputs in three shards, all of them scored."""
    (tmp_path / "features").mkdir()
    of = {"file": [0, 0, 0, 0, 0, 1, 1, 1, 1], "line": [1, 2, 3, 4, 5, 1, 2, 3, 4]}
    for number, (start, end) in enumerate([(0, 3), (3, 5), (5, 9)]):
        part = shard(end - start, number, start, **{name: values[start:end] for name, values in of.items()})
        part.save(tmp_path / "features" / f"part-{number:05d}.safetensors")
    sizes = {"sha256": (9, 32), "style": (9, len(STYLE)), "learnt": (9, 1)}
    kinds = {
        "line": np.int64,
        "sha256": np.uint8,
        "score": float,
        "percentile": float,
        "style": np.float32,
        "learnt": bool,
    }
    names = (
        "file",
        "line",
        "sha256",
        "score",
        "percentile",
        "bank",
        "topic",
        "style",
        "n_tokens",
        "n_turns",
        "shape",
        "source",
        "learnt",
    )
    arrays = {name: np.zeros(sizes.get(name, 9), kinds.get(name, np.int32)) for name in names}
    arrays |= {"file": np.array(of["file"], np.int32), "line": np.array(of["line"])}
    (tmp_path / "scores.safetensors").write_bytes(packed(arrays, {}))
    data = [{"path": "a", "sha256": "", "lines": 5, "rows": 5}, {"path": "b", "sha256": "", "lines": 4, "rows": 4}]
    manifest(tmp_path, fingerprint="f", data=data, banks=[{}], counts={"scored": 9})
    return Run.open(tmp_path)


def changed(run: Run, **arrays) -> None:
    """Other score arrays of a run, with hashes that fit."""
    about, found = unpacked(run.path / "scores.safetensors")
    (run.path / "scores.safetensors").write_bytes(packed({**found, **arrays}, about))
    write_manifest(run.path, run.manifest)


@pytest.mark.parametrize("wanted", [[0], [8, 0, 4], [2, 3, 5, 2], [4, 5], []])
def test_features_of_rows_are_given_in_the_order_that_was_asked_for(run: Run, wanted: list[int]):
    whole = Pooled.concat([part.pooled for part in run.shards()])
    found, shas = run.features(np.array(wanted, np.int64))
    assert [bytes.fromhex(sha)[0] for sha in shas] == wanted
    assert found.arrays("").keys() == whole.arrays("").keys()
    for name, array in whole.take(np.array(wanted, np.int64)).arrays("").items():
        np.testing.assert_array_equal(found.arrays("")[name], array)


def test_shards_that_do_not_cover_the_inputs_are_not_believed(run: Run):
    assert sum(len(part.file) for part in run.shards()) == 9
    run.part(2).unlink()
    write_manifest(run.path, run.manifest)
    with pytest.raises(RunError, match="features: its shards cover 5 lines of 9; make it again"):
        list(run.shards())
    shutil.copy(run.part(0), run.part(1))
    write_manifest(run.path, run.manifest)
    with pytest.raises(RunError, match=r"part-00001\.safetensors: a copy of shard 0; make it again"):
        list(run.shards())


def test_a_row_is_found_by_its_file_and_its_line(run: Run):
    assert [find_row(run, line, file) for file, line in (("a", 5), ("b", 1), ("b", 4))] == [4, 5, 8]
    assert find_row(run, 5, None) == 4
    with pytest.raises(InputError, match="--row 1: the run has several inputs; add --file with one of a, b"):
        find_row(run, 1, None)


@pytest.mark.parametrize(("name", "most"), [("file", 1), ("bank", 0)])
def test_scores_of_a_file_or_a_bank_that_there_is_not_are_refused(run: Run, name: str, most: int):
    for at, number in ((0, -1), (8, most + 1)):
        whole = run.arrays()[name]
        changed(run, **{name: np.where(np.arange(9) == at, number, whole).astype(np.int32)})
        with pytest.raises(RunError, match=f"damaged \\({name} has a number other than 0 to {most}\\)"):
            run.arrays()
        changed(run, **{name: whole})
        assert run.arrays()[name].max() == most


@pytest.mark.parametrize("line", [
    [0, 2, 3, 4, 5, 1, 2, 3, 4],
    [1, 2, 3, 4, 6, 1, 2, 3, 4],
    [1, 2, 3, 4, 5, 1, 2, 3, 5],
    [1, 2, 2, 4, 5, 1, 2, 3, 4],
    [1, 3, 2, 4, 5, 1, 2, 3, 4],
])  # fmt: skip
def test_scores_of_lines_that_no_input_has_or_that_come_twice_are_refused(run: Run, line: list[int]):
    changed(run, line=np.array(line))
    with pytest.raises(RunError, match=r"damaged \(lines that do not ascend, or that no input has\)"):
        run.arrays()


def test_scores_of_other_rows_than_were_counted_are_refused(run: Run):
    changed(run, line=np.arange(1, 9))
    with pytest.raises(RunError, match=r"scores.safetensors: damaged \(line is int64 \(8,\), not int64 \(9\)"):
        run.arrays()


def test_only_the_arrays_that_are_asked_for_are_read(run: Run):
    changed(run, score=np.arange(9.0), style=np.zeros((9, 1), np.float32), line=np.arange(9, 0, -1))
    assert list(run.arrays(["score", "file"])) == ["score", "file"]
    assert run.arrays(["score"])["score"].tolist() == list(range(9))
    with pytest.raises(RunError, match=r"damaged \(lines that do not ascend"):
        run.arrays(["line"])
    with pytest.raises(RunError, match=r"damaged \(style is float32 \(9, 1\)"):
        run.arrays()


def test_a_file_that_changes_after_it_was_believed_is_not_any_more(run: Run):
    path = run.believed("scores.safetensors")
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(RunError, match=r"scores\.safetensors: is not what the scan wrote"):
        run.believed("scores.safetensors")
    (run.path / "other").touch()
    with pytest.raises(RunError, match="other: is not what the scan wrote"):
        run.believed("other")  # of no hash
