"""Choose a layer and width by what seed banks reach, not by explained variance alone.

    python examples/compare_saes.py --data ../shared/data --layers 8 11 14 --cache WORK/rows.pt WORK/sae-*-*

The model runs once over the labelled rows; the response tokens' residuals are kept, so that a further SAE
costs seconds. Prints, per SAE: AUROC of seed banks of 30 rows a side (mean of 5 draws) on each set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from evaluation_sets import SETS, draw_seeds, load, mean_auroc

from geofilter.bank.background import Background
from geofilter.bank.features import Pooled
from geofilter.bank.geometry import closeness, effect_sizes, strongest
from geofilter.bank.linear import contrast
from geofilter.build import build as seeding
from geofilter.build.seeds import built_in_seeds
from geofilter.config import Loading
from geofilter.encode.model import ResidualModel
from geofilter.encode.reader import TOKEN_BUDGET, outlier_free, pool
from geofilter.encode.sae import FeatureEncoder
from geofilter.encode.tokens import batches, encode_row
from geofilter.stats import auroc
from geofilter.target.embedded import embedded_model
from geofilter.target.named import known
from geofilter.target.sae_folder import unit_decoder

MAX_TOKENS = 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saes", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--per-side", type=int, default=200)
    args = parser.parse_args()
    sets = {name: load(args.data, name, args.per_side) for name in SETS}
    built_in = {name: built_in_seeds(name) for name in seeding.BUILT_IN}
    rows = {"background": seeding.background_rows(), **{k: v.rows for k, v in sets.items()}}
    rows |= {name: [s.row for s in seeds] for name, seeds in built_in.items()}
    if not args.cache.exists():
        torch.save(collect(rows, args.layers), args.cache)
    stored = torch.load(args.cache, weights_only=True, mmap=True)
    for folder in args.saes:
        layer = int(json.loads((folder / "cfg.json").read_text())["metadata"]["hook_name"].split(".")[1])
        encoder, directions = FeatureEncoder(folder, torch.device("cpu")), unit_decoder(folder)
        pooled = {key: pool_stored(encoder, *stored[key][layer]) for key in rows}
        background = Background.of(pooled["background"], len(directions))

        def weights(seeds: Pooled, bad: np.ndarray, directions=directions) -> np.ndarray:
            return closeness(directions, *strongest(effect_sizes(seeds, bad, len(directions)), 100)).contrast

        result: dict[str, object] = {"sae": folder.name}
        for name, data in sets.items():
            draws = []
            for draw in range(5):
                seeds, rest = draw_seeds(data, 30, draw)
                w = weights(pooled[name].take(seeds), data.bad[seeds])
                draws.append((contrast(background, w).scores(pooled[name].take(rest)), data.bad[rest]))
            result[name] = round(mean_auroc(draws), 3)
        for bank, seeds in built_in.items():
            w = weights(pooled[bank], np.array([s.bad for s in seeds]))
            result[bank] = {
                name: round(auroc(contrast(background, w).scores(pooled[name]), data.bad), 3)
                for name, data in sets.items()
            }
        print(json.dumps(result, indent=1))


def collect(rows: dict[str, list], layers: list[int]) -> dict[str, dict[int, tuple[torch.Tensor, torch.Tensor]]]:
    """Per set and layer: residuals (n_tokens, d_in) float16 of the kept response tokens, and their row."""
    name = "smollm2-135m"
    path = embedded_model(name, known()[name], offline=False, notify=print)
    model = ResidualModel(path, layers, Loading("cpu", "bfloat16"))
    out = {}
    for key, members in rows.items():
        encoded = [encode_row(r, model.tokenizer, MAX_TOKENS).cut() for r in members]
        parts: dict[int, list] = {layer: [] for layer in layers}
        for batch in batches(encoded, TOKEN_BUDGET, model.pad_id):
            for layer, x in model.residuals(batch.input_ids, batch.attention_mask).items():
                keep = outlier_free(x, batch.response_mask)
                row_of = torch.tensor(batch.rows)[keep.nonzero(as_tuple=True)[0]]
                parts[layer].append((x[keep].half(), row_of))
        out[key] = {layer: (torch.cat([x for x, _ in p]), torch.cat([r for _, r in p])) for layer, p in parts.items()}
        print(f"{key}: {len(members)} rows", flush=True)
    return out


def pool_stored(encoder: FeatureEncoder, x: torch.Tensor, row_of: torch.Tensor) -> Pooled:
    """Pool stored residuals, in the order of the rows."""
    rows = []
    for r in range(int(row_of.max()) + 1):
        mine = x[row_of == r]
        rows += pool(encoder, mine.unsqueeze(0), torch.ones((1, len(mine)), dtype=torch.bool)).rows()
    return Pooled.of(rows, encoder.d_in)


if __name__ == "__main__":
    main()
