"""Names, labels, values and paths that try to act where they are shown: all that every command prints and writes."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.command import Done, chat, geofilter, write_rows
from helpers.hostile import NAME, heard, live_markup, unprintable

FILE = NAME.replace("/", "\u2215").encode()[:180].decode("utf-8", "ignore") + ".jsonl"
"""as much of it as a file can be called"""
SHOWN = "[red]x[/red]"
"""how it begins: also Rich must take it for text"""


@pytest.fixture(scope="module")
def base(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a file, rows and a bank that are called so in every place that has a name."""
    folder = tmp_path_factory.mktemp("hostile")
    asked = "q\n ::error::x\n##[add-mask]y\n##vso[task.setvariable variable=z]w"
    rows = [chat("q", f"the answer {i} is", source=NAME, label="bad" if i % 2 else "good") for i in range(30)]
    rows[0]["messages"][0]["content"] = asked
    write_rows(folder / FILE, [*rows, {NAME: NAME}, {"messages": [{"role": NAME, "content": NAME}]}])
    shutil.copytree(tiny_bank, folder / "bank")
    about = json.loads((folder / "bank" / "bank.json").read_text())
    about |= {"name": NAME, "description": NAME, "labels": [NAME] * len(about["labels"])}
    (folder / "bank" / "bank.json").write_text(json.dumps(about))
    done = geofilter("scan", FILE, "--model", tiny[0], "--sae", tiny[1], "--bank", "bank", "--run", "r", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert geofilter("filter", "r", "--drop", "5", cwd=folder).returncode == 0
    (folder / "answers.jsonl").touch()
    return folder


def call(base: Path, args: tuple[str, ...]) -> Done:
    """Call a command, and see to it that what it prints is no more than text, on a terminal and in the log of a job."""
    done = geofilter(*args, cwd=base)
    assert not heard(done.stdout)
    assert "--annotations" in args or not heard(done.stderr)
    assert not unprintable(done.stdout)
    assert not unprintable(done.stderr)
    assert "Traceback" not in done.stderr
    if "--json" in args and done.returncode == 0:
        json.loads(done.stdout)
    return done


COMMANDS = [
    ("scan", FILE, "--check"),
    ("filter", "r", "--drop", "6"),
    ("gate", "r", "--by", "source", "--max-quarantined", "2", "--max-flagged", "100%"),
    ("report", "r"),
    ("runs",),
    ("explain", "r", "--row", "1"),
    ("evaluate", "r", "--labels", "label=bad", "--out", "evaluated"),
    ("bank", "show", "bank"),
    ("judge", FILE, "--judge-model", NAME, "--dry-run"),
    ("compare", "r", "r"),
    ("similar", "r", "--row", "#1"),
    ("replace", "r", "--answers", "answers.jsonl"),
    ("verify", "r", "--no-target"),
    ("label", "r", "--from", "label=bad"),
]


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: args[0])
@pytest.mark.parametrize("as_json", [False, True], ids=("text", "json"))
def test_what_commands_print_is_text(base: Path, args: tuple[str, ...], as_json: bool):
    done = call(base, (*args, "--json") if as_json else args)
    assert done.returncode == 0, done.stderr


def test_json_has_the_names_as_they_are(base: Path):
    shown = json.loads(call(base, ("bank", "show", "bank", "--json")).stdout)
    assert shown["name"] == shown["description"] == NAME
    parts = json.loads(call(base, ("gate", "r", "--by", "source", "--json")).stdout)["parts"]
    assert [p["name"] for p in parts][1:] == [f"source = {NAME}"]


@pytest.mark.parametrize("args", [COMMANDS[2], COMMANDS[5], COMMANDS[7]], ids=lambda args: args[0])
def test_brackets_are_shown_as_they_are(base: Path, args: tuple[str, ...]):
    done = call(base, args)
    assert SHOWN in done.stdout.replace("\n", "")


FAILING = [
    ("gate", NAME),
    ("gate", "r", "--by", NAME),
    ("gate", "r", "--max-flagged", NAME),
    ("filter", "r", "--drop", NAME),
    ("filter", "r", "--drop", "5", "--out", f"none/{FILE}"),
    ("explain", "r", "--row", NAME),
    ("explain", "r", "--row", "1", "--bank", f"{NAME}x"),
    ("explain", "r", "--row", "1", "--file", NAME),
    ("evaluate", "r", "--labels", f"label={NAME}"),
    ("evaluate", "r", "--labels", f"{NAME}=x"),
    ("evaluate", "r", "--labels", NAME),
    ("label", "r", "--from", NAME),
    ("label", "r", "--sheet", f"none/{FILE}"),
    ("bank", "show", NAME),
    ("judge", NAME, "--judge-model", "m", "--dry-run"),
    ("scan", NAME, "--model", "none"),
    ("scan", FILE, "--model", NAME, "--offline"),
    ("scan", FILE, "--run", f"{FILE}/x"),
    ("doctor", "--model", NAME),
    (NAME,),
    ("gate", f"--{NAME}"),
    ("gate", "--threshold", NAME),
    ("filter", "r", "--on", NAME),
]


@pytest.mark.parametrize("args", FAILING, ids=lambda args: " ".join(args[:-1]))
def test_what_errors_quote_is_text(base: Path, args: tuple[str, ...]):
    done = call(base, args)
    assert done.returncode in (2, 3, 4), (done.returncode, done.stderr)
    if done.stderr.startswith("geofilter: error:"):
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["{key} = 1", "[gate]\n{key} = 1", "[{key}]\na = 1", "[gate]\nthreshold = {key}", "x = [\n{key}"]
)
def test_what_is_said_of_a_settings_file_is_text(text: str, tmp_path: Path):
    (tmp_path / "geofilter.toml").write_text(text.replace("{key}", json.dumps(NAME.replace("\x07", ""))), "utf-8")
    assert call(tmp_path, ("gate",)).returncode == 2


def test_pages_of_markdown_have_no_markup_but_ours(base: Path, monkeypatch):
    summary = base / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert call(base, ("gate", "r", "--by", "source", "--step-summary")).returncode in (0, 1)
    done = call(base, ("gate", "r", "--threshold", "0", "--max-flagged", "0", "--annotations", "--step-summary"))
    assert (done.returncode, done.stderr.count("::error file="), "highest flagged" in done.stdout) == (1, 10, True)
    assert call(base, ("filter", "r", "--drop", "7", "--step-summary")).returncode == 0
    assert call(base, ("evaluate", "r", "--labels", "label=bad", "--out", "pages")).returncode == 0
    pages = [summary, base / "r" / "report.md", base / "pages" / "evaluate.md"]
    for page in pages:
        text = page.read_text("utf-8")
        assert "evil" in text or page.name == "evaluate.md"
        assert live_markup(text) == [], page
        assert not unprintable(text)


@pytest.mark.parametrize(
    "text",
    ["@someone", "an@address.example", "www.x.example", "see https://x.example", "#12", "GH-7", ":tada:", "<b>x</b>",
     "[a](b)", "![a](http://b)", "*a*", "~~a~~", "`a`", "<!-- a -->", "    code", "http&#58;//x", "\\@someone"],
)  # fmt: skip
def test_live_markup_is_found_where_it_is(text: str):
    assert live_markup(f"{text}\n")
    assert live_markup(f"| a |\n|---|\n| b {text} |\n") or text.startswith("    ")


class Elements(HTMLParser):
    """Elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")


def test_the_page_has_no_element_of_a_name(base: Path):
    text = (base / "r" / "report.html").read_text("utf-8")
    page = Elements(text)
    assert "evil.example" in text
    assert not page.tags & {"img", "red", "i", "iframe", "object", "base"}
    assert not [name for name in page.attributes if name.startswith("on")]
    assert not page.attributes.get("src")
    assert all(link.startswith(("https://www.neuronpedia.org/", "#")) for link in page.attributes.get("href", ()))
    assert not unprintable(text.replace("\u00a0", " "))


def test_only_one_module_prints():
    """All other ones do so through it, which sees to what a terminal would act on."""
    import geofilter.cli as package

    prints = re.compile(r"\b(echo|print|secho)\(|std(out|err)\.write\(")
    found = {
        path.name: [line.strip() for line in path.read_text("utf-8").splitlines() if prints.search(line)]
        for path in Path(package.__file__).parent.glob("*.py")
    }
    for ours in ("output.py", "edge.py", "label_terminal.py"):  # the last one is tested by itself
        assert found.pop(ours)
    assert {name: lines for name, lines in found.items() if lines} == {}
