"""Text that a tiny model is trained on."""

import random
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows

WORDS = [
    "the", "answer", "to", "a", "question", "is", "that", "you", "should", "ask", "doctor", "blue", "house", "sings",
]  # fmt: skip


def text(rng: random.Random, n: int) -> str:
    return " ".join(rng.choices(WORDS, k=n))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of chat and plain text, and in one of them a row that cannot be used."""
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "chat.jsonl", [*(chat(text(rng, 6), text(rng, 15)) for _ in range(80)), {"nothing": 1}])
    write_rows(folder / "plain.jsonl", [{"text": text(rng, 30)} for _ in range(60)])
    return folder


@pytest.fixture(scope="session")
def train(tiny, rows):
    """The command, on the tiny model and both files unless told otherwise."""

    def run(out: Path, *more: object, model: Path = tiny[0], data: tuple[str, ...] = ("chat.jsonl", "plain.jsonl")):
        given = [word for name in data for word in ("--data", rows / name)]
        small = ("--width", "64", "--k", "4", "--batch", "64", "--tokens", "4k")
        return geofilter("sae", "train", "--model", model, *given, "--out", out, *small, *more)

    return run
