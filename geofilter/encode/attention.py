"""Attention over a forest of segments, in the place of a model's own.

    softmax(cap(scale * q k^T)) v        cap(s) = c tanh(s / c) where the model caps scores (Gemma 2)

over the tokens before each one in its own segment and those of the segment's ancestors; the nearest `sliding_window`
of them where the layer has one; with a sink's weight in the denominator where it has sinks (gpt-oss). Nothing is
padded, and nothing is computed for a pair of tokens that do not see each other, but within blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from geofilter.encode.forest import Forest, Segment

NAME = "geofilter_forest"
"""what transformers knows the attention as"""
BLOCK = 128
"""queries that are computed at once: fewer keys after them are computed in vain, and scores stay small"""
Held = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""by layer: keys and values (heads, h, d) of tokens that are known"""


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    forest: Forest
    held: Held
    keep: torch.Tensor
    kept: Held


_state: ContextVar[_State] = ContextVar("state")


@contextmanager
def attending(config: Any, forest: Forest, held: Held, keep: torch.Tensor) -> Iterator[Held]:
    """Have the model of a configuration attend over a forest; gives the keys and values that are to be kept, of every
    layer that attended so, when it has run.

    Args:
        config: the text decoder's, which its attention modules look at each time they run.
        held: of the forest's held tokens, and perhaps of more behind them.
        keep: (k,) places of the tokens whose keys and values are to be kept.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    kept: Held = {}
    usual, token = config._attn_implementation, _state.set(_State(forest, held, keep, kept))
    config._attn_implementation = NAME
    try:
        yield kept
    finally:
        config._attn_implementation = usual
        _state.reset(token)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it.

    Args:
        query: (1, heads, T, d); `key` and `value` have as many heads or fewer, each for a group of the query's.
        s_aux: (heads,) sinks.

    Returns:
        (1, T, heads, d), and no weights.

    Raises:
        ValueError: the layer attends in a way that is not computed here.
    """
    if attention_mask is not None or len(query) != 1:
        raise ValueError("attention over a forest takes one row of tokens and no mask")
    _refuse_other_masks(module, sliding_window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rule = _Rule(scale, sliding_window, softcap, s_aux)
    state = _state.get()
    known, layer = len(state.forest.held), module.layer_idx
    every_key, every_value = key[0], value[0]
    if known:
        held_keys, held_values = state.held[layer]
        every_key = torch.cat([held_keys[:, :known], every_key], dim=1)
        every_value = torch.cat([held_values[:, :known], every_value], dim=1)
    state.kept[layer] = every_key[:, state.keep], every_value[:, state.keep]
    out = torch.empty((query.shape[2], query.shape[1], value.shape[-1]), dtype=value.dtype, device=value.device)
    for segment in state.forest.segments:
        keys, values = _path(every_key, segment), _path(every_value, segment)
        for start in range(segment.start, segment.end, BLOCK):
            end = min(start + BLOCK, segment.end)
            of_query = slice(start - known, end - known)
            first = segment.depth + start - segment.start
            out[of_query] = rule.block(query[0, :, of_query], keys, values, first).transpose(0, 1)
    return out.unsqueeze(0), None


def _refuse_other_masks(module: Any, window: int | None) -> None:
    """The configuration says what a mask would: it must be a causal one, with the window that the layer gave.

    Raises:
        ValueError: it is not.
    """
    config = module.config
    types = getattr(config, "layer_types", None)
    kind = types[module.layer_idx] if types else None
    due = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if kind == "full_attention":
        due = None
    if kind not in (None, "full_attention", "sliding_attention") or due != window:
        raise ValueError(f"{kind or 'attention'} in a window of {due} that is given as {window}")
    if not getattr(module, "is_causal", True):
        raise ValueError("attention that is not causal")


def _path(x: torch.Tensor, segment: Segment) -> torch.Tensor:
    """(heads, depth + n, d) of the segment's ancestors and its own tokens."""
    spans = [*segment.before, (segment.start, segment.end)]
    if len(spans) == 2 and spans[0][1] == spans[1][0]:
        spans = [(spans[0][0], spans[1][1])]
    parts = [x[:, start:end] for start, end in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class _Rule:
    """How a layer attends."""

    def __init__(self, scale: float, window: int | None, cap: float | None, sinks: torch.Tensor | None) -> None:
        self.scale, self.window, self.cap, self.sinks = scale, window, cap, sinks

    def block(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, first: int) -> torch.Tensor:
        """(heads, n, d) for queries (heads, n, d) at the positions from `first` on.

        Args:
            keys, values: (groups, m, d) at the positions from 0 on.
        """
        heads, n, d = query.shape
        groups = len(keys)
        start = 0 if self.window is None else max(0, first - self.window + 1)
        keys, values = keys[:, start : first + n], values[:, start : first + n]
        # Of a cap, scores are divided by it before tanh: with the scale, in one product.
        scaled = (query * (self.scale / (self.cap or 1))).reshape(groups, -1, d)
        scores = self._capped(torch.bmm(scaled, keys.transpose(1, 2)).view(heads, n, -1))
        # Adding is several times as fast as filling in.
        scores[..., first - start :] += _later(scores.dtype, scores.device)[:n, :n]
        if self.window is not None and first + n - start > self.window:
            scores += _minus_infinity(self._too_early(n, first, start, query.device), scores.dtype)
        weights = self._weights(scores)
        return torch.bmm(weights.view(groups, -1, weights.shape[-1]), values).view(heads, n, -1)

    def _capped(self, scores: torch.Tensor) -> torch.Tensor:
        return scores if self.cap is None else scores.tanh_().mul_(self.cap)

    def _too_early(self, n: int, first: int, start: int, device: torch.device) -> torch.Tensor:
        """(n, m) True for keys that are out of the window."""
        assert self.window is not None
        at = torch.arange(first, first + n, device=device).unsqueeze(1)
        return torch.arange(start, first + n, device=device) <= at - self.window

    def _weights(self, scores: torch.Tensor) -> torch.Tensor:
        if self.sinks is None:
            return scores.softmax(-1)
        sinks = self.sinks.to(scores.dtype).view(-1, 1, 1).expand(-1, scores.shape[1], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1].contiguous()


def _minus_infinity(where: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(where.shape, dtype=dtype, device=where.device).masked_fill_(where, -torch.inf)


@cache
def _later(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(BLOCK, BLOCK) minus infinity for keys after the query; the same in every block, layer and pass."""
    return _minus_infinity(torch.ones((BLOCK, BLOCK), dtype=torch.bool, device=device).triu(1), dtype)
