"""What a settings file that came with the data can do, and cannot."""

import json
import os
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.judging import KEY, data

from geofilter.cli.approval import is_loopback


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("GEOFILTER_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path / "config"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the data lie."""
    made = tmp_path / "work"
    made.mkdir()
    data(made, 2)
    return made


def put(folder: Path, text: str) -> None:
    (folder / "geofilter.toml").write_text(text, "utf-8")


def refused(folder: Path, *args: object) -> str:
    done = geofilter(*args, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1].removeprefix("geofilter: error: ")


def test_a_file_s_endpoint_gets_the_key_when_a_person_has_approved_it(folder: Path, own_config, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = serve()
    put(folder, f'judge-model = "m"\nbase-url = "{endpoint.url}"\n')
    judge = ("judge", "d.jsonl")
    assert refused(folder, *judge) == (
        f'geofilter.toml: base-url = "{endpoint.url}" would be sent rows and the key of OPENAI_API_KEY, and a file '
        "that lies beside the data does not decide that; type --base-url, or approve it once: geofilter settings trust"
    )
    assert geofilter(*judge, "--dry-run", cwd=folder).returncode == 0  # sends nothing
    assert endpoint.keys == []
    trusted = geofilter("settings", "trust", cwd=folder)
    assert trusted.returncode == 0, trusted.stderr
    assert f'base-url = "{endpoint.url}": may be sent rows and the key of OPENAI_API_KEY' in trusted.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["d.jsonl", "geofilter.toml"]
    assert (own_config / "trusted.json").is_file()
    assert geofilter(*judge, cwd=folder).returncode == 0
    assert set(endpoint.keys) == {f"Bearer {KEY}"}
    # Approved is this address in this file: another one, or the same file elsewhere, is not.
    put(folder, f'judge-model = "m"\nbase-url = "{endpoint.url}/x"\n')
    assert "would be sent" in refused(folder, *judge)
    put(folder, f'judge-model = "m"\nbase-url = "{endpoint.url}"\n')
    other = folder.parent / "other"
    folder.rename(other)
    assert "would be sent" in refused(other, *judge)
    other.rename(folder)
    assert geofilter("settings", "trust", "--forget", cwd=folder).returncode == 0
    assert "would be sent" in refused(folder, *judge)


def test_a_file_s_endpoint_elsewhere_gets_no_rows_either(folder: Path):
    put(folder, 'judge-model = "m"\n[judge]\nbase-url = "http://judge.example:9/v1"\n')
    assert refused(folder, "judge", "d.jsonl").startswith(
        'geofilter.toml: base-url = "http://judge.example:9/v1" would be sent rows, and '
    )
    assert "judge.example" not in geofilter("judge", "d.jsonl", "--base-url", "nonsense", cwd=folder).stderr


def test_without_a_key_a_file_may_name_a_server_of_this_machine(folder: Path, serve):
    endpoint = serve()
    put(folder, f'judge-model = "m"\nbase-url = "{endpoint.url}"\n')
    assert geofilter("judge", "d.jsonl", cwd=folder).returncode == 0
    assert set(endpoint.keys) == {"Bearer none"}


def test_plain_http_to_another_machine_never_gets_the_key(folder: Path, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = serve()
    # An address of this machine that is none of its loopback ones.
    url = endpoint.url.replace("127.0.0.1", "0.0.0.0")
    put(folder, f'judge-model = "m"\nbase-url = "{url}"\n')
    assert "rows, and no key (not https)" in geofilter("settings", "trust", cwd=folder).stderr
    done = geofilter("judge", "d.jsonl", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert set(endpoint.keys) == {"Bearer none"}
    assert "so the key of OPENAI_API_KEY is not sent" in done.stderr


def test_a_judge_that_labels_or_rates_answers_is_asked_for_in_the_same_way(folder: Path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    put(folder, 'base-url = "https://judge.example/v1"\n')
    (folder / "q.yaml").write_text("")
    for args in (("label", "--judge", "m"),
                 ("trial", "--good", "d.jsonl", "--questions", "q.yaml", "--judge-model", "m")):  # fmt: skip
        assert "base-url = " in (said := refused(folder, *args))
        assert "geofilter settings trust" in said


@pytest.mark.parametrize(
    ("url", "own"),
    [("http://localhost:8000/v1", True), ("http://127.9.9.9/v1", True), ("http://[::1]:8000/v1", True),
     ("http://localhost.evil.example/v1", False), ("http://127.0.0.1.evil.example/v1", False),
     ("http://0.0.0.0/v1", False), ("http://127.0.0.1\\.evil.example/v1", False), ("http://[::1", False)],
)  # fmt: skip
def test_which_addresses_are_this_machine(url: str, own: bool):
    assert is_loopback(url) is own


def test_nothing_to_approve_is_said(folder: Path):
    assert refused(folder, "settings", "trust").startswith("no settings file here")
    put(folder, 'model = "x"\n')
    assert refused(folder, "settings", "trust") == "geofilter.toml: names no base-url, so there is nothing to approve"


def test_a_damaged_record_of_approvals_is_an_error(folder: Path, own_config):
    put(folder, 'judge-model = "m"\nbase-url = "https://judge.example/v1"\n')
    own_config.mkdir()
    for text in ("[", "[]", '{"base_urls": 3}', "[" * 100_000):
        (own_config / "trusted.json").write_text(text)
        assert refused(folder, "judge", "d.jsonl").startswith(f"{own_config / 'trusted.json'}: is damaged; delete it")


def test_every_command_names_the_file_and_what_it_took(folder: Path):
    put(folder, 'judge-model = "m\\u001b[2J"\n[judge]\nlimit = 1\nquiet = true\n[gate]\nby = "x"\n')
    line = 'settings: geofilter.toml: limit = 1, quiet = true, judge-model = "m\\u001b[2J"\n'
    done = geofilter("judge", "d.jsonl", "--dry-run", "--json", cwd=folder)
    assert done.stderr == line  # a quiet of the file's does not hide it
    assert json.loads(done.stdout)["rows"] == 1
    assert geofilter("judge", "d.jsonl", "--dry-run", "--quiet", cwd=folder).stderr == ""
    typed = geofilter("judge", "d.jsonl", "--judge-model", "n", "--dry-run", "--limit", 2, cwd=folder).stderr
    assert typed == "settings: geofilter.toml: quiet = true\n"
    put(folder, "[gate]\nby = 'x'\n")
    assert "settings:" not in geofilter("judge", "d.jsonl", "--judge-model", "n", "--dry-run", cwd=folder).stderr


@pytest.mark.parametrize("value", ["/etc", "../x", "a/../../x", "~/x", "link/x", "loop/x", "link"])
@pytest.mark.parametrize(
    ("args", "table", "key"),
    [
        (("scan", "d.jsonl"), "", "model"), (("scan", "d.jsonl"), "", "sae"), (("scan", "d.jsonl"), "", "adapter"),
        (("scan", "d.jsonl"), "", "bank"), (("scan", "d.jsonl"), "[scan]\n", "run"), (("gate",), "", "run"),
        (("gate",), "", "baseline"), (("gate",), "[gate]\n", "junit"), (("gate",), "[gate]\n", "sarif"),
        (("filter",), "[filter]\n", "out"), (("filter",), "[filter]\n", "removed"), (("evaluate",), "", "labels"),
        (("evaluate", "--labels", "a=b"), "", "across"), (("judge", "d.jsonl"), "[judge]\n", "out"),
        (("trial",), "", "good"), (("trial", "--good", "g"), "", "pairs"), (("trial", "--good", "g"), "", "questions"),
        (("trial", "--good", "g"), "", "judge-scores"), (("bank", "build"), "", "bad"),
        (("trial", "--good", "g"), "", "swap"), (("trial", "--good", "g"), "", "own-pairs"),
    ],
)  # fmt: skip
def test_paths_of_a_file_stay_below_its_folder(folder: Path, value: str, args: tuple, table: str, key: str):
    (folder / "link").symlink_to(folder.parent)
    (folder / "loop").symlink_to("loop")
    put(folder, f'{table}{key} = "{value}"\n')
    assert refused(folder, *args) == (
        f'geofilter.toml: {key} = "{value}" leads out of the file\'s folder; a settings file may only name what lies '
        f"below it: type --{key}"
    )


def test_in_a_list_too_and_not_what_is_no_path(folder: Path):
    put(folder, 'bank = ["toxic-text", "../x"]\n')
    assert refused(folder, "scan", "d.jsonl").startswith('geofilter.toml: bank = "../x" leads out')
    put(folder, 'other = ["rival=/etc/x"]\n')
    assert refused(folder, "trial", "--good", "g").startswith('geofilter.toml: other = "/etc/x" leads out')
    put(folder, 'labels = "meta.path=/a/../b"\nmodel = "nothing"\n')
    assert "leads out" not in geofilter("evaluate", cwd=folder).stderr


def _unreadable(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "link":
        path.symlink_to("nothing")
    elif kind == "huge":
        path.write_bytes(b"#" * (2 << 20))
    elif kind == "bytes":
        path.write_bytes(b'model = "\xff"')
    elif kind == "deep":
        path.write_text("a = " + "[" * 100_000)
    elif kind == "number":
        path.write_text("a = " + "9" * 5000)


@pytest.mark.parametrize("name", ["geofilter.toml", "pyproject.toml"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "link", "huge", "bytes", "deep", "number"])
def test_a_file_that_cannot_be_read_is_one_line(folder: Path, name: str, kind: str):
    _unreadable(folder / name, kind)
    done = geofilter("gate", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"geofilter: error: {name}: ")
    assert len(done.stderr) < 300


def test_the_gate_tells_what_a_file_decided(tiny, tiny_bank: Path, folder: Path):
    write_rows(folder / "d.jsonl", [chat(f"q {i}", f"the answer {i} ends") for i in range(12)])
    target = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank)
    put(folder, '[scan]\ntrain = "last"\nscorer = "contrast"\n')
    assert geofilter("scan", "d.jsonl", *target, "--run", "r", "-q", cwd=folder).returncode == 0
    typed = json.loads(geofilter("gate", "r", "--max-flagged", "100%", "--json", cwd=folder).stdout)
    assert typed["settings"] is None
    assert typed["reading"] == {"train": "last"}
    put(folder, '[gate]\nmax-flagged = "100%"\nthreshold = 1.0\n')
    done = geofilter("gate", "r", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["settings"] == {
        "file": "geofilter.toml", "values": {"max-flagged": "100%", "threshold": 1.0},
    }  # fmt: skip
    said = geofilter("gate", "r", "--quiet", cwd=folder).stderr
    assert 'from geofilter.toml: max-flagged = "100%", threshold = 1.0' in said
    assert 'scanned with train = "last"' in said
    assert "scored by contrast, not by ridge" in said
