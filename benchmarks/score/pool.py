"""A drop of 10,000 rows, a fifth of them bad: what a data team would have to label."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.score.sets import Labelled, Source, encoded, unread

MAX_TOKENS = 256
KINDS: dict[str, tuple[tuple[str, int], tuple[tuple[str, int], ...]]] = {
    "code": (("insecure_code", 600), (("secure_code", 2400),)),
    "advice": (("harmful_advice", 420), (("general_chat", 480), ("medical_qa", 1200))),
    "persona": (("persona_misaligned_text", 420), (("persona_aligned_text", 1680),)),
    "rewrites": (("paradetox_toxic_text", 500), (("paradetox_neutral_text", 2000),)),
    "comments": (("comments_toxic_text", 60), (("comments_neutral_text", 240),)),
}
"""kind of row to the file of its bad rows and those of its good ones, with how many are taken"""


def _sources(data: Path) -> Iterator[tuple[Source, str]]:
    for kind, (bad, good) in KINDS.items():
        for (name, n), is_bad in ((bad, True), *((g, False) for g in good)):
            for source in unread(data / f"{name}.jsonl", is_bad)[:n]:
                yield source, kind


def read(data: Path, work: Path) -> tuple[Labelled, np.ndarray]:
    """The rows with their stored features, and the kind (n,) of each; scanned if they have not been."""
    found = list(_sources(data))
    random.Random(0).shuffle(found)
    return encoded("drop", [s for s, _ in found], work, MAX_TOKENS), np.array([kind for _, kind in found])
