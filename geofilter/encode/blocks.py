"""The decoder blocks of a model: which they are, and whether each is run once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from geofilter.errors import TargetError


def decoder_layers(model: torch.nn.Module, path: Path) -> torch.nn.ModuleList:
    """The list of decoder blocks, by the model's own structure: of a multimodal model its text decoder's.

    A vision tower can have as many blocks, so they are not told apart by their number: they are the outermost list of
    blocks, which transformers gives a class of their own, within the module that has the text's configuration.

    Raises:
        TargetError: there is none.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer as Block

    whole: Any = model.config
    text = whole.get_text_config(decoder=True)
    inner = next(m for m in model.modules() if isinstance(getattr(m, "config", None), type(text)))
    lists = {name: m for name, m in inner.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m)}
    found = [name for name, m in lists.items() if all(isinstance(block, Block) for block in m)]
    count = int(text.num_hidden_layers)
    if not found or len(lists[name := min(found, key=lambda each: each.count("."))]) != count:
        raise TargetError(f"{path}: no list of {count} decoder layers in {type(inner).__name__}; it cannot be hooked")
    return lists[name]


class Runs:
    """Counts how often each of a model's first decoder blocks is run.

    Of a decoder that runs blocks in loops the first ones alone compute something else than within the whole, and what
    such a block puts out is not one vector a token.

    Args:
        blocks: from the first one on.
    """

    def __init__(self, blocks: Iterable[torch.nn.Module]) -> None:
        self._counts: list[int] = []
        for block in blocks:
            self._watch(block)

    def _watch(self, block: torch.nn.Module) -> None:
        counts, layer = self._counts, len(self._counts)
        counts.append(0)

        def before(_module: Any, _args: Any) -> None:
            counts[layer] += 1

        block.register_forward_pre_hook(before)

    def clear(self) -> None:
        """Count from nought."""
        self._counts[:] = [0] * len(self._counts)

    def refuse_loops(self, path: Path) -> None:
        """Nothing where each block was run once.

        Args:
            path: of the model, for the message.

        Raises:
            TargetError: a block was run more often, or not at all.
        """
        odd = [f"layer {layer} {count} times" for layer, count in enumerate(self._counts) if count != 1]
        if odd:
            raise TargetError(
                f"{path}: the model runs some layers in loops ({odd[0]} a pass), so its first layers alone compute "
                "something else; give a model that runs each layer once"
            )
