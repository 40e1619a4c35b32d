"""The plan of the package: which package may import which, and what may load torch; nothing pickles."""

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest
from helpers.processes import HEAVY, loaded

import geofilter as package

SOURCE = Path(package.__file__).parent

GROUND = {
    *("apart", "errors", "arrays", "text", "version", "stats", "files", "places", "sums", "together", "charts"),
    *("typed", "stores", "pages"),
}
"""modules that every other may import"""

MAY_IMPORT = {
    "rows": set(),
    "config": {"rows.fields", "rows.reading"},
    "judge": {"rows"},
    "target": {"config"},
    "bank": {"config", "rows.style"},
    "run": {"config", "bank", "rows"},
    "cut": {"config", "run", "rows"},
    "groups": {"config", "cut", "run", "bank", "rows"},
    "labels": {"config", "cut", "run", "bank", "target.sae_folder", "rows"},
    "report": {"config", "groups", "cut", "run", "bank", "rows"},
    "answers": {"config", "report", "cut", "run", "rows"},
    "compare": {"config", "groups.cluster", "run", "bank", "rows"},
    "evaluate": {"config", "labels", "cut", "run", "bank", "rows"},
    "verify": {"config", "report", "cut", "run", "bank", "target", "rows"},
    # Only these five may import torch; nothing above imports them.
    "encode": {"config", "target", "bank.features", "bank.linear", "bank.background", "rows"},
    "build": {"config", "encode", "bank", "target", "judge", "rows"},
    "scanning": {"config", "build", "encode", "run", "bank", "target", "rows"},
    "trial": {
        *("config", "scanning", "labels", "evaluate.wording", "judge", "encode", "cut", "run", "bank", "target", "rows")
    },
    "dictionary": {"config", "encode", "target", "rows"},
    "cli": {
        *("config", "rows", "judge", "target", "bank", "run", "cut", "groups", "labels", "report", "answers"),
        *("compare", "evaluate"),
        "verify",
        *("encode", "build", "scanning", "trial", "dictionary"),
    },
}
"""a package may import the ground, itself and these, which all stand above it"""

LOADS_TORCH = ("encode", "build", "scanning", "trial", "dictionary")

RUN_CODE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "multiprocessing"}
"""libraries that read what they are given as a program, or send it so"""

MOST_LINES = 340


def module_name(path: Path) -> str:
    """`bank.scorer`; of a package's own file its name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


@cache
def imports(name: str) -> set[str]:
    """Modules of the package that a module names in its imports, those for types and inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "geofilter"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "geofilter":
            # `from geofilter.bank import geometry` names a module, `from geofilter.bank.bank import Bank` a class.
            whole = [f"{node.module}.{a.name}" for a in node.names]
            found |= {w if w.removeprefix("geofilter.") in MODULES else str(node.module) for w in whole}
    return {name.removeprefix("geofilter").lstrip(".") for name in found}


@pytest.mark.parametrize("name", [n for n in MODULES if n and n != "__main__"])
def test_a_module_imports_what_its_package_may(name: str):
    own = name.split(".")[0]
    allowed = set() if own in GROUND else MAY_IMPORT[own]
    for target in imports(name):
        top = target.split(".")[0]
        assert target in GROUND or (top == own and own not in GROUND) or top in allowed or target in allowed, (
            f"{name} imports {target}"
        )


def test_the_table_has_every_package_in_an_order_without_circles():
    tops = {name.split(".")[0] for name in MODULES if name and name != "__main__"}
    assert tops == GROUND | set(MAY_IMPORT)
    order = list(MAY_IMPORT)
    for name, allowed in MAY_IMPORT.items():
        assert all(order.index(other.split(".")[0]) < order.index(name) for other in allowed), name


def test_no_circle_of_modules():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in imports(name) & set(MODULES) - {""}:
                visit(target, (*path, name))
            done.add(name)

    for name in MODULES:
        if name:
            visit(name, ())


def pickled(text: str) -> set[str]:
    """What a module takes of libraries that run code as they read, less the error of one that is held to plain data."""
    tree, found = ast.parse(text), set()
    names = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree) if isinstance(node, ast.Import)
        for alias in node.names if alias.name.split(".")[0] in RUN_CODE
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in RUN_CODE:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            found.add(f"{names[node.value.id]}.{node.attr}")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.add("allow_pickle")
    return found - {"pickle.UnpicklingError"}


def test_no_module_pickles():
    assert {name: found for name, path in MODULES.items() if (found := pickled(path.read_text("utf-8")))} == {}
    assert pickled("import pickle as p\ntry:\n    p.load(h)\nexcept p.UnpicklingError: ...") == {"pickle.load"}
    assert pickled("from pickle import dumps\nimport marshal\nmarshal.loads(b'')") == {"pickle.dumps", "marshal.loads"}
    assert pickled("np.load(p, allow_pickle=True)\nnp.load(p, allow_pickle=False)") == {"allow_pickle"}


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_small_and_say_what_they_are_for(name: str):
    text = MODULES[name].read_text("utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(ast.parse(text))


def test_the_coverage_asked_for_is_of_all_that_stands_above_the_line():
    settings = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["tool"]["coverage"]
    below = {f"*/geofilter/{name}/*" for name in (*LOADS_TORCH, "cli")}
    assert set(settings["report"]["omit"]) == {*below, "*/geofilter/__main__.py"}
    assert settings["run"]["branch"]
    assert settings["report"]["fail_under"] >= 95
    assert not settings["report"].keys() & {"exclude_lines", "exclude_also"}


def test_what_stands_above_the_line_loads_no_torch():
    above = [n for n in MODULES if n and n.split(".")[0] not in (*LOADS_TORCH, "cli", "__main__")]
    code = "\n".join(f"import geofilter.{name}" for name in above)
    assert not loaded(code) & {"torch", "transformers", "sae_lens"}


def test_the_command_line_imports_nothing_heavy():
    assert not loaded("import geofilter.cli.app") & set(HEAVY)


@pytest.mark.parametrize("args", [["--help"], ["bank", "list"], ["targets"]], ids=" ".join)
def test_what_needs_no_model_imports_nothing_heavy(args: list[str]):
    code = (
        f"import sys\nsys.argv = ['geofilter', *{args!r}]\nfrom geofilter.cli.app import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass"
    )
    assert not loaded(code) & set(HEAVY)


def test_public_names_are_what_they_say_after_every_module_was_imported():
    code = "\n".join(f"import geofilter.{name}" for name in MODULES if name and name != "__main__")
    check = "import geofilter\nassert {n: type(getattr(geofilter, n)).__name__ for n in geofilter.__all__} == "
    kinds = {"__version__": "str", "scan": "function", "filter_run": "function", "train_sae": "function"}
    wanted = {name: kinds.get(name, "type") for name in package.__all__}
    # Called, too: it refuses what it is given before it loads anything.
    call = (
        "try:\n    geofilter.scan(geofilter.ScanConfig(('d.jsonl',), scorer='magic'))\n"
        "except geofilter.GeofilterError as error:\n    assert 'magic' in str(error)"
    )
    loaded(f"{code}\n{check}{wanted!r}\n{call}")
