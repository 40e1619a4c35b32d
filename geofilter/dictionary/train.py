"""`geofilter sae train`: an SAE for a model that has none. Stopped at any moment, the same call goes on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from geofilter.dictionary import measure
from geofilter.dictionary.activations import activations
from geofilter.dictionary.card import FORMAT, Card, too_few, unusable_said
from geofilter.dictionary.config import AUTO, MOST_TOKENS, PASSES, SaeConfig
from geofilter.dictionary.corpus import Corpus, make_corpus, open_corpus, rows_in_turn
from geofilter.dictionary.course import Course, Progress, Standing
from geofilter.dictionary.order import chunk_tokens, chunks
from geofilter.dictionary.record import WORK, claim, described, publish, write_sae
from geofilter.dictionary.training import Training
from geofilter.encode.model import DTYPES, ResidualModel, choose_device, resolved_dtype
from geofilter.encode.sae import FeatureEncoder
from geofilter.errors import InputError, TargetError
from geofilter.files import Notify, file_sha256, locked, silent
from geofilter.rows.gather import refuse_twice
from geofilter.rows.reading import Reading
from geofilter.rows.records import check_columns
from geofilter.target.alone import ModelAlone, find_model
from geofilter.target.hooks import Hook
from geofilter.target.sae_folder import WEIGHTS
from geofilter.text import counted
from geofilter.version import __version__


def train_sae(
    config: SaeConfig,
    out: Path,
    *,
    offline: bool = False,
    notify: Notify = silent,
    progress: Progress = silent,
) -> Card:
    """Train an SAE on the activations of a model over the rows of `config.data`, and measure it.

    Args:
        out: the SAE's folder, in SAELens' layout with a card beside it; while it is trained it holds what a stopped
            training goes on from.
        notify: told one line at a time what takes long or should be known.
        progress: told how it goes, about once a second.

    Returns:
        the card.

    Raises:
        InputError, TargetError, RunError: see `errors`.
    """
    if not config.data:
        raise InputError("no data: name at least one file with --data")
    refuse_twice(config.data)
    paths = [Path(path) for path in config.data]
    reading = Reading(fields=config.fields)
    check_columns(paths, reading)
    files = [described(path, config.origins.get(path)) for path in config.data]
    model = find_model(config.model, config.revision, offline=offline, notify=notify)
    hook = Hook(layer_for(model, config.layer), "hook_resid_post")
    layer = hook.layer
    folder, fingerprint = model.weights(layer, offline=offline, notify=notify)
    request = {
        "data": [[f["path"], f["sha256"]] for f in files],
        "model": model.name,
        "model_fingerprint": fingerprint,
        **config.request(),
        "layer": layer,
        "dtype": resolved_dtype(config.loading),
        "device": choose_device(config.loading.device).type,
    }
    if (done := claim(out, request)) is not None:
        notify(f"note: {out} holds the SAE of this command already; nothing is trained")
        return done
    work = out / WORK
    with locked(work / "lock", f"{out}: another process trains here; wait for it, or give another --out"):
        reader = ResidualModel(folder, [layer], config.loading)
        corpus = _corpus(rows_in_turn(paths, reading), reader, work, config, notify, progress)
        tokens = config.asked or min(MOST_TOKENS, PASSES * corpus.read.tokens)
        batch = config.batch_for(tokens)
        _check_tokens(corpus, tokens, batch, config, notify)
        training = _train(reader, corpus, tokens, batch, work, config, notify, progress)
        progress(Standing("measuring", tokens, tokens))
        weights, cfg, idle = training.finish()
        made = work / "made"
        write_sae(made, _stored(weights, config), _cfg(cfg, model, hook, reader, config))
        card = {
            "format": FORMAT,
            "model": model.model,
            "model_revision": model.choice.revision,
            "model_fingerprint": fingerprint,
            "hook": str(hook),
            "layer": layer,
            "layers": model.layers,
            "architecture": config.architecture,
            "d_in": training.d_in,
            "d_sae": config.d_sae,
            "k": config.k,
            "distinct_tokens": min(corpus.read.tokens, training.tokens),
            "tokens_seen": training.tokens,
            "rows": corpus.read.rows,
            "held_out_rows": corpus.read.held_out_rows,
            "rows_unusable": dict(corpus.read.unusable),
            "data_read_to_the_end": corpus.read.whole,
            "data": files,
            **_measured(reader, corpus, made, idle, model, hook, folder, config, notify),
            "training": {
                "steps": training.steps, "batch": batch, "learning_rate": config.learning_rate, "seed": config.seed,
                "max_tokens": config.max_tokens, "system": config.system, "seconds": round(training.seconds, 1),
            },
            "dtype": request["dtype"],
            "device": request["device"],
            "weights": config.weights,
            "weights_sha256": file_sha256(made / WEIGHTS),
            "choice": {"model": model.choice.model, "revision": model.choice.revision},
            "versions": _versions(),
            "request": request,
        }  # fmt: skip
        publish(out, made, card)
    return card


def layer_for(model: ModelAlone, layer: str) -> int:
    """The layer that is meant: `auto` is just below half depth.

    Raises:
        InputError: the model has no such layer.
    """
    chosen = max(0, model.layers // 2 - 1) if layer == AUTO else int(layer)
    if chosen >= model.layers:
        raise InputError(f"--layer {layer}: {model.name} has layers 0 to {model.layers - 1}")
    return chosen


def _corpus(
    rows: Iterator[Any], model: ResidualModel, work: Path, config: SaeConfig, notify: Notify, progress: Progress
) -> Corpus:
    found = open_corpus(work)
    if found is None:
        wanted = config.asked or MOST_TOKENS
        found = make_corpus(
            rows, model, work, wanted, config.max_tokens, config.system,
            told=lambda n: progress(Standing("reading rows", n, config.asked or 0)),
        )  # fmt: skip
        for text in unusable_said(dict(found.read.unusable), found.read.first):
            notify(text)
        if not model.tokenizer.chat_template:
            notify("note: the model has no chat template; the turns of a row are joined by blank lines")
    return found


def _check_tokens(corpus: Corpus, tokens: int, batch: int, config: SaeConfig, notify: Notify) -> None:
    """Say how many passes it will be.

    Raises:
        InputError: there are no rows, or too few.
    """
    read = corpus.read
    rows = f"{counted(read.rows, 'row')} of {', '.join(config.data)}"
    if not read.rows:
        raise InputError(f"{', '.join(config.data)}: holds no row to train on; give more rows with --data")
    if min(read.tokens, tokens) < batch:
        raise InputError(
            f"{rows}: {min(read.tokens, tokens):,} tokens to train on, fewer than a step's {batch:,}; give more rows "
            "with --data, more --tokens, or a smaller --batch"
        )
    if not read.held_out_tokens:
        raise InputError(f"{rows}: too few for any to be held out; give more rows with --data")
    if tokens > read.tokens:
        notify(
            f"note: {tokens:,} tokens are trained on, but the data hold {read.tokens:,} distinct ones: each is seen "
            f"{tokens / read.tokens:.1f} times"
        )
    if few := too_few(tokens, min(read.tokens, tokens)):
        notify(f"note: {few}")


def _train(
    model: ResidualModel,
    corpus: Corpus,
    tokens: int,
    batch: int,
    work: Path,
    config: SaeConfig,
    notify: Notify,
    progress: Progress,
) -> Training:
    """Train from where the work folder stands."""
    d_in = int(model.model.config.hidden_size)
    counts = corpus.train.counts
    most = chunk_tokens(d_in * model.dtype.itemsize)
    parts = list(chunks(counts, tokens, most, batch, config.seed))
    steps = sum(part.steps for part in parts)
    autocast = DTYPES[resolved_dtype(config.loading)] == torch.bfloat16
    training = Training(config, d_in, steps, batch, model.hook_device, autocast)
    if training.load(work):
        notify(f"note: goes on after {training.tokens:,} of {tokens:,} tokens")
    course = Course(training, work, tokens, progress)
    x: torch.Tensor | None = None
    try:
        for part in parts[training.chunk :]:
            if x is None or not part.same:
                x = None  # before the next ones take as much room
                x = activations(model, corpus.train, part.windows.tolist(), course.reading(part))
            if not training.tokens:
                training.begin(x)
            course.chunk(part, x, config.seed)
        course.end()
    except torch.OutOfMemoryError:
        raise TargetError(
            f"{model.hook_device}: not enough memory for the training; use a smaller --width or --batch"
        ) from None
    return training


def _stored(weights: dict[str, torch.Tensor], config: SaeConfig) -> dict[str, torch.Tensor]:
    out = {name: w.to(DTYPES[config.weights]).contiguous() for name, w in weights.items()}
    for name, w in out.items():
        if not w.isfinite().all():
            raise TargetError(
                f"{name} of the trained SAE is not finite in {config.weights}; store it with --weights float32"
            )
    return out


def _cfg(
    cfg: dict[str, Any], model: ModelAlone, hook: Hook, reader: ResidualModel, config: SaeConfig
) -> dict[str, Any]:
    return {
        **{k: v for k, v in cfg.items() if k != "metadata"},
        "device": "cpu",
        "dtype": "float32",
        "metadata": {
            "sae_lens_version": version("sae-lens"),
            "model_name": model.model,
            "model_revision": model.choice.revision,
            "hook_name": str(hook),
            "prepend_bos": reader.tokenizer.bos_token_id is not None,
            "context_size": config.max_tokens,
            "training_architecture": config.architecture,
            "geofilter_version": __version__,
        },
    }


def _measured(
    reader: ResidualModel,
    corpus: Corpus,
    sae_dir: Path,
    idle: torch.Tensor,
    model: ModelAlone,
    hook: Hook,
    folder: Path,
    config: SaeConfig,
    notify: Notify,
) -> dict[str, Any]:
    """What the SAE in a folder is worth, on the held-out rows.

    Args:
        idle: (d_sae,) features that were not active at the end of the training.
        folder: of the model's layers.
    """
    encoder = FeatureEncoder(sae_dir, reader.hook_device)
    about, fired = measure.reconstruction(reader, encoder, corpus.held_out)
    dead = int((idle & (fired == 0)).sum())
    return {
        "held_out": about,
        "dead_features": dead,
        "dead_share": round(dead / config.d_sae, 4),
        "loss": measure.loss_recovered(model, hook, sae_dir, corpus.held_out, config.loading, notify),
        "pair": measure.pair(model, folder, hook, sae_dir, config.loading),
    }


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "sae-lens", "safetensors", "numpy")
    return {"python": platform.python_version(), "geofilter": __version__, **{p: version(p) for p in packages}}
