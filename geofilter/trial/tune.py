"""LoRA fine-tuning of a target's whole model, with the same number of steps and tokens for every set of rows."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geofilter.config import Loading
from geofilter.encode.memory import too_little
from geofilter.encode.model import choose_device, pad_id, resolved_dtype
from geofilter.encode.tokens import Encoded, pad
from geofilter.encode.whole import response_logits, whole
from geofilter.errors import InputError, TargetError
from geofilter.trial.config import Recipe
from geofilter.trial.result import Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainingArguments


@dataclass(frozen=True, slots=True)
class Budget:
    """What every arm of a trial is given."""

    steps: int
    tokens: int
    """response tokens, on which the loss falls"""

    @classmethod
    def of(cls, full: Sequence[Encoded], recipe: Recipe) -> Budget:
        """The recipe's epochs over the full set."""
        tokens = round(recipe.epochs * sum(sum(row.mask) for row in full))
        return cls(max(1, round(recipe.epochs * len(full) / recipe.batch_rows)), tokens)

    def part(self, share: float) -> Budget:
        """As much of it, one step at least."""
        return Budget(max(1, round(self.steps * share)), max(1, round(self.tokens * share)))


def schedule(lengths: Sequence[int], budget: Budget, seed: int) -> list[list[int]]:
    """Which rows each step takes: shuffled passes over all rows up to the budget's tokens, cut into equal steps.

    Every set of rows gets exactly `budget.steps` steps and the budget's tokens to within half a row: a smaller set is
    seen more often.

    Args:
        lengths: response tokens of each row.

    Raises:
        InputError: no rows.
    """
    if not lengths:
        raise InputError("no rows are left to train on; drop fewer")
    order: list[int] = []
    used = 0.0
    for i in _passes(len(lengths), seed):
        if used + lengths[i] / 2 > budget.tokens and len(order) >= budget.steps:
            break
        order.append(i)
        used += lengths[i]
    ends = np.cumsum([lengths[i] for i in order])
    cuts = [0]
    for step in range(1, budget.steps):
        at = int(np.searchsorted(ends, ends[-1] * step / budget.steps, side="right"))
        # At least one row for this step, and one for each that follows.
        cuts.append(min(max(at, cuts[-1] + 1), len(order) - (budget.steps - step)))
    return [order[a:b] for a, b in zip(cuts, [*cuts[1:], len(order)], strict=True)]


def _passes(n: int, seed: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(n).tolist()


def _lora() -> Any:
    try:
        import peft
    except ImportError:
        raise InputError("fine-tuning needs peft: pip install 'geofilter[trial]'") from None
    return peft


def _adapted(peft: Any, model: Any, recipe: Recipe) -> Any:
    with warnings.catch_warnings():
        # Of transformers about a name that peft uses; nothing that a user could act on.
        warnings.simplefilter("ignore", FutureWarning)
        lora = peft.LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules="all-linear")
        return peft.get_peft_model(model, lora)


def _arguments(scratch: str, recipe: Recipe, budget: Budget, loading: Loading, seed: int) -> TrainingArguments:
    """How transformers' loop trains: one batch a step, nothing logged, nothing kept."""
    from transformers import TrainingArguments

    dtype = resolved_dtype(loading)
    arguments = TrainingArguments(
        scratch, max_steps=budget.steps, per_device_train_batch_size=1, learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear", warmup_steps=budget.steps // 10, seed=seed,
        bf16=dtype == "bfloat16", fp16=dtype == "float16", use_cpu=choose_device(loading.device).type == "cpu",
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
        remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip
    arguments._n_gpu = min(1, arguments.n_gpu)  # one batch is one step; more GPUs only through --device-map
    return arguments


def tune(
    folder: Path,
    rows: Sequence[Encoded],
    recipe: Recipe,
    budget: Budget,
    loading: Loading,
    seed: int,
    adapter: Path | None = None,
) -> tuple[Any, PreTrainedTokenizerBase, Training]:
    """Fine-tune the model of a folder on rows and merge the update into its weights.

    The loss is the mean over a step's response tokens. In bfloat16 and float16 the LoRA matrices stay in float32.

    Args:
        seed: of the order of rows and of LoRA's first values.
        adapter: folder of a LoRA adapter to merge into the model first.

    Returns:
        the tuned model, its tokenizer, and steps, tokens, rows seen and the mean loss of the first and last tenth.

    Raises:
        InputError: no rows, or peft is not installed.
        TargetError: not a loadable model, not enough memory, or a loss that is not finite.
    """
    peft = _lora()  # before the model is loaded
    from transformers import PrinterCallback, Trainer, set_seed

    set_seed(seed)
    model, tokenizer = whole(folder, loading, adapter)
    adapted = _adapted(peft, model, recipe)
    plan = schedule([sum(row.mask) for row in rows], budget, seed)
    losses: list[float] = []

    class ResponseTrainer(Trainer):
        """transformers' loop, with the loss on the response mask and the steps of `schedule`."""

        def _get_train_sampler(self, *_args: Any, **_kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(plan)

        def compute_loss(self, model: Any, inputs: Any, *_args: Any, **_kwargs: Any) -> Any:
            logits, targets, _ = response_logits(model, inputs["batch"])
            loss = torch.nn.functional.cross_entropy(logits, targets)
            losses.append(loss.item())
            return loss

    with tempfile.TemporaryDirectory() as scratch:
        arguments = _arguments(scratch, recipe, budget, loading, seed)
        trainer = ResponseTrainer(
            adapted, arguments, train_dataset=plan,
            data_collator=lambda steps: {"batch": pad(rows, steps[0], pad_id(tokenizer, model))},
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for data
        try:
            trainer.train()
        except torch.OutOfMemoryError:
            raise too_little(choose_device(loading.device)) from None
    if not np.isfinite(losses).all():
        raise TargetError(f"{folder}: the loss is not finite; use a lower --learning-rate or --dtype float32")
    return adapted.merge_and_unload().eval(), tokenizer, _training(losses, plan, rows)


def _training(losses: Sequence[float], plan: Sequence[Sequence[int]], rows: Sequence[Encoded]) -> Training:
    tenth = max(1, len(losses) // 10)
    return {
        "steps": len(losses),
        "tokens": sum(sum(rows[i].mask) for step in plan for i in step),
        "rows_seen": sum(map(len, plan)),
        "first_loss": float(np.mean(losses[:tenth])),
        "last_loss": float(np.mean(losses[-tenth:])),
    }
