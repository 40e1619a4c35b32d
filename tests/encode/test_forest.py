"""Passes laid out as forests: the layout itself, and that a model computes of it what it computes of each window."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import quiet
from helpers.families import family_model, family_tokenizer
from helpers.tiny import D_SAE

from geofilter.config import Loading, TargetChoice
from geofilter.encode import attention
from geofilter.encode.forest import SHARED, grow, sort_key
from geofilter.encode.model import ResidualModel
from geofilter.encode.passes import Passes
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import Encoded, Window
from geofilter.errors import TargetError
from geofilter.target.resolve import resolve

CPU = Loading("cpu", "float32")
FORESTS = ("gemma2", "gemma3_text", "llama", "qwen2", "qwen3", "gpt_oss")


def window(ids, skip: int = 1) -> Window:
    return Window(tuple(ids), (*(False,) * skip, *(True,) * (len(ids) - skip)))


def related(size: int, seed: int = 0, longest: int = 150) -> list[Window]:
    """Windows that begin alike, one that is the beginning of others, two that are the same, and others."""
    rng = np.random.default_rng(seed)

    def draw(n: int) -> list[int]:
        return rng.integers(size, size=n).tolist()

    system, question = draw(30), draw(25)
    talk = [*system, *draw(60)]
    rows = [[*system, *question, *draw(n)] for n in (3, longest, 40)]
    rows += [[*system, *draw(20)], talk, [*talk, *draw(35)], [*talk, *draw(longest)], draw(50), draw(2)]
    return [window(ids) for ids in [*rows, rows[1], draw(longest)]]


def test_each_window_s_tokens_stand_in_order_on_one_path():
    rng = np.random.default_rng(0)
    for _ in range(60):
        vocabulary = int(rng.integers(1, 4))  # so few tokens that much is shared by chance
        rows = [rng.integers(vocabulary, size=int(rng.integers(1, 60))) for _ in range(int(rng.integers(1, 12)))]
        rows += [row[: max(1, len(row) // 2)] for row in rows[:3]] + rows[:2]
        rows.sort(key=sort_key)
        forest = grow(rows)
        assert sum(s.end - s.start for s in forest.segments) == len(forest.ids) == len(forest.position)
        for row, places in zip(rows, forest.places, strict=True):
            assert (forest.ids[places] == row).all()
            assert (forest.position[places] == np.arange(len(row))).all()
            last = next(s for s in forest.segments if s.start <= places[-1] < s.end)
            spans = [*last.before, (last.start, int(places[-1]) + 1)]
            assert np.concatenate([np.arange(*span) for span in spans]).tolist() == places.tolist()
        if len(rows) > 1:
            assert len(forest.ids) <= sum(map(len, rows))


def test_tokens_that_windows_share_stand_there_once():
    def tokens(rows):
        return len(grow(sorted((np.array(row) for row in rows), key=sort_key)).ids)

    start = list(range(100, 100 + SHARED))
    assert tokens([[*start, 1, 2], [*start, 3]]) == SHARED + 3
    assert tokens([[*start[1:], 1, 2], [*start[1:], 3]]) == 2 * (SHARED - 1) + 3  # too few to be worth it
    assert tokens([[*start, 1], [*start, 1], [*start, 1]]) == SHARED + 1
    assert tokens([start, [*start, 1], [*start, 1, *start]]) == 2 * SHARED + 2  # the 1 stands there twice
    assert tokens([[1, 2, 3]]) == 3
    chain = [list(range(2 * n)) for n in range(5, 2000, 5)]  # each the beginning of the next
    assert tokens(chain) == len(chain[-1])


def test_what_lies_behind_the_last_response_token_is_not_read():
    rows = [Window((1, 2, 3, 4, 5), (False, True, False, True, False)), Window((6, 7, 8, 9), (False, True, True, True))]
    for forests in (True, False):
        (read,) = Passes(rows, 100, 0, forests=forests)
        real = read.input_ids.numel() if forests else int(read.attention_mask.sum())
        assert (real, read.n_tokens) == (8, 9)
        found = dict(
            zip(read.windows, read.input_ids.flatten()[read.response].split(read.counts.tolist()), strict=True)
        )
        assert {i: ids.tolist() for i, ids in found.items()} == {0: [2, 4], 1: [7, 8, 9]}


@pytest.mark.parametrize("forests", [True, False])
def test_passes_hold_every_window_once_within_the_budget(forests: bool):
    rows = related(300)
    passes = list(Passes(rows, 200, 0, forests=forests))
    assert sorted(i for read in passes for i in read.windows) == list(range(len(rows)))
    assert all(read.input_ids.numel() <= 200 or len(read.windows) == 1 for read in passes)
    assert len(passes) > 2
    whole = Passes(rows, 10_000, 0, forests=forests)
    first = whole.take()
    assert len(first.windows) == len(rows) and whole.take() is None
    assert whole.halve(first)
    halves = list(whole)
    assert len(halves) > 1 and max(read.input_ids.numel() for read in halves) <= first.input_ids.numel() // 2
    assert sorted(i for read in halves for i in read.windows) == list(range(len(rows)))
    single = Passes(rows[:1], 1, 0, forests=forests)
    assert not single.halve(single.take())


def test_what_a_pass_begins_with_is_known_from_the_one_before_it():
    """A long preamble is computed once, however many passes its rows take; a response token always anew."""
    rng = np.random.default_rng(0)
    preamble = rng.integers(300, size=400).tolist()
    rows = [window([*preamble, *rng.integers(300, size=40).tolist()], skip=400) for _ in range(30)]
    passes = list(Passes(rows, 500, 0, forests=True))
    assert len(passes) > 2 and [len(read.forest.held) for read in passes] == [0, *(400,) * (len(passes) - 1)]
    assert sum(read.input_ids.numel() for read in passes) == 400 + 30 * 40
    assert all(read.keep.tolist() == list(range(400)) for read in passes[:-1]) and not len(passes[-1].keep)
    scored = [window(row.ids, skip=200) for row in rows]  # the preamble's second half is scored in every row
    assert {len(read.forest.held) for read in list(Passes(scored, 500, 0, forests=True))[1:]} == {200}
    again = Passes(rows, 500, 0, forests=True)
    first, second = again.take(), again.take()
    assert again.halve(second)
    third = again.take()
    # Whether the model ran before memory was too little is not known, and so neither what it holds.
    assert len(first.keep) == 400 and (third.windows[0], len(third.forest.held)) == (second.windows[0], 0)


def vectors(model: ResidualModel, rows: list[Window], budget: int, *, forests: bool) -> list[torch.Tensor]:
    found = {}
    for read in Passes(rows, budget, 0, forests=forests):
        parts = model.responses(read)[model.layers[-1]].split(read.counts.tolist())
        found.update(zip(read.windows, parts, strict=True))
    return [found[i] for i in range(len(rows))]


@pytest.mark.parametrize("kind", FORESTS)
def test_a_forest_s_vectors_are_those_of_each_window_alone(kind: str, tmp_path: Path):
    """Sliding windows of 16 tokens (Gemma 3, gpt-oss), soft caps, sinks, norms of queries; over several blocks."""
    family_model(kind, 4).save_pretrained(tmp_path)
    family_tokenizer(kind).save_pretrained(tmp_path)
    model = ResidualModel(tmp_path, [2], CPU)
    assert model.forests
    rows = related(300)
    alone = [vectors(model, [row], 10_000, forests=False)[0] for row in rows]
    for budget in (10_000, 150, 40):
        for found, expected in zip(vectors(model, rows, budget, forests=True), alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert model.model.config._attn_implementation != attention.NAME  # as it was


def test_models_that_mix_tokens_by_other_means_are_read_padded(tmp_path: Path):
    from transformers import Llama4TextConfig, Llama4TextModel

    family_model("qwen3_5", 4).save_pretrained(tmp_path / "linear")  # linear attention and convolutions
    family_tokenizer("qwen3_5").save_pretrained(tmp_path / "linear")
    assert not ResidualModel(tmp_path / "linear", [2], CPU).forests
    torch.manual_seed(0)
    config = Llama4TextConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, intermediate_size_mlp=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2, attention_chunk_size=16,
    )  # fmt: skip
    Llama4TextModel(config).save_pretrained(tmp_path / "chunked")  # attention in chunks
    family_tokenizer("llama").save_pretrained(tmp_path / "chunked")
    assert not ResidualModel(tmp_path / "chunked", [2], CPU).forests


def test_in_half_precision_a_little_mixing_shows_too(tmp_path: Path):
    """Weights so small that what reaches a token from others is lost in rounding, but for its being there."""
    from transformers import BambaConfig, BambaModel

    torch.manual_seed(0)
    config = BambaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1, pad_token_id=0,
    )  # fmt: skip
    BambaModel(config).save_pretrained(tmp_path)
    family_tokenizer("llama").save_pretrained(tmp_path)
    assert not ResidualModel(tmp_path, [2], Loading("cpu", "bfloat16")).forests
    family_model("llama", 4).save_pretrained(tmp_path)
    assert ResidualModel(tmp_path, [2], Loading("cpu", "bfloat16")).forests


def test_windows_whose_length_turns_all_positions_are_read_with_their_like(tmp_path: Path):
    """LongRoPE: beyond 32 tokens all of a window's positions are turned by other angles."""
    from transformers import Phi3Config, Phi3Model

    torch.manual_seed(0)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = Phi3Config(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, initializer_range=0.2, original_max_position_embeddings=32, pad_token_id=0,
        rope_parameters=rope,
    )  # fmt: skip
    Phi3Model(config).save_pretrained(tmp_path)
    family_tokenizer("llama").save_pretrained(tmp_path)
    model = ResidualModel(tmp_path, [1], CPU)
    rows = [*related(300), window(range(33)), window(range(32))]
    passes = list(model.passes(rows, 10_000))
    assert model.forests and len(passes) < len(rows) and passes[0].forest is None
    for read in passes:
        for i, found in zip(read.windows, model.responses(read)[1].split(read.counts.tolist()), strict=True):
            ids = torch.tensor([rows[i].ids])
            expected = model.residuals(ids, torch.ones_like(ids))[1][0, 1:]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert next(iter(model.passes([row for row in rows if len(row.ids) <= 32], 10_000))).forest is not None


def as_row(row: Window) -> Encoded:
    return Encoded(row.ids, row.mask, (row,))


def test_scores_do_not_depend_on_how_rows_are_read(tiny):
    """Order, size of the passes, sharing and packing change pooled activations by 1e-5 at the most."""
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), offline=True, notify=quiet)
    reader = FeatureReader(target, Loading("cpu"))
    rows = [as_row(row) for row in related(300, longest=60)]

    def dense(found):
        out = np.zeros((len(found), D_SAE))
        for i, row in enumerate(found):
            out[i, row.indices] = row.values
        return out

    alone = dense([reader.read([row])[0] for row in rows])
    scale = np.abs(alone).max()
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = dense(reader.read([rows[i] for i in order]))[np.argsort(order)]
    reader.model.forests = False
    padded = dense(reader.read(rows))
    for found in (dense(reader.read(rows)), shuffled, padded):
        assert np.abs(found - alone).max() <= 1e-5 * scale


def test_too_little_memory_behind_the_model_makes_passes_smaller_too(tiny, monkeypatch):
    """The model holds what the failed pass was to keep by then, not what that pass began with."""
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), offline=True, notify=quiet)
    reader = FeatureReader(target, Loading("cpu"))
    rng = np.random.default_rng(0)
    preamble = rng.integers(300, size=60).tolist()
    rows = [as_row(window([*preamble, *rng.integers(300, size=9).tolist()], skip=60)) for _ in range(20)]
    reader._budget, encode, sizes = 120, reader.encoder.encode, []
    expected = reader.read(rows)

    def small(x):
        sizes.append(len(x))
        if len(sizes) in (2, 5):
            raise MemoryError
        return encode(x)

    monkeypatch.setattr(reader.encoder, "encode", small)
    for one, other in zip(reader.read(rows), expected, strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-4)
    assert len(sizes) > 6


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
])  # fmt: skip
def test_too_little_memory_makes_passes_smaller_and_is_told_once(tiny, monkeypatch, error: Exception):
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), offline=True, notify=quiet)
    told: list[str] = []
    reader = FeatureReader(target, Loading("cpu"), notify=told.append)
    rows = [as_row(row) for row in related(300, longest=60)]
    expected, once = reader.read(rows), ResidualModel.responses
    sizes: list[int] = []

    def small(self, read):
        if read.input_ids.numel() > 150:
            raise error
        sizes.append(read.input_ids.numel())
        return once(self, read)

    monkeypatch.setattr(ResidualModel, "responses", small)
    done: list[tuple[int, int]] = []
    observed: list[int] = []
    found = reader.read(rows, lambda *of: done.append(of), lambda number, _feature, _value: observed.extend(number))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-4)
    assert len(sizes) > 4 and sum(n for n, _ in done) == len(rows)
    assert set(observed) <= set(range(sum(row.n_response for row in rows)))
    reader.read(rows)
    assert told == [f"note: cpu: too little memory for {sum(len(r.ids) for r in rows)} tokens at once; going on with "
                    "fewer"]  # fmt: skip
    long = as_row(window(list(range(170))))
    with pytest.raises(TargetError, match="cpu: not enough memory; free it, use --dtype bfloat16"):
        reader.read([long])
    monkeypatch.setattr(ResidualModel, "responses", lambda *_: (_ for _ in ()).throw(RuntimeError("another")))
    with pytest.raises(RuntimeError, match="another"):
        reader.read(rows)


def test_rows_with_the_same_tokens_are_read_once(tiny, monkeypatch):
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), offline=True, notify=quiet)
    reader = FeatureReader(target, Loading("cpu"))
    one, other = (as_row(row) for row in related(300)[:2])
    half = Encoded(one.ids, (*(False,) * 20, *one.mask[20:]), (Window(one.ids, (*(False,) * 20, *one.mask[20:])),))
    read: list[int] = []
    once = ResidualModel.responses
    monkeypatch.setattr(ResidualModel, "responses", lambda self, p: (read.extend(p.windows), once(self, p))[1])
    done: list[tuple[int, int]] = []
    found = reader.read([one, other, one, half, one, other], lambda *of: done.append(of))
    assert sorted(read) == [0, 1, 2]
    assert [sum(of) for of in zip(*done, strict=True)] == [6, 4 * len(one.ids) + 2 * len(other.ids)]
    for i, row in enumerate((one, other, one, half, one, other)):
        np.testing.assert_allclose(found[i].values, reader.read([row])[0].values, rtol=1e-4)
    assert found[0].n_tokens > found[3].n_tokens
