"""Tiny targets of the real families, laid out in a Hugging Face cache exactly as the hub lays them out.

Architectures, layer counts, file names, file formats and release names are the real ones; only widths are small.
"""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from helpers import family_saes as saes
from helpers.family_saes import D_IN, D_SAE, Fitted, fitted, put_dictionary_learning, put_gemma_scope, put_native
from helpers.tiny import make_tokenizer

__all__ = ["CASES", "D_IN", "D_SAE", "VOCAB", "Fitted", "Hub", "family_model", "family_tokenizer", "fill", "fitted",
           "put_dictionary_learning", "put_gemma_scope", "put_native", "template"]  # fmt: skip

VOCAB = 2000

CONFIG, INDEX = "config.json", "model.safetensors.index.json"

TEMPLATES = Path(__file__).parents[1] / "templates"

LLAMA_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")

HARMONY_TOKENS = ("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|start|>", "<|end|>", "<|message|>",
                  "<|channel|>", "<|call|>")  # fmt: skip

QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")

R1_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")

TOKENIZERS: dict[str, tuple[str, tuple[str, ...], str | None, str]] = {
    "gemma2": ("gemma2", GEMMA_TOKENS, "<bos>", "<eos>"),
    "gemma3": ("gemma3", GEMMA_TOKENS, "<bos>", "<eos>"),
    "llama": ("llama31", LLAMA_TOKENS, "<|begin_of_text|>", "<|eot_id|>"),
    "r1": ("deepseek_r1", R1_TOKENS, R1_TOKENS[0], R1_TOKENS[1]),
    "qwen2": ("qwen25", QWEN_TOKENS, None, "<|im_end|>"),
    "qwen3": ("qwen3", QWEN_TOKENS, None, "<|im_end|>"),
    "qwen3_5": ("qwen35", QWEN_TOKENS, None, "<|im_end|>"),
    "gpt_oss": ("harmony", HARMONY_TOKENS, "<|startoftext|>", "<|return|>"),
}
"""by family: template, special tokens, BOS where there is one, EOS"""

NESTED = ("gemma3", "qwen3_5")
"""published as multimodal models of which the text decoder is a part"""


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text("utf-8")


@cache
def family_tokenizer(kind: str, chat: bool = True):
    """A tokenizer with the family's special tokens and, for a chat model, a template that behaves as its own."""
    name, special, bos, eos = TOKENIZERS[kind.removesuffix("_text")]
    from geofilter.rows.shipped import background_rows

    # Words of its own for the texts that ship, so that rows are as short as with a real vocabulary.
    texts = [row.response for row in background_rows()[:120]]
    return make_tokenizer(template(name) if chat else None, special, bos, eos, VOCAB, texts)


def family_model(kind: str, layers: int, hidden: int = D_IN):
    """A random model of the real architecture; weights large enough that layers differ."""
    import transformers as hf

    if kind in NESTED:
        from helpers.nested import nested_model

        return nested_model(kind, layers, hidden, towers=2)

    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": hidden, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2,
    }  # fmt: skip
    if kind == "gemma2":
        return hf.Gemma2ForCausalLM(hf.Gemma2Config(**common, query_pre_attn_scalar=8))
    if kind == "gemma3_text":
        small = {"query_pre_attn_scalar": 8, "sliding_window": 16}
        return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**common, **small))
    if kind in ("llama", "r1"):
        return hf.LlamaForCausalLM(hf.LlamaConfig(**common))
    if kind == "qwen2":
        return hf.Qwen2ForCausalLM(hf.Qwen2Config(**{k: v for k, v in common.items() if k != "head_dim"}))
    if kind == "qwen3":
        return hf.Qwen3ForCausalLM(hf.Qwen3Config(**common))
    moe = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}
    return hf.GptOssForCausalLM(hf.GptOssConfig(**common, **moe))


@dataclass
class Hub:
    """A Hugging Face cache folder that tests fill."""

    root: Path
    made: dict[tuple[str, int, str, int], Path] = field(default_factory=dict)
    """by kind and size of a model, a repository whose weight files another one can have too"""

    def snapshot(self, repo: str) -> Path:
        """The repository's one snapshot, made on first use."""
        commit = hashlib.sha1(repo.encode()).hexdigest()
        base = self.root / f"models--{repo.replace('/', '--')}"
        folder = base / "snapshots" / commit
        if not folder.exists():
            (base / "refs").mkdir(parents=True, exist_ok=True)
            (base / "refs" / "main").write_text(commit)
            folder.mkdir(parents=True)
        return folder

    def prune(self, repo: str, layers: int) -> list[str]:
        """Delete the weight files that a model of `layers` decoder layers does not need; the names of those deleted."""
        folder = self.snapshot(repo)
        index = json.loads((folder / INDEX).read_text())["weight_map"]
        needed = set()
        for key, file in index.items():
            block = re.match(r"(?:model\.|language_model\.)*layers\.(\d+)\.", key)
            table = re.search(r"(?<!visual)\.embed_tokens\.|(?:model\.|language_model\.)norm\.", key)
            if table or (block and int(block[1]) < layers):
                needed.add(file)
        gone = sorted(set(index.values()) - needed)
        for name in gone:
            (folder / name).unlink()
        return gone

    def model(self, repo: str, kind: str, layers: int, chat: bool, shard: str = "60KB", hidden: int = D_IN) -> Path:
        """A model repository, its weights in many files."""
        folder = self.snapshot(repo)
        same = self.made.setdefault((kind.replace("r1", "llama"), layers, shard, hidden), folder)
        if same == folder:
            family_model(kind, layers, hidden).save_pretrained(folder, max_shard_size=shard)
        for path in same.glob("*") if same != folder else ():
            if path.suffix == ".safetensors" or path.name in (CONFIG, INDEX):
                shutil.copyfile(path, folder / path.name)
        family_tokenizer(kind, chat).save_pretrained(folder)
        return folder


@dataclass
class Case:
    """A target as a user names it, and what its fixture consists of."""

    args: list[str]
    repo: str
    kind: str
    layers: int
    layer: int
    chat: bool = True


def _case(name: str, repo: str, kind: str, layers: int, layer: int, chat: bool = True, *args: str) -> Case:
    return Case(["--model", name, *args], repo, kind, layers, layer, chat)


_LLAMA = "meta-llama/Llama-3.1-8B"

CASES = {
    "gemma-2-2b": _case("gemma-2-2b", "google/gemma-2-2b", "gemma2", 26, 12, False),
    "gemma-2-2b-it": _case("gemma-2-2b-it", "google/gemma-2-2b-it", "gemma2", 26, 12),
    "gemma-2-9b": _case("gemma-2-9b", "google/gemma-2-9b", "gemma2", 42, 20, False),
    "gemma-2-9b-it": _case("gemma-2-9b-it", "google/gemma-2-9b-it", "gemma2", 42, 20),
    "gemma-2-27b": _case("gemma-2-27b", "google/gemma-2-27b", "gemma2", 46, 22, False),
    "gemma-2-27b-it": _case("gemma-2-27b-it", "google/gemma-2-27b-it", "gemma2", 46, 22),
    "gemma-3-270m": _case("gemma-3-270m", "google/gemma-3-270m", "gemma3_text", 18, 8, False),
    "gemma-3-270m-it": _case("gemma-3-270m-it", "google/gemma-3-270m-it", "gemma3_text", 18, 8),
    "gemma-3-1b": _case("gemma-3-1b", "google/gemma-3-1b-pt", "gemma3_text", 26, 12, False),
    "gemma-3-1b-it": _case("gemma-3-1b-it", "google/gemma-3-1b-it", "gemma3_text", 26, 12),
    "gemma-3-4b": _case("gemma-3-4b", "google/gemma-3-4b-pt", "gemma3", 34, 16, False),
    "gemma-3-4b-it": _case("gemma-3-4b-it", "google/gemma-3-4b-it", "gemma3", 34, 16),
    "gemma-3-12b": _case("gemma-3-12b", "google/gemma-3-12b-pt", "gemma3", 48, 23, False),
    "gemma-3-12b-it": _case("gemma-3-12b-it", "google/gemma-3-12b-it", "gemma3", 48, 23),
    "gemma-3-27b": _case("gemma-3-27b", "google/gemma-3-27b-pt", "gemma3", 62, 30, False),
    "gemma-3-27b-it": _case("gemma-3-27b-it", "google/gemma-3-27b-it", "gemma3", 62, 30),
    "llama-3.1-8b": _case("llama-3.1-8b", _LLAMA, "llama", 32, 15, False),
    "llama-3.1-8b, saelens gate": _case(
        "llama-3.1-8b", _LLAMA, "llama", 32, 15, False, "--llama-scope-gate", "saelens"
    ),
    "llama-3.1-8b-instruct": _case("llama-3.1-8b-instruct", f"{_LLAMA}-Instruct", "llama", 32, 15),
    "deepseek-r1-distill-llama-8b": _case(
        "deepseek-r1-distill-llama-8b", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "r1", 32, 15
    ),
    "qwen2.5-7b-instruct": _case("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct", "qwen2", 28, 11),
    "qwen3-1.7b-base": _case("qwen3-1.7b-base", "Qwen/Qwen3-1.7B-Base", "qwen3", 28, 13),
    "qwen3-1.7b": _case("qwen3-1.7b", "Qwen/Qwen3-1.7B", "qwen3", 28, 13),
    "qwen3-8b-base": _case("qwen3-8b-base", "Qwen/Qwen3-8B-Base", "qwen3", 36, 17),
    "qwen3-8b": _case("qwen3-8b", "Qwen/Qwen3-8B", "qwen3", 36, 17),
    "qwen3.5-2b-base": _case("qwen3.5-2b-base", "Qwen/Qwen3.5-2B-Base", "qwen3_5", 24, 11),
    "qwen3.5-2b": _case("qwen3.5-2b", "Qwen/Qwen3.5-2B", "qwen3_5", 24, 11),
    "qwen3.5-9b-base": _case("qwen3.5-9b-base", "Qwen/Qwen3.5-9B-Base", "qwen3_5", 32, 15),
    "qwen3.5-9b": _case("qwen3.5-9b", "Qwen/Qwen3.5-9B", "qwen3_5", 32, 15),
    "qwen3.5-27b": _case("qwen3.5-27b", "Qwen/Qwen3.5-27B", "qwen3_5", 64, 31),
    "gpt-oss-20b": _case("gpt-oss-20b", "openai/gpt-oss-20b", "gpt_oss", 24, 11),
    "goodfire": _case(
        f"{_LLAMA}-Instruct", f"{_LLAMA}-Instruct", "llama", 32, 19, True,
        "--sae", "goodfire-llama-3.1-8b-instruct/layer_19",
    ),
    "native": _case(
        _LLAMA, _LLAMA, "llama", 32, 15, False, "--sae", "someone/llama-saes/blocks.15.hook_resid_post"
    ),
}  # fmt: skip


def fill(hub: Hub) -> Hub:
    """Every case's model and SAE. Models of one kind and size have the same weights: one SAE fits all of them."""
    from geofilter.target.named import known, sae_of

    models = {(c.repo, c.kind, c.layers, c.chat) for c in CASES.values()}
    folders = {repo: hub.model(repo, kind, layers, chat) for repo, kind, layers, chat in sorted(models)}
    fits: dict[tuple[str, int, int], Fitted] = {}
    done = set()
    for name, row in known().items():
        if (case := CASES.get(name)) is None:
            continue
        release, _, sae_id = sae_of(row, row["layer"], row["width"]).partition("/")
        if (release, sae_id) in done:
            continue
        key = (case.kind, case.layers, case.layer)
        if key not in fits:
            fits[key] = fitted(folders[case.repo], case.layer)
        fit = fits[key]
        done.add((release, sae_id))
        if release.startswith("gemma-scope-2-"):
            saes.put_gemma_scope_2(hub, release, sae_id, fit)
        elif release.startswith("gemma-scope-"):
            put_gemma_scope(hub, release, sae_id, fit)
        elif release.startswith("qwen-scope-"):
            saes.put_qwen_scope(hub, release, sae_id, fit)
        elif release == "llama_scope_r1_distill":
            saes.put_llama_scope_r1(hub, release, sae_id, case.layer, fit)
        elif release.startswith("llama_scope_"):
            saes.put_llama_scope(hub, release, sae_id, case.layer, fit)
            put_native(hub.snapshot("someone/llama-saes") / str(row["hook"].format(layer=case.layer)), fit,
                       row["hook"].format(layer=case.layer), case.repo)  # fmt: skip
        else:
            put_dictionary_learning(hub, release, sae_id, case.layer, fit, case.repo)
    saes.put_goodfire(hub, fitted(folders[f"{_LLAMA}-Instruct"], 19))
    for repo in folders:  # what is not needed is not there, as after a first scan
        assert hub.prune(repo, max(c.layer for c in CASES.values() if c.repo == repo) + 2)
    return hub
