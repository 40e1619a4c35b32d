"""What a scan holds in memory, reckoned from numbers alone: nothing is read and nothing loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PRE_ACTIVATIONS = 1 << 25
"""dense pre-activations held at once, (tokens, d_sae) float32: 134 MB"""
MAX_CHUNK = 2048
"""tokens encoded at once at most"""
TOKEN_BUDGET = 2048
"""padded tokens in one forward pass on the CPU; part of what a bfloat16 result depends on, so it is fixed"""
GPU_TOKEN_BUDGET = 8192
"""the same on a GPU: fewer tokens are done before the CPU has handed them over"""
MAX_TOKENS = 1024
"""of a row, for the estimate"""
BFLOAT16, FLOAT32 = 2, 4
"""bytes of a number"""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes a scan needs, and for which number of layers."""

    layers: int
    model: int
    encoder: int
    working: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.model + self.encoder + self.working


def layers_needed(layer: int, layers: int) -> int:
    """Decoder layers that are loaded for a hook: one more than it reads, for the check of the pair."""
    return min(layer + 2, layers)


def working(d_in: int, d_sae: int, heads: int, tokens: int, max_tokens: int) -> int:
    """Bytes beside model and encoder: dense pre-activations and their copies, or the decoder that the check of the pair
    reads if it is more, and the attention scores of a full batch where attention is computed plainly, 6 bytes each.
    """
    encoding = max(3 * FLOAT32 * min(PRE_ACTIVATIONS, MAX_CHUNK * d_sae), FLOAT32 * d_in * d_sae)
    return encoding + heads * tokens * max_tokens * 6


def parameters(row: Mapping[str, Any], layers: int) -> int:
    """Parameters of a named target's first `layers` decoder layers and its embedding."""
    block = row["block"] if isinstance(row["block"], list) else [row["block"]]
    return int(row["embedding"] + sum(block[n % len(block)] for n in range(layers)))


def at_default(row: Mapping[str, Any]) -> Memory:
    """What a scan of a named target holds at its default layer and width on a GPU: model in bfloat16, encoder float32.

    Args:
        row: of targets.toml.
    """
    layers = layers_needed(row["layer"], row["layers"])
    return Memory(
        layers,
        parameters(row, layers) * BFLOAT16,
        row["d_in"] * row["features"] * FLOAT32,
        working(row["d_in"], row["features"], row["heads"], GPU_TOKEN_BUDGET, MAX_TOKENS),
    )
