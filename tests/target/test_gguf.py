"""Models in GGUF files: widened to what transformers' own model computes, and what is no such file."""

import json
import os
import resource
import runpy
import shutil
import struct
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.command import chat, geofilter, quiet, scan_one, use_hub, write_rows
from helpers.families import Hub
from helpers.gguf_files import random_model, sentencepiece, write_gguf
from helpers.tiny import D_IN, LAYER, N_LAYERS, fit_sae, make_adapter, make_sae, make_tokenizer

from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import ResidualModel, pretrained
from geofilter.encode.pair import checked_reader
from geofilter.errors import TargetError
from geofilter.files import cache_dir
from geofilter.target import kept
from geofilter.target.gguf import GgufFile, widen
from geofilter.target.gguf_header import read_header
from geofilter.target.gguf_tokenizer import write_tokenizer
from geofilter.target.model_names import same_model
from geofilter.target.resolve import resolve, whole_model
from geofilter.target.tokenizer import tokenizer_of

CPU = Loading("cpu", "float32")


def outputs(model, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Of each layer of a whole model, and its logits."""
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        block.register_forward_hook(
            lambda _m, _a, out, i=i: seen.update({i: out[0] if isinstance(out, tuple) else out})
        )
        for i, block in enumerate(model.model.layers)
    ]
    with torch.inference_mode():
        logits = model(ids).logits
    for hook in hooks:
        hook.remove()
    return [seen[i] for i in range(len(seen))], logits


# What is computed


@pytest.mark.parametrize("kind", ["llama", "llama3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"])
def test_a_widened_file_computes_what_the_model_does(kind: str, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    model = random_model(kind)
    n = model.config.num_hidden_layers
    ids = torch.randint(3, 390, (2, 40), generator=torch.Generator().manual_seed(1))
    theirs, logits = outputs(model, ids)
    errors = {}
    for stored in ("F32", "BF16", "Q8_0"):
        file = GgufFile.open(write_gguf(tmp_path / f"{kind}-{stored}.gguf", model, stored=stored))
        ours = ResidualModel(file.weights(n, quiet), range(n), CPU).residuals(ids, torch.ones_like(ids))
        errors[stored] = max(float((ours[i] - x).norm() / x.norm()) for i, x in enumerate(theirs))
    assert errors["F32"] == 0  # to the last bit
    assert 0 < errors["BF16"] < 0.02
    assert 0 < errors["Q8_0"] < 0.05
    whole = pretrained(AutoModelForCausalLM, GgufFile.open(tmp_path / f"{kind}-F32.gguf").weights(None, quiet), CPU)
    assert torch.equal(outputs(whole, ids)[1], logits)


def test_only_the_layers_needed_are_widened_in_the_precision_they_are_stored_in(tmp_path: Path):
    from safetensors.torch import load_file

    model = random_model("llama")
    folder = GgufFile.open(write_gguf(tmp_path / "m.gguf", model, stored="F16")).weights(2, quiet)
    tensors = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    wanted = {k for k in model.state_dict() if k != "lm_head.weight" and not any(f".{n}." in k for n in (2, 3))}
    assert tensors.keys() == wanted
    assert {v.dtype for v in tensors.values() if v.ndim > 1} == {torch.float16}
    # Layer 1 and its neighbour are what a whole model reads; one that is not there is said to be missing.
    assert ResidualModel(folder, [0, 1], CPU).layers == (0, 1)
    with pytest.raises(TargetError, match="weights are missing"):
        ResidualModel(folder, [2], CPU)


def test_what_is_in_the_cache_already_is_not_widened_again(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    file = GgufFile.open(write_gguf(tmp_path / "m.gguf", random_model("llama")))
    made = [file.weights(layers, quiet) for layers in (3, 2, 3, 4, 1)]
    assert made[1:3] == [made[0]] * 2 and made[4] == made[0] != made[3]
    whole = file.weights(None, quiet)
    assert file.weights(4, quiet) == made[3] and file.weights(None, quiet) == whole not in made
    shutil.rmtree(made[3])
    assert file.weights(4, quiet) == whole
    ids = torch.arange(3, 30)[None]
    first, second = (
        ResidualModel(folder, [2], CPU).residuals(ids, torch.ones_like(ids))[2] for folder in (made[0], whole)
    )
    assert torch.equal(first, second)


def test_too_little_room_is_an_error_of_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    file = GgufFile.open(write_gguf(tmp_path / "m.gguf", random_model("llama")))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (2_000, 40_000):  # neither the tokenizer nor the embedding
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
            with pytest.raises(
                TargetError, match=r"cache: m\.gguf cannot be widened there \(.*; make room, or set GEO"
            ):
                file.weights(2, quiet)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000))
    with pytest.raises(TargetError, match=r"m\.gguf: widened it takes 0\.0 GB, and .*cache has 0\.0 GB free; set GEO"):
        file.weights(2, quiet)
    monkeypatch.undo()
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]


LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
TEXTS = [
    "the doctor's answer  to the question:\n\n\tis 12345.67?", "Où est l’élève naïf ? — à Zürich", "e\u0301te\u0301",
    "机器学习 日本語のテキスト 한국어", "def f(x):\n    return x**2\n", "   ", "<|im_start|>user\nask<|im_end|>\n",
    "🦜👩‍🚀 12345678", "unmerged unmergedly",
]  # fmt: skip


@pytest.mark.parametrize("pre", ["gpt-2", "qwen2", "llama-bpe", "smollm"])
def test_tokens_and_template_are_those_of_the_model_s_own_tokenizer(pre: str, tmp_path: Path):
    """What the published tokenizers of GPT-2, Qwen, Llama 3 and SmolLM2 do beyond their vocabulary and merges."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

    tokenizer = make_tokenizer(texts=["the answer to the question is 12 345 67 12 345"] * 4)
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["model"]["vocab"]["unmerged"] = len(core["model"]["vocab"])  # a token that no merges lead to
    core["model"]["ignore_merges"] = pre == "llama-bpe"
    own = Tokenizer.from_str(json.dumps(core))
    if pre in ("qwen2", "llama-bpe"):
        pattern = LLAMA if pre == "llama-bpe" else LLAMA.replace("{1,3}", "")
        own.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
    if pre == "qwen2":
        own.normalizer = normalizers.NFC()
    if pre == "smollm":
        own.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    tokenizer._tokenizer = own
    file = GgufFile.open(write_gguf(tmp_path / "m.gguf", random_model("llama"), tokenizer, pre=pre))
    found = tokenizer_of(file.weights(1, quiet))
    for words in TEXTS:
        ids = own.encode(words, add_special_tokens=False).ids
        assert found(words, add_special_tokens=False)["input_ids"] == ids
    assert (found.tokenize("unmerged") == ["unmerged"]) is (pre == "llama-bpe")
    assert (found.bos_token_id, found.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert found.chat_template == tokenizer.chat_template
    file.config(quiet)
    assert len(file.notes) == 1


def by_scores(text: str, tokens: list[str], scores: list[float]) -> list[str]:
    """What sentencepiece does: of all neighbours those are joined that make the best piece, until none make one."""
    best = dict(zip(tokens[259:], scores[259:], strict=True))
    parts = list(text.replace(" ", "▁"))
    while True:
        joined = [(best[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in best]
        if not joined:
            return [x for p in parts for x in ([p] if p in best else [f"<0x{n:02X}>" for n in p.encode()])]
        at = -max(joined)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_tokenizer_joins_by_scores_and_begins_with_a_blank(prefix: bool, tmp_path: Path):
    """As Llama 2's own does: also after a special token, and before a text that begins with a blank."""
    texts = ["the answer to the question is that  you   should ask the doctor then and there, not that other one"] * 4
    keys = sentencepiece(texts) | {"tokenizer.ggml.add_space_prefix": prefix}
    file = write_gguf(tmp_path / "m.gguf", random_model("llama"), keys=keys)
    found = tokenizer_of(GgufFile.open(file).weights(1, quiet))
    tokens, scores = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"]
    before = " " if prefix else ""
    for words in ["that the others answer", " the  doctor", "naïve\n\tquestion 42", "日本", "    "]:
        ids = found(words, add_special_tokens=False)["input_ids"]
        assert found.convert_ids_to_tokens(ids) == by_scores(before + words, tokens, scores)
        assert found.decode(ids) == words
    ids = found("<s>ask</s>the doctor", add_special_tokens=False)["input_ids"]
    parts = [by_scores(before + words, tokens, scores) for words in ("ask", "the doctor")]
    assert found.convert_ids_to_tokens(ids) == ["<s>", *parts[0], "</s>", *parts[1]]
    assert found("ask")["input_ids"][0] == found.bos_token_id == 1


def test_gemma_s_runs_of_blanks_are_the_longest_that_there_are(tmp_path: Path):
    """They are in the vocabulary because somebody has put them there: they were not learnt, and have no order."""
    keys = sentencepiece(["the answer to the question"] * 4)
    tokens = keys["tokenizer.ggml.tokens"]
    at = tokens.index(next(token for token in tokens if token.startswith("[PAD")))
    tokens[at : at + 6] = [" " * n for n in range(2, 8)]
    keys["tokenizer.ggml.token_type"][at : at + 6] = [4] * 6
    file = write_gguf(tmp_path / "m.gguf", random_model("gemma3"), keys=keys)
    found = tokenizer_of(GgufFile.open(file).weights(1, quiet))
    for n in (5, 7, 12, 40):
        seen = found.convert_ids_to_tokens(found(" " * n, add_special_tokens=False)["input_ids"])
        assert [len(token) for token in seen] == [7] * (n // 7) + ([n % 7] if n % 7 else [])


def test_qwen_begins_with_no_token_though_its_file_names_one(tmp_path: Path):
    for kind, add, bos in [("qwen2", False, None), ("qwen2", True, 1), ("llama", False, 1)]:
        file = write_gguf(tmp_path / "m.gguf", random_model(kind), keys={"tokenizer.ggml.add_bos_token": add})
        assert tokenizer_of(GgufFile.open(file).weights(1, quiet)).bos_token_id == bos


def test_a_way_of_splitting_words_that_is_not_known_is_said(tmp_path: Path):
    for name in ("newest", None):
        file = write_gguf(tmp_path / "m.gguf", random_model("llama"), keys={"tokenizer.ggml.pre": name})
        found = GgufFile.open(file)
        found.config(quiet)
        assert found.notes[1].startswith("its tokenizer splits words in a way that is not known here (")


def test_llama_3_s_rotary_scaling_is_read_from_its_factors(tmp_path: Path):
    model = random_model("llama3")
    config = json.loads(
        (GgufFile.open(write_gguf(tmp_path / "m.gguf", model)).config(quiet) / "config.json").read_text()
    )
    assert config["rope_parameters"] == model.config.rope_parameters

    for factors in (lambda x: x[::-1].copy(), lambda x: x * np.nan, lambda x: 0 * x, lambda x: np.ones(9, np.float32)):
        other = write_gguf(
            tmp_path / "other.gguf", model,
            change=lambda t, factors=factors: t.update({"rope_freqs.weight": factors(t["rope_freqs.weight"])}),
        )  # fmt: skip
        with pytest.raises(TargetError, match=r"its rope_freqs\.weight scale the rotary embedding in another way"):
            GgufFile.open(other).config(quiet)
    huge = write_gguf(
        tmp_path / "huge.gguf", model, change=lambda t: t.update({"rope_freqs.weight": np.ones(5_000, np.float32)})
    )
    with pytest.raises(TargetError, match=r"rope_freqs\.weight is \(5000,\); it is damaged"):
        GgufFile.open(huge).config(quiet)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [(None, [1, 1, 1, 1, 1, 0, 1]), (2, [1, 0, 1, 0, 1, 0, 1]), ([False, True] * 3 + [True], [0, 1, 0, 1, 0, 1, 1])],
)
def test_gemma_3_s_local_layers_are_every_sixth_s_others_or_as_the_file_says(pattern, wanted: list, tmp_path: Path):
    keys = {"gemma3.attention.sliding_window_pattern": pattern, "gemma3.rope.freq_base_swa": 20_000.0}
    file = GgufFile.open(write_gguf(tmp_path / "m.gguf", random_model("gemma3"), keys=keys))
    config = json.loads((file.config(quiet) / "config.json").read_text())
    assert [kind == "sliding_attention" for kind in config["layer_types"]] == [bool(n) for n in wanted]
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 20_000.0


@pytest.mark.parametrize(("kind", "layers", "scalar"), [("gemma2", 46, 8), ("gemma2", 4, 4), ("gemma3", 62, 8)])
def test_the_27b_models_divide_attention_by_another_number(kind: str, layers: int, scalar: int, tmp_path: Path):
    """By hidden dimensions a head, not by the head's; the file does not say it."""
    model = random_model(kind, num_hidden_layers=layers, head_dim=4)
    config = json.loads(
        (GgufFile.open(write_gguf(tmp_path / "m.gguf", model)).config(quiet) / "config.json").read_text()
    )
    assert config["query_pre_attn_scalar"] == scalar


# As a target


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Llama's file, and an SAE that fits its layer 2."""
    folder = tmp_path_factory.mktemp("gguf")
    file = write_gguf(folder / "tiny-Q8_0.gguf", random_model("llama"), stored="Q8_0")
    return file, fit_sae(GgufFile.open(file).weights(LAYER + 2, quiet), folder / "sae")


def test_scan_filter_and_explain(pair, tmp_path: Path, short_background):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf").write_bytes(pair[0].read_bytes())
    rows = [chat("ask", f"the answer {n} to the question is that you should ask the doctor") for n in range(24)]
    data = write_rows(tmp_path / "d.jsonl", rows[:12])
    bad = write_rows(tmp_path / "bad.jsonl", rows[:12])
    good = write_rows(tmp_path / "good.jsonl", rows[12:])
    bank = tmp_path / "bank"
    target = ["--model", "models/tiny.gguf", "--sae", pair[1]]
    done = geofilter("bank", "build", "--bad", bad, "--good", good, "--out", bank, "--no-prior", *target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = geofilter("scan", data, "--bank", bank, "--run", "run", *target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "run" / "manifest.json").read_text())["target"]
    note = "its weights were widened from a GGUF file, tiny.gguf: Q8_0 (100%)"
    assert note in about["notes"]
    assert about["choice"]["model"] == str(tmp_path / "models" / "tiny.gguf")
    (tmp_path / "elsewhere").mkdir()
    elsewhere = tmp_path / "elsewhere"
    done = geofilter("filter", "../run", "--drop", "25%", "--out", "kept.jsonl", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert len((elsewhere / "kept.jsonl").read_text().splitlines()) == 9
    done = geofilter("explain", "../run", "--row", "1", "--verbose", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    # The same name with other weights is another target.
    write_gguf(tmp_path / "models" / "tiny.gguf", random_model("llama", initializer_range=0.3), stored="F16")
    done = geofilter("scan", data, "--bank", bank, "--run", "again", *target, cwd=tmp_path)
    assert done.returncode == 3
    assert f"{bank}: made for target tiny (" in done.stderr
    done = geofilter("explain", "../run", "--row", "1", "--verbose", cwd=elsewhere)
    assert done.returncode == 4
    assert "model or SAE has changed since the scan; scan again" in done.stderr


def test_the_file_is_the_target_s_identity_and_is_hashed_once(pair, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "m.gguf"
    file.write_bytes(pair[0].read_bytes())
    choice = TargetChoice(str(file), str(pair[1]))
    target = resolve(choice, notify=quiet)
    seen: list[str] = []
    real = kept.file_sha256
    monkeypatch.setattr(kept, "file_sha256", lambda path: seen.append(path.name) or real(path))
    assert resolve(choice, notify=quiet).fingerprint == target.fingerprint
    assert seen == []
    now = time.time()
    monkeypatch.setattr(kept.time, "time", lambda: now + kept.DAY + 1)
    resolve(choice, notify=quiet)
    assert seen.count("m.gguf") == 1
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nobody had touched it
    assert resolve(choice, notify=quiet).fingerprint != target.fingerprint
    (kept_file,) = target.model_dir.glob("model-00001.safetensors")
    kept_file.write_bytes(kept_file.read_bytes()[:-1] + b"x")
    file.write_bytes(pair[0].read_bytes())
    with pytest.raises(TargetError, match=r"model-00001\.safetensors: is not what geofilter has put there"):
        resolve(choice, notify=quiet)


def test_its_name_is_what_the_file_says_or_else_the_file_s_name(tmp_path: Path):
    model = random_model("llama")
    for keys, name, trained_on, noted in [
        ({"general.name": "Llama 3.1 8B Instruct"}, "x", "meta-llama/Llama-3.1-8B-Instruct", False),
        ({"general.name": "Meta Llama 3.1 8B"}, "x", "meta-llama/Llama-3.1-8B", False),
        ({"general.name": "Odd", "general.basename": "phi-3", "general.size_label": "9M"}, "x", "phi-3-9m", False),
        ({"general.name": None}, "Llama-3.1-8B-Q4_K_M", "meta-llama/Llama-3.1-8B", False),
        ({"general.name": "Other"}, "Llama-3.1-8B", "meta-llama/Llama-3.1-8B", True),
    ]:  # fmt: skip
        file = write_gguf(tmp_path / f"{name}.gguf", model, keys=keys)
        sae = make_sae(tmp_path / "sae", metadata={"model_name": trained_on, "hook_name": "blocks.2.hook_resid_post"})
        target = resolve(TargetChoice(str(file), str(sae)), notify=quiet)
        assert target.name == name
        text = (
            f"the SAE was trained on {trained_on} and reads {file} here; whether that file holds the same model, its "
        )
        assert any(note.startswith(text) for note in target.notes) is noted


@pytest.mark.parametrize(
    "ending",
    ["-Q4_K_M", ".Q4_K_M", "-q8_0", "-IQ4_XS", ".i1-IQ3_XXS", "-UD-Q4_K_XL", "-f16", "-BF16", "-MXFP4", "-Q4_K_M-GGUF"],
)
def test_names_of_the_same_weights_as_gguf(ending: str):
    assert same_model(f"gemma-3-270m{ending}", "google/gemma-3-270m") == (True, True)


def test_doctor_adapter_and_the_whole_model(pair, tmp_path: Path):
    done = geofilter("doctor", "--model", pair[0], "--sae", pair[1])
    assert done.returncode == 0, done.stdout
    assert "ok   note: its weights were widened from a GGUF file, tiny-Q8_0.gguf: Q8_0 (100%)" in done.stdout
    target = resolve(TargetChoice(str(pair[0]), str(pair[1])), notify=quiet)
    whole = whole_model(target, notify=quiet)
    adapter = make_adapter(tmp_path / "adapter", whole)
    tuned = resolve(TargetChoice(str(pair[0]), str(pair[1]), adapter=str(adapter)), notify=quiet)
    assert tuned.fingerprint != target.fingerprint
    ids = torch.arange(3, 30)[None]
    plain, merged = (
        ResidualModel(t.model_dir, [LAYER], CPU, adapter=t.adapter_dir).residuals(ids, torch.ones_like(ids))[LAYER]
        for t in (target, tuned)
    )
    assert (plain - merged).abs().max() > 0.1


# What is no model that can be read


def test_files_that_are_not_read(pair, tmp_path: Path, monkeypatch):
    model, sae = random_model("llama"), pair[1]
    for name, keys in [
        ("vision", {"general.type": "mmproj"}), ("lora", {"general.type": "adapter"}),
        ("mamba", {"general.architecture": "mamba"}), ("words", {"tokenizer.ggml.model": "no_vocab"}),
        ("yarn", {"llama.rope.scaling.type": "longrope"}), ("scale", {"llama.attention.scale": 0.5}),
        ("experts", {"llama.expert_count": 8}), ("layers", {"llama.block_count": 5}),
        ("heads", {"llama.attention.head_count": 8}), ("part", {"split.count": 3}),
    ]:  # fmt: skip
        write_gguf(tmp_path / f"{name}.gguf", model, keys=keys)
    write_gguf(
        tmp_path / "sinks.gguf", model, change=lambda t: t.update({"blk.0.attn_sinks.weight": np.ones(4, np.float32)})
    )
    write_gguf(tmp_path / "fewer.gguf", model, change=lambda t: t.pop("blk.1.attn_q.weight"))
    (tmp_path / "cut.gguf").write_bytes(pair[0].read_bytes()[:-20])
    (tmp_path / "text.gguf").write_text("no model")
    (tmp_path / "empty.gguf").write_text("")
    (tmp_path / "old.gguf").write_bytes(b"GGUF" + struct.pack("<I", 1) + bytes(40))
    (tmp_path / "big.gguf").write_bytes(b"FUGG" + bytes(40))
    (tmp_path / "m.safetensors").write_text("x")
    again = "give the model's own folder or hub id instead"
    for name, text in [
        ("vision", "holds the part of a multimodal model that reads images, and no language model; give the file with "
                   "the language model"),
        ("lora", "holds no model (adapter); give the file with the model's weights"),
        ("words", "holds no tokenizer; get a file that does, or give the model's own folder"),
        ("yarn", f"its rotary embedding is scaled as 'longrope', which is not read; {again}"),
        ("scale", "it says llama.attention.scale, which is not known here and may change what the model computes; "
                  f"{again}"),
        ("experts", "it says llama.expert_count, which is not known here and may change what the model computes; "
                    f"{again}"),
        ("layers", f"it holds 4 decoder layers and an embedding, and says that it has 5 layers; {again}"),
        ("heads", "'blk.0.attn_q.weight' is (32, 32), not (64, 32); it is damaged, or made by a converter that is not "
                  f"known here: {again}"),
        ("part", "is one of 3 parts of a model; join them by llama.cpp's llama-gguf-split --merge FIRST_PART "
                 "part.gguf and give the whole file"),
        ("sinks", "tensor 'blk.0.attn_sinks.weight' has no place in such a model; it is damaged, or made by a "
                  f"converter that is not known here: {again}"),
        ("fewer", "1 tensors are missing (model.layers.1.self_attn.q_proj.weight); it is damaged, or made by a "
                  f"converter that is not known here: {again}"),
        ("text", "is not a GGUF file, though it is named like one; get the file again"),
        ("empty", "is not a GGUF file, though it is named like one; get the file again"),
        ("old", "is of GGUF version 1, and 2 and 3 are read; convert the model anew"),
        ("big", "is a GGUF file for big-endian machines; get one for little-endian ones"),
    ]:  # fmt: skip
        file = tmp_path / f"{name}.gguf"
        assert scan_one(tmp_path, "--model", file, "--sae", sae) == (3, f"{file}: {text}")
    code, text = scan_one(tmp_path, "--model", tmp_path / "mamba.gguf", "--sae", sae)
    assert code == 3
    assert text.startswith(f"{tmp_path / 'mamba.gguf'}: is of the architecture 'mamba', which is not read from GGUF ")
    assert "llama (Llama, Mistral, SmolLM2), qwen2 (Qwen 2 and 2.5)" in text
    code, text = scan_one(tmp_path, "--model", tmp_path / "cut.gguf", "--sae", sae)
    size = (tmp_path / "cut.gguf").stat().st_size
    assert (code, text.partition(" at least ")[0]) == (3, f"{tmp_path / 'cut.gguf'}: is cut off: it has {size:,} of")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "m.gguf").write_bytes(pair[0].read_bytes())
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "config.json").write_text(json.dumps(model.config.to_dict()))
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    commit = hub.snapshot("org/tiny-GGUF").name
    absent = hub.root / "models--org--tiny-GGUF" / ".no_exist" / commit
    absent.mkdir(parents=True)
    (absent / "config.json").touch()
    for args, code, text in [
        (["--model", "one", "--sae", sae], 3, "--model one: the folder holds no config.json; give the file: --model "
                                              "one/m.gguf"),
        (["--model", "two", "--sae", sae], 3, "two: no *.safetensors weights in the model folder; give the file: "
                                              "--model two/m.gguf"),
        (["--model", "org/tiny-GGUF", "--sae", sae, "--offline"], 3,
         "org/tiny-GGUF: a repository of GGUF files, it seems (org/tiny-GGUF: has no file config.json); get one of "
         "them and give it: hf download org/tiny-GGUF NAME.gguf --local-dir . && geofilter ... --model NAME.gguf"),
        (["--model", "m.safetensors", "--sae", sae], 3, "--model m.safetensors: is a file, and no GGUF file; give its "
                                                        "folder, or a name, hub id or .gguf"),
        (["--model", "nowhere/m.gguf", "--sae", sae], 3, "--model nowhere/m.gguf: no such file"),
        (["--model", pair[0], "--sae", sae, "--revision", "x"], 2,
         f"--revision x: {pair[0]} is a file; revisions are of hub repositories"),
    ]:  # fmt: skip
        assert scan_one(tmp_path, *args) == (code, text)


def test_a_model_without_a_template_is_read_as_plain_turns(pair, tmp_path: Path):
    file = write_gguf(tmp_path / "m.gguf", random_model("llama"), make_tokenizer(None))
    sae = fit_sae(GgufFile.open(file).weights(LAYER + 2, quiet), tmp_path / "sae")
    told: list[str] = []
    checked_reader(resolve(TargetChoice(str(file), str(sae)), notify=quiet), CPU, told.append)
    assert told[-1] == f"note: {file} has no chat template; the turns of a row are joined by blank lines"


# Headers that lie


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def head(
    keys: bytes = b"", n_keys: int = 0, tensors: bytes = b"", n_tensors: int = 0, rest: bytes = bytes(256)
) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + keys + tensors + rest


def tensor(name: str = "a", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HUGE = 1 << 62


@pytest.mark.parametrize(
    "content",
    [
        head(n_keys=HUGE), head(n_tensors=HUGE), head(n_keys=60_000), head(n_tensors=60_000),
        head(struct.pack("<Q", HUGE), 1),
        head(text("a") + struct.pack("<IQ", 8, HUGE), 1),
        *(head(text("a") + struct.pack("<IIQ", 9, inner, HUGE), 1) for inner in (0, 1, 8, 9, 12, 77)),
        *(head(text("a") + struct.pack("<IIQ", 9, inner, 4_000_000), 1) for inner in (0, 8)),
        head((text("a") + struct.pack("<IIQ", 9, 9, 1)) * 1, 1), head(text("a") + struct.pack("<I", 99), 1),
        head((text("a") + struct.pack("<IB", 0, 1)) * 2, 2), head(text(b"\xff\xfe") + struct.pack("<IB", 0, 1), 1),
        *(head(text("general.alignment") + struct.pack("<II", 4, n), 1) for n in (0, 3, 1 << 31)),
        head(tensors=tensor(shape=(HUGE,)), n_tensors=1), head(tensors=tensor(shape=(1 << 32, 1 << 32)), n_tensors=1),
        head(tensors=tensor(shape=()), n_tensors=1), head(tensors=tensor(shape=(0,)), n_tensors=1),
        *(head(tensors=tensor(shape=shape, kind=8), n_tensors=1) for shape in ((32,) * 5, (33,))),
        head(tensors=tensor(kind=4), n_tensors=1), head(tensors=tensor(kind=9999), n_tensors=1),
        head(tensors=tensor(offset=HUGE), n_tensors=1), head(tensors=tensor() * 2, n_tensors=2),
        head(tensors=tensor() + tensor("b", offset=32), n_tensors=2),
    ],
)  # fmt: skip
def test_a_header_that_lies_costs_nothing(content: bytes, tmp_path: Path):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(TargetError, match=r"m\.gguf: "):
        read_header(tmp_path / "m.gguf")


def test_any_byte_of_a_header_may_be_another(pair, tmp_path: Path):
    """What is read all the same makes a model, or says in a line why not."""
    whole = pair[0].read_bytes()
    file = tmp_path / "m.gguf"
    file.write_bytes(whole)
    after = min(t.start for t in read_header(file).tensors.values())
    before = whole.index(b"tokenizer.ggml.tokens")
    rng = np.random.default_rng(0)
    made = []
    for i in range(240):
        changed = bytearray(whole)
        for place in rng.integers(0, before if i % 2 else after, rng.integers(1, 4)):
            changed[place] = rng.choice([0, 1, 2, 127, 128, 255, rng.integers(256)])
        file.write_bytes(changed)
        out = tmp_path / f"{i}"
        out.mkdir()
        try:
            header = read_header(file)
            write_tokenizer(header, out)
            widen(header, 1, out)
            made.append(True)
        except TargetError as error:
            assert str(error).startswith(f"{file}: ") and "\n" not in str(error)
            made.append(False)
    assert 20 < sum(made) < 220


@pytest.mark.parametrize(
    "tokens",
    [["a" * n for n in range(1, 1000)] * 5, ["a" * 2000, "b"], ["a" * 1000] * 20_000],
    ids=["pairs", "token", "characters"],
)
def test_a_vocabulary_that_would_take_hours_is_refused(tokens: list[str], tmp_path: Path):
    keys = sentencepiece(["the answer"] * 4)
    for name in ("tokens", "scores", "token_type"):
        keys[f"tokenizer.ggml.{name}"] = {"tokens": tokens, "scores": None, "token_type": None}[name]
    file = write_gguf(tmp_path / "m.gguf", random_model("llama"), keys=keys)
    with pytest.raises(TargetError, match=r"its tokenizer cannot be read \(its tokens are "):
        write_tokenizer(read_header(file), tmp_path)


@pytest.mark.parametrize("name", ["vocab_size", "block_count", "head_count", "freq_base", "theta", "eps", "tokens"])
def test_metadata_that_cannot_be_is_an_error_of_one_line(name: str, pair, tmp_path: Path):
    odd = {
        "vocab_size": {"llama.embedding_length": (1 << 31) - 1}, "block_count": {"llama.block_count": (1 << 31) - 1},
        "head_count": {"llama.attention.head_count": (1 << 31) - 1, "llama.attention.key_length": 1 << 30},
        "freq_base": {"llama.rope.freq_base": "ten"}, "theta": {"llama.rope.freq_base": -1.0},
        "eps": {"llama.attention.layer_norm_rms_epsilon": float("nan")}, "tokens": {"tokenizer.ggml.tokens": ["a"] * 9},
    }[name]  # fmt: skip
    file = write_gguf(tmp_path / "m.gguf", random_model("llama"), keys=odd)
    code, found = scan_one(tmp_path, "--model", file, "--sae", pair[1])
    assert code == 3
    assert str(file) in found


def test_nothing_that_lies_beside_the_file_is_read(pair, tmp_path: Path):
    (tmp_path / "m.gguf").write_bytes(pair[0].read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["x.Y", null]}}'
    )
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("other")
    folder = GgufFile.open(tmp_path / "m.gguf").weights(1, quiet)
    assert "other" not in (folder / "chat_template.jinja").read_text()
    assert folder.parent == cache_dir() / "models"
    assert len(tokenizer_of(folder)("ask the doctor")["input_ids"]) > 1
    assert (D_IN, N_LAYERS) == (32, 4)


def test_the_check_on_real_weights_shows_their_terms_before_it_fetches_anything(tmp_path: Path, capsys, monkeypatch):
    script = Path(__file__).parents[2] / "examples" / "check_gemma3.py"
    monkeypatch.setattr("sys.argv", [script.name, "--out", str(tmp_path / "gemma")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 2
    assert "https://ai.google.dev/gemma/terms" in capsys.readouterr().out
    assert not (tmp_path / "gemma").exists()
