"""Check the mechanism behind the scores on the embedded model; write WORK/mechanism.json and WORK/mechanism.md.

    python examples/check_mechanism.py --data ../shared/data --sae LAYER_DIR --sae LAYER_DIR --work WORK

Minegishi et al. (arXiv 2605.00842) derive that a gradient step which amplifies feature i moves feature j in proportion
to the cosine of their decoder directions, and find features of misaligned data closer to toxic features. Part A takes
real steps on the model's weights and compares; part B compares rows. SAEs: the embedded one unless folders in SAELens
layout are given, one a layer. What has been read is kept in WORK: the command can be stopped and given again.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from evaluation_sets import load

from geofilter.bank import bank, geometry
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.features import Pooled
from geofilter.bank.learn import fit
from geofilter.bank.scorer import Scorer
from geofilter.build import build as seeding
from geofilter.build.seeds import built_in_seeds
from geofilter.config import Loading, TargetChoice
from geofilter.encode import reader as features
from geofilter.encode import sae
from geofilter.encode.model import pad_id
from geofilter.encode.tokens import Batch, Encoded, batches, encode_row
from geofilter.encode.whole import response_logits, whole
from geofilter.stats import auroc, cluster_bootstrap, interval, spearman
from geofilter.target import resolve as targets
from geofilter.target.sae_folder import unit_decoder
from geofilter.target.target import Target
from geofilter.text import markdown_table

KINDS = ("harmful advice", "general chat", "insecure code", "secure code")  # bad and good by turns
PAIRS = ("harmful advice / general chat", "insecure / secure code", "toxic / neutral comments")
DRAWS, ROWS, TOKENS = 2, 32, 128  # part A: seeds, rows of each, tokens of a row at most
PER_SIDE, TOKENS_B = 150, 256  # part B
MOVE = 0.01  # mean relative change of the residual that a step is scaled to
NULLS = 20
COMMON = 0.002  # share of tokens a feature is active on, for its change per active token
STEPS = {"sgd": lambda g: -g, "adamw": lambda g: -g / (g.abs() + 1e-8)}  # AdamW's first step, no weight decay


class Network:
    """The whole model, read and differentiated at several layers."""

    def __init__(self, folder: Path, layers: Sequence[int]) -> None:
        self.model, self.tokenizer = whole(folder, Loading("cpu", "float32"))
        self.model.requires_grad_(False)
        self.layers, self.blocks, self.seen = layers, self.model.model.layers, {}
        for layer in layers:
            self.blocks[layer].register_forward_hook(partial(self._keep, layer))

    def _keep(self, layer: int, _module: object, _args: object, output: object) -> None:
        self.seen[layer] = output[0] if isinstance(output, tuple) else output
        if self.seen[layer].requires_grad:
            self.seen[layer].retain_grad()

    def batches(self, rows: Sequence[Encoded]) -> Iterator[Batch]:
        return batches(rows, 512, pad_id(self.tokenizer, self.model))

    def weights(self, layer: int) -> list[torch.Tensor]:
        """All weights of the blocks up to a layer; the embedding is left alone, since the output head shares it."""
        return [p for block in self.blocks[: layer + 1] for p in block.parameters()]

    @torch.no_grad()
    def forward(self, rows: Sequence[Encoded], last: int) -> Iterator[tuple[Batch, dict[int, torch.Tensor]]]:
        """Residuals (B, T, d_in) of the hooked layers; the blocks above `last` are not run."""
        try:
            self.model.model.layers = self.blocks[: last + 1]
            for batch in self.batches(rows):
                self.model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
                yield batch, self.seen
        finally:
            self.model.model.layers = self.blocks

    def read(self, rows: Sequence[Encoded], layer: int, masks: Sequence = ()) -> tuple[list, torch.Tensor]:
        """Masks of the kept response tokens unless they are given, and the residuals (n, d_in) there."""
        found = [
            (features.outlier_free_padded(x[layer], b.response_mask), x[layer]) for b, x in self.forward(rows, layer)
        ]
        masks = masks or [mask for mask, _ in found]
        return masks, torch.cat([x[mask] for mask, (_, x) in zip(masks, found, strict=True)])

    def gradients(self, rows: Sequence[Encoded]) -> dict[int, tuple[list, torch.Tensor, torch.Tensor]]:
        """Per layer: masks, residuals (n, d_in), and the gradient there of the mean loss on response tokens.

        The gradients of the weights stay in them.
        """
        total, parts = sum(sum(row.mask) for row in rows), {layer: [] for layer in self.layers}
        for p in self.weights(max(self.layers)):
            p.requires_grad_(True).grad = None
        for batch in self.batches(rows):
            logits, wanted, _ = response_logits(self.model, batch)
            (torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / total).backward()
            for layer, x in self.seen.items():
                mask = features.outlier_free_padded(x.detach(), batch.response_mask)
                parts[layer].append((mask, x.detach()[mask], x.grad[mask]))
        self.model.requires_grad_(False)
        return {k: ([p[0] for p in v], *(torch.cat([p[i] for p in v]) for i in (1, 2))) for k, v in parts.items()}


def usage(encoder: sae.FeatureEncoder, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean activation (d_sae,) over tokens, and the share of tokens on which a feature is active."""
    acts, n = encoder.encode(x), encoder.d_sae
    return np.bincount(acts.feature, acts.value, n) / len(x), np.bincount(acts.feature, minlength=n) / len(x)


def moved(before: torch.Tensor, after: torch.Tensor) -> float:
    return float(((after - before).norm(dim=1) / before.norm(dim=1)).mean())


def take_steps(net: Network, saes: dict[int, Target], rows: Sequence, other: Sequence) -> dict[str, np.ndarray]:
    """Part A for one set of rows: amplification of every feature, and what one step of each kind changed."""
    mine, others = ([encode_row(row, net.tokenizer, TOKENS).cut() for row in each] for each in (rows, other))
    found, out = net.gradients(mine), {}
    for layer, target in saes.items():
        encoder = sae.FeatureEncoder(target.sae_dir, torch.device("cpu"))
        masks, h, gradient = found[layer]
        acts, pull = encoder.encode(h), -gradient @ torch.tensor(unit_decoder(target.sae_dir)).T
        on = pull[acts.token, acts.feature].numpy()  # -dL/df of every active feature, by the chain rule
        out |= {f"{layer}/g": np.bincount(acts.feature, on, encoder.d_sae), f"{layer}/positive": (on > 0).mean()}
        out[f"{layer}/gradient"] = -gradient.sum(0).numpy()
        places = {"same": (mine, masks, h), "other": (others, *net.read(others, layer))}
        few, few_masks, few_h = mine[:8], *net.read(mine[:8], layer)
        after, weights = {}, net.weights(layer)
        kept = [w.clone() for w in weights]
        for step, rule in STEPS.items():
            size = 1e-4 if step == "sgd" else 1e-6
            for trial in (True, True, False):  # the trials, on few rows, find the size
                for w, old in zip(weights, kept, strict=True):
                    w.copy_(old + size * rule(w.grad))
                if trial:
                    size *= MOVE / moved(few_h, net.read(few, layer, few_masks)[1])
            after |= {(step, where): net.read(r, layer, mask)[1] for where, (r, mask, _) in places.items()}
        for w, old in zip(weights, kept, strict=True):
            w.copy_(old)
        for where, (_, _, before) in places.items():
            out[f"{layer}/{where}"], out[f"{layer}/{where}/share"] = usage(encoder, before)
        for (step, where), x in after.items():
            key, before = f"{layer}/{step}/{where}", places[where][2]
            out |= {f"{key}/moved": moved(before, x), f"{key}/shift": (x - before).mean(0).numpy()}
            out[f"{key}/after"] = usage(encoder, x)[0]
    return out


def estimate(values: Sequence[float]) -> list[float] | None:
    """Mean over sets and draws with its 95 % bootstrap interval."""
    v = np.array(values)
    means = [v[drawn].mean() for drawn in cluster_bootstrap([str(i) for i in range(len(v))])]
    return [float(v.mean()), *interval(means)] if np.isfinite(v).all() else None


def readings(p: dict, d: np.ndarray, layer: int, step: str, where: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What a step changed in every feature (d_sae,), and in which features it can be told."""
    key, before, share = f"{layer}/{step}/{where}", p[f"{layer}/{where}"], p[f"{layer}/{where}/share"]
    change, common = p[f"{key}/after"] - before, share > COMMON
    each = np.divide(change, share, out=np.zeros(len(d)), where=common)
    return {
        "projection": (d @ p[f"{key}/shift"], np.ones(len(d), bool)),
        "activation": (change, (before > 0) | (change > 0)),
        "per active token": (each, common),
    }


def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r of each x (..., n) with y (n,); nan where either is constant."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean()
    norm = np.linalg.norm(x, axis=-1) * np.linalg.norm(y)
    return np.divide(x @ y, norm, out=np.full(norm.shape, np.nan), where=norm > 0)


def own_part(each: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What sets each kind of rows apart from the mean of the four, in standard deviations over features."""
    unit = {kind: x / x.std() for kind, x in each.items()}
    return {kind: x - np.mean(list(unit.values()), axis=0) for kind, x in unit.items()}


def compare(parts: dict[tuple[str, int], dict], layer: int, d: np.ndarray) -> dict[str, dict[str, list[float] | None]]:
    """Part A at one layer: correlation over features of each prediction with what was measured."""
    rng, values = np.random.default_rng(0), {}
    random = [rng.standard_normal(d.shape) for _ in range(NULLS)]
    bases = {"permuted": [d[rng.permutation(len(d))] for _ in range(NULLS)],
             "random": [x / np.linalg.norm(x, axis=1)[:, None] for x in random]}  # fmt: skip
    for draw in range(DRAWS):
        mine = {kind: parts[kind, draw] for kind in KINDS}
        g = {kind: p[f"{layer}/g"] for kind, p in mine.items()}
        paper = {kind: d @ (d.T @ x) for kind, x in g.items()}
        null = {k: {name: np.stack([x @ (x.T @ g[k]) for x in b]) for name, b in bases.items()} for k in KINDS}
        for step, where in ((s, w) for s in STEPS for w in ("same", "other")):
            read = {kind: readings(p, d, layer, step, where) for kind, p in mine.items()}
            for kind, p, quantity in ((k, p, q) for k, p in mine.items() for q in read[k]):
                y, told = read[kind][quantity]
                apart = own_part(paper)[kind], own_part({k: x[quantity][0] for k, x in read.items()})[kind]
                guesses = {
                    "paper": paper[kind], "direct": g[kind], "gradient": d @ p[f"{layer}/gradient"],
                    "activations": d @ (d.T @ (p[f"{layer}/same"] - p[f"{layer}/other"])),
                    "measured projection": read[kind]["projection"][0],
                }  # fmt: skip
                for group, on in {"silent": p[f"{layer}/same"] == 0, "active": p[f"{layer}/same"] > 0}.items():
                    if (group, where) == ("silent", "same") and quantity != "projection":
                        continue  # silent there before, so there is no activation to change
                    on = on & told
                    r = {name: correlation(x[on], y[on]) for name, x in guesses.items()}
                    r |= {"ranks": spearman(paper[kind][on], y[on]), "features": float(on.sum())}
                    r["identity"] = correlation(paper[kind][on], guesses["gradient"][on])
                    r["own part"] = correlation(apart[0][on], apart[1][on]) if where == "other" else np.nan
                    chance = {name: correlation(x[:, on], y[on]) for name, x in null[kind].items()}
                    r |= {"sd": float(np.std(chance["permuted"])), **{k: float(np.mean(v)) for k, v in chance.items()}}
                    for name, x in r.items():
                        values.setdefault(f"{step}/{where}/{quantity}/{group}", {}).setdefault(name, []).append(
                            float(x)
                        )
    return {key: {name: estimate(v) for name, v in cell.items()} for key, cell in values.items()}


def pool_rows(net: Network, saes: dict[int, Target], rows: Sequence) -> dict[str, np.ndarray]:
    """Pooled activations of rows under every SAE."""
    encoders = {layer: sae.FeatureEncoder(target.sae_dir, torch.device("cpu")) for layer, target in saes.items()}
    found: dict[int, dict] = {layer: {} for layer in saes}
    for batch, x in net.forward([encode_row(row, net.tokenizer, TOKENS_B).cut() for row in rows], max(saes)):
        for layer, encoder in encoders.items():
            keep = features.outlier_free_padded(x[layer], batch.response_mask)
            found[layer].update(
                zip(batch.rows, features.pool(encoder, x[layer][keep], keep.sum(1)).rows(), strict=True)
            )
    pooled = {k: Pooled.of([v[i] for i in range(len(rows))], encoders[k].d_in) for k, v in found.items()}
    return {name: array for layer, p in pooled.items() for name, array in p.arrays(f"{layer}.").items()}


def measures(b: bank.Bank, rows: Pooled) -> dict[str, np.ndarray]:
    """Per row: the paper's measure, the activation-weighted mean closeness of all features, the contrast score."""
    weighted = rows.matrix(b.d_sae) @ b.closeness.toxic / np.asarray(rows.matrix(b.d_sae).sum(1)).ravel()
    contrast = Scorer(b, "contrast").standard(rows, [])
    return {"top 32": Scorer(b, "nearest").raw(rows, []), "weighted": weighted, "contrast": contrast}


def distances(b: bank.Bank, random: list[bank.Bank], rows: Pooled, bad: np.ndarray, groups: list[str]) -> dict:
    """Bad against good rows by each measure, beside random banks and length."""
    null, out, draws = [measures(r, rows) for r in random], {}, list(cluster_bootstrap(groups))
    for name, score in {**measures(b, rows), "shorter": -rows.n_tokens.astype(float)}.items():
        gap = [score[i][bad[i]].mean() - score[i][~bad[i]].mean() for i in (np.arange(len(bad)), *draws)]
        chance = [auroc(x[name], bad) for x in null if name in x]
        out[name] = {
            "bad": float(score[bad].mean()), "good": float(score[~bad].mean()),
            "difference": [float(gap[0]), *interval(gap[1:])],
            "auroc": [auroc(score, bad), *interval([auroc(score[i], bad[i]) for i in draws])],
            "random": [float(f(chance)) for f in (min, np.mean, max)] if chance else [],
        }  # fmt: skip
    return out


def check_banks(target: Target, d: np.ndarray, pooled: dict[str, Pooled], sets: dict) -> dict[str, dict]:
    """Part B at one layer: per built-in bank and set of rows."""
    out = {}
    for name in seeding.BUILT_IN:
        bad, chat = np.array([s.bad for s in built_in_seeds(name)]), pooled["background"]
        about = {"name": target.name, "fingerprint": "", "hook": "", "d_sae": len(d)}
        b = fit(name, about, d, Examples(pooled[name], bad), chat, LearnOptions())
        live, rng, n = np.unique([*pooled[name].indices, *chat.indices]), np.random.default_rng(0), len(b.toxic)
        drawn = [rng.permutation(live)[: n + len(b.aligned)] for _ in range(NULLS)]
        random = [replace(b, closeness=geometry.closeness(d, x[:n], x[n:])) for x in drawn]
        out[name] = {k: distances(b, random, pooled[k], v.bad, v.group) for k, v in sets.items()}
    return out


def kept(path: Path, make: Callable[..., dict[str, np.ndarray]], *args: object) -> dict[str, np.ndarray]:
    """What `make` gives, from the file if it is there."""
    if not path.exists():
        np.savez(path.with_suffix(".tmp.npz"), **make(*args))
        path.with_suffix(".tmp.npz").replace(path)
    with np.load(path) as file:
        return dict(file)


def shown(v: Sequence[float] | None, digits: int = 2, bounds: bool = True) -> str:
    if not v:
        return ""
    return f"{v[0]:.{digits}f}" + (f" ({v[1]:.{digits}f} to {v[2]:.{digits}f})" if bounds else "")


def verdict(layers: dict[int, dict]) -> str:
    """What the tables say, computed from them."""

    def cells(what: str, name: str) -> list[list[float]]:
        return [r["steps"][f"{step}/other/{what}/silent"][name] for r in layers.values() for step in STEPS]

    def span(what: str, name: str = "paper") -> str:
        v = [cell[0] for cell in cells(what, name)]
        return f"{min(v):.2f} to {max(v):.2f}"

    p, a, each = "projection", "activation", "per active token"
    clear = [sum(v[1] > 2 * c[0] for v, c in zip(cells(w, "paper"), cells(w, "sd"), strict=True)) for w in (p, a, each)]
    n = len(cells(p, "paper"))
    limits = "" if clear[1] == n else " for directions and hardly for activations"
    holds = f"holds here{limits}" if clear[0] == n else "does not hold here"
    positive, use = ([r["amplified"][i] for r in layers.values()] for i in (0, 1))
    closer = []
    for pair in PAIRS:
        found = [b[pair]["top 32"] for r in layers.values() for b in r["banks"].values()]
        count = sum(m["auroc"][1] > 0.5 and m["auroc"][0] > m["random"][2] for m in found)
        closer.append(f"{count} of {len(found)} on {pair}")
    return f"""**The derivation {holds}**: along features that the rows of a step never activate, the step moves the
residual of other rows as the sum over cosines says (r = {span(p)}); how the real activations of those features
change there, the sum tells with r = {span(a)} (by ranks {span(a, "ranks")}).

- Clear of permuted decoders (interval above twice their sd), of {n} cases (layer and step): projection {clear[0]},
  activation {clear[1]}, activation per active token {clear[2]}.
- Were the residual itself moved against its gradient, the projection would be the *gradient* column by linear algebra.
  The paper's sum has r = {span(p, "identity")} with that column, so part of it is an identity of that kind. That a step
  on weights moves other rows likewise is none; but the gradient, which knows no features, tells that with
  r = {span(p, "gradient")}.
- Even the measured projection tells the activation with r = {span(a, "measured projection")} only: an SAE reads through
  its encoder, and features compete.
- What sets a kind of rows apart from the other kinds: r = {span(p, "own part")} for the projection,
  {span(a, "own part")} for the activation.
- A scan sees activations, not gradients. The step raises an active feature on {min(positive):.0%} to
  {max(positive):.0%} of its tokens; activation and amplification have rank correlation {min(use):.2f} to
  {max(use):.2f}; activations in place of gradients tell the projection with r = {span(p, "activations")}.
- Bad rows are closer by the paper's measure (AUROC's interval above 0.5, AUROC above every random bank), of the cases
  (layer and bank): {"; ".join(closer)}.
- One model of 135M parameters, one step, {DRAWS} draws; advice and chat differ in subject too."""


TEXT_A = f"""### One step on the weights

{ROWS} rows of each kind ({", ".join(KINDS)}), {DRAWS} draws that share no row (seed 0),
unread by the SAE's training, cut at {TOKENS} tokens. g: minus the loss's gradient by feature, summed over the response
tokens on which it is active. One step on all weights of the blocks up to the hook (SGD; AdamW's first, a sign) moves
the residual by about {MOVE:.0%}. *Same*: rows of the step; *other*: ordinary chat. *Projection*: the residual's mean
change on the decoder direction; *activation*: change of the mean activation, over features active before or after. *Per
active token* in the list above: the same over the share of tokens, {COMMON:.1%} at least, with the feature. Numbers are
correlations over features, Pearson (*ranks*: Spearman), means over kinds and draws. Brackets: 95 % bootstrap intervals
over these {len(KINDS) * DRAWS}, never over features, which all see one vector of 576 numbers.

*Paper*: sum over i of g of i times the cosine of i and j. *Direct*: g alone. *Permuted*, *random*: the sum with decoder
directions permuted among features, or random ones, mean of {NULLS}. *Own part*: prediction and measurement, both less
the mean of the four kinds. *Gradient*: minus the residual's gradient on the decoder direction. *Activations*: the sum
with mean activations, less those on ordinary chat, for g: what a scan has.

Features *silent* in all rows of the step: they have no gradient of their own, the sum over others is all there is."""
TEXT_B = f"""### Are features of bad rows closer to toxic features?

{PER_SIDE} rows a side, unread by the SAE's training, cut at {TOKENS_B} tokens; banks of the built-in contrast texts,
chosen for each layer's SAE. *Top 32*: mean over a row's 32 strongest features of the largest cosine to a toxic feature
(the paper's measure); *contrast*: the contrast score. Brackets: 95 % bootstrap intervals, rows with the same prompt
drawn together. *Random banks*: AUROC of
{NULLS} of the same size, lowest / mean / highest. Toxic comments are the positive control."""


TABLED = [("other", "projection", "silent"), ("other", "activation", "silent"), ("same", "activation", "active"),
          ("other", "activation", "active")]  # fmt: skip
MEASURES = ("top 32", "contrast")
"""what the tables show; the others are in mechanism.json"""


def markdown(command: str, layers: dict[int, dict]) -> str:
    names = ["paper", "ranks", "direct", "permuted", "random", "own part", "gradient", "activations"]
    names.append("measured projection")
    head, steps, rows = ["layer", "step", "rows", "measured", "features", *names], {"silent": [], "active": []}, []
    for layer, r in layers.items():
        for key, cell in r["steps"].items():
            *where, group = key.split("/")
            if (where[1], where[2], group) not in TABLED:
                continue
            values = (shown(cell[n], bounds=n in ("paper", "ranks", "own part", "gradient")) for n in names)
            steps[group].append([f"{layer}", *where, f"{cell['features'][0]:.0f}", *values])
        for bank_name, sets in r["banks"].items():
            for pair, measure, m in ((p, name, found[name]) for p, found in sets.items() for name in MEASURES):
                numbers = f"{m['bad']:.3f}", f"{m['good']:.3f}", shown(m["difference"], 3), shown(m["auroc"])
                random = " / ".join(f"{x:.2f}" for x in m["random"])
                rows.append([f"{layer}", bank_name, pair, measure, *numbers, random])
    columns = ["layer", "bank", "rows", "measure", "bad", "good", "difference", "AUROC", "random banks"]
    lines = ["## The mechanism, checked", "", verdict(layers), "", f"    {command}", "", TEXT_A, ""]
    lines += [*markdown_table(head, steps["silent"]), "", "The other features:", ""]
    lines += [*markdown_table(head, steps["active"]), "", TEXT_B, "", *markdown_table(columns, rows)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sae", type=Path, action="append", help="folder in SAELens layout; default: the embedded one")
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = [targets.resolve(TargetChoice("smollm2-135m", sae=str(s) if s else None)) for s in args.sae or [None]]
    saes = {t.layer: t for t in sorted(found, key=lambda t: t.layer)}
    if len(saes) < len(found) or {t.hook.kind for t in found} != {"hook_resid_post"}:
        parser.error("--sae: one SAE a layer, of hook_resid_post")
    name = "-".join(f"{layer}.{t.fingerprint[:6]}" for layer, t in saes.items())
    net, chat, parts, report = Network(targets.whole_model(found[0]), list(saes)), seeding.background_rows(), {}, {}
    np.random.default_rng(0).shuffle(chat)
    sets = {pair: load(args.data, pair, max(PER_SIDE, DRAWS * ROWS)) for pair in PAIRS}
    for draw in range(DRAWS):
        part = slice(draw * ROWS, (draw + 1) * ROWS)
        for i, kind in enumerate(KINDS):
            s = sets[PAIRS[i // 2]]
            rows = [s.rows[j] for j in np.flatnonzero(s.bad == (i % 2 == 0))[part]]
            path = args.work / f"steps-{name}-{kind.replace(' ', '-')}-{draw}.npz"
            parts[kind, draw] = kept(path, take_steps, net, saes, rows, chat[part])
    texts = {"background": seeding.background_rows(), **{pair: s.rows for pair, s in sets.items()}}
    texts |= {b: [s.row for s in built_in_seeds(b)] for b in seeding.BUILT_IN}
    read = {key: kept(args.work / f"rows-{name}-{i}.npz", pool_rows, net, saes, texts[key])
            for i, key in enumerate(texts)}  # fmt: skip
    for layer, target in saes.items():
        d, pooled = unit_decoder(target.sae_dir), {k: Pooled.from_arrays(v, f"{layer}.") for k, v in read.items()}
        each = [(p[f"{layer}/same"], p[f"{layer}/g"], p[f"{layer}/positive"]) for p in parts.values()]
        report[layer] = {
            "sae": Path(target.sae).name, "hook": str(target.hook),
            "amplified": [float(np.mean([p for _, _, p in each])),
                          float(np.mean([spearman(a[a > 0], g[a > 0]) for a, g, _ in each]))],
            "moved": {f"{s}/{w}": estimate([p[f"{layer}/{s}/{w}/moved"] for p in parts.values()])
                      for s in STEPS for w in ("same", "other")},
            "steps": compare(parts, layer, d),
            "banks": check_banks(target, d, pooled, sets),
        }  # fmt: skip
    given = "".join(f"--sae LAYER-{layer} " for layer in saes) if args.sae else ""
    command = f"python examples/check_mechanism.py --data ../shared/data {given}--work WORK"
    (args.work / "mechanism.json").write_text(json.dumps({"command": command, "layers": report}, indent=1) + "\n")
    (args.work / "mechanism.md").write_text(markdown(command, report))


if __name__ == "__main__":
    main()
