"""The pages against the program: links, commands, the settings example, the command reference, completion."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pexpect
import pytest
import yaml
from helpers.processes import HEAVY, loaded
from typer.main import get_command

import geofilter as package
from geofilter.cli import settings
from geofilter.cli.app import app
from geofilter.config import BUILT_IN, SCORERS
from geofilter.target.named import known

ROOT = Path(__file__).parents[2]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

ROOT_COMMAND = get_command(app)


def leaves(group, prefix=()):
    """Every command, by the words that name it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*prefix, name))
        else:
            yield (*prefix, name), command


COMMANDS = dict(leaves(ROOT_COMMAND))


def parsed(line: str):
    """Typer's context of a command line; raises what Typer raises on a command or an option that does not exist."""
    program, *words = shlex.split(line, comments=True)
    assert program == "geofilter"
    command, context = ROOT_COMMAND, None
    while hasattr(command, "commands") and words:
        command, name = command.commands[words[0]], words.pop(0)
        context = command.make_context(name, [*words]) if not hasattr(command, "commands") else context
    return context


def shown_commands(page: Path) -> list[str]:
    """The geofilter command lines in the blocks of a page, one by one."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^(?: {4}|\t)(.*)$", text, re.MULTILINE)
    blocks += [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    found = []
    for line in blocks:
        for part in re.split(r" && | \| |; | > ", line.removeprefix("$ ").split("  #")[0]):
            if re.match(r"geofilter [a-z-]", part.strip()):
                found.append(part.strip())
    return found


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path):
    text = re.sub(r"`[^`\n]*`", "", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_that_a_page_shows_exists(page: Path):
    for line in shown_commands(page):
        parsed(line)


@pytest.mark.parametrize("job", sorted((ROOT / "examples" / "jobs").iterdir()), ids=lambda p: p.name)
def test_every_command_of_a_job_file_exists(job: Path):
    text = job.read_text("utf-8")
    lines = re.findall(r"^(?!#).*?\b(geofilter (?:scan|merge) .*?)(?: &)?$", text, re.MULTILINE)
    assert lines
    for line in lines:
        parsed(line)
    if job.suffix == ".yaml":
        found = yaml.safe_load(text)
        assert (found["kind"], found["spec"]["entrypoint"]) == ("RayJob", lines[0])
    else:
        assert subprocess.run(["bash", "-n", job], check=False).returncode == 0


def test_the_tasks_of_a_slurm_array_are_the_parts_of_a_scan(tmp_path: Path):
    (tmp_path / "geofilter").write_text('#!/bin/bash\necho "$@"\n')
    (tmp_path / "geofilter").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    job = ["bash", ROOT / "examples" / "jobs" / "slurm.sh", "d.jsonl", "gemma-2-2b", "runs/a"]
    said = subprocess.run(job, env=env, capture_output=True, text=True, check=True).stdout
    assert said == "scan d.jsonl --model gemma-2-2b --run runs/a --shard 3/8 --quiet\n"


def test_the_commands_of_the_pages_are_found():
    """Else the test above would pass on pages that it cannot read."""
    assert "geofilter scan data.jsonl --model gemma-2-2b" in shown_commands(ROOT / "docs" / "quickstart.md")
    with pytest.raises(Exception, match="No such option: --dorp"):
        parsed("geofilter filter --dorp 10%")


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 200


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_example_of_a_command_s_help_is_of_that_command(words: tuple[str, ...]):
    line = COMMANDS[words].epilog.removeprefix("Example: ")
    assert parsed(line).info_name == words[-1]
    assert line.split()[1 : 1 + len(words)] == list(words)


def test_the_command_reference_is_what_the_script_writes():
    spec = importlib.util.spec_from_file_location("write_commands", ROOT / "examples" / "write_commands.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = script.PAGE.read_text("utf-8")
    assert text == script.page(), "stale: python examples/write_commands.py"
    shared = text[text.index("\n## Target\n") :]
    for words, command in COMMANDS.items():
        section = text.split(f"\n## geofilter {' '.join(words)}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            # Typer's own account of the command: nothing that it takes is missing on the page.
            names = [n.upper() for n in parameter.opts] if parameter.param_type_name == "argument" else parameter.opts
            for name in names:
                assert re.search(rf"`{name}[ `.]", section + shared), f"{words}: {name}"


@pytest.fixture
def example(tmp_path: Path, monkeypatch) -> dict:
    """The settings page's file, in the working folder; and what it holds."""
    (text,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / "settings.md").read_text("utf-8"), re.M | re.S)
    (tmp_path / "geofilter.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tomllib.loads(text)


def test_the_settings_example_is_read_by_every_command(example: dict):
    tables = {key: value for key, value in example.items() if isinstance(value, dict)}
    assert len(tables) > 3
    unread = {key.replace("-", "_") for key in example if key not in tables}
    for words, command in COMMANDS.items():
        name = "_".join(words)
        if name not in settings.SETTINGS:
            continue
        nothing_typed = command.make_context(words[-1], [], resilient_parsing=True)
        decided = settings.from_settings(nothing_typed, name)
        unread -= set(decided)
        for key, value in tables.get("-".join(words), {}).items():
            assert decided[key.replace("-", "_")] in (value, Path(str(value)), [value])
    assert not unread


def test_a_command_s_table_bears_its_name():
    assert set(settings.SETTINGS) == {"_".join(w) for w in COMMANDS} - {
        "demo", "merge", "targets", "bank_list", "runs", "settings_trust",
    }  # fmt: skip


def test_commands_options_and_values_complete(monkeypatch, capsys):
    def offered(line: str) -> list[str]:
        """By bash, at the end of a line."""
        monkeypatch.setenv("_GEOFILTER_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        with pytest.raises(SystemExit):
            ROOT_COMMAND(prog_name="geofilter")
        return capsys.readouterr().out.split()

    assert offered("geofilter b") == ["bank"]
    assert offered("geofilter gate --max-") == ["--max-flagged", "--max-quarantined", "--max-truncated"]
    assert offered("geofilter scan --model ") == list(known())
    assert offered("geofilter scan d.jsonl --bank tox") == ["toxic-text"]
    assert offered("geofilter bank show ") == list(BUILT_IN)
    assert offered("geofilter scan --scorer ") == list(SCORERS)


def test_completion_imports_nothing_heavy():
    environment = {"_GEOFILTER_COMPLETE": "complete_bash", "COMP_WORDS": "geofilter scan --model ", "COMP_CWORD": "3"}
    code = (
        f"import os, sys\nos.environ |= {environment!r}\nsys.argv = ['geofilter']\nfrom geofilter.cli.app import app\n"
        "try:\n    app()\nexcept SystemExit:\n    print()"
    )
    assert not loaded(code) & set(HEAVY)


def test_bash_completes_after_install_completion(tmp_path: Path, monkeypatch):
    program = tmp_path / "bin" / "geofilter"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(package.__file__).parent.parent)!r})\n"
        "from geofilter.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("PS1", "")
    shell = pexpect.spawn(
        "bash", ["--noprofile", "-i"], encoding="utf-8", timeout=300, cwd=tmp_path, dimensions=(40, 200)
    )
    shell.sendline("geofilter --install-completion && source ~/.bashrc && echo rea''dy")
    shell.expect("bash completion installed")
    shell.expect("ready")
    shell.send("geofilter scan --model smol\t")
    shell.expect("--model smollm2-135m")
    shell.sendcontrol("u")
    shell.sendline("exit")
    shell.expect(pexpect.EOF)
    assert json.dumps(str(tmp_path))[1:-1] in (tmp_path / ".bashrc").read_text("utf-8")
