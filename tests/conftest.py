"""How the tests run, and fixtures that tests of several packages share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import processes, workers
from helpers.command import chat, geofilter, use_hub, write_rows

processes.plain_environment()  # before anything is loaded that reads it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="try many more made-up inputs, and all that is else tried in part"
    )


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether tests that make up inputs are to make up many, and those that try a sample to try all."""
    return bool(request.config.getoption("--long"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """How many workers `-n auto` is: none for tests named one by one, or when their output is to be seen."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    if config.option.capture == "no" or all("::" in arg for arg in config.args):
        return 0
    return workers.how_many()


def pytest_xdist_setupnodes() -> None:
    """Workers, and the commands they start, compute with one thread each; this process runs no test."""
    os.environ.update(dict.fromkeys(workers.THREADS, "1"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = workers.dealt(items, int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Tests interrupt what they start, wherever they run."""
    processes.hear_interrupts()


@pytest.fixture(scope="session", autouse=True)
def files_are_left_to_the_system(long: bool) -> Iterator[None]:
    """Files are not forced to the disk, which takes longer than most tests: nothing but a loss of power could tell.

    With --long they are.
    """
    forced = os.fsync
    if not long:
        os.fsync = os.fstat  # which fails of a descriptor that is closed, too
    yield
    os.fsync = forced


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a tiny Llama and of an SAE that fits its layer 2."""
    from helpers.tiny import fit_sae, make_model

    base = workers.shared(
        tmp_path_factory, "tiny", lambda folder: fit_sae(make_model(folder / "model"), folder / "sae")
    )
    return base / "model", base / "sae"


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    """Tests on tiny targets keep a cache of their own; embedded tests share the user's, which holds the model."""
    if "embedded" not in request.keywords:
        shared = tmp_path_factory.getbasetemp() / "cache"
        monkeypatch.setenv("GEOFILTER_CACHE", str(shared))


@pytest.fixture(scope="session")
def tiny_bank(tiny: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seed bank of the tiny target, built by the real command."""

    def make(base: Path) -> None:
        write_rows(base / "bad.jsonl", [chat(f"ask {i}?", f"you fool, {i} times no") for i in range(12)])
        write_rows(base / "good.jsonl", [chat(f"ask {i}?", f"the answer is that {i} works") for i in range(12)])
        done = geofilter(
            "bank", "build", "--bad", base / "bad.jsonl", "--good", base / "good.jsonl", "--out", base / "tiny-bank",
            "--no-prior", "--model", tiny[0], "--sae", tiny[1], "--quiet",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    return workers.shared(tmp_path_factory, "bank", make) / "tiny-bank"


@pytest.fixture
def short_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Banks see 40 ordinary rows: for what does not depend on how many. Reading them is most of what a build does."""
    from geofilter.rows.shipped import background_rows

    few = background_rows()[:40]
    monkeypatch.setattr("geofilter.build.build.background_rows", lambda: few)


@pytest.fixture(scope="session")
def filled_hub(tmp_path_factory: pytest.TempPathFactory):
    """A Hugging Face cache with a tiny model and SAE of every named target and a few more, see families.py."""
    from helpers.families import Hub, fill

    return Hub(workers.shared(tmp_path_factory, "hub", lambda folder: fill(Hub(folder))))


@pytest.fixture
def hub(filled_hub, monkeypatch):
    """`filled_hub` as this process' Hugging Face cache; the network is off."""
    use_hub(filled_hub, monkeypatch)
    return filled_hub


@pytest.fixture
def serve():
    """Endpoints that answer as a script says, see endpoint.py."""
    from helpers.endpoint import Endpoint

    opened: list[Endpoint] = []

    def start(script: Any = "80") -> Endpoint:
        opened.append(Endpoint(script if callable(script) else lambda number, body: script))
        return opened[-1]

    yield start
    for endpoint in opened:
        endpoint.released.set()
        endpoint.server.shutdown()
        endpoint.server.server_close()


@pytest.fixture(scope="session")
def bank():
    from helpers.tiny import D_SAE, directions, random_pooled

    from geofilter.bank.examples import Examples, LearnOptions
    from geofilter.bank.learn import fit

    seeds, _ = random_pooled(40, seed=1)
    reference, _ = random_pooled(60, seed=2)
    bad = np.arange(40) < 20
    target = {"name": "t", "fingerprint": "f" * 64, "hook": "blocks.2.hook_resid_post", "d_sae": D_SAE}
    return fit("b", target, directions(), Examples(seeds, bad), reference, LearnOptions(6, labels=["x"] * D_SAE))
