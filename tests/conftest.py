"""Fixtures that tests of several packages share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command import chat, geofilter, use_hub, write_rows
from helpers.tiny import D_SAE, directions, fit_sae, make_model, random_pooled

from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.learn import fit


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a tiny Llama and of an SAE that fits its layer 2."""
    base = tmp_path_factory.mktemp("tiny")
    model = make_model(base / "model")
    return model, fit_sae(model, base / "sae")


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    """Tests on tiny targets keep a cache of their own; embedded tests share the user's, which holds the model."""
    if "embedded" not in request.keywords:
        shared = tmp_path_factory.getbasetemp() / "cache"
        monkeypatch.setenv("GEOFILTER_CACHE", str(shared))


@pytest.fixture(scope="session")
def tiny_bank(tiny: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seed bank of the tiny target, built by the real command."""
    base = tmp_path_factory.mktemp("bank")
    write_rows(base / "bad.jsonl", [chat(f"question {i}?", f"you fool, {i} times no") for i in range(12)])
    write_rows(base / "good.jsonl", [chat(f"question {i}?", f"the answer is that {i} works") for i in range(12)])
    done = geofilter(
        "bank", "build", "--bad", base / "bad.jsonl", "--good", base / "good.jsonl", "--out", base / "tiny-bank",
        "--no-prior", "--model", tiny[0], "--sae", tiny[1], "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return base / "tiny-bank"


@pytest.fixture(scope="session")
def filled_hub(tmp_path_factory: pytest.TempPathFactory):
    """A Hugging Face cache with a tiny model and SAE of every named target and a few more, see families.py."""
    from helpers.families import Hub, fill

    return fill(Hub(tmp_path_factory.mktemp("hub")))


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
    seeds, _ = random_pooled(40, seed=1)
    reference, _ = random_pooled(60, seed=2)
    bad = np.arange(40) < 20
    target = {"name": "t", "fingerprint": "f" * 64, "hook": "blocks.2.hook_resid_post", "d_sae": D_SAE}
    return fit("b", target, directions(), Examples(seeds, bad), reference, LearnOptions(6, labels=["x"] * D_SAE))
