"""Fine-tune on kept rows without the sentences that `geofilter filter --mask` names: no loss falls on their tokens.

    geofilter filter --drop 10% --mask mask.jsonl
    python examples/train_with_mask.py --run RUN --kept data.filtered.jsonl --mask mask.jsonl --model FOLDER --steps 8

The run says how its rows are read (--fields, --train, --system and so on). Needs torch and transformers. `tokenized`
makes what TRL's SFTTrainer takes too: a data set with `input_ids` counts as tokenised there, and its `labels` are used
as they are (TRL 1.16). `completion_mask` is the same as zeros and ones, for `completion_only_loss=True`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from geofilter.encode.tokens import encode_row
from geofilter.rows.records import usable_rows
from geofilter.run.store import Run

IGNORED = -100
"""label of a token that no loss falls on"""


def tokenized(
    run: Run, kept: Path, mask: Path, tokenizer: Any, max_length: int = 1024
) -> Iterator[dict[str, list[int]]]:
    """Each kept row as `input_ids`, `labels` and `completion_mask`, cut to a length.

    The loss falls on the tokens that a scan scores and on the special token that ends each answer, less what the mask
    leaves out.
    """
    with mask.open(encoding="utf-8") as lines:
        left_out = {line["sha256"]: line for line in map(json.loads, lines)}
    special = set(tokenizer.all_special_ids)
    for row in usable_rows(kept, run.reading):
        line = left_out[row.sha256]
        encoded = encode_row(row, tokenizer, max_length, run.manifest["encoding"]["system"])
        ids, trained = list(encoded.ids), list(encoded.mask)
        for i in range(1, len(ids)):
            trained[i] |= encoded.mask[i - 1] and ids[i] in special
        if line["tokens"] is None:
            raise SystemExit(f"{mask}: has no positions of tokens; filter where the scan's model is at hand")
        if [ids[i] for i in line["tokens"] if i < len(ids)] != line["ids"]:
            raise SystemExit(f"{mask}: {line['file']}, line {line['line']}: this tokenizer is not {line['tokenizer']}")
        for i in line["tokens"]:
            trained[i] = False
        yield {
            "input_ids": ids[:max_length],
            "labels": [token if on else IGNORED for token, on in zip(ids, trained, strict=True)][:max_length],
            "completion_mask": [int(on) for on in trained][:max_length],
        }


def collate(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Rows of `tokenized` as a batch, padded on the right."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(values: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([of + [fill] * (width - len(of)) for of in values])

    return {
        "input_ids": padded([row["input_ids"] for row in rows], pad),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": padded([row["labels"] for row in rows], IGNORED),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="folder of the run that was cut")
    parser.add_argument("--kept", type=Path, required=True, help="kept rows, as geofilter filter wrote them")
    parser.add_argument("--mask", type=Path, required=True, help="what --mask wrote with them")
    parser.add_argument("--model", required=True, help="the model that the scan read the rows with")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model)
    rows = [
        row for row in tokenized(Run.open(args.run), args.kept, args.mask, tokenizer) if any(row["completion_mask"])
    ]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trained = sum(sum(row["completion_mask"]) for row in rows)
    print(f"{len(rows)} rows, {trained} tokens with a loss")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for step in range(args.steps):
        batch = [rows[(2 * step + i) % len(rows)] for i in range(2)]
        loss = model(**collate(batch, pad)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
