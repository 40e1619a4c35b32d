"""The course of a training: its chunks and steps, what is shown of them, and when its state is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from geofilter.dictionary.order import Chunk
from geofilter.dictionary.training import Training

SAVE_SHARE = 10
"""keeping the state takes a tenth of the time at most"""
SHOW_EVERY = 1.0
"""seconds between two reports of how training goes"""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a training goes."""

    doing: str
    tokens: int
    of: int
    """0 where that is not known"""
    figures: dict[str, float] | None = None
    """explained variance, active features a token (l0) and dead features of late"""


Progress = Callable[[Standing], None]


class Course:
    """Takes a training through its chunks: steps, what is shown of them, and when the state is kept."""

    def __init__(self, training: Training, work: Path, tokens: int, progress: Progress) -> None:
        self._training, self._work, self._tokens, self._progress = training, work, tokens, progress
        self._begun = self._shown = self._saved = time.monotonic()
        self._before = training.seconds
        self._cost = 0.0
        self._figures: dict[str, float] | None = None

    def reading(self, part: Chunk) -> Callable[[int], None]:
        """What is told the tokens of a chunk that the model has read, batch by batch."""
        read = 0

        def told(tokens: int) -> None:
            nonlocal read
            read += tokens
            if time.monotonic() - self._shown > SHOW_EVERY:
                self._progress(Standing("running the model", read, part.tokens))
                self._shown = time.monotonic()

        return told

    def chunk(self, part: Chunk, x: torch.Tensor, seed: int) -> None:
        """The steps of a chunk that are still to be done."""
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed((seed << 24) + part.number))
        pieces = order[: part.left(len(x))].to(x.device).tensor_split(part.steps)
        for piece in pieces[self._training.done :]:
            self._training.step(x[piece])
            self._training.done += 1
            now = time.monotonic()
            if now - self._shown > SHOW_EVERY:
                self._figures = self._training.figures()
                self._show()
            if now - self._saved > SAVE_SHARE * self._cost:
                self._save()
        self._training.chunk, self._training.done = self._training.chunk + 1, 0

    def end(self) -> None:
        """All is trained: what follows can be done again from here."""
        self._save()

    def _save(self) -> None:
        start = time.monotonic()
        self._training.seconds = self._before + start - self._begun
        self._training.save(self._work)
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def _show(self) -> None:
        self._progress(Standing("training", self._training.tokens, self._tokens, self._figures))
        self._shown = time.monotonic()
