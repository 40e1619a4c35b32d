"""`geofilter sae check`: an SAE measured again, on other text than it was trained on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from geofilter.config import Loading
from geofilter.dictionary import measure
from geofilter.dictionary.card import Card, read_card, unusable_said
from geofilter.dictionary.corpus import HELD_OUT_TOKENS, is_held_out, make_corpus, rows_in_turn
from geofilter.encode.model import ResidualModel
from geofilter.encode.sae import FeatureEncoder
from geofilter.errors import InputError, TargetError
from geofilter.files import Notify, file_sha256, silent
from geofilter.rows.fields import NO_FIELDS, Fields
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, Unusable, check_columns
from geofilter.rows.shipped import background_rows
from geofilter.target.alone import find_model
from geofilter.target.sae_folder import WEIGHTS, decoder_shape, read_cfg, read_computed


def check_sae(
    sae_dir: Path,
    data: tuple[str, ...] = (),
    *,
    model: str | None = None,
    fields: Fields = NO_FIELDS,
    loading: Loading | None = None,
    offline: bool = False,
    notify: Notify = silent,
) -> tuple[Card | None, Card]:
    """Measure the SAE of a folder on text.

    Args:
        data: files of it; the package's own chat when there are none. Of a file that the SAE was trained on only the
            held-out rows count.
        model: the one it belongs to; by default the one its card names.

    Returns:
        the folder's card, if it has one; what was measured.

    Raises:
        InputError: rows or the card cannot be read.
        TargetError: no SAE, no such model, or a pair that does not fit.
    """
    loading = loading or Loading()
    if not (sae_dir / WEIGHTS).is_file():
        raise TargetError(f"{sae_dir}: holds no {WEIGHTS}; give the folder of an SAE")
    card, cfg = read_card(sae_dir), read_cfg(sae_dir)
    read_computed(sae_dir)
    choice = (card or {}).get("choice") or {}
    if model is None and not choice.get("model"):
        raise TargetError(f"{sae_dir}: says not where its model is; name it with --model")
    found = find_model(
        model or str(choice["model"]), None if model else choice.get("revision"), offline=offline, notify=notify
    )
    hook, notes = found.config.check(cfg, str(sae_dir))
    for text in notes:
        notify(f"note: {text}")
    folder, fingerprint = found.weights(hook.layer, offline=offline, notify=notify)
    reader = ResidualModel(folder, [hook.layer], loading, hook.kind)
    rows = _rows(data, Reading(fields=fields), card, notify) if data else iter(background_rows())
    with tempfile.TemporaryDirectory() as scratch:
        corpus = make_corpus(rows, reader, Path(scratch), HELD_OUT_TOKENS, 1024, "keep", held_out=lambda _: False)
        for text in unusable_said(dict(corpus.read.unusable), corpus.read.first):
            notify(text)
        if not corpus.read.tokens:
            raise InputError(f"{', '.join(data) or 'the package'}: holds no row to measure on; give others with --data")
        encoder = FeatureEncoder(sae_dir, reader.hook_device)
        about, fired = measure.reconstruction(reader, encoder, corpus.train)
        silent_features = int((fired == 0).sum())
        measured: Card = {
            "model": found.model,
            "hook": str(hook),
            "layer": hook.layer,
            "architecture": cfg["architecture"],
            "d_in": cfg["d_in"],
            "d_sae": decoder_shape(sae_dir)[1],
            "k": cfg.get("k", (card or {}).get("k")),
            "held_out": about,
            "text": list(data) or ["chat that ships with the package"],
            "not_active": silent_features,
            "loss": measure.loss_recovered(found, hook, sae_dir, corpus.train, loading, notify),
            "pair": measure.pair(found, folder, hook, sae_dir, loading),
            "model_fingerprint": fingerprint,
            "weights_sha256": file_sha256(sae_dir / WEIGHTS),
        }
    return card, measured


def _rows(data: Iterable[str], reading: Reading, card: Card | None, notify: Notify) -> Iterator[Row | Unusable]:
    paths = [Path(path) for path in data]
    check_columns(paths, reading)
    seen = {file.get("sha256") for file in (card or {}).get("data", ()) if isinstance(file, dict)}
    trained = {str(path) for path in paths if seen and file_sha256(path) in seen}
    for name in sorted(trained):
        notify(f"note: {name}: the SAE was trained on it; only its held-out rows count")
    for row in rows_in_turn(paths, reading):
        if row.file not in trained or (isinstance(row, Row) and is_held_out(row.sha256)):
            yield row
