"""Tiny random targets of the real architectures, made on the fly."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

D_IN, D_SAE, N_LAYERS, LAYER = 32, 128, 4, 2


def make_tokenizer(
    template: str | None = CHATML,
    special: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    bos: str | None = "<|im_start|>",
    eos: str = "<|im_end|>",
    vocab: int = 400,
    texts: Sequence[str] = ("the answer to the question is that you should ask the doctor",) * 4,
):
    """A byte-level BPE trained on a few sentences; special tokens are the embedded model's, if no others are given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=eos, additional_special_tokens=list(special)
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(path: Path, kind: str = "llama", template: str | None = CHATML) -> Path:
    """A random model of a real architecture, saved as a Hugging Face folder."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    common = {
        "vocab_size": 400,
        "hidden_size": D_IN,
        "intermediate_size": 64,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    config, build = {"llama": (LlamaConfig, LlamaForCausalLM), "gemma2": (Gemma2Config, Gemma2ForCausalLM)}[kind]
    model = build(config(**common))
    model.save_pretrained(path)
    make_tokenizer(template).save_pretrained(path)
    return path


def make_adapter(path: Path, model_dir: Path, base: str | None = None, size: float = 0.2, **lora) -> Path:
    """A LoRA adapter with random values of a whole model, as peft saves it.

    Args:
        base: what it names as its base; the folder if None.
        size: of its values.
    """
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype="float32")
    options = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **lora}
    tuned = peft.get_peft_model(model, peft.LoraConfig(**options))
    for name, value in tuned.named_parameters():
        if value.requires_grad:
            value.data.normal_(0, size) if "lora_" in name else value.data.add_(0.1)
    tuned.save_pretrained(path)
    config = json.loads((path / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(model_dir) if base is None else base
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def make_sae(path: Path, architecture: str = "topk", seed: int = 0, layer: int = LAYER, **cfg) -> Path:
    """A random SAE in SAELens layout."""
    generator = torch.Generator().manual_seed(seed)
    path.mkdir(parents=True, exist_ok=True)
    decoder = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=generator), dim=1)
    weights = {
        "W_enc": decoder.T.contiguous(),
        "b_enc": 0.01 * torch.randn(D_SAE, generator=generator),
        "W_dec": decoder.contiguous(),
        "b_dec": 0.1 * torch.randn(D_IN, generator=generator),
    }
    if architecture == "jumprelu":
        weights["threshold"] = torch.rand(D_SAE, generator=generator)
    save_file(weights, path / "sae_weights.safetensors")
    config = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"model_name": "tiny", "hook_name": f"blocks.{layer}.hook_resid_post"},
        **({"k": 8, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
        **cfg,
    }
    (path / "cfg.json").write_text(json.dumps(config))
    return path


def hook_vectors(model_dir: Path, layer: int, kind: str = "hook_resid_post") -> torch.Tensor:
    """(n_tokens, d_in) vectors at a hook, of the response tokens of sixty background rows."""
    from geofilter.config import Loading
    from geofilter.encode.model import ResidualModel
    from geofilter.encode.tokens import batches, encode_row
    from geofilter.rows.shipped import background_rows

    model = ResidualModel(model_dir, [layer], Loading("cpu", "float32"), kind)
    rows = [encode_row(r, model.tokenizer, 128).cut() for r in background_rows()[:60]]
    return torch.cat(
        [model.residuals(b.input_ids, b.attention_mask)[layer][b.response_mask] for b in batches(rows, 2048, 0)]
    )


def fit_sae(model_dir: Path, path: Path, layer: int = LAYER) -> Path:
    """An SAE that really fits the tiny model's layer: its directions are the layer's own token residuals."""
    x = hook_vectors(model_dir, layer)
    mean = x.mean(0)
    centred = x - mean
    picks = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:D_SAE]
    decoder = torch.nn.functional.normalize(centred[picks], dim=1)
    path.mkdir(parents=True, exist_ok=True)
    weights = {"W_enc": decoder.T.contiguous(), "W_dec": decoder.contiguous(), "b_dec": mean.contiguous()}
    save_file({**weights, "b_enc": torch.zeros(D_SAE)}, path / "sae_weights.safetensors")
    make_sae(path / "unused", "topk")
    config = json.loads((path / "unused" / "cfg.json").read_text())
    config["k"] = 1
    config["metadata"]["hook_name"] = f"blocks.{layer}.hook_resid_post"
    (path / "cfg.json").write_text(json.dumps(config))
    return path


def random_pooled(n: int, d_sae: int = D_SAE, d_in: int = D_IN, seed: int = 0):
    """Random sparse rows."""
    from geofilter.bank.features import Pooled

    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, d_sae)) < 0.2, rng.random((n, d_sae)), 0).astype(np.float32)
    indptr = np.concatenate([[0], np.cumsum((dense > 0).sum(1))]).astype(np.int64)
    indices = np.concatenate([np.flatnonzero(r) for r in dense]).astype(np.int32)
    values = dense[dense > 0].astype(np.float32)
    residual = rng.standard_normal((n, d_in)).astype(np.float16)
    return Pooled(indptr, indices, values, np.full(n, 5, np.int32), residual), dense


def directions(n: int = D_SAE, d: int = D_IN, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)
