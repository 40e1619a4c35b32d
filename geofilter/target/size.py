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
"""tokens in one forward pass on the CPU, with the padding of rows that are padded; part of what a bfloat16 result
depends on, so it is fixed
"""
GPU_TOKEN_BUDGET = 8192
"""the same on a GPU: fewer tokens are done before the CPU has handed them over"""
LEAST_TOKENS = 8
"""passes are made no smaller than this; most windows are longer, and one is read in any pass"""
PAIR_TOKENS = 4096
"""response tokens that the check of the pair reads, about: 3,000 with ordinary tokenizers"""
FOUND = 100 * 80
"""bytes of the activations of a token and of what is computed of them: 100 of them, 80 bytes each"""
LEFT, LEFT_BY_HALVES = 64 << 20, 48 << 20
"""what the check of the pair leaves behind on the CPU, and what it leaves more in half precision; as measured"""
REST = 32 << 20
"""what the CPU's allocator and libraries keep beside what is counted"""
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
    libraries: int = 0
    """interpreter, libraries and tokenizer, where the model is in the machine's memory too; nothing on a GPU"""

    @property
    def total(self) -> int:
        """All of it."""
        return self.model + self.encoder + self.working + self.libraries


@dataclass(frozen=True, slots=True)
class AtOnce:
    """How much is worked on at once."""

    tokens: int
    """in a pass of the model, about; one window at the least"""
    chunk: int
    """tokens that the SAE encodes"""

    def halved(self) -> AtOnce | None:
        """Half of it; None where that would be hardly any."""
        return AtOnce(self.tokens // 2, max(1, self.chunk // 2)) if self.tokens >= 2 * LEAST_TOKENS else None


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What decides the memory of a pass."""

    d_in: int
    """of the SAE"""
    d_sae: int
    hidden: int
    intermediate: int
    """of the MLP; of experts, of all that a token goes through"""
    heads: int
    head_dim: int
    item: int
    """bytes of one of the model's numbers"""
    stored: int
    """bytes of one of the SAE's numbers in its file"""
    queries: int
    """for which attention over a forest is computed at once"""
    columns: int
    """of the encoder that are widened at once; none of one in float32"""


def layers_needed(layer: int, layers: int) -> int:
    """Decoder layers that are loaded for a hook: one more than it reads, for the check of the pair."""
    return min(layer + 2, layers)


def usual(tokens: int, d_sae: int) -> AtOnce:
    """What is worked on at once where memory is not limited.

    Args:
        tokens: in a pass.
    """
    return AtOnce(tokens, usual_chunk(d_sae))


def usual_chunk(d_sae: int) -> int:
    """Tokens that an SAE encodes at once where memory is not limited."""
    return max(1, min(MAX_CHUNK, PRE_ACTIVATIONS // d_sae))


def working(d_in: int, d_sae: int, heads: int, at_once: AtOnce, max_tokens: int) -> int:
    """Bytes on a GPU beside model and encoder: dense pre-activations and their copies, or the decoder that the check of
    the pair reads if it is more, and the attention scores of a full pass where attention is computed plainly, 6 bytes
    each.
    """
    encoding = max(3 * FLOAT32 * at_once.chunk * d_sae, FLOAT32 * d_in * d_sae)
    return encoding + heads * max(at_once.tokens, max_tokens) * max_tokens * 6


def working_on_cpu(of: Dimensions, at_once: AtOnce, max_tokens: int) -> int:
    """Bytes on the CPU beside model, encoder and libraries: of a pass, of encoding it, or of the check of the pair,
    whichever is most.
    """
    tokens = max(at_once.tokens, max_tokens)
    width = of.heads * of.head_dim
    mlp = tokens * (4 * of.intermediate + 5 * of.hidden)
    attention = tokens * (5 * width + 4 * of.hidden) + 2 * of.heads * min(of.queries, tokens) * max_tokens
    a_pass = of.item * max(mlp, attention)
    vectors = FLOAT32 * of.d_in
    pre = (FLOAT32 + 1) * at_once.chunk * of.d_sae + vectors * min(of.columns, of.d_sae)
    encoding = tokens * (2 * vectors + FOUND) + pre
    # The vectors of three layers; then those of two, the third's and what is computed of it, and the decoder: mapped
    # from its file, widened where it is stored in less, and the rows of it that are needed.
    read = 3 * PAIR_TOKENS * vectors + a_pass
    decoder = of.d_in * of.d_sae * (of.stored + FLOAT32 + (0 if of.stored == FLOAT32 else FLOAT32))
    rebuilt = 5 * PAIR_TOKENS * vectors + PAIR_TOKENS * FOUND + max(pre, decoder)
    left = LEFT + (0 if of.item == FLOAT32 else LEFT_BY_HALVES)
    return REST + max(left + max(a_pass, encoding), read, rebuilt)


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
        working(row["d_in"], row["features"], row["heads"], usual(GPU_TOKEN_BUDGET, row["features"]), MAX_TOKENS),
    )
