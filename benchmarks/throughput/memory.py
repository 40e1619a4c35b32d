"""Peak memory on a GPU of the pair's check and of a scan, beside what `geofilter doctor` estimates."""

from __future__ import annotations

import torch

from benchmarks.throughput.rows import MAX_TOKENS
from benchmarks.throughput.subject import Subject
from benchmarks.throughput.ways import scan_run
from geofilter.encode.need import memory_needed
from geofilter.encode.pair import explained_variance
from geofilter.encode.reader import FeatureReader
from geofilter.target.sae_folder import decoder_shape


def memory(subject: Subject) -> dict[str, dict[str, int]]:
    """Bytes: the estimate, and at the most in tensors and taken from the device, of each step."""
    target, loading = subject.target, subject.loading
    d_sae, d_in = decoder_shape(target.sae_dir)
    need = memory_needed(target.model_dir, target.layer, d_in, d_sae, loading, MAX_TOKENS)
    found = {
        "estimate": {"total": need.total, "model": need.model, "encoder": need.encoder, "working": need.working}
    }  # fmt: skip

    def peak(step: str) -> None:
        found[step] = {
            "tensors": torch.cuda.max_memory_allocated(subject.device),
            "taken": torch.cuda.max_memory_reserved(subject.device),
        }
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(subject.device)

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(subject.device)
    explained_variance(target, loading)
    peak("check of the pair")
    reader = FeatureReader(target, loading)
    scan_run(subject, reader, subject.scores(reader), len(subject.encoded))
    peak("loading and a scan")
    return found
