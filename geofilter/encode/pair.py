"""Do model and SAE belong together? The declared layer must be the one that the SAE explains best."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from geofilter.config import Loading
from geofilter.encode.memory import each_pass, give_back, is_out_of_memory, too_little
from geofilter.encode.model import DTYPES, ResidualModel, choose_device, count_layers, precision_here, resolved_dtype
from geofilter.encode.need import fitting
from geofilter.encode.passes import Pass
from geofilter.encode.reader import FeatureReader, outlier_free
from geofilter.encode.sae import FeatureEncoder
from geofilter.encode.tokens import encode_row
from geofilter.errors import InputError, TargetError
from geofilter.files import Notify, cache_dir, write_json
from geofilter.rows.row_error import RowError
from geofilter.rows.shipped import background_rows
from geofilter.target.size import MAX_TOKENS
from geofilter.target.target import Target

PAIR_ROWS = 40
"""built-in chat rows the pair is checked on"""
FLOOR = 0.4
"""explained variance that an SAE must reach on a model other than the one it was trained on; docs/targets.md has what
was measured
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool
    text: str


def explained_variance(target: Target, loading: Loading) -> dict[int, dict[str, float]]:
    """`_explained_variance`, with too little memory as a clear error.

    Raises:
        TargetError: not enough memory on the GPU, vectors that are not finite, or a template that refuses chat.
    """
    try:
        return _explained_variance(target, loading)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise too_little(choose_device(loading.device)) from None
    finally:
        give_back()


def _explained_variance(target: Target, loading: Loading) -> dict[int, dict[str, float]]:
    """How well the SAE reconstructs the vectors of its own layer and of the neighbouring ones.

    Measured on response tokens of built-in chat; special, prompt and outlier-norm tokens are left out, since
    they flatter the figure. Explained variance = 1 - |x - x_hat|^2 / |x - mean x|^2.

    Returns:
        per layer `explained_variance` and `l0` (active features a token).
    """
    at_once = fitting(target, loading)
    near = range(max(0, target.layer - 1), min(target.layer + 2, count_layers(target.model_dir)))
    model = ResidualModel(target.model_dir, near, loading, target.hook.kind, adapter=target.adapter_dir)
    encoder = FeatureEncoder(target.sae_dir, model.hook_device, DTYPES[loading.sae_dtype])
    encoder.chunk = min(encoder.chunk, at_once.chunk)
    rows = []
    try:
        for row in background_rows()[:PAIR_ROWS]:
            encoded = encode_row(row, model.tokenizer, 256)
            if (unknown := model.unknown_token(encoded)) is not None:
                raise unknown
            rows.append(encoded.windows[0])
    except RowError as error:
        raise TargetError(f"{target.name}: cannot read ordinary chat: {error}") from None
    vectors: dict[int, list[torch.Tensor]] = {layer: [] for layer in model.layers}

    def kept(read: Pass) -> dict[int, torch.Tensor]:
        found = model.responses(read).items()
        return {layer: x[outlier_free(x, read.counts)].float().to(encoder.device) for layer, x in found}

    passes = model.passes(rows, at_once.tokens)
    for found in each_pass(passes, kept, model.device):
        for layer, x in found.items():
            vectors[layer].append(x)
        del found, x
    out = {}
    for layer in model.layers:
        x = torch.cat(vectors.pop(layer))
        if not len(x) or not x.isfinite().all():
            raise TargetError(
                f"{target.name}: layer {layer} is not finite in {resolved_dtype(loading)}; use --dtype float32"
            )
        acts = encoder.encode(x)
        with torch.inference_mode():
            left = encoder.decode(acts, len(x)).sub_(x).square_().sum()
            variance = (x - x.mean(0)).square_().sum()
        out[layer] = {"explained_variance": 1 - float(left / variance), "l0": len(acts.value) / len(x)}
    return out


def judge_pair(target: Target, figures: dict[int, dict[str, float]]) -> Check:
    """The declared layer must be the one the SAE explains best, and a fine-tune's must be explained well enough."""
    ev = {layer: f["explained_variance"] for layer, f in figures.items()}
    best = max(ev, key=lambda layer: ev[layer])
    moved = "" if target.adapter_dir is None else f"; or the adapter {target.choice.adapter} has moved the model away"
    shown = ", ".join(f"layer {layer}: {value:.3f}" for layer, value in sorted(ev.items()))
    wrong = ""
    if not ev[best] > 0:
        wrong = (
            f"the SAE reconstructs none of the layers around the one it declares ({shown}); model and SAE do not "
            "belong together"
        )
    elif best != target.layer:
        wrong = (
            f"the SAE declares layer {target.layer} but explains layer {best} best ({shown}); model and SAE do not "
            "belong together, or the layer is off by one"
        )
    elif not target.trained_on_it and ev[best] < FLOOR:
        wrong = (
            f"the SAE was not trained on this model and explains too little of it ({shown}; at least {FLOOR} is asked "
            "of a fine-tune); train one for it: geofilter sae train"
        )
    if wrong:
        return Check("pair", False, f"{target.name}: {wrong}{moved}")
    return Check("pair", True, f"{target.name}: explained variance {shown}; L0 {figures[target.layer]['l0']:.1f}")


def _remembered(target: Target, loading: Loading) -> Path:
    """Where the figures of a pair that has passed are kept."""
    return cache_dir() / "pairs" / f"{target.fingerprint[:16]}-{precision_here(loading)}.json"


def fit(target: Target, loading: Loading) -> str | None:
    """How well the SAE explains a model that it was not trained on; None where it was, or where it is not known yet."""
    if target.trained_on_it:
        return None
    try:
        found = json.loads(_remembered(target, loading).read_text("utf-8"))[str(target.layer)]["explained_variance"]
        whose = "" if target.adapter_dir is None else "is the base's and "
        return f"the SAE {whose}explains {found:.2f} of the variance of this model's layer {target.layer}"
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _still_passes(target: Target, memory: Path) -> bool:
    """True for a pair that passed and does by today's rules, and under the name that the model has now.

    The same weights may have been read as those that the SAE was trained on, of which less is asked.
    """
    try:
        found = json.loads(memory.read_text("utf-8"))
        return judge_pair(target, {int(layer): figures for layer, figures in found.items()}).ok
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def require_pair(target: Target, loading: Loading, notify: Notify) -> None:
    """Check a target's pair once; a pass is remembered in the cache.

    Raises:
        TargetError: model and SAE do not belong together.
    """
    memory = _remembered(target, loading)
    if _still_passes(target, memory):
        return
    notify(f"checking that model and SAE of {target.name} belong together, once ...")
    figures = explained_variance(target, loading)
    check = judge_pair(target, figures)
    if not check.ok:
        raise TargetError(check.text)
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, figures)  # only what has passed is remembered
    except (OSError, InputError):
        notify(f"note: {memory.parent} cannot be written, so the next start checks this pair again")


def checked_reader(target: Target, loading: Loading, notify: Notify, max_tokens: int = MAX_TOKENS) -> FeatureReader:
    """Model and SAE of a target, loaded after its pair has been checked.

    Args:
        max_tokens: of the longest window that will be read, by which --max-memory is reckoned.

    Raises:
        TargetError: see `require_pair` and `reader.FeatureReader`.
    """
    fitting(target, loading, max_tokens)
    require_pair(target, loading, notify)
    if (text := fit(target, loading)) is not None:
        notify(f"note: {text}")
    reader = FeatureReader(target, loading, notify=notify, max_tokens=max_tokens)
    if not reader.tokenizer.chat_template:
        notify(f"note: {target.model} has no chat template; the turns of a row are joined by blank lines")
    return reader
