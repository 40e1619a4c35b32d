"""Peak memory of a scan on the CPU beside `geofilter doctor`'s estimate, and whether it grows with the rows.

    python -m benchmarks.memory --work WORK
    python -m benchmarks.memory --work WORK --only llama,rows

From the repository's root; Linux. Each line is a fresh process, which checks the pair, loads model and SAE and encodes
rows, some of them longer than a window; its peak is the largest resident memory that the system has seen, pages of
mapped files included. Models and SAEs are random; WORK is left behind (1.5 GB).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """A target, and how it is read."""

    kind: str
    """gemma2 or llama"""
    vocab: int
    hidden: int
    intermediate: int
    heads: int
    head_dim: int
    d_sae: int
    architecture: str
    stored: str
    """type of the model's weights in its file"""
    dtype: str
    sae_dtype: str = "float32"
    max_memory: str | None = None
    rows: int = 8
    letters: int = 5000
    """of a response"""


CASES = {
    "llama": Case("llama", 200_000, 256, 2048, 4, 64, 8192, "topk", "bfloat16", "float32"),
    "llama, mapped": Case("llama", 200_000, 256, 2048, 4, 64, 8192, "topk", "float32", "float32"),
    "gemma": Case("gemma2", 100_000, 384, 3072, 4, 96, 16_384, "topk", "bfloat16", "float32"),
    "gemma, bfloat16": Case("gemma2", 100_000, 384, 3072, 4, 96, 16_384, "topk", "bfloat16", "bfloat16", "bfloat16"),
    "wide": Case("llama", 200_000, 768, 6144, 12, 64, 65_536, "topk", "bfloat16", "float32"),
    "wide, 2GB": Case("llama", 200_000, 768, 6144, 12, 64, 65_536, "topk", "bfloat16", "float32", max_memory="2GB"),
    "rows, 1000": Case("llama", 8000, 32, 64, 4, 8, 128, "topk", "float32", "float32", rows=1000, letters=200),
    "rows, 50000": Case("llama", 8000, 32, 64, 4, 8, 128, "topk", "float32", "float32", rows=50_000, letters=200),
}
"""random weights of up to three layers; SAEs of up to 65,536 features"""
HOOK = 1


def make(case: Case, folder: Path) -> None:
    """The case's model with its tokenizer, its SAE and its rows."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Gemma2Config, Gemma2Model, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    from geofilter.rows.shipped import background_rows

    chat = background_rows()
    torch.manual_seed(0)
    config, build = {"gemma2": (Gemma2Config, Gemma2Model), "llama": (LlamaConfig, LlamaModel)}[case.kind]
    dtype = getattr(torch, case.stored)
    about = config(
        vocab_size=case.vocab, hidden_size=case.hidden, intermediate_size=case.intermediate,
        num_hidden_layers=HOOK + 2, num_attention_heads=case.heads, num_key_value_heads=case.heads // 2,
        head_dim=case.head_dim, max_position_embeddings=8192, dtype=dtype,
    )  # fmt: skip
    build(about).to(dtype).save_pretrained(folder / "model")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([f"{row.prompt}\n{row.response}" for row in chat], trainer)
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>").save_pretrained(
        folder / "model"
    )
    (folder / "sae").mkdir()
    directions = torch.nn.functional.normalize(torch.randn(case.d_sae, case.hidden), dim=1)
    weights = {
        "W_enc": directions.T.contiguous(), "W_dec": directions, "b_enc": torch.zeros(case.d_sae),
        "b_dec": torch.zeros(case.hidden), "threshold": torch.full((case.d_sae,), 3.0),
    }  # fmt: skip
    if case.architecture == "topk":
        del weights["threshold"]
    save_file(weights, folder / "sae" / "sae_weights.safetensors")
    cfg = {
        "architecture": case.architecture, "k": min(50, case.d_sae // 2), "d_in": case.hidden, "d_sae": case.d_sae,
        "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": False, "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"model_name": "model", "hook_name": f"blocks.{HOOK}.hook_resid_post"},
    }  # fmt: skip
    (folder / "sae" / "cfg.json").write_text(json.dumps(cfg))
    text = "\n\n".join(row.response for row in chat)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as out:
        for i in range(case.rows):
            start = 97 * i % (len(text) - case.letters)
            row = {"prompt": f"Question {i}", "completion": text[start : start + case.letters]}
            out.write(json.dumps(row) + "\n")


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """Estimate and peak in this process."""
    from geofilter.config import Loading, ScanConfig, TargetChoice
    from geofilter.encode.need import fitting, memory_needed
    from geofilter.encode.pair import explained_variance
    from geofilter.encode.reader import FeatureReader
    from geofilter.run.store import Run
    from geofilter.scanning.plan import drafted
    from geofilter.scanning.ready import Job
    from geofilter.scanning.shards import Encoder, Telling, encode_shards
    from geofilter.target.resolve import resolve

    class Shards(Run):
        """Has no manifest."""

        mode = 0o644

    def quiet(*_: Any) -> None:
        return None

    loading = Loading("cpu", case.dtype, case.sae_dtype, max_memory=case.max_memory)
    target = resolve(TargetChoice(str(folder / "model"), str(folder / "sae")), offline=True)
    at_once = fitting(target, loading)
    need = memory_needed(
        target.model_dir, target.layer, case.hidden, case.d_sae, loading, 1024, at_once, target.sae_dir
    )  # fmt: skip
    explained_variance(target, loading)
    pair = peak()
    reader = FeatureReader(target, loading)
    run = Shards(folder / "run")
    (run.path / "features").mkdir(parents=True, exist_ok=True)
    for old in run.parts:
        old.unlink()
    config = ScanConfig((str(folder / "rows.jsonl"),), target.choice, loading)
    draft = drafted(config)
    plan = draft.write(run.path)
    job = Job.of(config, draft.files, plan.path, [(0, plan.n_shards)], "f")
    encoder = Encoder(draft.files, lambda: reader, [])
    encode_shards(job, run, encoder, lambda: reader, Telling(quiet, quiet, quiet, quiet))
    return {
        "model": need.model, "encoder": need.encoder, "working": need.working, "libraries": need.libraries,
        "estimate": need.total, "pair": pair, "peak": peak(), "tokens": at_once.tokens,
    }  # fmt: skip


def peak() -> int:
    """Bytes that the process held at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for models, SAEs and rows")
    parser.add_argument("--only", default="", help="beginnings of the cases that are measured, with commas between")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, name = options.step
        folder = options.work / name.replace(", ", "-")
        print(json.dumps(make(CASES[name], folder) if step == "make" else measured(CASES[name], folder)))
        return
    wanted = tuple(options.only.split(","))
    print(f"{platform.machine()}, Python {platform.python_version()}; GB, largest resident memory of a fresh process\n")
    print("| | model | encoder | working | libraries | estimate | tokens at once | check of the pair | peak | estimate "
          "above it |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")  # fmt: skip
    for name in CASES:
        if not name.startswith(wanted):
            continue
        folder = options.work / name.replace(", ", "-")
        base = [sys.executable, "-m", "benchmarks.memory", "--work", str(options.work), "--step"]
        if not (folder / "rows.jsonl").is_file():
            folder.mkdir(parents=True)
            subprocess.run([*base, "make", name], check=True, stdout=subprocess.DEVNULL)
        done = subprocess.run([*base, "measure", name], check=True, stdout=subprocess.PIPE)
        found = json.loads(done.stdout.splitlines()[-1])
        parts = " | ".join(
            f"{found[key] / 1e9:.3f}" for key in ("model", "encoder", "working", "libraries", "estimate")
        )
        above = found["estimate"] / found["peak"] - 1
        print(f"| {name} | {parts} | {found['tokens']:,} | {found['pair'] / 1e9:.3f} | {found['peak'] / 1e9:.3f} | "
              f"{above:+.1%} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
