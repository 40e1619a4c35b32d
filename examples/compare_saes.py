"""Compare SAEs of a model by what seed banks reach, not by explained variance alone.

    python examples/compare_saes.py --data ../shared/data --model smollm2-135m --cache WORK/rows WORK/sae-*

The model runs once over the labelled rows; the response tokens' residuals are kept, so that a further SAE
costs seconds. Prints, per SAE: AUROC of seed banks of 30 rows a side on each set (mean of 5 draws, and its standard
error over them), and of the built-in banks' labelled rows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from evaluation_sets import SETS, draw_seeds, load

from geofilter.bank.background import Background
from geofilter.bank.features import Pooled
from geofilter.bank.geometry import closeness, effect_sizes, strongest
from geofilter.bank.linear import contrast
from geofilter.build import build as seeding
from geofilter.build.seeds import built_in_seeds
from geofilter.config import Loading
from geofilter.encode.model import ResidualModel
from geofilter.encode.reader import outlier_free_padded, pool
from geofilter.encode.sae import FeatureEncoder
from geofilter.encode.tokens import batches, encode_row
from geofilter.stats import auroc
from geofilter.target.alone import find_model
from geofilter.target.hooks import Hook
from geofilter.target.sae_folder import read_cfg, unit_decoder
from geofilter.target.size import TOKEN_BUDGET

MAX_TOKENS = 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saes", type=Path, nargs="*", help="none: only read the rows, of --layers")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layers", type=int, nargs="*", default=[])
    parser.add_argument("--cache", type=Path, required=True, help="folder of the rows' residuals")
    parser.add_argument("--per-side", type=int, default=200)
    parser.add_argument("--banks", nargs="*", default=list(seeding.BUILT_IN), help="built-in banks")
    args = parser.parse_args()
    layer_of = {folder: Hook.parse(read_cfg(folder)["metadata"]["hook_name"]).layer for folder in args.saes}
    layers = sorted({*args.layers, *layer_of.values()})
    sets = {name: load(args.data, name, args.per_side) for name in SETS}
    built_in = {name: built_in_seeds(name) for name in args.banks}
    rows = {"background": seeding.background_rows(), **{k: v.rows for k, v in sets.items()}}
    rows |= {name: [s.row for s in seeds] for name, seeds in built_in.items()}
    collect(rows, layers, args.model, args.cache)
    for folder, layer in layer_of.items():
        encoder, directions = FeatureEncoder(folder, torch.device("cpu")), unit_decoder(folder)
        pooled = {key: pool_stored(encoder, *kept(args.cache, key, layer)) for key in rows}
        background = Background.of(pooled["background"], len(directions))

        def weights(seeds: Pooled, bad: np.ndarray, directions=directions) -> np.ndarray:
            return closeness(directions, *strongest(effect_sizes(seeds, bad, len(directions)), 100)).contrast

        result: dict[str, object] = {"sae": folder.name, "layer": layer}
        for name, data in sets.items():
            found = []
            for draw in range(5):
                seeds, rest = draw_seeds(data, 30, draw)
                w = weights(pooled[name].take(seeds), data.bad[seeds])
                found.append(auroc(contrast(background, w).scores(pooled[name].take(rest)), data.bad[rest]))
            result[name] = [round(float(np.mean(found)), 3), round(float(np.std(found, ddof=1) / len(found) ** 0.5), 3)]
        for bank, seeds in built_in.items():
            w = weights(pooled[bank], np.array([s.bad for s in seeds]))
            result[bank] = {
                name: round(auroc(contrast(background, w).scores(pooled[name]), data.bad), 3)
                for name, data in sets.items()
            }
        print(json.dumps(result, indent=1))


def place(cache: Path, key: str, layer: int) -> Path:
    return cache / f"{key.replace(' / ', '-').replace(' ', '_')}-{layer}.pt"


def kept(cache: Path, key: str, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, row_of = torch.load(place(cache, key, layer), weights_only=True)
    return x, row_of


def collect(rows: dict[str, list], layers: list[int], name: str, cache: Path) -> None:
    """Keep, per set and layer: residuals (n_tokens, d_in) bfloat16 of the kept response tokens, and their row."""
    cache.mkdir(parents=True, exist_ok=True)
    absent = [key for key in rows if not all(place(cache, key, layer).exists() for layer in layers)]
    if not absent:
        return
    folder, _ = find_model(name, offline=False, notify=print).weights(max(layers), offline=False, notify=print)
    model = ResidualModel(folder, layers, Loading("cpu", "bfloat16"))
    for key in absent:
        encoded = [encode_row(r, model.tokenizer, MAX_TOKENS).cut() for r in rows[key]]
        parts: dict[int, list] = {layer: [] for layer in layers}
        for batch in batches(encoded, TOKEN_BUDGET, model.pad_id):
            for layer, x in model.residuals(batch.input_ids, batch.attention_mask).items():
                keep = outlier_free_padded(x, batch.response_mask)
                row_of = torch.tensor(batch.rows)[keep.nonzero(as_tuple=True)[0]]
                parts[layer].append((x[keep].bfloat16(), row_of))
        for layer, found in parts.items():
            both = (torch.cat([x for x, _ in found]), torch.cat([r for _, r in found]))
            torch.save(both, place(cache, key, layer))
        print(f"{key}: {len(rows[key])} rows", flush=True)


def pool_stored(encoder: FeatureEncoder, x: torch.Tensor, row_of: torch.Tensor) -> Pooled:
    """Pool stored residuals, in the order of the rows."""
    rows = []
    for r in range(int(row_of.max()) + 1):
        mine = x[row_of == r]
        rows += pool(encoder, mine, torch.tensor([len(mine)])).rows()
    return Pooled.of(rows, encoder.d_in)


if __name__ == "__main__":
    main()
