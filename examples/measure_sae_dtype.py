"""What storing the SAE encoder in bfloat16 costs and saves; the figures in docs/targets.md.

    python examples/measure_sae_dtype.py

Agreement is measured on the embedded target's real residuals and bank, float32 against bfloat16 storage. Time and
memory are measured at the size of gemma-2-27b's SAE (4,608 x 131,072, random weights), each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.scorer import Scorer
from geofilter.build.banks import bank_folder_for
from geofilter.build.build import BUILT_IN
from geofilter.config import DEFAULT_SCORER, Loading, TargetChoice
from geofilter.encode.model import DTYPES
from geofilter.encode.reader import FeatureReader
from geofilter.encode.sae import FeatureEncoder
from geofilter.encode.tokens import encode_row
from geofilter.rows.records import Row, read_rows
from geofilter.rows.shipped import example_file
from geofilter.stats import spearman
from geofilter.target.resolve import resolve

D_IN, D_SAE, TOKENS = 4608, 131072, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "DTYPE"), help="time one encoder and exit")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(time_one(Path(args.one[0]), args.one[1])))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = random_sae(Path(scratch))
        timed = {
            dtype: json.loads(
                subprocess.run([sys.executable, __file__, "--one", str(folder), dtype], check=True, text=True,
                               stdout=subprocess.PIPE).stdout
            )
            for dtype in ("float32", "bfloat16")
        }  # fmt: skip
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    report = {"machine": machine, "agreement": agreement(), "size": [D_IN, D_SAE], "tokens": TOKENS, "timed": timed}
    print(json.dumps(report, indent=1))


def agreement() -> dict[str, float]:
    """Features and scores of the example file with both storages."""
    target = resolve(TargetChoice("smollm2-135m"))
    pooled = {}
    for dtype in ("float32", "bfloat16"):
        reader = FeatureReader(target, Loading("cpu", "float32", dtype))
        rows = [encode_row(r, reader.tokenizer, 512) for r in read_rows(example_file()) if isinstance(r, Row)]
        pooled[dtype] = Pooled.of(reader.read(rows), reader.encoder.d_in)
    exact, rounded = (p.matrix(4096).toarray() for p in pooled.values())
    both = ((exact > 0) & (rounded > 0)).sum()
    out = {
        "rows": len(exact),
        "active features in both, of all in either": float(both / ((exact > 0) | (rounded > 0)).sum()),
        "relative error of pooled activations": float(np.linalg.norm(rounded - exact) / np.linalg.norm(exact)),
    }
    for name in BUILT_IN:
        bank = Bank.load(bank_folder_for(name, target, "float32"), target.fingerprint)
        scores = [Scorer(bank, DEFAULT_SCORER).raw(p, []) for p in pooled.values()]
        out[f"rank correlation of scores, {name}"] = spearman(*scores)
    return out


def random_sae(folder: Path) -> Path:
    """A JumpReLU SAE of the 27B size."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        "W_enc": torch.randn(D_IN, D_SAE, generator=generator) / D_IN**0.5,
        "W_dec": torch.zeros(1, D_IN),  # not read by the encoder
        "b_enc": torch.zeros(D_SAE), "b_dec": torch.zeros(D_IN), "threshold": torch.full((D_SAE,), 3.3),
    }  # fmt: skip
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"architecture": "jumprelu", "d_in": D_IN, "d_sae": D_SAE,
                                                 "metadata": {"hook_name": "blocks.22.hook_resid_post"}}))  # fmt: skip
    return folder


def time_one(folder: Path, dtype: str) -> dict[str, float]:
    encoder = FeatureEncoder(folder, torch.device("cpu"), DTYPES[dtype])
    x = torch.randn(TOKENS, D_IN, generator=torch.Generator().manual_seed(1))
    encoder.encode(x[:64])
    begin = time.perf_counter()
    acts = encoder.encode(x)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    held = encoder.W_enc.numel() * encoder.W_enc.element_size() / 1e9
    return {"seconds": round(seconds, 2), "encoder GB": round(held, 2), "peak resident GB": round(peak, 2),
            "active a token": round(len(acts.value) / TOKENS, 1)}  # fmt: skip


if __name__ == "__main__":
    main()
