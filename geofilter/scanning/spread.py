"""What makes a scan's shards: this process, workers of a Ray cluster, or one of several processes that share a run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from geofilter.errors import InputError

LOCAL, RAY = ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Spread:
    """The engine of a scan. The results are the same bytes under each, so a run may go on under another."""

    engine: str = LOCAL
    workers: int | None = None
    """of Ray; None for as many as there are GPUs, and for one without any"""
    address: str | None = None
    """of a Ray cluster that this machine belongs to; None for one on this machine, which ends with the scan"""

    def __post_init__(self) -> None:
        """Check choices.

        Raises:
            InputError: a value that is not offered, or an option of the other engine.
        """
        if self.engine not in ENGINES:
            raise InputError(f"--engine {self.engine}: use {' or '.join(ENGINES)}")
        if self.engine == LOCAL:
            for name, value in (("--workers", self.workers), ("--address", self.address)):
                if value is not None:
                    raise InputError(f"{name} {value}: is of --engine ray; add that, or leave it out")
        if (self.address or "").startswith("ray://"):
            raise InputError(
                f"--address {self.address}: Ray Data does not work through Ray's client; run geofilter on a machine of "
                "the cluster with --address auto, or have ray job submit do so"
            )
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers {self.workers}: must be at least 1")


HERE = Spread()
"""this process makes them"""


@dataclass(frozen=True, slots=True)
class Part:
    """The share of a scan that one of several processes makes: a stretch of its shards."""

    number: int
    """1-based"""
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """`3/8` is the third of eight parts.

        Raises:
            InputError: it is not of that form.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"--shard {text}: is not K/N with K from 1 to N; write 3/8 for the third of eight")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def numbers(self, n_shards: int) -> tuple[int, int]:
        """Its first shard, and the one behind its last."""
        return n_shards * (self.number - 1) // self.of, n_shards * self.number // self.of
