"""What DATA names: mixed formats, standard input, and data sets of the hub, served on this machine."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import Done, chat, geofilter, write_rows
from helpers.data_hub import DataHub

from geofilter.errors import InputError
from geofilter.rows.gather import gather

ROOT = Path(__file__).parents[2]


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def qa(n: int) -> list[dict]:
    return [{"q": f"question {i}?", "a": f"the answer is {i}"} for i in range(n)]


def named(*data: str, split: str | None = None, config: str | None = None) -> tuple[str, ...]:
    return gather(data, split=split, config=config, offline=False, notify=print)[0]


@pytest.fixture
def pair(tiny, tiny_bank: Path) -> list[object]:
    return ["--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "-q"]


# Files and standard input


class Pipe:
    """Standard input that holds bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_inputs_of_several_formats_and_a_pipe_are_cut_as_one_and_written_each_as_it_came(pair, tmp_path, monkeypatch):
    rows = [chat(f"question {i}?", f"the answer is {i} " * (1 + i % 5)) for i in range(24)]
    plain = write_rows(tmp_path / "a.jsonl", rows[:8]).read_bytes()
    pq.write_table(table := pa.Table.from_pylist(rows[8:16]), tmp_path / "b.parquet")
    monkeypatch.setattr("sys.stdin", Pipe(piped := lines(rows[16:])))
    done = geofilter("scan", "a.jsonl", "b.parquet", "-", *pair, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "--drop", "6", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["kept"] == 18
    (spooled,) = (tmp_path / ".geofilter").glob("stdin-*.filtered.jsonl")
    n = 0
    for kept, before in ((tmp_path / "a.filtered.jsonl", plain), (spooled, piped)):
        found = kept.read_bytes().splitlines(keepends=True)
        assert [line for line in before.splitlines(keepends=True) if line in found] == found
        n += len(found)
    left = pq.read_table(tmp_path / "b.filtered.parquet")
    assert left.schema.equals(table.schema)
    assert [row for row in table.to_pylist() if row in left.to_pylist()] == left.to_pylist()
    assert n + len(left) == 18


def test_a_run_of_other_rows_is_refused_by_name(pair, tmp_path: Path, monkeypatch):
    found = []
    for data in (lines(qa(3)), lines(qa(4))):
        monkeypatch.setattr("sys.stdin", Pipe(data))
        found.append(geofilter("scan", "-", "--fields", "prompt=q,response=a", *pair, "--run", "r", cwd=tmp_path))
    assert [done.returncode for done in found] == [0, 4]
    was, now = (Path(f".geofilter/{p.name}") for p in sorted((tmp_path / ".geofilter").glob("stdin-*"),
                                                             key=lambda p: p.stat().st_size))  # fmt: skip
    assert found[1].stderr.splitlines()[-1] == (
        f'geofilter: error: r: holds a run of another configuration (data: ["{was}"], now ["{now}"]); give another '
        "--run"
    )
    args = ("scan", "d.jsonl", "--fields", "prompt=q,response=a", *pair, "--run", "file")
    for n in (3, 4):
        write_rows(tmp_path / "d.jsonl", qa(n))
        done = geofilter(*args, cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        4,
        'geofilter: error: file: holds a run of another configuration (data: ["d.jsonl"] changed since); give another '
        "--run",
    )


def test_a_mistyped_path_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError) as caught:
        named("data/train")
    assert str(caught.value) == (
        "data/train: no such file; check the path, or write hf://datasets/data/train for a data set of the hub"
    )
    for text in ("data/train.jsonl", "dta/train.JSONL", "./org/name", "/org/name", "a/b/c", "name", "org/na me"):
        assert named(text) == (text,)  # a file, which scan does not find
    for text in ("hf://datasets/name", "hf://datasets/a b/c"):
        with pytest.raises(InputError, match=f"{text}: no data set of the hub; write hf://datasets/ORG/NAME"):
            named(text)
    done = geofilter("scan", "dta/train.jsonl", cwd=tmp_path)
    assert (done.returncode, "dta/train.jsonl: no such file; give the path" in done.stderr) == (2, True)


# Data sets of the hub


@pytest.fixture
def data_hub(tmp_path: Path, monkeypatch):
    """A hub on this machine; commands that use it run in a process of their own, as the libraries read its address
    when they are imported."""
    hub = DataHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    yield hub
    hub.stop()


def command(*args: object, cwd: Path) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "geofilter", *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_data_set_of_the_hub_is_fetched_once_scanned_and_filtered(pair, data_hub: DataHub, tmp_path: Path):
    call = [{"function": {"name": "look", "arguments": {"at": 1}}}]
    rows = [chat(f"question {i}?", f"the answer is {i} " * (1 + i % 5), n=i) for i in range(12)]
    rows[3]["messages"].append({"role": "assistant", "content": "", "tool_calls": call})
    first = data_hub.put("org/name", {"data/train.jsonl": lines(rows), "data/test.jsonl": lines(rows[:5])})
    args = ("scan", "org/name", *pair, "--json")
    done = command(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    (info,) = manifest["data"]
    assert info["origin"] == {"id": "org/name", "config": "default", "split": "train", "revision": first}
    assert info["path"] == f".geofilter/org-name-train-{first[:12]}.parquet"
    assert manifest["counts"]["scored"] == 12
    # Every later command reads the file that was made.
    done = geofilter("filter", manifest["run"], "--drop", "4", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = pq.read_table(tmp_path / f".geofilter/org-name-train-{first[:12]}.filtered.parquet")["n"].to_pylist()
    assert kept == sorted(kept)
    assert len(kept) == 8
    assert geofilter("explain", manifest["run"], "--row", "4", "--json", cwd=tmp_path).returncode == 0
    # Again: nothing is fetched.
    data_hub.asked.clear()
    plain, pinned = ("org/name", None, None), (f"org/name@{first}", None, None)
    assert asked([plain, pinned], tmp_path) == [info["origin"]] * 2
    assert not [call for call in data_hub.asked if call.endswith(".jsonl")]
    # The data set moves on: another file; the earlier commit can still be named.
    second = data_hub.put("org/name", {"data/train.jsonl": lines(rows[:6])})
    moved = {**info["origin"], "revision": second}
    assert asked([plain, pinned], tmp_path) == [moved, info["origin"]]
    file = tmp_path / f".geofilter/org-name-train-{second[:12]}.parquet"
    assert pq.read_table(file)["n"].to_pylist() == list(range(6))
    # Without the network, from the cache of `datasets`.
    data_hub.stop()
    file.unlink()
    done = command(*args, "--offline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"][0]["origin"] == moved


ASK = """
import json, sys
from geofilter.errors import GeofilterError
from geofilter.rows.gather import gather
out = []
offline = sys.argv[2] == "offline"
for text, split, config in json.loads(sys.argv[1]):
    try:
        files, origins = gather([text], split=split, config=config, offline=offline, notify=lambda text: None)
        out.append(origins[files[0]])
    except GeofilterError as error:
        out.append([error.exit_code, str(error)])
print(json.dumps(out))
"""


def asked(cases: list[tuple], cwd: Path, offline: bool = False) -> list:
    """What `gather` gives for each (text, split, config): an origin, or exit code and message."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(cases), "offline" if offline else ""], cwd=cwd, capture_output=True,
        text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_cannot_be_had_from_the_hub_is_said_in_a_line(data_hub: DataHub, tmp_path: Path):
    commit = data_hub.put("org/qa", {"data/train.jsonl": lines(qa(4)), "data/test.jsonl": lines(qa(2))})
    card = (
        "---\nconfigs:\n- config_name: one\n  data_files: one.jsonl\n- config_name: two\n  data_files: two.jsonl\n---\n"
    )
    data_hub.put("org/two", {"README.md": card.encode(), "one.jsonl": lines(qa(3)), "two.jsonl": lines(qa(4))})
    data_hub.put("org/gated", {"train.jsonl": lines(qa(3))})
    data_hub.gated.add("org/gated")
    data_hub.put("org/empty", {"README.md": b"---\nlicense: mit\n---\n"})
    data_hub.put("org/broken", {"train.jsonl": b'{"a": 1'})
    other = "c" * 40
    cases = [
        (("org/qa", "test", None), {"id": "org/qa", "config": "default", "split": "test", "revision": commit}),
        ((f"hf://datasets/org/qa@{commit}", "test", None),
         {"id": "org/qa", "config": "default", "split": "test", "revision": commit}),
        (("org/two", None, "two"), {"id": "org/two", "config": "two", "split": "train", "revision": commit}),
        (("org/qa", "dev", None), "org/qa: has no split dev; give one with --split: train, test"),
        (("org/qa@v2", None, None), "org/qa: has no revision v2; give a branch, tag or commit of it"),
        (("org/none", None, None), "org/none: no such file here, and no such data set on the hub, or a private one; "
         "check the name, or run: hf auth login"),
        (("org/gated", None, None), "org/gated: gated; ask for access at https://huggingface.co/datasets/org/gated, "
         "then run: hf auth login"),
        (("org/two", None, None), "org/two: cannot be loaded: Config name is missing. Please pick one among the "
         "available configs: ['one', 'two']; give one with --data-config"),
        (("org/two", None, "six"), "org/two: cannot be loaded: BuilderConfig 'six' not found. Available: ['one', "
         "'two']; give one with --data-config"),
        (("org/empty", None, None), f"org/empty: cannot be loaded: The directory at hf://datasets/org/empty@{commit} "
         "doesn't contain any data files; try again, or give its files instead"),
        (("org/broken", None, None), "org/broken: cannot be loaded: {}; try again, or give its files instead"),
    ]  # fmt: skip
    expected = [said if isinstance(said, dict) else [2, said] for _, said in cases]
    found = asked([case for case, _ in cases], tmp_path)
    # What is wrong with a file each version of the library says in other words.
    found[-1][1] = re.sub(r"(?<=loaded: )[^;\n]{20,}(?=; try)", "{}", found[-1][1])
    assert found == expected
    assert {p.name for p in (tmp_path / ".geofilter").iterdir()} == {
        f"{name}-{commit[:12]}.parquet" for name in ("org-qa-test", "org-two-two-train")
    }
    # A folder of that name is not taken for it.
    (folder := tmp_path / "elsewhere" / "org" / "qa").mkdir(parents=True)
    write_rows(folder / "train.jsonl", qa(9))
    (found,) = asked([("hf://datasets/org/qa", None, None)], tmp_path / "elsewhere")
    assert found["revision"] == commit
    data_hub.stop()
    cases = [
        (("org/two", None, "two"), {"id": "org/two", "config": "two", "split": "train", "revision": commit}),
        (("org/none", None, None), f"org/none: no such file here, not in the cache {tmp_path}/hf/datasets, and the hub "
         "may not be used; run the same command once without --offline"),
        ((f"org/qa@{other}", None, None), f"org/qa: the cache holds revision {commit}, not {other}; without the hub a "
         "revision is its full commit"),
    ]  # fmt: skip
    expected = [said if isinstance(said, dict) else [2, said] for _, said in cases]
    assert asked([case for case, _ in cases], tmp_path, offline=True) == expected
    ((code, text),) = asked([("org/qa", None, None)], tmp_path)
    assert code == 2
    assert text.startswith("org/qa: no such file here, and the hub does not answer (")
    assert text.endswith("); try again, or take what is in the cache with --offline")
