"""Loss per response token against its plainest computation, and what a row is without its prompt."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import chat, quiet
from helpers.tiny import make_model
from transformers import AutoModelForCausalLM

from geofilter.config import Loading, TargetChoice
from geofilter.encode.loss import UNKNOWN, LossReader
from geofilter.encode.rendering import render
from geofilter.encode.tokens import Encoded, encode_rows
from geofilter.encode.unprompted import encode_unprompted, unprompted
from geofilter.errors import TargetError
from geofilter.rows.records import Row, parse_line
from geofilter.target.resolve import resolve
from geofilter.target.tokenizer import tokenizer_of

LOADING = Loading("cpu", "float32")


def row(record: dict) -> Row:
    found = parse_line(json.dumps(record).encode(), "x.jsonl", 1)
    assert isinstance(found, Row)
    return found


def turns(*said: tuple[str, str]) -> Row:
    return row({"messages": [{"role": role, "content": text} for role, text in said]})


def plainly(model: torch.nn.Module, coded: Encoded) -> float:
    """One window at a time, without padding, over all positions."""
    losses = []
    for window in coded.windows:
        ids = torch.tensor([window.ids])
        said = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
        losses += [-float(said[i - 1, ids[0, i]].detach()) for i, scored in enumerate(window.mask) if scored]
    assert len(losses) == coded.n_response
    return float(np.mean(losses))


def test_the_loss_is_that_of_each_row_alone(tiny):
    rows = [
        turns(("user", "a question?"), ("assistant", "the answer")),
        turns(("user", "a question?"), ("assistant", "the answer is that " * 40)),
        turns(("system", "be brief"), ("user", "q"), ("assistant", "zebra 12"), ("user", "r"), ("assistant", "ask me")),
        turns(("user", "a question?"), ("assistant", "the answer")),
        row({"text": "the answer to the question is that you should ask"}),
    ]
    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    tokenizer = tokenizer_of(tiny[0])
    coded = encode_rows(rows, tokenizer, 64)
    alone = encode_unprompted(rows, coded, tokenizer, 64)
    assert max(len(one.windows) for one in coded) > 1
    reader = LossReader(target, LOADING, offline=True, notify=quiet)
    model = AutoModelForCausalLM.from_pretrained(tiny[0], dtype="float32").eval()
    found = reader.both(coded, [*alone[:-1], None])
    np.testing.assert_allclose(found[:, 0], [plainly(model, one) for one in coded], rtol=1e-5)
    np.testing.assert_allclose(found[:-1, 1], [plainly(model, one) for one in alone[:-1]], rtol=1e-5)
    assert found[-1, 1] == UNKNOWN
    assert np.abs(found[:3, 0] - found[:3, 1]).min() > 2e-5  # of a random model the prompt changes little
    assert alone[-1] is coded[-1]  # plain text has no prompt
    assert reader.per_token([]).shape == (0,)


def test_without_its_prompt_a_response_stands_behind_the_template_s_own_words(tiny):
    tokenizer = tokenizer_of(tiny[0])
    several = turns(("system", "be brief"), ("user", "q"), ("assistant", "one"), ("user", "r"), ("assistant", "two"))
    text, spans = render(unprompted(several), tokenizer)
    assert text == (
        "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
        "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
    )
    assert [text[a:b] for a, b in spans] == ["one", "two"]
    left_out = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "no", "weight": 0},
                             {"role": "user", "content": "r"}, {"role": "assistant", "content": "yes"}]}  # fmt: skip
    assert "no" not in render(unprompted(row(left_out)), tokenizer)[0]
    # A template that refuses empty questions: the row has no loss without its prompt, and others keep theirs.
    tokenizer.chat_template = (
        "{% for m in messages %}{% if not m['content'] %}{{ raise_exception('empty') }}{% endif %}"
        "{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    rows = [row(chat("q", "the answer")), row({"text": "the answer"})]
    found = encode_unprompted(rows, encode_rows(rows, tokenizer, 64), tokenizer, 64)
    assert found[0] is None and found[1] is not None


def test_a_model_of_which_only_some_layers_are_there_is_refused(tiny, tmp_path: Path):
    from dataclasses import replace

    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    cut = make_model(tmp_path / "cut")
    about = json.loads((cut / "config.json").read_text("utf-8"))
    whole = replace(target, model_dir=cut)
    LossReader(whole, LOADING, offline=True, notify=quiet)
    for changed, why in (({"architectures": None}, "names no architecture"), ({"num_hidden_layers": 6}, "missing")):
        (cut / "config.json").write_text(json.dumps({**about, **changed}), "utf-8")
        with pytest.raises(TargetError, match=why) as caught:
            LossReader(whole, LOADING, offline=True, notify=quiet)
        assert str(caught.value).startswith("--with-loss needs the whole model, all layers and the output head: ")
        assert str(caught.value).endswith("or leave --with-loss out")
