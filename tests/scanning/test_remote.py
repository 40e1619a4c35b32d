"""Rows and runs in a store: scanned from there, killed, gone on with elsewhere, and read by every command."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import Done, chat, geofilter, write_rows
from helpers.faults import Child
from helpers.s3 import SECRET, after_fork, connected, s3_server
from helpers.scanning import errors_of

from geofilter.run.names import PLAN
from geofilter.run.store import Run
from geofilter.scanning.plan import Plan
from geofilter.scanning.worker import Worker

RUN = "s3://bucket/runs/x"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(server: str, monkeypatch, tmp_path: Path):
    """A bucket with rows in it, seen by s3fs."""
    fs = connected(server, monkeypatch)
    if fs.exists("bucket"):
        fs.rm("bucket", recursive=True)
    fs.mkdir("bucket")
    rows = [
        chat(f"question {i}?", f"the answer is {i} " * (1 + i % 9), kind="bad" if i % 3 else "good") for i in range(60)
    ]
    write_rows(tmp_path / "rows.jsonl", [*rows[:30], {"nothing": 1}])
    fs.put_file(str(tmp_path / "rows.jsonl"), "bucket/data/a.jsonl")
    write_rows(tmp_path / "rows.jsonl", rows[30:])
    fs.put_file(str(tmp_path / "rows.jsonl"), "bucket/data/b.jsonl")
    return fs


@pytest.fixture
def on_machine(tmp_path: Path, monkeypatch):
    """Call commands as on a machine of its own: another working folder, and another cache."""

    def call(machine: str, *args: object) -> Done:
        (tmp_path / machine / "work").mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / machine / "cache"))
        done = geofilter(*args, cwd=tmp_path / machine / "work")
        assert SECRET not in done.stdout + done.stderr
        return done

    call.folder = tmp_path
    return call


def scan_args(tiny, bank: Path, run: str = RUN) -> list[object]:
    return ["scan", "s3://bucket/data/*.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", bank, "--run", run,
            "--shard-rows", 8]  # fmt: skip


def names(fs, folder: str = "bucket/runs/x") -> set[str]:
    fs.invalidate_cache()
    return {name.removeprefix(f"{folder}/") for name in fs.find(folder)}


def kill_after(parts: int) -> None:
    """Kill this process, with no word to it, when it has kept some shards."""
    keep, kept = Run.keep, []

    def counted(self, shard, mode=None) -> None:
        keep(self, shard, mode)
        kept.append(shard)
        if len(kept) == parts:
            os.kill(os.getpid(), signal.SIGKILL)

    Run.keep = counted  # type: ignore[method-assign]


def test_a_scan_that_is_killed_goes_on_on_another_machine(bucket, on_machine, tiny, tiny_bank: Path, tmp_path: Path):
    def killed() -> Done:
        after_fork()
        kill_after(3)
        return on_machine("first", *scan_args(tiny, tiny_bank))

    assert Child(killed).outcome().code == 128 + signal.SIGKILL
    assert names(bucket) == {"manifest.json", *(f"features/part-0000{n}.safetensors" for n in range(3))}
    assert not json.loads(bucket.cat("bucket/runs/x/manifest.json"))["complete"]
    refused = on_machine("reader", "filter", RUN, "--drop", "10%")
    assert refused.returncode == 4
    again = errors_of(refused)
    assert again.startswith(f"{RUN}: the scan is not complete; go on with: geofilter scan s3://bucket/data/a.jsonl "
                            "s3://bucket/data/b.jsonl --model ")  # fmt: skip
    assert again.endswith(f"--run {RUN}")

    before = {name: bucket.info(f"bucket/runs/x/{name}")["LastModified"] for name in names(bucket) - {"manifest.json"}}
    gone_on = on_machine("second", *scan_args(tiny, tiny_bank))
    assert gone_on.returncode == 0, gone_on.stderr
    # The same run as one that was never stopped, and never in a store.
    whole = on_machine("third", *scan_args(tiny, tiny_bank, "here"))
    assert whole.returncode == 0, whole.stderr
    here = tmp_path / "third" / "work" / "here"
    manifest = json.loads(bucket.cat("bucket/runs/x/manifest.json"))
    assert manifest["complete"]
    assert manifest["files"] == json.loads((here / "manifest.json").read_bytes())["files"]
    for name in manifest["files"]:
        assert bucket.cat(f"bucket/runs/x/{name}") == (here / name).read_bytes()
    assert names(bucket) == {"manifest.json", *manifest["files"]}
    assert all(bucket.info(f"bucket/runs/x/{name}")["LastModified"] == when for name, when in before.items())
    assert SECRET not in bucket.cat("bucket/runs/x/manifest.json").decode()
    assert {i["origin"]["url"] for i in manifest["data"]} == {f"s3://bucket/data/{n}.jsonl" for n in "ab"}


def test_two_scans_at_once_leave_a_whole_run(bucket, on_machine, tiny, tiny_bank: Path):
    def scan(machine: str) -> Done:
        after_fork()
        return on_machine(machine, *scan_args(tiny, tiny_bank))

    both = [Child(lambda machine=machine: scan(machine)) for machine in ("first", "second")]
    assert [child.outcome().code for child in both] == [0, 0]
    done = on_machine("third", "filter", RUN, "--drop", "10%")
    assert done.returncode == 0, done.stderr
    done = on_machine("third", "verify", RUN)
    assert done.returncode == 0, done.stderr


def test_a_run_in_a_store_that_may_only_be_read_is_cut_all_the_same(bucket, on_machine, tiny, tiny_bank, monkeypatch):
    assert on_machine("first", *scan_args(tiny, tiny_bank)).returncode == 0

    async def refused(self, lpath, rpath, **kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(bucket), "_put_file", refused)
    type(bucket).clear_instance_cache()  # an instance keeps the method that it was made with
    done = on_machine("second", "filter", RUN, "--drop", "10%")
    assert done.returncode == 0, done.stderr
    assert "cannot be written (Access Denied); check that you may" in done.stderr
    assert "what was written of the run is in " in done.stderr
    assert not {"cut.json", "report.html"} & names(bucket)
    done = on_machine("second", "filter", RUN, "--drop", "10%", "--out", "s3://bucket/out")
    assert done.returncode == 2
    assert errors_of(done).startswith("s3://bucket/out/")


def test_every_command_reads_a_run_in_a_store(bucket, on_machine, tiny, tiny_bank: Path, tmp_path: Path):
    assert on_machine("first", *scan_args(tiny, tiny_bank)).returncode == 0
    out = "s3://bucket/out"
    cut = on_machine("second", "filter", RUN, "--drop", "20%", "--out", out)
    assert cut.returncode == 0, cut.stderr
    stems = [Path(i["path"]).stem for i in json.loads(bucket.cat("bucket/runs/x/manifest.json"))["data"]]
    assert f"kept: {out}/{stems[0]}.filtered.jsonl" in cut.stderr
    found = names(bucket, "bucket/out")
    assert {f"{stem}.{kind}" for stem in stems for kind in ("filtered.jsonl", "set.json", "report.html")} <= found
    rows = [bucket.cat(f"bucket/out/{stem}.{kind}.jsonl").splitlines() for stem in stems
            for kind in ("filtered", "removed", "quarantined")]  # fmt: skip
    assert sum(map(len, rows)) == 61
    assert {"cut.json", "report.html", "report.json", "report.md"} <= names(bucket)
    commands = (["verify"], ["gate", "--max-flagged", "99%", "--max-quarantined", 1], ["explain", "--row", "#1"],
                ["similar", "--row", "#1"], ["evaluate", "--labels", "kind=bad"])  # fmt: skip
    for command, *args in commands:
        done = on_machine("second", command, RUN, *args)
        assert done.returncode == 0, done.stderr
    assert "evaluate.json" in names(bucket)
    # Elsewhere the report is there too, and no row, shard or input is fetched for it.
    done = on_machine("third", "report", RUN, "--json")
    assert json.loads(done.stdout)["made_with"]["run"] == RUN
    assert not list((tmp_path / "third").rglob("*.safetensors"))
    assert not (tmp_path / "third" / "work" / ".geofilter").exists()


def test_labels_go_into_the_store_and_count_everywhere(bucket, on_machine, tiny, tiny_bank: Path, tmp_path: Path):
    assert on_machine("first", *scan_args(tiny, tiny_bank)).returncode == 0
    (tmp_path / "labels.jsonl").write_text(
        "".join(
            json.dumps({"line": i, "file": f, "label": "bad" if i % 3 else "good"}) + "\n" for f, i in located(bucket)
        )
    )
    done = on_machine("second", "label", RUN, "--from", tmp_path / "labels.jsonl")
    assert done.returncode == 0, done.stderr
    assert "labels.jsonl" in names(bucket)
    manifest = json.loads(bucket.cat("bucket/runs/x/manifest.json"))
    if "scanned_banks" in manifest:  # what was learnt is worth something
        assert {"labelled/bank.json", "labelled/bank.safetensors"} <= names(bucket)
    done = on_machine("third", "verify", RUN)
    assert done.returncode == 0, done.stderr


def located(fs) -> list[tuple[str, int]]:
    """Twenty scored rows of the first input."""
    path = json.loads(fs.cat("bucket/runs/x/manifest.json"))["data"][0]["path"]
    return [(path, line) for line in range(1, 21)]


def test_a_damaged_or_changed_store_is_told(bucket, on_machine, tiny, tiny_bank: Path):
    assert on_machine("first", *scan_args(tiny, tiny_bank)).returncode == 0
    scores = bucket.cat("bucket/runs/x/scores.safetensors")
    bucket.pipe("bucket/runs/x/scores.safetensors", scores[:-1] + bytes([scores[-1] ^ 1]))
    done = on_machine("second", "filter", RUN, "--drop", "10%")
    assert done.returncode == 4
    assert errors_of(done).startswith(f"{RUN}/scores.safetensors: is not what the scan wrote; make it again with:")
    assert on_machine("second", *scan_args(tiny, tiny_bank)).returncode == 0  # which needs no model
    assert on_machine("second", "filter", RUN, "--drop", "10%", "--out", "k.jsonl").returncode == 2  # two inputs
    bucket.pipe("bucket/data/a.jsonl", b"{}\n")
    done = on_machine("third", "filter", RUN, "--drop", "10%")
    assert done.returncode == 2
    assert "s3://bucket/data/a.jsonl: is not the file of the scan any more; scan it again" in errors_of(done)
    bucket.rm("bucket/runs/x", recursive=True)
    done = on_machine("second", "filter", RUN, "--drop", "10%")
    assert errors_of(done).startswith(f"{RUN}: not a run folder (no manifest.json)")


def test_no_bucket_and_no_credentials_are_one_line(server: str, bucket, on_machine, tiny, tiny_bank, monkeypatch):
    args = scan_args(tiny, tiny_bank, "s3://nowhere/run")
    done = on_machine("first", *args)
    assert done.returncode == 4
    assert errors_of(done).startswith(
        "s3://nowhere/run/manifest.json: cannot be written (The specified bucket does not"
    )
    done = on_machine("first", "scan", "s3://nowhere/x.jsonl", *args[2:])
    assert done.returncode == 2
    assert errors_of(done).startswith("s3://nowhere/x.jsonl: cannot be read (")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    type(bucket).clear_instance_cache()
    done = on_machine("first", "report", RUN)
    assert done.returncode == 4
    assert "credentials" in errors_of(done)
    assert "AWS_ACCESS_KEY_ID" in errors_of(done)


def test_machines_with_nothing_but_a_store_in_common_make_parts(tiny, tiny_bank: Path, bucket, on_machine):
    args = scan_args(tiny, tiny_bank)
    whole = on_machine("whole", *args[:-4], "--shard-rows", 8)
    assert whole.returncode == 0, whole.stderr
    for part in ("3/3", "1/3"):
        done = on_machine(f"m{part[0]}", *args, "--shard", part)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1].endswith(f"geofilter merge {RUN}")
    done = on_machine("merging", "merge", RUN)
    assert done.returncode == 4
    assert "shards are missing" in errors_of(done)
    assert bucket.exists("bucket/runs/x/work/order.json")
    made = {name: info["LastModified"] for name, info in bucket.find("bucket/runs/x/features", detail=True).items()}
    done = on_machine("m2", *args, "--shard", "2/3")
    assert done.returncode == 0, done.stderr
    assert "to cut: geofilter filter" in done.stderr
    assert not bucket.exists("bucket/runs/x/work")
    after = {name: info["LastModified"] for name, info in bucket.find("bucket/runs/x/features", detail=True).items()}
    assert made.items() <= after.items()
    (wanted,) = Path(on_machine.folder, "whole", "work", ".geofilter").glob("*/scores.jsonl")
    assert bucket.cat_file("bucket/runs/x/scores.jsonl") == wanted.read_bytes()


def test_a_worker_on_another_machine_reads_from_the_store_and_writes_there(
    tiny, tiny_bank: Path, bucket, on_machine, monkeypatch, tmp_path: Path
):
    args = scan_args(tiny, tiny_bank)
    assert on_machine("one", *args, "--shard", "1/8").returncode == 0
    (tmp_path / "one").rename(tmp_path / "gone")
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    run = Run(RUN)
    run.mirror.pull()
    worker, plan = Worker(RUN), Plan(run.file(PLAN))
    for work in plan.read([(1, plan.n_shards)]):
        assert "lines" in worker.made(work)
    monkeypatch.chdir(tmp_path)
    done = on_machine("third", "merge", RUN)
    assert done.returncode == 0, done.stderr
