"""How far may a fine-tune move a model before its base's SAE stops being of use?

    python examples/measure_fit.py --data ../shared/data --noise 0 0.1 0.2 0.3 0.5

Every linear layer of the embedded model up to the hook gets random noise of so many times its weights' standard
deviation, as a stand-in for a fine-tune that has gone ever further. Prints, for each, the explained variance at the
SAE's layer and its neighbours, and the AUROC of seed banks of 30 rows a side (contrast, mean of 5 draws), beside that
of the mean residual, which needs no SAE (difference of means).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from compare_saes import MAX_TOKENS, pool_stored
from evaluation_sets import draw_seeds, load, mean_auroc

from geofilter.bank.background import Background
from geofilter.bank.geometry import closeness, effect_sizes, strongest
from geofilter.bank.linear import contrast
from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import ResidualModel
from geofilter.encode.reader import TOKEN_BUDGET, outlier_free_padded
from geofilter.encode.sae import FeatureEncoder
from geofilter.encode.tokens import batches, encode_row
from geofilter.rows.records import Row
from geofilter.rows.shipped import background_rows
from geofilter.target.resolve import resolve
from geofilter.target.sae_folder import unit_decoder

SETS = ("harmful advice / general chat", "toxic / neutral comments", "insecure / secure code")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--noise", type=float, nargs="+", required=True)
    parser.add_argument("--per-side", type=int, default=120)
    args = parser.parse_args()
    target = resolve(TargetChoice("smollm2-135m"))
    layers = [target.layer - 1, target.layer, target.layer + 1]
    encoder, directions = FeatureEncoder(target.sae_dir, torch.device("cpu")), unit_decoder(target.sae_dir)
    sets = {name: load(args.data, name, args.per_side) for name in SETS}
    for noise in args.noise:
        model = ResidualModel(target.model_dir, layers, Loading("cpu", "bfloat16"))
        disturb(model, noise)
        x, row_of = read(model, background_rows()[:200])
        result: dict[str, object] = {"noise": noise}
        for layer in layers:
            result[f"explained variance {layer}"] = round(explained(encoder, x[layer]), 3)
        result["norm"] = round(float(x[target.layer].norm(dim=-1).mean()), 1)
        background = Background.of(pool_stored(encoder, x[target.layer], row_of), len(directions))
        for name, data in sets.items():
            x, row_of = read(model, data.rows)
            pooled = pool_stored(encoder, x[target.layer], row_of)
            means = pooled.residual.astype(np.float32)
            by_features, by_means = [], []
            for draw in range(5):
                seeds, rest = draw_seeds(data, 30, draw)
                effects = effect_sizes(pooled.take(seeds), data.bad[seeds], len(directions))
                w = closeness(directions, *strongest(effects, 100)).contrast
                by_features.append((contrast(background, w).scores(pooled.take(rest)), data.bad[rest]))
                bad, good = (means[seeds[data.bad[seeds] == side]].mean(0) for side in (True, False))
                by_means.append((means[rest] @ (bad - good), data.bad[rest]))
            result[name] = {"features": round(mean_auroc(by_features), 3), "residual": round(mean_auroc(by_means), 3)}
        print(json.dumps(result), flush=True)


@torch.no_grad()
def disturb(model: ResidualModel, noise: float) -> None:
    """Add noise to the linear layers, in place, the same draw for every amount."""
    generator = torch.Generator().manual_seed(0)
    for module in model.model.modules():
        if isinstance(module, torch.nn.Linear):
            drawn = torch.randn(module.weight.shape, generator=generator)
            module.weight.add_((noise * module.weight.float().std() * drawn).to(module.weight.dtype))


def read(model: ResidualModel, rows: list[Row]) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """Residuals (n_tokens, d_in) of the kept response tokens by layer, and their rows (n_tokens,)."""
    encoded = [encode_row(row, model.tokenizer, MAX_TOKENS).cut() for row in rows]
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in model.layers}
    of: list[torch.Tensor] = []
    keeps = max(model.layers) - 1  # the hook's layer says which tokens are outliers
    for batch in batches(encoded, TOKEN_BUDGET, model.pad_id):
        found = model.residuals(batch.input_ids, batch.attention_mask)
        keep = outlier_free_padded(found[keeps], batch.response_mask)
        of.append(torch.tensor(batch.rows)[keep.nonzero(as_tuple=True)[0]])
        for layer, x in found.items():
            parts[layer].append(x[keep].float())
    return {layer: torch.cat(part) for layer, part in parts.items()}, torch.cat(of)


def explained(encoder: FeatureEncoder, x: torch.Tensor) -> float:
    """Explained variance of vectors x (n, d_in)."""
    left = (x - encoder.decode(encoder.encode(x), len(x))).square().sum()
    return 1 - float(left / (x - x.mean(0)).square().sum())


if __name__ == "__main__":
    main()
