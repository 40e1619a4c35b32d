"""The ways in which the rows are read: geofilter's, the plain ones, and what arithmetic alone would take."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.throughput.plain import Plain, RowMean, sparse
from benchmarks.throughput.rows import MAX_TOKENS
from benchmarks.throughput.saelens import SAELens
from benchmarks.throughput.subject import Scores, Subject
from geofilter.bank.features import RowFeatures
from geofilter.config import ScanConfig
from geofilter.encode.model import computes_on_gpu
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import Encoded, batches
from geofilter.run.store import Run
from geofilter.scanning.begun import claimed
from geofilter.scanning.plan import drafted
from geofilter.scanning.ready import Job
from geofilter.scanning.shards import Encoder, Telling, encode_shards

READ, SCAN = "geofilter, tokenised rows", "geofilter, a scan's encoding"
FLOOR, BOUND = "floor: linear layers + encoder only", "bound: same layers + encoder, {} a pass"
PLAINEST = "Hugging Face, row by row, float32"

Work = Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Way:
    """One way to read rows."""

    make: Callable[[Sequence[Encoded]], Work]
    """from tokenised rows, the first ones, to what is timed"""
    few: bool = False
    """only the first rows are read, since it is slow; it is compared by its tokens a second"""
    features: Callable[[Any], list[RowFeatures]] | None = None
    """what was read, from what the timed call gave back; None where nothing is"""


def quiet(*_: Any) -> None:
    return None


def scan_run(subject: Subject, reader: FeatureReader, scores: Scores, n: int) -> tuple[Run, list[str]]:
    """What `geofilter scan` does between loading and scoring, into a new run."""
    config = ScanConfig(
        (str(subject.data),), subject.target.choice, subject.loading, max_tokens=MAX_TOKENS, limit=n
    )  # fmt: skip
    where = subject.work / f"{subject.name}-run"
    shutil.rmtree(where, ignore_errors=True)
    draft = drafted(config)
    begun = claimed(config, draft.files, where, offline=True, notify=quiet)
    run, plan = begun.run, draft.write(begun.run.path)
    run.write_manifest(begun.manifest)
    telling = Telling(quiet, quiet, quiet, quiet)
    apart = subject.target.model_dir if computes_on_gpu(subject.loading) else None
    job = Job.of(config, begun.files, plan.path, [(0, plan.n_shards)], begun.fingerprint)
    encode_shards(job, run, Encoder(begun.files, lambda: reader, scores.shares), lambda: reader, telling, apart)
    return run, [f["path"] for f in begun.files]


def features_of(run: Run) -> list[RowFeatures]:
    """The rows of a run's shards."""
    out = []
    for shard in run.shards():
        pooled = shard.pooled
        for i in range(len(pooled)):
            span = slice(int(pooled.indptr[i]), int(pooled.indptr[i + 1]))
            out.append(
                RowFeatures(pooled.indices[span], pooled.values[span], int(pooled.n_tokens[i]), pooled.residual[i])
            )
    return out


def bound(subject: Subject, reader: FeatureReader, budget: int) -> Callable[[Sequence[Encoded]], Work]:
    """The same layers over the same rows, sorted, padded and on the device already, and the encoder's product.

    Without tokenising, gates, pooling, copies back or files.
    """
    layer, w_enc, chunk = subject.target.layer, reader.encoder.W_enc, reader.encoder.chunk

    def make(rows: Sequence[Encoded]) -> Work:
        ready = []
        for b in batches(rows, budget, reader.model.pad_id):
            at = b.response_mask.flatten().nonzero().squeeze(1)
            ready.append([t.to(subject.device) for t in (b.input_ids, b.attention_mask, at)])

        @torch.inference_mode()
        def run() -> None:
            for ids, attention, at in ready:
                x = reader.model.residuals(ids, attention)[layer].flatten(0, 1)[at].float()
                for part in x.split(chunk):
                    torch.mm(part, w_enc.float())

        return run

    return make


def floor(subject: Subject, plain: Plain, reader: FeatureReader) -> Callable[[Sequence[Encoded]], Work]:
    """Linear layers and encoder only, over the real tokens: no attention, norms, embeddings or activations."""
    linear, w_enc, chunk = plain.linear_weights(), reader.encoder.W_enc, reader.encoder.chunk
    at_once = 2048 if subject.device.type == "cpu" else 8192
    x = {w.shape[1]: torch.randn(at_once, w.shape[1], device=subject.device, dtype=w.dtype) for w in linear}
    y = torch.randn(chunk, w_enc.shape[0], device=subject.device)

    def make(rows: Sequence[Encoded]) -> Work:
        tokens, response = sum(len(row.ids) for row in rows), sum(row.n_response for row in rows)

        @torch.inference_mode()
        def run() -> None:
            for start in range(0, tokens, at_once):
                for w in linear:
                    torch.nn.functional.linear(x[w.shape[1]][: tokens - start], w)
            for start in range(0, response, chunk):
                torch.mm(y[: response - start], w_enc.float())

        return run

    return make


def ways_of(
    subject: Subject, reader: FeatureReader, scores: Scores, budgets: Sequence[int]
) -> tuple[dict[str, Way], Plain]:
    """Every way by its name, and the plainest one, which reads in float32 whatever the dtype of the others."""
    plain = Plain(subject.whole, subject.target.sae_dir, subject.target.layer, subject.device, subject.dtype)
    plainest = plain
    if subject.dtype != torch.float32:
        plainest = Plain(subject.whole, subject.target.sae_dir, subject.target.layer, subject.device, torch.float32)
    saelens = SAELens(plain.model, subject.target.sae_dir, MAX_TOKENS)

    def slow(read: Callable[[Sequence[Encoded]], list[RowMean]]) -> Way:
        return Way(lambda rows: lambda: read(rows), few=True, features=sparse)

    found = {
        SCAN: Way(
            lambda rows: lambda: scan_run(subject, reader, scores, len(rows))[0], features=features_of,
        ),
        READ: Way(lambda rows: lambda: reader.read(rows), features=list),
        FLOOR: Way(floor(subject, plain, reader)),
        **{BOUND.format(f"{budget:,}"): Way(bound(subject, reader, budget)) for budget in budgets},
        "SAELens, stopped at the hook": slow(saelens.stopped),
        "SAELens, run_with_cache_with_saes": slow(saelens.with_saes),
        "Hugging Face, padded, 8 rows a pass": slow(plain.padded),
        PLAINEST: slow(plainest.single),
    }  # fmt: skip
    if plainest is not plain:
        wide = FeatureReader(subject.target, replace(subject.loading, dtype="float32"))
        found[f"{READ}, float32"] = Way(lambda rows: lambda: wide.read(rows), few=True, features=list)
    return found, plainest
