"""URLs and the stores behind them: what is fetched and published is whole, a failure is one line, no secret is said."""

import errno
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from helpers.command import geofilter
from helpers.processes import loaded
from helpers.scanning import errors_of

from geofilter.cli.settings_file import refuse_outside
from geofilter.errors import InputError, RunError
from geofilter.places import refuse_output
from geofilter.rows.gather import gather
from geofilter.run.mirror import Mirror, mirror_of
from geofilter.run.store import Run
from geofilter.stores import Store, checked, is_url, shown, was_url


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """An empty store."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


def whole(data: list[str], **more) -> tuple[tuple[str, ...], list[str]]:
    told: list[str] = []
    files, _ = gather(data, split=None, config=None, offline=False, notify=told.append, **more)
    return files, told


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_file_goes_into_a_store_and_comes_back(memory, kind: str, tmp_path: Path):
    store = Store(f"memory://{tmp_path.name}/run/" if kind == "memory" else f"file://{tmp_path}/run")
    (tmp_path / "a").write_bytes(b"one")
    first = store.publish(tmp_path / "a", "features/x.bin")
    assert store.fetch("features/x.bin", tmp_path / "b", 0o600) == first == store.names()["features/x.bin"]
    assert (tmp_path / "b").read_bytes() == b"one"
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    (tmp_path / "a").write_bytes(b"two")
    assert store.publish(tmp_path / "a", "features/x.bin").version != first.version
    assert list(store.names()) == ["features/x.bin"]  # nothing temporary is left
    store.delete("features/x.bin")
    store.delete("features/x.bin")
    assert store.names() == {}
    assert store.held  # the store itself is still one


class Other(MemoryFileSystem):
    """What is in memory, by another name."""

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace(f"{cls.protocol}://", "memory://"))


class Faulty(Other):
    """A store that breaks off in the midst of a file."""

    protocol = "faulty"
    fault: Exception = ConnectionResetError("Connection reset by peer")

    def get_file(self, rpath, lpath, **kwargs):
        Path(lpath).write_bytes(b"ha")
        raise self.fault

    def put_file(self, lpath, rpath, **kwargs):
        raise self.fault


class CutShort(Other):
    """A store that gives less than it says, without a word."""

    protocol = "cutshort"

    def get_file(self, rpath, lpath, **kwargs):
        Path(lpath).write_bytes(b"ha")


@pytest.fixture
def faulty(memory) -> Iterator[type[Faulty]]:
    for kind in (Faulty, CutShort):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    memory.pipe("/b/x", b"half of it")
    yield Faulty
    Faulty.fault = ConnectionResetError("Connection reset by peer")


@pytest.mark.parametrize("url", ["faulty://b", "cutshort://b"])
def test_what_is_cut_off_appears_nowhere(faulty, url: str, tmp_path: Path):
    (tmp_path / "here").write_bytes(b"before")
    with pytest.raises(InputError, match=rf"{url}/x: .*run the same command again"):
        Store(url).fetch("x", tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_store_like_a_disk_has_a_file_renamed_into_place(tmp_path: Path, monkeypatch):
    def half(self, lpath, rpath, **kwargs):
        Path(rpath).write_bytes(b"ha")
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").write_bytes(b"before")
    monkeypatch.setattr(LocalFileSystem, "put_file", half)
    with pytest.raises(InputError, match="cannot be written"):
        Store(f"file://{tmp_path}/run").publish(tmp_path / "run" / "x", "x")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == {"x": b"before"}


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (PermissionError("Forbidden"), r"cannot be read \(Forbidden\); check that you may, and set the credentials"),
        (FileNotFoundError("The specified bucket does not exist"), "bucket does not exist.*check the name"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space here"),
        (ValueError("first line\nsecond"), r"cannot be read \(first line\); check the network"),
        (ValueError("signed with a-secret-value"), r"signed with \*\*\*"),
        (ValueError("of https://h/x?X-Amz-Signature=1234"), r"https://h/x\?\.\.\.;|https://h/x\?\.\.\.\)"),
    ],
)
def test_a_failure_is_one_line_with_the_url_and_what_helps(
    faulty, fault: Exception, wanted: str, tmp_path, monkeypatch
):
    monkeypatch.setenv("SOME_SECRET_KEY", "a-secret-value")
    faulty.fault = fault
    with pytest.raises(RunError, match=f"^faulty://b/x: .*{wanted}") as caught:
        Store("faulty://b", RunError).fetch("x", tmp_path / "x")
    assert "\n" not in str(caught.value)
    assert "a-secret" not in str(caught.value)
    assert "1234" not in str(caught.value)


def test_what_is_not_installed_and_what_no_store_is(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(
        InputError, match=r"s3://b/x: nothing is installed that reads s3://; pip install 'geofilter\[s3\]'"
    ):
        Store("s3://b/x").names()
    with pytest.raises(InputError, match="nosuch://b: no store is known by nosuch://"):
        Store("nosuch://b").names()


def test_what_is_a_url():
    assert [is_url(text) for text in ("s3://b/x", "hf://datasets/a/b/c", "d.jsonl", "C:/x", "./s3://b", "-")] == [
        True, True, False, False, False, False
    ]  # fmt: skip
    assert was_url(Path("s3://b/x"))
    assert not was_url(Path("/s3:/b"))
    assert checked("s3://b/x//") == "s3://b/x"
    assert checked("hf://datasets/a/b@main/c.jsonl") == "hf://datasets/a/b@main/c.jsonl"
    assert checked("abfs://box@account.dfs.core.windows.net/x")
    assert checked("s3://arn:aws:s3:us-west-2:1:accesspoint/p/a@b")


@pytest.mark.parametrize(
    "url",
    ["s3://key:hush@b/x", "https://hush@host/x", "s3://key:hu/sh@b/x", "https://host/x?sig=hush",
     "sftp://me:hush@host/x", "s3://b/x?token=hush"],
)  # fmt: skip
def test_secrets_in_a_url_are_refused_and_not_repeated(url: str, tmp_path: Path):
    with pytest.raises(InputError) as caught:
        checked(url)
    assert "hush" not in str(caught.value) + shown(url)
    assert "sh@" not in str(caught.value) + shown(url)
    for args in (["scan", url, "--model", "x"], ["scan", "d.jsonl", "--model", "x", "--run", url], ["report", url],
                 ["filter", "--drop", "1", "--out", url]):  # fmt: skip
        done = geofilter(*args, cwd=tmp_path)
        assert done.returncode == 2
        assert "sh@" not in done.stderr
        assert "hush" not in done.stderr
        assert "Traceback" not in done.stderr


def test_fsspec_is_loaded_for_a_url_only():
    assert not loaded("import geofilter.cli.app, geofilter.run.store, geofilter.rows.gather") & {"fsspec", "s3fs"}


def test_data_at_a_url_becomes_a_file_that_is_made_once(memory, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    memory.pipe("/b/data/part-1.jsonl", b'{"text": "one"}\n')
    memory.pipe("/b/data/part-2.jsonl.gz", b"packed")
    memory.pipe("/b/data/part-1.filtered.jsonl", b"{}\n")
    (one, two), told = whole(["memory://b/data/part-*"])
    assert re.fullmatch(r"\.geofilter/part-1-[0-9a-f]{12}\.jsonl", one)
    assert re.fullmatch(r"\.geofilter/part-2-[0-9a-f]{12}\.jsonl\.gz", two)
    assert told == [f"fetching memory://b/data/part-{n} ..." for n in ("1.jsonl (16 bytes)", "2.jsonl.gz (6 bytes)")]
    assert Path(one).read_bytes() == b'{"text": "one"}\n'
    assert whole(["memory://b/data/part-1.jsonl"]) == ((one,), [])
    memory.pipe("/b/data/part-1.jsonl", b'{"text": "two"}\n')
    (changed,), told = whole(["memory://b/data/part-1.jsonl"])
    assert changed != one
    assert len(told) == 1
    _, origins = gather(
        [f"memory://b/data/{'part-1.jsonl'}"], split=None, config=None, offline=False, notify=told.append
    )
    assert origins[changed]["url"] == "memory://b/data/part-1.jsonl"
    assert origins[changed]["version"].startswith("created ")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("memory://b/data/none.jsonl", r"cannot be read \(.*\); check the name"),
        ("memory://b/data", "is a folder; give its files, by a pattern such as memory://b/data/.*jsonl"),
        ("memory://b/data/*.csv", "matches no file; check the pattern"),
        ("memory://", "names nothing in the store"),
        ("memory://b", "is a whole store"),
    ],
)
def test_data_that_a_url_does_not_name(memory, url: str, wanted: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    memory.pipe("/b/data/part-1.jsonl", b"{}\n")
    with pytest.raises(InputError, match=wanted):
        whole([url])
    with pytest.raises(InputError, match=r"--offline was given|names nothing"):
        gather([url], split=None, config=None, offline=True, notify=str)


HOSTILE = ("../outside", "features/../../outside", "features/part-00000.safetensors/../../../outside",
           "/etc/outside", "a\nb", "features/part-0000x.safetensors", "trial/x.bin", ".hidden", "lock")  # fmt: skip


def test_names_of_a_store_lead_nowhere_else(memory, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    for name in ("manifest.json", "features/part-00000.safetensors"):
        memory.pipe(f"/b/run/{name}", b"{}")
    plain = MemoryFileSystem.find

    def find(self, path, **kwargs):  # what a store of somebody else may answer
        found = plain(self, path, **kwargs)
        info = found["/b/run/manifest.json"]
        return {**found, **{f"/b/run/{name}": {**info, "name": f"/b/run/{name}"} for name in HOSTILE}}

    monkeypatch.setattr(MemoryFileSystem, "find", find)
    folder = mirror_of("memory://b/run")
    mirror = Mirror(folder)
    mirror.pull(parts=True)
    files = {
        path.relative_to(tmp_path / "cache" / "stores").as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert files == {
        f"{folder.name}.jsonl",
        f"{folder.name}/manifest.json",
        f"{folder.name}/features/part-00000.safetensors",
    }
    for name in HOSTILE:
        with pytest.raises(RunError, match="is no file of a run"):
            mirror.fetch(name)
        (tmp_path / "cache" / "stores" / "outside").write_bytes(b"of this machine")
        with pytest.raises(RunError, match="is no file of a run"):
            mirror.publish({name: {"sha256": "", "bytes": 15}})
    assert not [name for name in memory.store if "outside" in name]


def published(folder: Path, memory: MemoryFileSystem) -> tuple[Mirror, Path]:
    memory.pipe("/b/run/manifest.json", b"{}")
    mirror = Mirror(folder)
    mirror.pull()
    return mirror, folder / "labels.jsonl"


def test_labels_that_were_not_published_are_kept(memory, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    folder = mirror_of("memory://b/run")
    mirror, labels = published(folder, memory)
    labels.write_bytes(b"mine\n")
    Mirror(folder).pull()  # what a stopped command left is published by the next
    assert memory.cat("/b/run/labels.jsonl") == b"mine\n"
    memory.pipe("/b/run/labels.jsonl", b"theirs\n")
    Mirror(folder).pull()
    assert labels.read_bytes() == b"theirs\n"
    labels.write_bytes(b"mine again\n")
    memory.pipe("/b/run/labels.jsonl", b"theirs again\n")
    with pytest.raises(RunError, match=r"has labels that were given elsewhere.* --from (\S+) adds them") as caught:
        Mirror(folder).pull()
    kept = re.search(r"--from (\S+)", str(caught.value))
    assert kept
    assert Path(kept[1]).read_bytes() == b"mine again\n"
    Mirror(folder).pull()
    assert labels.read_bytes() == b"theirs again\n"
    del mirror


def test_a_run_that_is_gone_from_its_store_is_gone_here(memory, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    published(mirror_of("memory://b/run"), memory)
    memory.rm("/b/run", recursive=True)
    with pytest.raises(RunError, match=r"^memory://b/run: not a run folder \(no manifest.json\)"):
        Run.open("memory://b/run")


def test_only_the_cache_holds_mirrors(memory, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run.jsonl").write_text('{"url": "memory://b/run"}\n')
    (tmp_path / "run").mkdir()
    assert Run(tmp_path / "run").mirror is None  # a folder cannot have itself written to a store
    assert Run("memory://b/run").called == "memory://b/run"
    assert Run(str(tmp_path / "run")).called == str(tmp_path / "run")


def test_files_only_and_typed_only(tmp_path: Path):
    with pytest.raises(InputError, match="--out s3:/b/x: is a URL, and this is written to files only"):
        refuse_output(Path("s3://b/x"), "--out")
    with pytest.raises(InputError, match="type --run"):
        refuse_outside("geofilter.toml", "run", "s3://somebody/else")
    (tmp_path / "geofilter.toml").write_text('[scan]\nrun = "memory://somebody/else"\n')
    done = geofilter("scan", "d.jsonl", "--model", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "may only name what lies" in errors_of(done)
    assert [path.name for path in tmp_path.iterdir()] == ["geofilter.toml"]
