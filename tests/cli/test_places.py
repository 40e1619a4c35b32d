"""What no command may write over, whatever option names it and by whatever name."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import rows, scan_args

from geofilter.errors import InputError
from geofilter.places import refuse_output, refuse_outputs


@pytest.fixture(scope="module")
def base(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a bank, rows they are of, and places that are none."""
    folder = tmp_path_factory.mktemp("places")
    write_rows(folder / "d.jsonl", rows(6))
    shutil.copytree(tiny_bank, folder / "own-bank")
    (folder / ".geofilter").mkdir()
    for name in (".geofilter/kept", "named"):
        done = geofilter(*scan_args(tiny, tiny_bank, "--run", name), cwd=folder)
        assert done.returncode == 0, done.stderr
    os.link(folder / "d.jsonl", folder / "hard.jsonl")
    (folder / "soft.jsonl").symlink_to("d.jsonl")
    (folder / "to-scores").symlink_to("named/scores.jsonl")
    (folder / "to-run").symlink_to("named")
    (folder / "to-bank").symlink_to("own-bank/bank.json")
    (folder / "dangling").symlink_to("nothing/here")
    (folder / "loop").symlink_to("loop")
    (folder / "to-null").symlink_to(os.devnull)
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "file").touch()
    return folder


@pytest.fixture
def here(base: Path, monkeypatch) -> Path:
    monkeypatch.chdir(base)
    return base


WHERE = {
    "named/scores.jsonl": "belongs to the run",
    "named/new": "belongs to the run",
    "named/features/new": "belongs to the run",
    "to-run/new": "belongs to the run",
    "folder/../named/new": "belongs to the run",
    ".geofilter/kept/new": "belongs to the run",
    "to-scores": "belongs to the run",
    "own-bank/bank.json": "belongs to the bank",
    "own-bank/new": "belongs to the bank",
    "to-bank": "belongs to the bank",
    ".geofilter/deep/new": ".geofilter is where geofilter keeps runs",
    os.devnull: "is a device, a pipe or a socket",
    "to-null": "is a device, a pipe or a socket",
    "pipe": "is a device, a pipe or a socket",
    "dangling": "is a link to nothing/here, which is not there; remove the link",
    "loop": "cannot be written (Too many levels of symbolic links)",
    "loop/new": "cannot be written (Too many levels of symbolic links)",
    "file/new": "cannot be written (Not a directory)",
    "n" * 300: "cannot be written (File name too long)",
}
"""what is refused whatever is to be written there"""
FILES = {
    "d.jsonl": "is the input d.jsonl",
    "hard.jsonl": "is the input d.jsonl",
    "soft.jsonl": "is the input d.jsonl",
    "folder": "is a folder; give a file",
}
FOLDERS = {"file": "is a file; give a folder", "d.jsonl": "is a file; give a folder", "own-bank": "is a bank"}

LABELS = ("--labels", "label=bad")
SEEDS = ("--bad", "d.jsonl", "--good", "d.jsonl", "--model", "none", "--sae", "none")
COMMANDS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "--sheet": (("label", "named", "--sheet"), FILES),
    "--junit": (("gate", "named", "--junit"), FILES),
    "--sarif": (("gate", "named", "--sarif"), FILES),
    "--out": (("judge", "d.jsonl", "--judge-model", "m", "--dry-run", "--out"), FILES),
    "--out of evaluate": (("evaluate", "named", *LABELS, "--out"), FOLDERS),
    "--out of trial": (("trial", "named", "--good", "d.jsonl", "--out"), {**FOLDERS, "named": "is a run"}),
    "--out of bank build": (
        ("bank", "build", *SEEDS, "--out"),
        {"file": FOLDERS["file"], "named": "is a run", ".": "is a folder that you"},
    ),
    "--run": (
        ("scan", "d.jsonl", "--model", "none", "--sae", "none", "--run"),
        {**FOLDERS, "folder/..": "is a folder that you"},
    ),
    "FOLDER": (("demo",), FOLDERS),
}
"""each option that names a place: the command, and what it refuses beside `WHERE`"""


def everything(folder: Path) -> dict[Path, tuple]:
    return {p: (p.lstat().st_mtime_ns, p.lstat().st_ino, p.lstat().st_size) for p in folder.rglob("*")}


@pytest.mark.parametrize("option", COMMANDS)
def test_every_command_refuses_what_it_may_not_write(option: str, here: Path):
    args, more = COMMANDS[option]
    before = everything(here)
    for place, said in {**WHERE, **more}.items():
        if place == "folder" and option == "--out":  # ratings go into a folder
            continue
        done = geofilter(*args, place)
        assert done.returncode == 2, (place, done.stderr)
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"geofilter: error: {option.split()[0]} {place}: "), line
        assert said in line
    assert everything(here) == before


@pytest.mark.parametrize("place", ["d.jsonl", "named/manifest.json", "own-bank/bank.json", "dangling"])
def test_a_summary_is_not_added_to_what_must_stay_as_it_is(place: str, here: Path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", place)
    before = everything(here)
    done = geofilter("gate", "named", "--step-summary")
    assert done.returncode == 2
    assert f"GITHUB_STEP_SUMMARY {place}: " in done.stderr
    assert everything(here) == before


def test_a_summary_may_go_to_a_device(here: Path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", os.devnull)
    assert geofilter("gate", "named", "--step-summary").returncode in (0, 1)


@pytest.mark.parametrize(
    ("args", "file"),
    [
        (("bank", "build", *SEEDS[2:], "--bad", "mine/bank.json", "--out", "mine"), "bank.json"),
        (("evaluate", "named", "--labels", "mine/evaluate.json", "--out", "mine"), "evaluate.json"),
        (("trial", "named", "--good", "mine/trial.md", "--out", "mine"), "trial.md"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_folder_in_which_a_file_of_that_name_is_read(args: tuple[str, ...], file: str, here: Path):
    (here / "mine").mkdir(exist_ok=True)
    write_rows(here / "mine" / file, rows(2))
    done = geofilter(*args)
    assert (done.returncode, done.stderr) == (
        2, f"geofilter: error: --out mine/{file}: is the input mine/{file}; give another place\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [Path.touch, lambda path: path.symlink_to(Path("file").absolute()), lambda path: None],
    ids=("file", "link", "nothing"),
)
def test_places_that_will_do(make: Callable[[Path], None], here: Path):
    for name in ("out.jsonl", "folder/out.jsonl"):
        make(here / name)
        refuse_outputs([Path(name), here / name], "--out", [Path("d.jsonl")])
        (here / name).unlink(missing_ok=True)
    refuse_output(Path("named"), "--run", kind="run")
    refuse_output(Path(".geofilter/another"), "--run", kind="run")
    refuse_output(Path("own-bank"), "--out", kind="bank")
    refuse_output(Path("folder"), "--out", kind="folder")
    refuse_output(Path("named/d.filtered.jsonl"), "", named=False)


def test_a_link_is_replaced_and_what_it_led_to_stays(here: Path):
    (here / "old.jsonl").write_text("old")
    (here / "link.jsonl").symlink_to("old.jsonl")
    done = geofilter("label", "named", "--sheet", "link.jsonl", "--count", "1")
    assert "is there already" in done.stderr  # a sheet is never written over
    done = geofilter("filter", "named", "--drop", "1", "--out", "link.jsonl")
    assert done.returncode == 0, done.stderr
    assert (here / "old.jsonl").read_text() == "old"
    assert not (here / "link.jsonl").is_symlink()


def test_a_manifest_of_another_program_makes_no_run(tmp_path: Path):
    for text in ('{"name": "a web page", "icons": []}', "[" * 100_000, "", "[1]"):
        (tmp_path / "manifest.json").write_text(text)
        (tmp_path / "bank.json").write_text(text)
        refuse_output(tmp_path / "x.jsonl", "--out")


@pytest.mark.parametrize("file", ["manifest.json", "bank.json"])
def test_a_damaged_one_of_ours_does(file: str, tmp_path: Path):
    (tmp_path / file).write_text("{")
    (tmp_path / ("features" if file == "manifest.json" else "bank.safetensors")).mkdir()
    with pytest.raises(InputError, match="belongs to the"):
        refuse_output(tmp_path / "x.jsonl", "--out")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (0, "config.json"),
        (0, "model.safetensors"),
        (0, "tokenizer.json"),
        (1, "cfg.json"),
        (1, "sae_weights.safetensors"),
    ],
)
def test_a_file_of_a_model_or_an_sae_is_not_written_over(tiny, folder: int, name: str):
    with pytest.raises(InputError, match=r"--out .*: belongs to a model or an SAE; give another place"):
        refuse_output(Path(tiny[folder]) / name, "--out")
    refuse_output(Path(tiny[folder]) / "kept.jsonl", "--out")


def test_a_link_of_the_system_s_is_no_file_whatever_it_leads_to(tmp_path: Path):
    """/dev/stdout leads to an ordinary file where output is sent to one; what would be replaced is the link."""
    with (tmp_path / "said").open("w") as handle:
        (tmp_path / "out").symlink_to(f"/proc/self/fd/{handle.fileno()}")
        for place in (tmp_path / "out", Path(f"/proc/self/fd/{handle.fileno()}"), Path("/dev/stdout")):
            with pytest.raises(InputError, match="is a device, a pipe or a socket"):
                refuse_output(place, "--out")
    if Path("/dev/shm").is_dir():  # memory that holds files
        refuse_output(Path("/dev/shm"), "--out", kind="folder")
        refuse_output(Path("/dev/shm/geofilter-kept.jsonl"), "--out")


def test_a_socket_and_a_name_with_nul(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        with pytest.raises(InputError, match="is a device, a pipe or a socket"):
            refuse_output(Path("socket"), "--out")
    with pytest.raises(InputError, match="no name can hold a NUL character"):
        refuse_output(Path("a\0b"), "--out")


READING = [
    ("scan", "--check"),
    ("scan", "d.jsonl", "--model", "none", "--sae"),
    ("gate",),
    ("filter", "--drop", "1"),
    ("report",),
    ("explain", "named", "--row", "1", "--file"),
    ("evaluate", "named", "--labels"),
    ("evaluate", "named", *LABELS, "--across"),
    ("label", "named", "--from"),
    ("judge", "--judge-model", "m", "--dry-run"),
    ("bank", "show"),
    ("bank", "build", "--good", "d.jsonl", "--out", "b", "--model", "none", "--sae", "none", "--bad"),
]
UNREADABLE = (
    "n" * 300,
    "loop",
    "loop/x",
    "file/x",
    "folder",
    "dangling",
    "pipe",
    "x/" * 3000,
    os.fsdecode(b"\xff\xfe"),
)


@pytest.mark.parametrize("args", READING, ids=" ".join)
def test_a_path_that_cannot_be_read_is_one_line(args: tuple[str, ...], here: Path):
    for place in UNREADABLE:
        done = geofilter(*args, place)
        assert done.returncode in (2, 3, 4), (place, done)
        assert done.stderr.splitlines()[-1].startswith("geofilter: error: "), place
        assert "not foreseen" not in done.stderr


@pytest.mark.parametrize("device", [os.devnull, "/dev/zero", "/dev/full"])
def test_a_device_is_no_data(device: str, here: Path):
    done = geofilter("scan", "--check", device)
    assert (done.returncode, "is a device or a socket, which may never end" in done.stderr) == (2, True)


def test_nul_in_a_settings_file(here: Path, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    for command, text in (
        (("evaluate", here / "named", *LABELS), '[evaluate]\nout = "a\\u0000b"'),
        (("filter", here / "named", "--drop", "1"), '[filter]\nremoved = "a\\u0000b"'),
        (("gate",), 'run = "a\\u0000b"'),
    ):
        (tmp_path / "geofilter.toml").write_text(text)
        done = geofilter(*command)
        assert done.returncode in (2, 4), done.stderr
        assert "not foreseen" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
