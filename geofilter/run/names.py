"""What the files of a run's folder are called, see `run.store`."""

from __future__ import annotations

MANIFEST = "manifest.json"
FEATURES = "features"
LINES = "scores.jsonl"
QUARANTINE = "quarantine.jsonl"
SCORES = "scores.safetensors"
"""the numbers of scores.jsonl as arrays"""
VECTORS = "vectors.safetensors"
"""see `run.vectors`"""
LABELS = "labels.jsonl"
"""the labels given to `geofilter label`"""
LABELLED = "labelled"
"""the bank learnt from them"""
