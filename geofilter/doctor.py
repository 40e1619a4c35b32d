"""Is everything in its place: packages, FAISS, cache, weights, and a model and SAE that belong together."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from geofilter.errors import GeofilterError, TargetError
from geofilter.features import outlier_free, require_same_width
from geofilter.model import ResidualModel, count_layers
from geofilter.sae import FeatureEncoder
from geofilter.seeding import background_rows
from geofilter.store import write_json
from geofilter.targets import Notify, Target, cache_dir, embedded_cached, known, resolve
from geofilter.tokens import batches, encode_row

PAIR_ROWS = 40
"""built-in chat rows the pair is checked on"""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool
    text: str


def explained_variance(target: Target) -> dict[int, dict[str, float]]:
    """How well the SAE reconstructs the residual of its own layer and of the neighbouring ones.

    Measured on response tokens of built-in chat; special, prompt and outlier-norm tokens are left out, since
    they flatter the figure. Explained variance = 1 - |x - x_hat|^2 / |x - mean x|^2.

    Returns:
        per layer `explained_variance` and `l0` (active features a token).
    """
    device = torch.device("cpu") if not torch.cuda.is_available() else torch.device("cuda")
    encoder = FeatureEncoder(target.sae_dir, device)
    near = range(max(0, target.layer - 1), min(target.layer + 2, count_layers(target.model_dir)))
    model = ResidualModel(target.model_dir, near or [target.layer], device, torch.float32)
    require_same_width(target, encoder, model)
    rows = [encode_row(row, model.tokenizer, 256) for row in background_rows()[:PAIR_ROWS]]
    residuals: dict[int, list[torch.Tensor]] = {layer: [] for layer in model.layers}
    for batch in batches(rows, 2048, model.pad_id):
        for layer, x in model.residuals(batch.input_ids, batch.attention_mask).items():
            residuals[layer].append(x[outlier_free(x, batch.response_mask.to(x.device))].float())
    out = {}
    for layer, parts in residuals.items():
        x = torch.cat(parts)
        acts = encoder.encode(x)
        left = (x - encoder.decode(acts, len(x))).square().sum()
        variance = (x - x.mean(0)).square().sum()
        out[layer] = {"explained_variance": 1 - float(left / variance), "l0": len(acts.value) / len(x)}
    return out


def judge_pair(target: Target, figures: dict[int, dict[str, float]]) -> Check:
    """The declared layer must be the one the SAE explains best."""
    ev = {layer: f["explained_variance"] for layer, f in figures.items()}
    best = max(ev, key=lambda layer: ev[layer])
    shown = ", ".join(f"layer {layer}: {value:.3f}" for layer, value in sorted(ev.items()))
    if best != target.layer or ev[best] <= 0:
        return Check(
            "pair", False,
            f"{target.name}: the SAE declares layer {target.layer} but explains layer {best} best ({shown}); "
            "model and SAE do not belong together, or the layer is off by one",
        )  # fmt: skip
    return Check("pair", True, f"{target.name}: explained variance {shown}; L0 {figures[target.layer]['l0']:.1f}")


def require_pair(target: Target, notify: Notify) -> None:
    """Check a target's pair once; the result is remembered in the cache.

    Raises:
        TargetError: model and SAE do not belong together.
    """
    memory = cache_dir() / "pairs" / f"{target.fingerprint[:16]}.json"
    if memory.is_file():
        figures = {int(k): v for k, v in json.loads(memory.read_text("utf-8")).items()}
    else:
        notify(f"checking that model and SAE of {target.name} belong together, once ...")
        figures = explained_variance(target)
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, figures)
    check = judge_pair(target, figures)
    if not check.ok:
        raise TargetError(check.text)


def faiss_builds() -> list[str]:
    """Installed FAISS distributions."""
    found = []
    for name in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def check_faiss() -> Check:
    """One FAISS, and one that works."""
    builds = faiss_builds()
    if len(builds) != 1:
        return Check(
            "faiss", False,
            f"{' and '.join(builds) or 'none'} installed; exactly one must be: pip uninstall all of them, "
            "then install one",
        )  # fmt: skip
    import faiss
    import numpy as np

    index = faiss.IndexFlatIP(4)
    index.add(np.eye(4, dtype=np.float32))
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    found = int(index.search(np.eye(4, dtype=np.float32)[2:3], 1)[1][0, 0])
    return Check("faiss", found == 2, f"{builds[0]}, {gpus} GPU(s)")


def check_cache() -> Check:
    """The cache folder can be written."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return Check("cache", False, f"{folder}: cannot be made ({error.strerror}); set GEOFILTER_CACHE")
    ok = os.access(folder, os.W_OK)
    return Check("cache", ok, f"{folder}" + ("" if ok else ": not writable; set GEOFILTER_CACHE to a folder that is"))


def examine(models: Sequence[str], sae: Any = None, offline: bool = False, notify: Notify = print) -> list[Check]:
    """All checks; `models` are targets whose weights and pair are checked too (all embedded ones by default)."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device"
    checks = [
        Check("torch", True, f"{torch.__version__}, {gpu}, {torch.get_num_threads()} threads"),
        Check("transformers", True, version("transformers")),
        Check("sae-lens", True, version("sae-lens")),
        check_faiss(),
        check_cache(),
    ]
    for name in models or [n for n in known() if embedded_cached(n)]:
        try:
            target = resolve(name, sae, offline=offline, notify=notify)
            checks.append(Check("weights", True, f"{target.name}: {target.model_dir}"))
            checks.append(judge_pair(target, explained_variance(target)))
        except GeofilterError as error:
            checks.append(Check("weights", False, str(error)))
    if len(checks) == 5:
        checks.append(Check("weights", True, "no target's weights are in the cache yet; they come with the first scan"))
    return checks
