"""Tiny targets of the real families, laid out in a Hugging Face cache exactly as the hub lays them out.

Architectures, layer counts, file names, file formats and release names are the real ones; only widths are small.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from helpers.tiny import hook_vectors, make_tokenizer

D_IN, D_SAE, VOCAB = 32, 128, 2000

TEMPLATES = Path(__file__).parents[1] / "templates"

LLAMA_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")

HARMONY_TOKENS = ("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|start|>", "<|end|>", "<|message|>",
                  "<|channel|>", "<|call|>")  # fmt: skip


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text("utf-8")


def family_tokenizer(kind: str, chat: bool = True):
    """A tokenizer with the family's special tokens and, for a chat model, a template that behaves as its own."""
    name, special, bos, eos = {
        "gemma2": ("gemma2", GEMMA_TOKENS, "<bos>", "<eos>"),
        "llama": ("llama31", LLAMA_TOKENS, "<|begin_of_text|>", "<|eot_id|>"),
        "gpt_oss": ("harmony", HARMONY_TOKENS, "<|startoftext|>", "<|return|>"),
    }[kind]
    from geofilter.rows.shipped import background_rows

    # Words of its own for the texts that ship, so that rows are as short as with a real vocabulary.
    texts = [row.response for row in background_rows()[:120]]
    return make_tokenizer(template(name) if chat else None, special, bos, eos, VOCAB, texts)


def family_model(kind: str, layers: int, hidden: int = D_IN):
    """A random model of the real architecture; weights large enough that layers differ."""
    import transformers as hf

    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": hidden, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2,
    }  # fmt: skip
    if kind == "gemma2":
        return hf.Gemma2ForCausalLM(hf.Gemma2Config(**common, query_pre_attn_scalar=8))
    if kind == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**common))
    moe = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}
    return hf.GptOssForCausalLM(hf.GptOssConfig(**common, **moe))


@dataclass
class Hub:
    """A Hugging Face cache folder that tests fill."""

    root: Path

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
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        needed = {
            file for key, file in index.items()
            if not key.startswith("lm_head") and (".layers." not in key or int(key.split(".")[2]) < layers)
        }  # fmt: skip
        gone = sorted(set(index.values()) - needed)
        for name in gone:
            (folder / name).unlink()
        return gone

    def model(self, repo: str, kind: str, layers: int, chat: bool, shard: str = "60KB", hidden: int = D_IN) -> Path:
        """A model repository, its weights in many files."""
        folder = self.snapshot(repo)
        family_model(kind, layers, hidden).save_pretrained(folder, max_shard_size=shard)
        family_tokenizer(kind, chat).save_pretrained(folder)
        return folder


@dataclass
class Fitted:
    """An SAE that fits a layer, in plain form: f = gate((x - mean) @ enc + bias), x_hat = f @ dec + mean."""

    enc: torch.Tensor
    bias: torch.Tensor
    dec: torch.Tensor
    mean: torch.Tensor
    threshold: float


def fitted(model_dir: Path, layer: int, d_sae: int = D_SAE, kind: str = "hook_resid_post") -> Fitted:
    """Both directions of a hook's main principal components, and many features that fire rarely."""
    x = hook_vectors(model_dir, layer, kind)
    mean = x.mean(0)
    centred = x - mean
    components = torch.linalg.svd(centred, full_matrices=False).Vh[: 3 * x.shape[1] // 4]
    rare = torch.nn.functional.normalize(
        torch.randn(d_sae - 2 * len(components), x.shape[1], generator=torch.Generator().manual_seed(1)), dim=1
    )
    dec = torch.cat([components, -components, rare])
    threshold = 0.02 * float(centred.std())
    seldom = (centred @ rare.T).quantile(0.97, dim=0)
    bias = torch.cat([torch.zeros(2 * len(components)), threshold - seldom])
    return Fitted(dec.T.contiguous(), bias, dec, mean, threshold)


def random_sae() -> Fitted:
    """An SAE that fits nothing."""
    generator = torch.Generator().manual_seed(6)
    dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=generator), dim=1)
    bias = 0.3 * torch.randn(D_SAE, generator=generator)
    return Fitted(dec.T.contiguous(), bias, dec, torch.randn(D_IN, generator=generator), 0.4)


def put_gemma_scope(hub: Hub, release: str, sae_id: str, sae: Fitted) -> Path:
    """`params.npz`; no bias is subtracted from the input, one threshold a feature."""
    folder = _folder(hub, release, sae_id)
    threshold = sae.threshold * np.linspace(0.9, 1.1, len(sae.bias), dtype=np.float32)
    np.savez(folder / "params.npz", W_enc=sae.enc.numpy(), W_dec=sae.dec.numpy(), b_dec=sae.mean.numpy(),
             b_enc=(sae.bias - sae.mean @ sae.enc).numpy(), threshold=threshold)  # fmt: skip
    return folder / "params.npz"


def put_llama_scope(hub: Hub, release: str, sae_id: str, layer: int, sae: Fitted) -> Path:
    """`hyperparams.json` and `checkpoints/final.safetensors`, for an input scaled by the release's norm factor."""
    from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

    scale = get_norm_scaling_factor(release, sae_id)
    folder = _folder(hub, release, sae_id)
    (folder / "checkpoints").mkdir(exist_ok=True)
    norm = torch.linspace(0.5, 2.0, len(sae.bias))  # of the decoder rows; activations shrink accordingly
    weights = {
        "encoder.weight": (sae.enc / norm / scale).T.contiguous(),
        "encoder.bias": (sae.bias - sae.mean @ sae.enc) / norm,
        "decoder.weight": (sae.dec * norm.unsqueeze(1) * scale).T.contiguous(),
        "decoder.bias": sae.mean * scale,
    }
    save_file(weights, folder / "checkpoints" / "final.safetensors")
    hyper = {
        "hook_point_in": f"blocks.{layer}.hook_resid_post", "hook_point_out": f"blocks.{layer}.hook_resid_post",
        "d_model": len(sae.mean), "d_sae": len(sae.bias), "act_fn": "jumprelu", "top_k": 50,
        "jump_relu_threshold": sae.threshold / scale, "sparsity_include_decoder_norm": True,
        "dataset_average_activation_norm": {"in": len(sae.mean) ** 0.5 / scale, "out": 1.0},
    }  # fmt: skip
    (folder / "hyperparams.json").write_text(json.dumps(hyper))
    return folder / "hyperparams.json"


def put_dictionary_learning(
    hub: Hub, release: str, sae_id: str, layer: int, sae: Fitted, model: str, kind: str = "BatchTopKSAE"
) -> Path:
    """`config.json` and a pickled `ae.pt`; the bias is subtracted from the input."""
    folder = _folder(hub, release, sae_id)
    weights = {
        "encoder.weight": sae.enc.T.contiguous(), "encoder.bias": sae.bias, "decoder.weight": sae.dec.T.contiguous(),
        "b_dec": sae.mean, "k": torch.tensor(20), "threshold": torch.tensor(sae.threshold),
    }  # fmt: skip
    torch.save(weights, folder / "ae.pt")
    trainer = {"dict_class": kind, "activation_dim": len(sae.mean), "dict_size": len(sae.bias), "k": 20,
               "layer": layer, "lm_name": model}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 1024}}))
    return folder / "ae.pt"


def put_goodfire(hub: Hub, sae: Fitted) -> Path:
    """One pickled file in the repository's root; plain ReLU."""
    path = hub.snapshot("Goodfire/Llama-3.1-8B-Instruct-SAE-l19") / "Llama-3.1-8B-Instruct-SAE-l19.pth"
    weights = {
        "encoder_linear.weight": sae.enc.T.contiguous(), "encoder_linear.bias": sae.bias - sae.mean @ sae.enc,
        "decoder_linear.weight": sae.dec.T.contiguous(), "decoder_linear.bias": sae.mean,
    }  # fmt: skip
    torch.save(weights, path)
    return path


def put_native(folder: Path, sae: Fitted, hook: str, model: str, **cfg: Any) -> Path:
    """SAELens' own layout."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"W_enc": sae.enc, "b_enc": sae.bias, "W_dec": sae.dec, "b_dec": sae.mean}
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "sae_weights.safetensors")
    config = {
        "architecture": "standard", "d_in": len(sae.mean), "d_sae": len(sae.bias), "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"model_name": model, "hook_name": hook, "sae_lens_version": "6.0.0"}, **cfg,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def _folder(hub: Hub, release: str, sae_id: str) -> Path:
    from sae_lens.loading.pretrained_saes_directory import get_repo_id_and_folder_name

    repo, path = get_repo_id_and_folder_name(release, sae_id)
    folder = hub.snapshot(repo) / path
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shrink_fixed_sizes(monkeypatch) -> None:
    """Gemma Scope's and Goodfire's widths are written into sae-lens' code: the sizes, and nothing else, are changed."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    for family, name in (("gemma_2", "get_gemma_2_config_from_hf"), ("goodfire", "get_goodfire_config_from_hf")):
        theirs = getattr(loaders, name)

        def smaller(*args: Any, theirs=theirs, **kwargs: Any) -> dict[str, Any]:
            return {**theirs(*args, **kwargs), "d_in": D_IN, "d_sae": D_SAE}

        monkeypatch.setattr(loaders, name, smaller)
        monkeypatch.setitem(loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS, family, smaller)


@dataclass
class Case:
    """A target as a user names it, and what its fixture consists of."""

    args: list[str]
    repo: str
    kind: str
    layers: int
    layer: int
    chat: bool = True


CASES = {
    "gemma-2-2b": Case(["--model", "gemma-2-2b"], "google/gemma-2-2b", "gemma2", 26, 12, chat=False),
    "gemma-2-2b-it": Case(["--model", "gemma-2-2b-it"], "google/gemma-2-2b-it", "gemma2", 26, 12),
    "gemma-2-9b": Case(["--model", "gemma-2-9b"], "google/gemma-2-9b", "gemma2", 42, 20, chat=False),
    "gemma-2-9b-it": Case(["--model", "gemma-2-9b-it"], "google/gemma-2-9b-it", "gemma2", 42, 20),
    "gemma-2-27b": Case(["--model", "gemma-2-27b"], "google/gemma-2-27b", "gemma2", 46, 22, chat=False),
    "gemma-2-27b-it": Case(["--model", "gemma-2-27b-it"], "google/gemma-2-27b-it", "gemma2", 46, 22),
    "llama-3.1-8b": Case(["--model", "llama-3.1-8b"], "meta-llama/Llama-3.1-8B", "llama", 32, 15, chat=False),
    "llama-3.1-8b, upstream gate": Case(
        ["--model", "llama-3.1-8b", "--llama-scope-gate", "upstream"],
        "meta-llama/Llama-3.1-8B", "llama", 32, 15, chat=False,
    ),
    "llama-3.1-8b-instruct": Case(
        ["--model", "llama-3.1-8b-instruct"], "meta-llama/Llama-3.1-8B-Instruct", "llama", 32, 15
    ),
    "gpt-oss-20b": Case(["--model", "gpt-oss-20b"], "openai/gpt-oss-20b", "gpt_oss", 24, 11),
    "goodfire": Case(
        ["--model", "meta-llama/Llama-3.1-8B-Instruct", "--sae", "goodfire-llama-3.1-8b-instruct/layer_19"],
        "meta-llama/Llama-3.1-8B-Instruct", "llama", 32, 19,
    ),
    "native": Case(
        ["--model", "meta-llama/Llama-3.1-8B", "--sae", "someone/llama-saes/blocks.15.hook_resid_post"],
        "meta-llama/Llama-3.1-8B", "llama", 32, 15, chat=False,
    ),
}  # fmt: skip


def fill(hub: Hub) -> Hub:
    """Every case's model and SAE. Models of one size have the same weights, so that one SAE fits all of them."""
    from geofilter.target.named import known

    models = {(c.repo, c.kind, c.layers, c.chat) for c in CASES.values()}
    folders = {repo: hub.model(repo, kind, layers, chat) for repo, kind, layers, chat in sorted(models)}
    for name in ("gemma-2-2b", "gemma-2-9b", "gemma-2-9b-it", "gemma-2-27b"):
        row, case = known()[name], CASES[name]
        release, _, sae_id = row["sae"].format(layer=row["layer"], width=row["width"]).partition("/")
        put_gemma_scope(hub, release, sae_id, fitted(folders[case.repo], case.layer))
    base = fitted(folders["meta-llama/Llama-3.1-8B"], 15)
    put_llama_scope(hub, "llama_scope_lxr_8x", "l15r_8x", 15, base)
    put_native(hub.snapshot("someone/llama-saes") / "blocks.15.hook_resid_post", base, "blocks.15.hook_resid_post",
               "meta-llama/Llama-3.1-8B")  # fmt: skip
    instruct = "meta-llama/Llama-3.1-8B-Instruct"
    put_dictionary_learning(hub, "llama-3.1-8b-instruct-andyrdt", "resid_post_layer_15_trainer_1", 15,
                            fitted(folders[instruct], 15), instruct)  # fmt: skip
    put_goodfire(hub, fitted(folders[instruct], 19))
    oss = "openai/gpt-oss-20b"
    put_dictionary_learning(hub, "gpt-oss-20b-andyrdt", "resid_post_layer_11_trainer_0", 11,
                            fitted(folders[oss], 11), oss)  # fmt: skip
    for repo in folders:  # what is not needed is not there, as after a first scan
        assert hub.prune(repo, max(c.layer for c in CASES.values() if c.repo == repo) + 2)
    return hub
