"""The whole model of a folder: every layer and the output head, and what it says at some places of a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from geofilter.config import Loading
from geofilter.encode.model import pretrained
from geofilter.encode.tokens import Batch
from geofilter.target.tokenizer import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def whole(folder: Path, loading: Loading, adapter: Path | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """The causal model of a folder, and its tokenizer.

    Args:
        adapter: folder of a LoRA adapter to merge into it.

    Raises:
        TargetError: not a loadable model, or not enough memory on the GPU.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return pretrained(AutoModelForCausalLM, folder, loading, adapter), tokenizer_of(folder)


def response_logits(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits at the positions that predict a response token.

    Returns:
        logits (n, vocabulary) float32; the tokens they should give (n,); the batch's row of each (n,).
    """
    response = batch.response_mask.flatten().nonzero()[:, 0]
    logits = logits_before(model, batch.input_ids, batch.attention_mask, response)
    targets, row = batch.input_ids.flatten()[response], response // batch.input_ids.shape[1]
    return logits, targets.to(logits.device), row.to(logits.device)


def logits_before(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Logits (n, vocabulary) in float32 of the tokens at some places, which the model says at the place before each.

    Only those reach the output head: over a large vocabulary the others would take most of the memory, for nothing.
    The model's own forward applies the head, so that what follows it (a soft cap, a scale) is applied too.

    Args:
        at: (n,) places in the B x T tokens; none is the first of its row.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    device = inner.get_input_embeddings().weight.device

    def only_those(_head: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (args[0].flatten(0, 1)[(at - 1).to(args[0].device)],)

    hook = inner.get_output_embeddings().register_forward_pre_hook(only_those)
    try:
        out = model(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), use_cache=False).logits
    finally:
        hook.remove()
    found: torch.Tensor = out.float()
    return found
