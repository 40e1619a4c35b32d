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

from geofilter import bank, features, geometry, sae, seeding, targets
from geofilter.config import Loading, TargetChoice
from geofilter.evidence import tune
from geofilter.evidence.intervals import cluster_bootstrap, interval
from geofilter.evidence.shown import markdown_table
from geofilter.metrics import auroc, spearman
from geofilter.pooled import Pooled
from geofilter.tokens import Batch, Encoded, batches, encode_row

KINDS = ("harmful advice", "general chat", "insecure code", "secure code")  # bad and good by turns
PAIRS = ("harmful advice / general chat", "insecure / secure code", "toxic / neutral comments")
DRAWS, ROWS, TOKENS = 3, 32, 128  # part A: seeds, rows of each, tokens of a row at most
PER_SIDE, TOKENS_B = 150, 256  # part B
MOVE = 0.01  # mean relative change of the residual that a step is scaled to
NULLS = 20
COMMON = 0.002  # share of tokens a feature is active on, for its change per active token
STEPS = {"sgd": lambda g: -g, "adamw": lambda g: -g / (g.abs() + 1e-8)}  # AdamW's first step, no weight decay


class Network:
    """The whole model, read and differentiated at several layers."""

    def __init__(self, folder: Path, layers: Sequence[int]) -> None:
        self.model, self.tokenizer = tune.whole(folder, Loading("cpu", "float32"))
        self.model.requires_grad_(False)
        self.layers, self.blocks, self.seen = layers, self.model.model.layers, {}
        for layer in layers:
            self.blocks[layer].register_forward_hook(partial(self._keep, layer))

    def _keep(self, layer: int, _module: object, _args: object, output: object) -> None:
        self.seen[layer] = output[0] if isinstance(output, tuple) else output
        if self.seen[layer].requires_grad:
            self.seen[layer].retain_grad()

    def batches(self, rows: Sequence[Encoded]) -> Iterator[Batch]:
        return batches(rows, 512, tune.pad_id(self.tokenizer))

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
        found = [(features.outlier_free(x[layer], b.response_mask), x[layer]) for b, x in self.forward(rows, layer)]
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
            logits, wanted, _ = tune.response_logits(self.model, batch)
            (torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / total).backward()
            for layer, x in self.seen.items():
                mask = features.outlier_free(x.detach(), batch.response_mask)
                parts[layer].append((mask, x.detach()[mask], x.grad[mask]))
        self.model.requires_grad_(False)
        return {k: ([p[0] for p in v], *(torch.cat([p[i] for p in v]) for i in (1, 2))) for k, v in parts.items()}


def usage(encoder: sae.FeatureEncoder, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean activation (d_sae,) over tokens, and the share of tokens on which a feature is active."""
    acts, n = encoder.encode(x), encoder.d_sae
    return np.bincount(acts.feature, acts.value, n) / len(x), np.bincount(acts.feature, minlength=n) / len(x)


def moved(before: torch.Tensor, after: torch.Tensor) -> float:
    return float(((after - before).norm(dim=1) / before.norm(dim=1)).mean())


def take_steps(net: Network, saes: dict[int, targets.Target], rows: Sequence, other: Sequence) -> dict[str, np.ndarray]:
    """Part A for one set of rows: amplification of every feature, and what one step of each kind changed."""
    mine, others = ([encode_row(row, net.tokenizer, TOKENS) for row in each] for each in (rows, other))
    found, out = net.gradients(mine), {}
    for layer, target in saes.items():
        encoder = sae.FeatureEncoder(target.sae_dir, torch.device("cpu"))
        masks, h, gradient = found[layer]
        acts, pull = encoder.encode(h), -gradient @ torch.tensor(sae.unit_decoder(target.sae_dir)).T
        on = pull[acts.token, acts.feature].numpy()  # -dL/df of every active feature, by the chain rule
        out |= {f"{layer}/g": np.bincount(acts.feature, on, encoder.d_sae), f"{layer}/positive": (on > 0).mean()}
        out[f"{layer}/gradient"] = -gradient.sum(0).numpy()
        places = {"same": (mine, masks, h), "other": (others, *net.read(others, layer))}
        few, few_masks, few_h = mine[:8], *net.read(mine[:8], layer)
        after = {("residual", "same"): h - gradient * (MOVE / moved(h, h + gradient))}
        weights = net.weights(layer)
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
    return {"projection": (d @ p[f"{key}/shift"], share >= 0), "activation": (change, (before > 0) | (change > 0)),
            "per active token": (each, common)}  # fmt: skip


def compare(parts: dict[tuple[str, int], dict], layer: int, d: np.ndarray) -> dict[str, dict[str, list[float] | None]]:
    """Part A at one layer: correlation over features of each prediction with what was measured."""
    rng, values = np.random.default_rng(0), {}
    permuted = [d[rng.permutation(len(d))] for _ in range(NULLS)]
    random = [x / np.linalg.norm(x, axis=1)[:, None] for x in (rng.standard_normal(d.shape) for _ in range(NULLS))]
    for draw in range(DRAWS):
        mine = {kind: parts[kind, draw] for kind in KINDS}
        paper = {kind: d @ (d.T @ p[f"{layer}/g"]) for kind, p in mine.items()}
        middle = np.mean([x / x.std() for x in paper.values()], axis=0)
        guesses = {kind: {
            "paper": [paper[kind]], "direct": [p[f"{layer}/g"]], "others": [paper[kind] - p[f"{layer}/g"]],
            "permuted": [x @ (x.T @ p[f"{layer}/g"]) for x in permuted],
            "random": [x @ (x.T @ p[f"{layer}/g"]) for x in random],
            "elsewhere": [paper[k] for k in (KINDS[2:] if kind in KINDS[:2] else KINDS[:2])],
            "gradient": [d @ p[f"{layer}/gradient"]],
            "activations": [d @ (d.T @ (p[f"{layer}/same"] - p[f"{layer}/other"]))],
        } for kind, p in mine.items()}  # fmt: skip
        for step, where in [("residual", "same"), *((s, w) for s in STEPS for w in ("same", "other"))]:
            read = {kind: readings(p, d, layer, step, where) for kind, p in mine.items()}
            for quantity in read[KINDS[0]]:
                centre = np.mean([x[quantity][0] / x[quantity][0].std() for x in read.values()], axis=0)
                for kind, p in mine.items():
                    silent, (y, told) = p[f"{layer}/same"] == 0, read[kind][quantity]
                    for group, chosen in {"silent": silent & told, "active": ~silent & told}.items():
                        cell = values.setdefault(f"{step}/{where}/{quantity}/{group}", {})
                        for name, each in {
                            **guesses[kind],
                            "measured projection": [read[kind]["projection"][0]],
                        }.items():
                            r = [correlation(x[chosen], y[chosen]) for x in each]
                            cell.setdefault(name, []).append(float(np.mean(r)))
                            if len(each) == NULLS:
                                cell.setdefault(f"{name}, sd", []).append(float(np.std(r)))
                        own = correlation(
                            (paper[kind] / paper[kind].std() - middle)[chosen], (y / y.std() - centre)[chosen]
                        )
                        cell.setdefault("own part", []).append(own if where == "other" else np.nan)
                        cell.setdefault("paper, ranks", []).append(spearman(paper[kind][chosen], y[chosen]))
                        cell.setdefault("features", []).append(float(chosen.sum()))
    return {key: {name: estimate(v) for name, v in cell.items()} for key, cell in values.items()}


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 2 and x.any() and y.any() else np.nan


def pool_rows(net: Network, saes: dict[int, targets.Target], rows: Sequence) -> dict[str, np.ndarray]:
    """Pooled activations of rows under every SAE."""
    encoders = {layer: sae.FeatureEncoder(target.sae_dir, torch.device("cpu")) for layer, target in saes.items()}
    found: dict[int, dict] = {layer: {} for layer in saes}
    for batch, x in net.forward([encode_row(row, net.tokenizer, TOKENS_B) for row in rows], max(saes)):
        for layer, encoder in encoders.items():
            keep = features.outlier_free(x[layer], batch.response_mask)
            found[layer].update(zip(batch.rows, features.pool(encoder, x[layer], keep), strict=True))
    pooled = {k: Pooled.of([v[i] for i in range(len(rows))], encoders[k].d_in) for k, v in found.items()}
    return {name: array for layer, p in pooled.items() for name, array in p.arrays(f"{layer}.").items()}


def measures(b: bank.Bank, rows: Pooled) -> dict[str, np.ndarray]:
    """Per row: the paper's measure, the activation-weighted mean closeness of all features, the default score."""
    weighted = rows.matrix(b.d_sae) @ b.closeness.toxic / np.asarray(rows.matrix(b.d_sae).sum(1)).ravel()
    contrast = b.scale("contrast").standard(geometry.raw_scores("contrast", b, rows, []))
    return {"top 32": geometry.raw_scores("nearest", b, rows, []), "weighted": weighted, "contrast": contrast}


def distances(b: bank.Bank, random: list[bank.Bank], rows: Pooled, bad: np.ndarray, groups: list[str]) -> dict:
    """Bad against good rows by each measure, beside random banks and length."""
    null, out, draws = [measures(r, rows) for r in random], {}, list(cluster_bootstrap(groups))
    for name, score in {**measures(b, rows), "shorter": -rows.n_tokens.astype(float)}.items():
        gaps = [score[i][bad[i]].mean() - score[i][~bad[i]].mean() for i in draws]
        chance = [auroc(x.get(name, np.zeros(len(bad))), bad) for x in null]
        out[name] = {
            "bad": float(score[bad].mean()), "good": float(score[~bad].mean()), 
            "difference": [float(score[bad].mean() - score[~bad].mean()), *interval(gaps)],
            "auroc": [auroc(score, bad), *interval([auroc(score[i], bad[i]) for i in draws])],
            "random": [float(f(chance)) for f in (min, np.mean, max)],
        }  # fmt: skip
    return out


def push(parts: dict, layer: int, d: np.ndarray, b: bank.Bank) -> dict[str, list[float]]:
    """Toxic less aligned features, in sd over features: AdamW's step on bad rows less that on good ones, per draw."""
    out: dict[str, list[float]] = {}
    for (kind, draw), p in parts.items():
        step, sign = f"{layer}/adamw/other", 1 if kind in KINDS[::2] else -1
        ys = {"predicted": d @ (d.T @ p[f"{layer}/g"]), "projection": d @ p[f"{step}/shift"],
              "activation": p[f"{step}/after"] - p[f"{layer}/other"]}  # fmt: skip
        for name, y in ys.items():
            values = out.setdefault(f"{PAIRS[KINDS.index(kind) // 2]}/{name}", [0.0] * DRAWS)
            values[draw] += sign * float((y[b.toxic].mean() - y[b.aligned].mean()) / y.std())
    return out


def check_banks(parts: dict, layer: int, target: targets.Target, d: np.ndarray, pooled: dict, sets: dict) -> dict:
    """Part B at one layer, and where the steps of part A push the banks' features."""
    out = {}
    for name in seeding.BUILT_IN:
        bad, chat = np.array([s.bad for s in seeding.built_in_seeds(name)]), pooled["background"]
        b = bank.fit(name, {"name": target.name}, d, pooled[name], bad, chat)
        live, rng, n = np.unique([*pooled[name].indices, *chat.indices]), np.random.default_rng(0), len(b.toxic)
        drawn = [rng.permutation(live)[: n + len(b.aligned)] for _ in range(NULLS)]
        random = [replace(b, toxic=x[:n], aligned=x[n:], closeness=geometry.closeness(d, x[:n], x[n:])) for x in drawn]
        chance = [push(parts, layer, d, r) for r in random]
        out[name] = {
            "rows": {k: distances(b, random, pooled[k], v.bad, v.group) for k, v in sets.items()},
            "push": {k: {"difference": estimate(v), "random": [float(f(np.mean(c[k]) for c in chance)) for f in (min, max)]}
                     for k, v in push(parts, layer, d, b).items()},
        }  # fmt: skip
    return out


def kept(path: Path, make: Callable[..., dict[str, np.ndarray]], *args: object) -> dict[str, np.ndarray]:
    """What `make` gives, from the file if it is there."""
    if not path.exists():
        np.savez(path.with_suffix(".tmp.npz"), **make(*args))
        path.with_suffix(".tmp.npz").replace(path)
    with np.load(path) as file:
        return dict(file)


def shown(v: Sequence[float] | None, bounds: bool = True, digits: int = 2) -> str:
    if not v:
        return "none"
    return f"{v[0]:.{digits}f}" + (f" ({v[1]:.{digits}f} to {v[2]:.{digits}f})" if bounds else "")


def verdict(report: dict) -> list[str]:
    return ["VERDICT"]


def markdown(report: dict) -> str:
    names = ("direct", "paper", "paper, ranks", "others", "permuted", "random", "elsewhere", "own part", "gradient",
             "activations", "measured projection")  # fmt: skip
    steps, rows, pushes = {"silent": [], "active": []}, [], []
    for layer, r in report.items():
        for key, cell in r["steps"].items():
            step, where, what, group = key.split("/")
            if what == "projection" or where == "other":
                values = (shown(cell[n], n in ("paper", "own part", "gradient")) for n in names)
                steps[group].append([f"{layer}", step, where, what, f"{cell['features'][0]:.0f}", *values])
        for name, found in r["banks"].items():
            for pair, each in found["rows"].items():
                for measure, m in each.items():
                    numbers = f"{m['bad']:.3f}", f"{m['good']:.3f}", shown(m["difference"], digits=3), shown(m["auroc"])
                    random = " / ".join(f"{x:.2f}" for x in m["random"]) if measure != "shorter" else ""
                    rows.append([f"{layer}", name, pair, measure, *numbers, random])
            for key, v in found["push"].items():
                pushes.append(
                    [f"{layer}", name, key, shown(v["difference"]), f"{v['random'][0]:.2f} to {v['random'][1]:.2f}"]
                )
    head = ["layer", "step", "rows", "measured", "features", *names]
    return "\n".join([
        "## The mechanism, checked", "", *verdict(report), "",
        "### A. One step", "", *markdown_table(head, steps["silent"]), "", *markdown_table(head, steps["active"]), "",
        "### B. Rows", "",
        *markdown_table(["layer", "bank", "rows", "measure", "bad", "good", "difference", "AUROC", "random banks"], rows), "",
        *markdown_table(["layer", "bank", "rows and quantity", "bad less good step", "random banks"], pushes), "",
    ])  # fmt: skip


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
    texts |= {b: [s.row for s in seeding.built_in_seeds(b)] for b in seeding.BUILT_IN}
    arrays = {
        k: kept(args.work / f"rows-{name}-{i}.npz", pool_rows, net, saes, v) for i, (k, v) in enumerate(texts.items())
    }
    for layer, target in saes.items():
        d, pooled = sae.unit_decoder(target.sae_dir), {k: Pooled.from_arrays(v, f"{layer}.") for k, v in arrays.items()}
        read = {key: [p[key] for p in parts.values()] for key in parts[KINDS[0], 0] if key.startswith(f"{layer}/")}
        report[layer] = {
            "sae": target.sae, "hook": str(target.hook),
            "positive": estimate(read[f"{layer}/positive"]),
            "moved": {key: estimate(v) for key, v in read.items() if key.endswith("moved")},
            "steps": compare(parts, layer, d),
            "banks": check_banks(parts, layer, target, d, pooled, sets),
        }  # fmt: skip
    command = " ".join(
        ["python examples/check_mechanism.py --data DATA", *(f"--sae LAYER-{k}-SAE" for k in saes), "--work WORK"]
    )
    (args.work / "mechanism.json").write_text(json.dumps({"command": command, "layers": report}, indent=1) + "\n")
    (args.work / "mechanism.md").write_text(markdown(report))


if __name__ == "__main__":
    main()
