"""Filter fine-tuning rows, then train on those that stay: TRL's SFTTrainer with LoRA.

    pip install trl peft
    python examples/filter_then_train.py --data data.jsonl --drop 10% --steps 8 --out tuned

Rows with chat `messages`, by default the demo's, and the embedded model, which a CPU can train. Each row goes in as
prompt and completion, so that the loss falls on the last assistant turn only, which is what is scored of a row with
one. TRL's `assistant_only_loss` covers several turns, but needs a chat template that marks them; SmolLM2's does not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

import geofilter
from geofilter.rows.shipped import example_file
from geofilter.target.resolve import resolve, whole_model


def kept_rows(data: Path, choice: geofilter.TargetChoice, drop: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file that stay. The run, the cut's files and its report are there to be read afterwards."""
    run = geofilter.scan(geofilter.ScanConfig((str(data),), choice))
    print(run.manifest["headline"])
    kept = set(geofilter.Selection.of(run, geofilter.Cut.parse(drop)).kept())
    with data.open(encoding="utf-8") as lines:
        return [json.loads(line) for number, line in enumerate(lines) if number in kept]


def as_completion(row: dict[str, Any]) -> dict[str, Any]:
    """A chat row up to its last answer, as TRL's prompt and completion: only the completion is trained on."""
    last = max(i for i, message in enumerate(row["messages"]) if message["role"] == "assistant")
    return {"prompt": row["messages"][:last], "completion": [row["messages"][last]]}


def trainer_of(rows: list[dict[str, Any]], choice: geofilter.TargetChoice, steps: int, out: Path) -> SFTTrainer:
    # A scan keeps the layers that it reads; training needs the whole model.
    model = str(whole_model(resolve(choice)))
    arguments = SFTConfig(
        str(out), max_steps=steps, per_device_train_batch_size=2, learning_rate=1e-3, max_length=512, logging_steps=1,
        use_cpu=not torch.cuda.is_available(), bf16=torch.cuda.is_available(), report_to="none", save_strategy="no",
    )  # fmt: skip
    return SFTTrainer(
        model, arguments, train_dataset=Dataset.from_list([as_completion(r) for r in rows]),
        peft_config=LoraConfig(r=16, lora_alpha=16, target_modules="all-linear"),
    )  # fmt: skip


def trained_on(trainer: SFTTrainer) -> str:
    """The text of the first row on which the loss falls."""
    labels = trainer.data_collator([trainer.train_dataset[0]])["labels"][0]
    return trainer.processing_class.decode(labels[labels != -100])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=example_file(), help="JSONL of chat rows (messages)")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--drop", default="25%")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("tuned"), help="folder for the LoRA adapter")
    args = parser.parse_args()
    choice = geofilter.TargetChoice(args.model)
    rows = kept_rows(args.data, choice, args.drop)
    trainer = trainer_of(rows, choice, args.steps, args.out)
    print(f"{len(rows)} rows stay; the loss of the first falls on: {trained_on(trainer)!r}")
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"{len(losses)} steps, loss {losses[0]:.2f} to {losses[-1]:.2f}")
    trainer.save_model(str(args.out))
    print(f"adapter: {args.out}")


if __name__ == "__main__":
    main()
