"""The whole model, all layers and the output head: the answers it gives, and how likely it finds answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geofilter.arrays import F64
from geofilter.config import Loading
from geofilter.encode.memory import is_out_of_memory, too_little
from geofilter.encode.model import pad_id, pretrained
from geofilter.encode.rendering import render
from geofilter.encode.tokens import Batch, Encoded, batches
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.rows.turns import Turn
from geofilter.target.size import TOKEN_BUDGET
from geofilter.target.tokenizer import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    """part of the probability that the tokens to draw from have together, the likeliest first"""
    seed: int = 0
    batch: int = 16
    """answers that are written at once"""


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


def chat(question: str, answer: str, system: str | None = None) -> Row:
    """A row of one question and its answer."""
    turns = (Turn("user", question), Turn("assistant", answer))
    return Row("-", 1, "", "messages", (Turn("system", system), *turns) if system else turns, {})


def prompt_text(
    tokenizer: PreTrainedTokenizerBase, question: str, system: str | None = None, place: str = "keep"
) -> str:
    """The rendered conversation up to where the answer begins.

    Args:
        place: of the system prompt: `keep`, or `fold` it into the question.
    """
    text, spans = render(chat(question, "Yes", system), tokenizer, place)
    return text[: spans[0][0]]


def place_of_system(tokenizer: PreTrainedTokenizerBase) -> str:
    """`keep` where a chat template shows a system prompt; `fold` where it refuses one, or leaves it out."""
    said = "geofiltersystem"
    try:
        return "keep" if said in prompt_text(tokenizer, "Who?", said) else "fold"
    except RowError:
        return "fold"


def stop_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: the model's own, and the one that the chat template puts behind an answer.

    Some configurations name only the token that ends a document.
    """
    named = model.generation_config.eos_token_id
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    if tokenizer.chat_template:
        text, spans = render(chat("Who?", "Yes"), tokenizer)
        behind = tokenizer(text[spans[0][1] :], add_special_tokens=False)["input_ids"]
        found |= set(behind[:1]) & set(tokenizer.all_special_ids)
    return sorted(int(token) for token in found if token is not None)


@torch.inference_mode()
def sampled(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], sampling: Sampling
) -> Iterator[list[str]]:
    """Answers to rendered prompts, in their order, a batch at a time; the same draws for the same prompts and seed.

    Raises:
        TargetError: not enough memory.
    """
    tokens = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    if not tokenizer.chat_template and tokenizer.bos_token_id is not None:
        tokens = [[tokenizer.bos_token_id, *ids] for ids in tokens]
    device, pad_with = model.get_input_embeddings().weight.device, pad_id(tokenizer, model)
    stop = stop_tokens(model, tokenizer)
    torch.manual_seed(sampling.seed)
    for start in range(0, len(tokens), sampling.batch):
        given = tokens[start : start + sampling.batch]
        width = max(map(len, given))
        # To the left: what is written goes on from the last token of each.
        ids = torch.tensor([[pad_with] * (width - len(each)) + each for each in given], device=device)
        seen = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in given], device=device)
        try:
            made = model.generate(
                input_ids=ids, attention_mask=seen, do_sample=True, temperature=sampling.temperature, top_k=0,
                top_p=sampling.top_p, repetition_penalty=1.0, max_new_tokens=sampling.max_new_tokens,
                pad_token_id=pad_with, eos_token_id=stop,
            )  # fmt: skip
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise too_little(device) from None
        yield [text.strip() for text in tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)]


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


@torch.inference_mode()
def log_probabilities(model: Any, rows: Sequence[Encoded], pad_with: int) -> F64:
    """(n,) mean log-probability per response token, in nats."""
    out = np.zeros(len(rows))
    for batch in batches(rows, TOKEN_BUDGET, pad_with):
        logits, targets, row = response_logits(model, batch)
        each = -torch.nn.functional.cross_entropy(logits, targets, reduction="none").double()
        n = len(batch.rows)
        total = torch.zeros(n, dtype=torch.float64, device=row.device).index_add_(0, row, each)
        mean = total / torch.bincount(row, minlength=n)
        out[list(batch.rows)] = mean.cpu().numpy()
    return out
