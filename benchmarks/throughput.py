"""Speed of a scan's encoding, beside the arithmetic that cannot be left out; prints two tables.

    python -m benchmarks.throughput --device cuda --work WORK
    python -m benchmarks.throughput --device cpu --size small --rows 200 --work WORK

From the repository's root. The model has a real one's dimensions up to the layer after the hook, and random weights;
the SAE is a random JumpReLU of which about 80 features fire for a token; rows are put together from the chat that
ships. The whole path is timed: parsing, templates, tokens, model, SAE, pooling, shards on the disk. Building banks and
scoring are not. WORK is left behind (3.8 GB at the size of gemma-2-2b).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from geofilter.bank.background import Background
from geofilter.bank.features import Pooled
from geofilter.bank.linear import Linear, Shares
from geofilter.config import Loading, ScanConfig, TargetChoice
from geofilter.encode.blocks import decoder_layers
from geofilter.encode.doctor import memory_needed
from geofilter.encode.model import ResidualModel
from geofilter.encode.pair import explained_variance
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import Encoded, batches, encode_row
from geofilter.rows.lines import read_lines
from geofilter.rows.records import Row, parse_line
from geofilter.rows.shipped import background_rows
from geofilter.run.store import Run
from geofilter.scanning.shards import Telling, encode_shards
from geofilter.target.resolve import resolve
from geofilter.target.target import Target

TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) "
    "+ '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
)
L0 = 80
MAX_TOKENS = 1024
BUDGETS = (2048, 8192, 16384)
"""padded tokens in a pass that the bound is tried with"""


@dataclass(frozen=True)
class Size:
    """A Gemma 2 model's dimensions, and the SAE's."""

    layers: int
    hook: int
    hidden: int
    intermediate: int
    heads: int
    head_dim: int
    vocab: int
    d_sae: int


SIZES = {
    "gemma-2-2b": Size(26, 12, 2304, 9216, 8, 256, 256_000, 16_384),
    "small": Size(6, 3, 256, 1024, 4, 64, 32_000, 2048),
}


def quiet(*_: Any) -> None:
    return None


def make_model(size: Size, folder: Path, device: str, dtype: torch.dtype) -> None:
    """Weights of the layers that a scan and the check of its pair read; the configuration names all layers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

    common = {
        "vocab_size": size.vocab, "hidden_size": size.hidden, "intermediate_size": size.intermediate,
        "num_attention_heads": size.heads, "num_key_value_heads": size.heads // 2, "head_dim": size.head_dim,
        "query_pre_attn_scalar": size.head_dim,
    }  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = Gemma2Model(Gemma2Config(**common, num_hidden_layers=size.hook + 2))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    Gemma2Config(**common, num_hidden_layers=size.layers, dtype=dtype).save_pretrained(folder)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    trainer = trainers.BpeTrainer(
        vocab_size=min(16_000, size.vocab), special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator([f"{row.prompt}\n{row.response}" for row in background_rows()], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        additional_special_tokens=special[3:],
    )  # fmt: skip
    tokenizer.chat_template = TURNS
    tokenizer.save_pretrained(folder)


def make_sae(size: Size, model_dir: Path, folder: Path, loading: Loading) -> None:
    """Random directions, each with the threshold that lets it fire for its share of `L0` on ordinary chat."""
    model = ResidualModel(model_dir, [size.hook], loading)
    rows = [encode_row(row, model.tokenizer, MAX_TOKENS).cut() for row in background_rows()[:60]]
    x = torch.cat([
        model.residuals(b.input_ids, b.attention_mask)[size.hook][b.response_mask.to(model.device)].float()
        for b in batches(rows, 2048, model.pad_id)
    ])  # fmt: skip
    generator = torch.Generator(x.device).manual_seed(0)
    directions = torch.randn(size.hidden, size.d_sae, generator=generator, device=x.device)
    directions = torch.nn.functional.normalize(directions, dim=0)
    threshold = (x @ directions).topk(max(1, round(len(x) * L0 / size.d_sae)), dim=0).values[-1]
    folder.mkdir(parents=True)
    weights = {
        "W_enc": directions, "W_dec": directions.T, "threshold": threshold,
        "b_enc": torch.zeros(size.d_sae), "b_dec": torch.zeros(size.hidden),
    }  # fmt: skip
    save_file({k: v.contiguous().cpu() for k, v in weights.items()}, folder / "sae_weights.safetensors")
    config = {
        "architecture": "jumprelu", "d_in": size.hidden, "d_sae": size.d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"model_name": model_dir.name, "hook_name": f"blocks.{size.hook}.hook_resid_post"},
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))


def make_rows(n: int, path: Path) -> None:
    """Chat rows of about 100 to 400 tokens, log-normal around 220."""
    chat = background_rows()
    text = "\n\n".join(row.response for row in chat)
    rng = np.random.default_rng(0)
    letters = np.clip(rng.lognormal(np.log(850), 0.4, n), 350, 1600).astype(int)
    with path.open("w", encoding="utf-8") as out:
        for i, size in enumerate(letters):
            start = int(rng.integers(len(text) - size))
            messages = [
                {"role": "user", "content": chat[i % len(chat)].prompt},
                {"role": "assistant", "content": text[start : start + size]},
            ]
            out.write(json.dumps({"messages": messages}) + "\n")


class Bench:
    """One target and its rows, encoded in several ways."""

    def __init__(self, target: Target, loading: Loading, data: Path, n: int, work: Path) -> None:
        self.data, self.n, self.work = data, n, work
        self.config = ScanConfig((str(data),), target.choice, loading, max_tokens=MAX_TOKENS)
        self.reader = FeatureReader(target, loading)
        self.device = self.reader.model.device
        self.w_enc = self.reader.encoder.W_enc
        self.encoded = self.tokens()
        self.real = sum(len(e.ids) for e in self.encoded)
        self.response = sum(sum(e.mask) for e in self.encoded)
        # Libraries set themselves up; and two banks' worth of scores to divide among tokens.
        usual = Pooled.of(self.reader.read(self.encoded[:200]), self.reader.encoder.d_in)
        d_sae = self.reader.encoder.d_sae
        score = Linear(Background.of(usual, d_sae), np.random.default_rng(0).normal(size=d_sae), "log")
        self.shares = [Shares.of(score, usual, 1.0)] * 2

    def seconds(self, work: Callable[[], Any]) -> float:
        """Until the device has done all of it."""
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def tokens(self) -> list[Encoded]:
        """Parsing and tokenising alone, row by row."""
        rows = (parse_line(line, str(self.data), i) for i, line in enumerate(read_lines(self.data), start=1))
        return [encode_row(row, self.reader.tokenizer, MAX_TOKENS).cut() for row in rows if isinstance(row, Row)]

    def scan(self) -> None:
        """What `geofilter scan` does between loading and scoring."""
        run = Run(self.work / "run")
        shutil.rmtree(run.path, ignore_errors=True)
        (run.path / "features").mkdir(parents=True)
        files = [{"path": str(self.data), "rows": self.n}]
        telling = Telling(quiet, quiet, quiet, quiet)
        if encode_shards(self.config, run, files, "f", lambda: self.reader, self.shares, telling) != self.real:
            raise RuntimeError("the scan did not read every token")

    def bound(self, budget: int) -> Callable[[], None]:
        """The same layers over the same rows, sorted and on the device already, and the encoder's product: no
        tokenising, gates, pooling, copies back or files."""
        model = self.reader.model
        ready = []
        for b in batches(self.encoded, budget, model.pad_id):
            at = b.response_mask.flatten().nonzero().squeeze(1)
            ready.append([t.to(self.device) for t in (b.input_ids, b.attention_mask, at)])

        @torch.inference_mode()
        def run() -> None:
            for ids, attention, at in ready:
                x = model.residuals(ids, attention)[self.reader.target.layer].flatten(0, 1)[at].float()
                for part in x.split(self.reader.encoder.chunk):
                    torch.mm(part, self.w_enc)

        return run

    def matmuls(self) -> Callable[[], None]:
        """Linear layers and encoder only, over the real tokens: no attention, norms, embeddings or activations."""
        chunk = self.reader.encoder.chunk
        blocks = decoder_layers(self.reader.model.model, self.reader.target.model_dir)
        linear = [m.weight for block in blocks for m in block.modules() if isinstance(m, torch.nn.Linear)]
        x = {w.shape[1]: torch.randn(8192, w.shape[1], device=self.device, dtype=w.dtype) for w in linear}
        y = torch.randn(chunk, self.w_enc.shape[0], device=self.device)

        @torch.inference_mode()
        def run() -> None:
            for start in range(0, self.real, 8192):
                for w in linear:
                    torch.nn.functional.linear(x[w.shape[1]][: self.real - start], w)
            for start in range(0, self.response, chunk):
                torch.mm(y[: self.response - start], self.w_enc)

        return run

    @torch.inference_mode()
    def simple(self, rows: int) -> None:
        """The plain way: one row a pass, all features of every token, their mean."""
        encoder, threshold = self.reader.encoder, self.reader.encoder.threshold
        assert threshold is not None
        for row in self.encoded[:rows]:
            ids = torch.tensor([row.ids], device=self.device)
            x = self.reader.model.residuals(ids, torch.ones_like(ids))[self.reader.target.layer][0]
            pre = x[torch.tensor(row.mask, device=self.device)].float() @ self.w_enc + encoder.b_enc
            torch.where(pre > threshold, pre, 0).mean(0).cpu()


def memory(target: Target, size: Size, loading: Loading, bench: Callable[[], Bench]) -> tuple[Bench, list[str]]:
    """Peak memory of the pair's check and of a scan beside `doctor`'s estimate."""
    need = memory_needed(target.model_dir, size.hook, size.hidden, size.d_sae, loading, MAX_TOKENS)
    lines = [f"doctor's estimate: {need.total / 1e9:.2f} GB (model {need.model / 1e9:.2f}, encoder "
             f"{need.encoder / 1e9:.2f}, working {need.working / 1e9:.2f})"]  # fmt: skip

    def peak(what: str) -> None:
        used, held = torch.cuda.max_memory_allocated() / 1e9, torch.cuda.max_memory_reserved() / 1e9
        lines.append(f"peak of {what}: {used:.2f} GB in tensors, {held:.2f} GB taken from the device")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    explained_variance(target, loading)
    peak("the check of the pair")
    made = bench()
    made.scan()
    peak("loading and a scan")
    return made, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--dtype", default="auto", help="of the model: auto, float32 or bfloat16")
    parser.add_argument("--size", default="gemma-2-2b", choices=SIZES)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--simple-rows", type=int, default=200, help="rows of the row-by-row path")
    parser.add_argument("--repeat", type=int, default=3, help="times each is run; the median counts")
    parser.add_argument("--work", type=Path, required=True, help="folder for model, SAE and rows")
    options = parser.parse_args()
    size, loading = SIZES[options.size], Loading(options.device, options.dtype)
    cuda = options.device.startswith("cuda")

    model_dir, sae_dir, data = (options.work / name for name in (options.size, f"{options.size}-sae", "rows.jsonl"))
    if not sae_dir.is_dir():
        make_model(size, model_dir, options.device, torch.bfloat16 if cuda else torch.float32)
        make_sae(size, model_dir, sae_dir, loading)
    make_rows(options.rows, data)
    target = resolve(TargetChoice(str(model_dir), str(sae_dir)), offline=True)

    def made() -> Bench:
        return Bench(target, loading, data, options.rows, options.work)

    bench, lines = memory(target, size, loading, made) if cuda else (made(), [])
    ways: dict[str, tuple[int, Callable[[], Any]]] = {"geofilter scan, encoding": (bench.n, bench.scan)}
    ways |= {f"same layers + encoder, {b} a pass": (bench.n, bench.bound(b)) for b in BUDGETS}
    ways["features of tokenised rows"] = (bench.n, lambda: bench.reader.read(bench.encoded))
    ways["linear layers + encoder only"] = (bench.n, bench.matmuls())
    few = min(options.simple_rows, bench.n)
    ways["row by row, dense"] = (few, lambda: bench.simple(few))
    ways["parsing and tokens only"] = (bench.n, bench.tokens)
    laps: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeat):  # in turn, so that a machine that slows down slows all of them
        for name, (_, work) in ways.items():
            laps[name].append(bench.seconds(work))

    where = torch.cuda.get_device_name(bench.device) if cuda else f"CPU, {torch.get_num_threads()} threads"
    lengths = np.percentile([len(e.ids) for e in bench.encoded], [5, 50, 95]).astype(int)
    padded = sum(b.input_ids.numel() for b in batches(bench.encoded, 8192, 0))
    print(f"{where}; torch {torch.__version__}; {options.size}, {bench.reader.dtype}; {bench.n} rows, {bench.real:,} "
          f"tokens, {bench.response:,} of responses (tokens a row: 5 % {lengths[0]}, half {lengths[1]}, 95 % "
          f"{lengths[2]}); padding {padded / bench.real - 1:.1%}")  # fmt: skip
    best = max(bench.n / median(laps[name]) for name in laps if name.startswith("same layers"))
    print(f"\n| {'':38} | rows/s | tokens/s | of the bound | slowest to fastest |")
    print("|---|---:|---:|---:|---:|")
    for name, (n, _) in ways.items():
        rate = n / median(laps[name])
        tokens = rate * sum(len(e.ids) for e in bench.encoded[:n]) / n
        spread = f"{n / max(laps[name]):.0f} to {n / min(laps[name]):.0f}"
        print(f"| {name:38} | {rate:.0f} | {tokens:,.0f} | {rate / best:.2f} | {spread} |")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
