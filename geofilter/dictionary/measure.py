"""What a trained SAE is worth: explained variance on rows it has not seen, the neighbouring layers, and the loss of the
model that reads its reconstruction."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from geofilter.config import Loading
from geofilter.dictionary.activations import activations
from geofilter.dictionary.corpus import Windows
from geofilter.encode.blocks import decoder_layers
from geofilter.encode.memory import too_little
from geofilter.encode.model import (
    DTYPES,
    ResidualModel,
    choose_device,
    parameters,
    resolved_dtype,
)
from geofilter.encode.pair import explained_variance, judge_pair
from geofilter.encode.reader import outlier_free_padded
from geofilter.encode.sae import FeatureEncoder
from geofilter.encode.tokens import batches
from geofilter.encode.whole import response_logits, whole
from geofilter.errors import TargetError
from geofilter.files import Notify, silent
from geofilter.target.alone import ModelAlone
from geofilter.target.hooks import Hook
from geofilter.target.target import Target

LOSS_TOKENS = 8192
"""tokens that the loss is measured on, at most"""
LOSS_WINDOW = 256
"""tokens of a window that is read for it"""
_PIECE = 8192


@torch.inference_mode()
def reconstruction(
    model: ResidualModel, encoder: FeatureEncoder, windows: Windows
) -> tuple[dict[str, Any], torch.Tensor]:
    """Explained variance (1 - |x - x_hat|^2 / |x - mean x|^2) and active features a token, and how many tokens each
    feature was active on (d_sae,).

    Raises:
        TargetError: see `activations.activations`.
    """
    x = activations(model, windows, range(len(windows)), silent)
    mean = x.float().mean(0)
    left = variance = 0.0
    fired = torch.zeros(encoder.d_sae, dtype=torch.int64, device=encoder.device)
    for part in x.split(_PIECE):
        piece = part.to(encoder.device, torch.float32)
        acts = encoder.encode(piece)
        left += float((piece - encoder.decode(acts, len(piece))).square().sum())
        variance += float((piece - mean.to(piece.device)).square().sum())
        fired += torch.bincount(acts.feature, minlength=encoder.d_sae)
    explained = round(1 - left / variance, 4)
    return {"tokens": len(x), "explained_variance": explained, "l0": round(int(fired.sum()) / len(x), 2)}, fired.cpu()


def pair(model: ModelAlone, folder: Path, hook: Hook, sae_dir: Path, loading: Loading) -> dict[str, Any]:
    """How well the SAE explains its own layer and the neighbouring ones, on chat that ships with the package.

    Args:
        folder: of the model, with one layer more than the SAE's.

    Raises:
        TargetError: see `pair.explained_variance`.
    """
    target = Target(model.name, model.model, folder, str(sae_dir), model.model, sae_dir, hook, "", model.choice)
    figures = explained_variance(target, loading)
    check = judge_pair(target, figures)
    shown = {str(n): round(each["explained_variance"], 4) for n, each in sorted(figures.items())}
    return {"ok": check.ok, "explained_variance": shown, "l0": round(figures[hook.layer]["l0"], 2), "text": check.text}


def loss_recovered(
    model: ModelAlone, hook: Hook, sae_dir: Path, windows: Windows, loading: Loading, notify: Notify
) -> dict[str, Any]:
    """How much of the model's loss is kept when the SAE's reconstruction is put in the place of the layer's output.

    The cross-entropy of held-out tokens: of the model as it is, with the output of every such token reconstructed, and
    with it set to zero; recovered is (zero - spliced) / (zero - clean). Tokens that are not trained on (special and
    template tokens, outlier norms) stay as they are.

    Returns:
        the figures; `not_measured`, and why, where the whole model is not there or has no room.
    """
    if hook.kind != "hook_resid_post":
        return {"not_measured": f"it is measured for the output of a layer, not for {hook}"}
    try:
        folder = model.whole(notify)
    except TargetError as error:
        return {"not_measured": f"the whole model is not here: {error}"}
    need, room = _bytes(folder, model.layers, loading), _room(loading)
    if room is not None and need > room:
        return {"not_measured": f"the whole model takes about {need / 1e9:.1f} GB, and there are {room / 1e9:.1f}"}
    try:
        return _loss_recovered(folder, hook.layer, sae_dir, windows, loading)
    except torch.OutOfMemoryError:
        return {"not_measured": str(too_little(loading.device))}
    except TargetError as error:  # a model of which the head is not there, for instance
        return {"not_measured": str(error)}


def _bytes(folder: Path, layers: int, loading: Loading) -> int:
    return parameters(folder, layers) * DTYPES[resolved_dtype(loading)].itemsize


def _room(loading: Loading) -> float | None:
    """Bytes that a further model may take; None where that is not known."""
    device = choose_device(loading.device)
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


@torch.inference_mode()
def _loss_recovered(folder: Path, layer: int, sae_dir: Path, windows: Windows, loading: Loading) -> dict[str, Any]:
    lm, tokenizer = whole(folder, loading)
    block = decoder_layers(lm.base_model, folder)[layer]
    device = next(block.parameters()).device
    encoder = FeatureEncoder(sae_dir, device)
    pad = tokenizer.pad_token_id or 0
    state: dict[str, Any] = {"how": "clean", "mask": None}

    def splice(_module: Any, _args: Any, output: Any) -> Any:
        if state["how"] == "clean":
            return output
        x = output[0] if isinstance(output, tuple) else output
        keep = outlier_free_padded(x, state["mask"])
        put = torch.zeros_like(x[keep])
        if state["how"] == "spliced":
            put = encoder.decode(encoder.encode(x[keep]), len(put)).to(x.dtype)
        new = x.clone()
        new[keep] = put
        return (new, *output[1:]) if isinstance(output, tuple) else new

    read, n = [], 0
    for number in range(len(windows)):
        window = windows.window(number, LOSS_WINDOW)
        if n < LOSS_TOKENS and any(window.mask):
            read.append(window)
            n += sum(window.mask)
    hook = block.register_forward_hook(splice)
    sums = dict.fromkeys(("clean", "spliced", "zero"), 0.0)
    tokens = 0
    try:
        for batch in batches(read, 1024, pad):
            state["mask"] = batch.response_mask.to(device)
            for how in sums:
                state["how"] = how
                logits, wanted, _ = response_logits(lm, batch)
                sums[how] += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
            tokens += len(wanted)
    finally:
        hook.remove()
    loss = {how: total / max(1, tokens) for how, total in sums.items()}
    room = loss["zero"] - loss["clean"]
    out = {"tokens": tokens, **{k: round(v, 4) for k, v in loss.items()}}
    if not tokens or not room > 0:
        return {**out, "not_measured": "with zeros in the place of the layer's output the model is no worse"}
    return {**out, "recovered": round((loss["zero"] - loss["spliced"]) / room, 4)}
