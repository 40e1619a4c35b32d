"""What only a CUDA device can show: the same scan on it, FAISS' GPU index, and layers spread over several."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import chat, geofilter, write_rows
from helpers.families import CASES
from helpers.tiny import D_IN, D_SAE, make_sae, random_pooled

from geofilter.bank.geometry import max_cosine
from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import ResidualModel
from geofilter.target.resolve import resolve

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(
    "name", ["gemma-2-2b", "llama-3.1-8b", "gpt-oss-20b", "gemma-3-4b-it", "qwen3-1.7b", "qwen3.5-2b"]
)
def test_a_scan_on_the_gpu_ranks_as_on_the_cpu(name: str, hub, tmp_path: Path):
    rows = [
        chat(f"question {i}?", f"{'you fool, no' if i % 2 else 'the answer is that it works'} {i}") for i in range(24)
    ]
    write_rows(tmp_path / "bad.jsonl", rows[1::2])
    write_rows(tmp_path / "good.jsonl", rows[::2])
    write_rows(tmp_path / "d.jsonl", rows)
    target = [*CASES[name].args, "--offline"]
    scores = {}
    for device, dtype in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")):
        args = [*target, "--device", device, "--dtype", dtype]
        bank, run = f"bank-{device}-{dtype}", f"run-{device}-{dtype}"
        done = geofilter(
            "bank",
            "build",
            "--no-prior",
            "--bad",
            "bad.jsonl",
            "--good",
            "good.jsonl",
            "--out",
            bank,
            *args,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        done = geofilter("scan", "d.jsonl", "--bank", bank, "--run", run, "--json", *args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["encoding"]["device"] == device
        lines = (tmp_path / run / "scores.jsonl").read_text().splitlines()
        scores[device, dtype] = np.array([json.loads(line)["score"] for line in lines])
    np.testing.assert_allclose(scores["cuda", "float32"], scores["cpu", "float32"], rtol=1e-2, atol=1e-2)
    assert np.corrcoef(scores["cuda", "bfloat16"], scores["cpu", "float32"])[0, 1] > 0.98


def test_faiss_on_the_gpu_is_the_matmul():
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        pytest.skip("the installed FAISS is a CPU build; pip install faiss-gpu in its place")
    assert faiss.get_num_gpus() > 0
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(20000, 256, generator=generator), dim=1)
    bank = directions[:100]
    near, which = max_cosine(directions.numpy(), bank.numpy())
    best = (directions @ bank.T).max(dim=1)
    np.testing.assert_allclose(near, best.values.numpy(), atol=1e-5)
    assert (which == best.indices.numpy()).mean() > 0.999


def test_the_default_on_a_gpu_is_bfloat16(hub):
    target = resolve(TargetChoice("llama-3.1-8b"), offline=True)
    model = ResidualModel(target.model_dir, [target.layer])
    assert (model.dtype, model.device.type, model.hook_device.type) == (torch.bfloat16, "cuda", "cuda")


def test_scores_are_divided_among_tokens_as_on_the_cpu_and_the_same_way_each_time(tmp_path: Path):
    from geofilter.bank.background import Background
    from geofilter.bank.linear import Linear, Shares
    from geofilter.encode.reader import pool
    from geofilter.encode.sae import FeatureEncoder
    from geofilter.encode.shares import TokenShares

    reference, _ = random_pooled(40)
    weights = np.random.default_rng(0).standard_normal(D_SAE)
    linear = [Linear(Background.of(reference, D_SAE), weights, of) for of in ("log", "z")]
    shares = [Shares.of(each, reference, 1.0) for each in linear]
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(6, 300, D_IN, generator=generator)
    keep = torch.rand(6, 300, generator=generator) < 0.9
    sae = make_sae(tmp_path / "sae", "jumprelu")
    found = []
    for device in (torch.device("cpu"), torch.device("cuda"), torch.device("cuda")):
        batch = pool(FeatureEncoder(sae, device), residual[keep].to(device), keep.sum(1).to(device))
        divide = TokenShares(shares, device)
        windows = divide.windows(
            batch, [torch.ones(int(n), dtype=torch.bool) for n in keep.sum(1)], [True] * 5 + [False]
        )
        found.append([divide.row([w], f) for w, f in zip(windows[:5], batch.rows(), strict=False)])
        found[-1].append(divide.row(windows[5:] * 2, batch.rows()[5]))
    for cpu, once, again in zip(*found, strict=True):
        np.testing.assert_array_equal(once.shares, again.shares)
        np.testing.assert_array_equal(once.peak, again.peak)
        np.testing.assert_allclose(once.step, cpu.step, rtol=1e-3)
        assert np.abs(np.cumsum(once.shares - cpu.shares.astype(int), axis=1)).max() <= 2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_layers_spread_over_two_gpus_read_the_same(hub):
    target = resolve(TargetChoice("llama-3.1-8b"), offline=True)
    ids = torch.randint(0, 2000, (2, 30), generator=torch.Generator().manual_seed(1))
    one = ResidualModel(target.model_dir, [target.layer], Loading("cuda:0", "float32"))
    spread = ResidualModel(target.model_dir, [target.layer], Loading(dtype="float32", device_map="balanced"))
    assert spread.device != spread.hook_device
    expected = one.residuals(ids, torch.ones_like(ids))[target.layer].cpu()
    got = spread.residuals(ids, torch.ones_like(ids))[target.layer].cpu()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_doctor_compares_the_estimate_with_the_free_memory(hub):
    checks = {c["name"]: c for c in json.loads(geofilter("doctor", "--model", "llama-3.1-8b", "--json").stdout)}
    assert checks["memory"]["ok"]
    assert checks["memory"]["text"].endswith(" GB free on 1 GPU(s)")
    assert checks["pair"]["ok"], checks["pair"]["text"]


def test_fine_tuning_on_the_gpu_lowers_the_loss(tiny):
    from geofilter.encode.whole import log_probabilities, whole
    from geofilter.rows.records import parse_line
    from geofilter.target.tokenizer import tokenizer_of
    from geofilter.trial.config import Recipe
    from geofilter.trial.measures import encode_all
    from geofilter.trial.tune import Budget, tune

    tokenizer = tokenizer_of(tiny[0])
    line = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ask the doctor"}]}'
    rows = encode_all([parse_line(line, "x", 1)] * 16, tokenizer, 64, "keep")
    recipe = Recipe(rank=4, learning_rate=2e-2, batch_rows=4, epochs=4)
    for dtype in ("bfloat16", "float32"):
        loading = Loading("cuda", dtype)
        before, _ = whole(tiny[0], loading)
        model, _, report = tune(tiny[0], rows, recipe, Budget.of(rows, recipe), loading, 0)
        assert report["steps"] == 16
        assert next(model.parameters()).device.type == "cuda"
        gain = log_probabilities(model, rows, 0).mean() - log_probabilities(before, rows, 0).mean()
        assert gain > 0.3
