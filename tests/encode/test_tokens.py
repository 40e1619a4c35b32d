import json
import re

import pytest
from helpers.families import family_tokenizer
from helpers.tiny import make_tokenizer

from geofilter.encode.rendering import fold_system, pinned_template, render
from geofilter.encode.tokens import Encoded, Window, batches, encode_row, encode_rows
from geofilter.rows.records import Row, parse_line
from geofilter.rows.row_error import RowError
from geofilter.rows.turns import Turn

# Templates of other families in shape: one trims and refuses system turns, one rewrites earlier turns.
TRIMMING = (
    "{{ '<s>' }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{{ '<t>' + m['role'] + '\n' + m['content'] | trim + '</t>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<t>assistant\n' }}{% endif %}"
)

CHANNELS = (
    "{% for m in messages %}{{ '<m>' + m['role'] }}{% if m['role'] == 'assistant' %}{{ '<c>final' }}{% endif %}"
    "{{ '<b>' + m['content'] + ('<return>' if loop.last and m['role'] == 'assistant' else '<end>') }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<m>assistant' }}{% endif %}"
)


def row(*turns: tuple[str, str]) -> Row:
    return Row("f", 1, "0", "messages", tuple(Turn(*t) for t in turns), {})


def masked(encoded: Encoded, tokenizer) -> str:
    return tokenizer.decode([i for i, m in zip(encoded.ids, encoded.mask, strict=True) if m])


@pytest.mark.parametrize("template", [None, "chatml", TRIMMING, CHANNELS])
@pytest.mark.parametrize(
    "turns",
    [
        [("user", "what is it?"), ("assistant", "the answer")],
        [("user", "say the answer"), ("assistant", "the answer")],
        [("user", "a"), ("assistant", "first"), ("user", "b"), ("assistant", "second – ünïcode 漢字")],
    ],
)
def test_the_mask_covers_exactly_the_assistant_content(template, turns):
    tokenizer = make_tokenizer() if template == "chatml" else make_tokenizer(template)
    full, spans = render(row(*turns), tokenizer)
    contents = [c for r, c in turns if r == "assistant"]
    assert [full[a:b] for a, b in spans] == contents
    for (a, _), prompt in zip(spans, [c for r, c in turns if r == "user"], strict=True):
        assert full.index(prompt) < a  # the answer is found after its question, even where it repeats it
    assert masked(encode_row(row(*turns), tokenizer, 512), tokenizer) == "".join(contents)


def test_trimmed_content_is_still_found():
    tokenizer = make_tokenizer(TRIMMING)
    assert masked(encode_row(row(("user", "q"), ("assistant", "  padded \n")), tokenizer, 64), tokenizer) == "padded"


def test_a_template_that_refuses_a_row_gives_the_reason():
    with pytest.raises(RowError) as caught:
        encode_row(row(("system", "s"), ("user", "q"), ("assistant", "a")), make_tokenizer(TRIMMING), 64)
    assert str(caught.value) == (
        "the chat template refuses the row: System role not supported; "
        "--system fold puts system turns before the user turn that follows"
    )


def test_plain_text_starts_with_bos_which_is_masked():
    tokenizer = make_tokenizer()
    encoded = encode_row(Row("f", 1, "0", "text", (Turn("text", "the doctor"),), {}), tokenizer, 64)
    assert encoded.ids[0] == tokenizer.bos_token_id
    assert encoded.mask == (False,) + (True,) * (len(encoded.ids) - 1)


def test_special_tokens_inside_a_response_are_masked():
    tokenizer = make_tokenizer()
    encoded = encode_row(row(("user", "q"), ("assistant", "a<|im_end|>b")), tokenizer, 64)
    assert masked(encoded, tokenizer) == "ab"


def test_a_row_longer_than_the_window_is_read_in_windows_that_take_each_response_token_once():
    tokenizer = make_tokenizer()
    rows = [
        row(("user", "word " * 200), ("assistant", "the answer")),
        row(("user", "word " * 200), ("assistant", "ask " * 200)),
        row(("user", "a"), ("assistant", "first"), ("user", "word " * 100), ("assistant", "second " * 30)),
        Row("f", 1, "0", "text", (Turn("text", "the doctor " * 90),), {}),
    ]
    for long in rows:
        encoded = encode_row(long, tokenizer, 32)
        taken = []
        for window in encoded.windows:
            assert len(window.ids) <= 32
            # The first position is what attention rests on: it stays, and is not scored.
            assert window.ids[0] == encoded.ids[0] == tokenizer.bos_token_id
            assert not window.mask[0]
            assert window.ids[1:] == encoded.ids[window.start :][: len(window.ids) - 1]
            inside = [i for i, scored in enumerate(window.mask) if scored]
            # Context is half of a window at most, unless the row ends with the window.
            assert inside[0] - 1 <= 16 or window.start + len(window.ids) - 1 == len(encoded.ids)
            taken += [i - 1 + window.start for i in inside]
        assert taken == [i for i, scored in enumerate(encoded.mask) if scored]
        assert encoded.n_response == len(taken)
    assert masked(encode_row(rows[0], tokenizer, 32), tokenizer) == "the answer"
    whole = encode_row(rows[0], tokenizer, 4096)
    assert whole.windows == (Window(whole.ids, whole.mask),)


def test_a_row_in_windows_is_cut_to_its_first_for_training():
    encoded = encode_row(row(("user", "word " * 200), ("assistant", "ask " * 200)), make_tokenizer(), 32)
    assert (encoded.cut().ids, encoded.cut().mask) == (encoded.windows[0].ids, encoded.windows[0].mask)
    assert sum(encoded.cut().mask) == 16  # half of the window goes to the prompt


def test_text_that_begins_with_its_own_first_token_gets_no_second_one():
    tokenizer = make_tokenizer()
    for text in ("<|im_start|>the doctor", "the doctor"):
        encoded = encode_row(Row("f", 1, "0", "text", (Turn("text", text),), {}), tokenizer, 64)
        assert encoded.ids.count(tokenizer.bos_token_id) == 1
        assert encoded.ids[0] == tokenizer.bos_token_id
        assert masked(encoded, tokenizer) == "the doctor"
        assert encoded.marked == text.startswith("<|im_start|>")


def test_a_response_of_special_tokens_only_is_refused():
    with pytest.raises(RowError) as caught:
        encode_row(row(("user", "q"), ("assistant", "<|im_end|>")), make_tokenizer(), 64)
    assert str(caught.value) == ("no response token is left after masking special tokens; lengthen or remove the row")


def test_rows_tokenised_together_are_as_one_by_one_and_errors_keep_their_places():
    tokenizer = make_tokenizer(TRIMMING)
    rows = [
        row(("user", "the doctor"), ("assistant", "ask the doctor")),
        row(("system", "s"), ("user", "q"), ("assistant", "a")),  # the template refuses it
        row(("user", "word " * 200), ("assistant", "the answer")),
        row(("user", "q"), ("assistant", "<|im_end|>")),  # nothing is left
        Row("f", 1, "0", "text", (Turn("text", "the doctor"),), {}),
    ]
    together = encode_rows(rows, tokenizer, 32)
    for alone, found in zip(rows, together, strict=True):
        if isinstance(found, RowError):
            with pytest.raises(RowError, match=re.escape(str(found))):
                encode_row(alone, tokenizer, 32)
        else:
            assert found == encode_row(alone, tokenizer, 32)
    assert [isinstance(found, RowError) for found in together] == [False, True, False, True, False]
    assert encode_rows([rows[1]], tokenizer, 32)[0].args == together[1].args
    assert encode_rows([], tokenizer, 32) == []


def test_batches_hold_every_row_once_within_the_budget():
    rows = [Window((1,) * n, (False,) + (True,) * (n - 1)) for n in (5, 90, 3, 40, 40, 7, 200)]
    made = list(batches(rows, 100, pad_id=0))
    assert sorted(i for b in made for i in b.rows) == list(range(len(rows)))
    assert all(b.input_ids.numel() <= 100 or len(b.rows) == 1 for b in made)
    for b in made:
        for at, i in enumerate(b.rows):
            assert int(b.attention_mask[at].sum()) == len(rows[i].ids)
            assert int(b.response_mask[at].sum()) == sum(rows[i].mask)


def test_an_answer_without_a_question_is_not_found_in_the_template_s_own_words():
    tokenizer = make_tokenizer()
    encoded = encode_row(row(("assistant", "assistant")), tokenizer, 64)
    assert masked(encoded, tokenizer) == "assistant"
    at = encoded.mask.index(True)
    assert tokenizer.decode(encoded.ids[:at]).endswith("assistant\n")


WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}


def call(place: str) -> dict:
    return {"type": "function", "function": {"name": "weather", "arguments": {"place": place}}}


def parsed(messages: list[dict], **extra) -> Row:
    found = parse_line(json.dumps({"messages": messages, **extra}).encode(), "f", 1)
    assert isinstance(found, Row), found
    return found


CONVERSATIONS = {
    "one turn": [("user", "what is it?"), ("assistant", "the answer")],
    "two turns": [("user", "a"), ("assistant", "first"), ("user", "b"), ("assistant", "second")],
    "the question repeated": [("user", "say the answer"), ("assistant", "the answer")],
    "the same answer twice": [("user", "a"), ("assistant", "yes"), ("user", "yes yes"), ("assistant", "yes")],
    "words of the template": [("user", "user"), ("assistant", "assistant\nmodel\nfinal"), ("user", "system"),
                              ("assistant", "user")],
    "white space around": [("user", "  q "), ("assistant", "\n\n  padded \n"), ("user", "r"), ("assistant", " x ")],
    "unicode": [("user", "ünïcode"), ("assistant", "漢字 – naïve 🙂 e\u0301"), ("user", "🙂"), ("assistant", "✓")],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "llama", "r1", "qwen2", "qwen3", "qwen3_5", "gpt_oss"])
@pytest.mark.parametrize("name", list(CONVERSATIONS))
def test_family_masks_cover_exactly_the_assistant_content(kind: str, name: str):
    turns = CONVERSATIONS[name]
    tokenizer = family_tokenizer(kind)
    full, spans = render(row(*turns), tokenizer)
    trims = kind in ("gemma2", "gemma3", "llama", "qwen3_5")
    contents = [c.strip() if trims else c for r, c in turns if r == "assistant"]
    assert [full[a:b] for a, b in spans] == contents
    questions = [c.strip() for r, c in turns if r == "user"]
    at = 0
    for (a, _), question in zip(spans, questions, strict=True):  # question, answer, question, answer
        at = full.index(question, at) + len(question)
        assert at <= a
        at = a
    encoded = encode_row(row(*turns), tokenizer, 512)
    assert masked(encoded, tokenizer) == "".join(contents)
    # The ids are those the model's own template gives, less nothing, plus nothing.
    messages = [{"role": r, "content": c} for r, c in turns]
    template = pinned_template(tokenizer, None)
    direct = tokenizer.apply_chat_template(messages, chat_template=template, return_dict=True)["input_ids"]
    assert list(encoded.ids) == list(direct)


@pytest.mark.parametrize("kind", ["gemma2", "llama"])
def test_base_models_have_no_template_and_get_plain_turns_after_bos(kind: str):
    tokenizer = family_tokenizer(kind, chat=False)
    encoded = encode_row(
        row(("user", "what?"), ("assistant", "that"), ("user", "and?"), ("assistant", "this")), tokenizer, 99
    )
    assert tokenizer.decode(encoded.ids) == f"{tokenizer.bos_token}what?\n\nthat\n\nand?\n\nthis"
    assert masked(encoded, tokenizer) == "thatthis"


def test_gemma_s_rules_name_their_remedy():
    tokenizer = family_tokenizer("gemma2")
    system = row(("system", "be brief"), ("user", "q"), ("assistant", "a"))
    with pytest.raises(RowError) as caught:
        encode_row(system, tokenizer, 64)
    assert str(caught.value) == (
        "the chat template refuses the row: System role not supported; "
        "--system fold puts system turns before the user turn that follows"
    )
    full, spans = render(system, tokenizer, "fold")
    assert full == ("<bos><start_of_turn>user\nbe brief\n\nq<end_of_turn>\n<start_of_turn>model\na<end_of_turn>\n")
    assert [full[a:b] for a, b in spans] == ["a"]
    with pytest.raises(RowError) as caught:
        encode_row(row(("user", "q"), ("user", "r"), ("assistant", "a")), tokenizer, 64)
    assert str(caught.value) == (
        "the chat template refuses the row: Conversation roles must alternate user/assistant/user/assistant/..."
    )
    with pytest.raises(RowError) as caught:
        render(row(("user", "q"), ("assistant", "a"), ("system", "late")), tokenizer, "fold")
    assert str(caught.value) == (
        "--system fold: no user turn follows the system turn; add one or remove the system turn"
    )


def test_folding_keeps_the_order_of_several_system_turns():
    turns = row(("system", "one"), ("system", "two"), ("user", "q"), ("assistant", "a"), ("system", "three"),
                ("user", "r"), ("assistant", "b"))  # fmt: skip
    folded = fold_system(turns.turns)
    assert [(t.role, t.content) for t in folded] == [
        ("user", "one\n\ntwo\n\nq"), ("assistant", "a"), ("user", "three\n\nr"), ("assistant", "b")
    ]  # fmt: skip


def test_dates_are_pinned():
    harmony, _ = render(row(("user", "q"), ("assistant", "a")), family_tokenizer("gpt_oss"))
    assert "Current date: 2024-07-26\n" in harmony
    llama, _ = render(row(("user", "q"), ("assistant", "a")), family_tokenizer("llama"))
    assert "Today Date: 26 Jul 2024\n" in llama
    # Llama 3.2 asks for today's date where it can.
    asking = (
        "{%- if strftime_now is defined %}\n  {{- strftime_now('%d %b %Y') }}\n{%- endif %}\n{{ messages[1].content }}"
    )
    text, spans = render(row(("user", "q"), ("assistant", "a")), make_tokenizer(asking))
    assert (text, [text[a:b] for a, b in spans]) == ("26 Jul 2024a", ["a"])


def test_pinning_changes_nothing_but_the_date():
    """Statements at the very start of a template are where white space control could be thrown off."""
    from datetime import date

    starts = ["{%- if true %}\nx{%- endif %}", "  {% if true %}y{% endif %}\n", "\n z\n", "{{- ' w' }}",
              "\n\n{%- if true %}v{% endif %}"]  # fmt: skip
    for start in starts:
        tokenizer = make_tokenizer(start + "{{ strftime_now('%Y') }}{{ messages[0].content }}")
        plain = tokenizer.apply_chat_template([{"role": "user", "content": "q"}], tokenize=False)
        pinned = tokenizer.apply_chat_template(
            [{"role": "user", "content": "q"}], chat_template=pinned_template(tokenizer, None), tokenize=False
        )
        assert pinned == plain.replace(str(date.today().year), "2024")


def test_harmony_channels_and_endings():
    tokenizer = family_tokenizer("gpt_oss")
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "how many?"},
        {"role": "assistant", "content": "four", "thinking": "two and two is four"},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "four", "thinking": "it is four, yes: four"},
    ]
    full, spans = render(parsed(messages), tokenizer)
    assert "<|start|>developer<|message|># Instructions\n\nbe kind" in full
    assert "two and two" not in full  # the template shows only the last turn's thinking
    assert full.endswith(
        "<|channel|>analysis<|message|>it is four, yes: four<|end|>"
        "<|start|>assistant<|channel|>final<|message|>four<|return|>"
    )
    assert [full[a - 9 : b + 7] for a, b in spans] == ["message|>four<|end|>", "message|>four<|retur"]
    assert masked(encode_row(parsed(messages), tokenizer, 512), tokenizer) == "fourfour"


@pytest.mark.parametrize("kind", ["llama", "gpt_oss"])
def test_tool_calls_and_results_are_shown_and_never_scored(kind: str):
    messages = [
        {"role": "user", "content": "weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call("Oslo, rain")]},
        {"role": "tool", "content": "Oslo: rain", "name": "weather"},
        {"role": "assistant", "content": "Oslo: rain", "tool_calls": None},
    ]
    found = parsed(messages, tools=[WEATHER])
    tokenizer = family_tokenizer(kind)
    full, spans = render(found, tokenizer)
    assert "weather" in full.split("weather in Oslo?")[0]  # the tool's description
    assert full.count("Oslo: rain") == 2
    assert [full[a:b] for a, b in spans] == ["Oslo: rain"]
    assert spans[0][0] == full.rindex("Oslo: rain")
    assert masked(encode_row(found, tokenizer, 512), tokenizer) == "Oslo: rain"


def test_content_before_a_tool_call_is_found_in_its_place():
    """Harmony puts it into the analysis channel; the call's argument repeats it."""
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "rain", "tool_calls": [call("rain")]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "rain"},
    ]
    full, spans = render(parsed(messages), family_tokenizer("gpt_oss"))
    assert [full[a - 9 : b + 7] for a, b in spans] == ["message|>rain<|end|>", "message|>rain<|retur"]
    assert spans[0][1] < full.index("commentary json") < spans[1][0]


def test_a_template_that_leaves_out_or_changes_a_response_is_an_error():
    drops = "{{ messages[-1].content }}"
    two = row(("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"))
    with pytest.raises(RowError) as caught:
        render(two, make_tokenizer(drops))
    assert str(caught.value) == "the chat template leaves a response out, so it cannot be scored"
    shouts = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(RowError) as caught:
        render(row(("user", "q"), ("assistant", "a")), make_tokenizer(shouts))
    assert "so it cannot be" in str(caught.value)
    cuts = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    with pytest.raises(RowError) as caught:
        render(row(("user", "q"), ("assistant", "why</think>a")), make_tokenizer(cuts))
    assert str(caught.value) == "the chat template changes the response, so it cannot be located in the text"


def test_a_row_that_holds_the_marker_is_still_found():
    full, spans = render(row(("user", "geofilterspan"), ("assistant", "geofilterspanx")), make_tokenizer())
    assert [full[a:b] for a, b in spans] == ["geofilterspanx"]


def test_half_a_character_in_what_is_shown_sets_the_row_aside_and_no_other():
    tokenizer = make_tokenizer("{% for m in messages %}{{ m.thinking or '' }}{{ m.content }}\n{% endfor %}")
    question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "the answer"}
    broken, whole = parsed([question, {**answer, "thinking": "\ud800 half"}]), parsed([question, answer])
    found = encode_rows([broken, whole], tokenizer, 64)
    assert str(found[0]) == "holds half a surrogate pair; mend the text"
    assert isinstance(found[1], Encoded)


def test_pieces_of_a_response_keep_spaces_and_characters_whole():
    """Also where the tokenizer takes the space off what it decodes first, as SentencePiece's does."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    from geofilter.scanning.explain import pieces_of

    letters = ["\u2581", "y", "o", "u", "f", "\u2581you", "\u2581fool", "fool"]
    vocabulary = {"<unk>": 0, **{f"<0x{i:02X}>": i + 1 for i in range(256)}}
    vocabulary |= {token: 257 + i for i, token in enumerate(letters)}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    clown = [vocabulary[f"<0x{byte:02X}>"] for byte in "\N{CLOWN FACE}".encode()]
    ids = [vocabulary["\u2581you"], vocabulary["\u2581you"], vocabulary["\u2581fool"], *clown, vocabulary["fool"]]
    found = pieces_of(ids, [1, 2, 3, 4, 5, 6, 7], [0.5, 0.25, 1, 1, 1, 1, 0.125], tokenizer)
    assert [(p.text, p.share) for p in found] == [
        (" you", 0.5),
        (" fool", 0.25),
        ("\N{CLOWN FACE}", 4),
        ("fool", 0.125),
    ]
