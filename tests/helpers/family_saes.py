"""SAEs of the published families, laid out in a Hugging Face cache as their authors lay them out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from helpers.tiny import hook_vectors

if TYPE_CHECKING:
    from helpers.families import Hub

D_IN, D_SAE = 32, 128


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
    folder, scale, norm = _folder(hub, release, sae_id), *_scaling(release, sae_id, sae)
    (folder / "checkpoints").mkdir(exist_ok=True)
    save_file(_scaled(sae, scale, norm), folder / "checkpoints" / "final.safetensors")
    hyper = {
        "hook_point_in": f"blocks.{layer}.hook_resid_post", "hook_point_out": f"blocks.{layer}.hook_resid_post",
        "d_model": len(sae.mean), "d_sae": len(sae.bias), "act_fn": "jumprelu", "top_k": 50,
        "jump_relu_threshold": sae.threshold / scale, "sparsity_include_decoder_norm": True,
        "dataset_average_activation_norm": {"in": len(sae.mean) ** 0.5 / scale, "out": 1.0},
    }  # fmt: skip
    (folder / "hyperparams.json").write_text(json.dumps(hyper))
    return folder / "hyperparams.json"


def put_gemma_scope_2(hub: Hub, release: str, sae_id: str, sae: Fitted, config: bool = True) -> Path:
    """`params.safetensors`, names in small letters, and in most repositories a `config.json` beside it."""
    folder = _folder(hub, release, sae_id)
    threshold = sae.threshold * torch.linspace(0.9, 1.1, len(sae.bias))
    weights = {"w_enc": sae.enc, "w_dec": sae.dec, "b_dec": sae.mean, "threshold": threshold,
               "b_enc": sae.bias - sae.mean @ sae.enc}  # fmt: skip
    save_file(weights, folder / "params.safetensors")
    if config:
        size, stage = release.split("-")[3:5]
        layer = folder.name.split("_")[1]
        about = {"architecture": "jump_relu", "model_name": f"gemma-v3-{size}-{stage}", "width": len(sae.bias),
                 "hf_hook_point_in": f"model.layers.{layer}.output", "affine_connection": False}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(about))
    return folder / "params.safetensors"


def put_qwen_scope(hub: Hub, release: str, sae_id: str, sae: Fitted) -> Path:
    """One pickled file a layer in the repository's root, the encoder the other way round; TopK."""
    path = _folder(hub, release, sae_id, made=False)
    weights = {"W_enc": sae.enc.T.contiguous(), "W_dec": sae.dec.T.contiguous(), "b_dec": sae.mean,
               "b_enc": sae.bias - sae.mean @ sae.enc}  # fmt: skip
    torch.save(weights, path)
    return path


def put_llama_scope_r1(hub: Hub, release: str, sae_id: str, layer: int, sae: Fitted) -> Path:
    """`config.json` and `sae_weights.safetensors`, a threshold a feature, for an input scaled by the norm factor."""
    folder, scale, norm = _folder(hub, release, sae_id), *_scaling(release, sae_id, sae)
    weights = {
        **_scaled(sae, scale, norm),
        "log_jumprelu_threshold": (sae.threshold * torch.linspace(0.9, 1.1, len(sae.bias))).log(),
    }
    save_file(weights, folder / "sae_weights.safetensors")
    about = {
        "hook_point_in": f"blocks.{layer}.hook_resid_post", "hook_point_out": f"blocks.{layer}.hook_resid_post",
        "d_model": len(sae.mean), "expansion_factor": len(sae.bias) // len(sae.mean), "act_fn": "jumprelu",
        "norm_activation": "dataset-wise", "top_k": 50, "sparsity_include_decoder_norm": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    return folder / "config.json"


def put_deepseek_r1(hub: Hub, release: str, sae_id: str, sae: Fitted) -> Path:
    """One pickled file in the repository's root; plain ReLU, no bias is subtracted from the input."""
    path = _folder(hub, release, sae_id, made=False)
    weights = {"encoder.weight": sae.enc.T.contiguous(), "encoder.bias": sae.bias - sae.mean @ sae.enc,
               "decoder.weight": sae.dec.T.contiguous(), "decoder.bias": sae.mean}  # fmt: skip
    torch.save(weights, path)
    return path


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


def _scaling(release: str, sae_id: str, sae: Fitted) -> tuple[float, torch.Tensor]:
    """Norm factor of a release's SAE, and norms for its decoder rows; activations shrink accordingly."""
    from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

    return get_norm_scaling_factor(release, sae_id), torch.linspace(0.5, 2.0, len(sae.bias))


def _scaled(sae: Fitted, scale: float, norm: torch.Tensor) -> dict[str, torch.Tensor]:
    """Llama Scope's weights: for an input that is scaled, with decoder rows of these norms."""
    return {
        "encoder.weight": (sae.enc / norm / scale).T.contiguous(),
        "encoder.bias": (sae.bias - sae.mean @ sae.enc) / norm,
        "decoder.weight": (sae.dec * norm.unsqueeze(1) * scale).T.contiguous(),
        "decoder.bias": sae.mean * scale,
    }


def _folder(hub: Hub, release: str, sae_id: str, made: bool = True) -> Path:
    from sae_lens.loading.pretrained_saes_directory import get_repo_id_and_folder_name

    repo, path = get_repo_id_and_folder_name(release, sae_id)
    folder = hub.snapshot(repo) / path
    if made:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


FIXED = {
    "gemma_2": "get_gemma_2_config_from_hf", "goodfire": "get_goodfire_config_from_hf",
    "qwen_scope": "get_qwen_scope_config_from_hf", "deepseek_r1": "get_deepseek_r1_config_from_hf",
}  # fmt: skip
"""sae-lens' loaders into whose code the widths are written, each with the function that says them"""


def shrink_fixed_sizes(monkeypatch) -> None:
    """The sizes that are written into sae-lens' code, and nothing else, are changed."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    for family, name in FIXED.items():
        theirs: Callable[..., dict[str, Any]] = getattr(loaders, name)

        def smaller(*args: Any, theirs=theirs, **kwargs: Any) -> dict[str, Any]:
            return {**theirs(*args, **kwargs), "d_in": D_IN, "d_sae": D_SAE}

        monkeypatch.setattr(loaders, name, smaller)
        monkeypatch.setitem(loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS, family, smaller)
