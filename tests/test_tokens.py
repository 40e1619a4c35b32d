import pytest
from conftest import make_tokenizer

from geofilter.records import Row, RowError, Turn
from geofilter.tokens import Encoded, batches, encode_row, render

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


def test_truncation_keeps_the_response():
    tokenizer = make_tokenizer()
    encoded = encode_row(row(("user", "word " * 200), ("assistant", "the answer")), tokenizer, 32)
    assert encoded.truncated
    assert len(encoded.ids) == 32
    assert masked(encoded, tokenizer) == "the answer"
    long_answer = encode_row(row(("user", "word " * 200), ("assistant", "ask " * 200)), tokenizer, 32)
    assert sum(long_answer.mask) == 16  # half of the window goes to the prompt at most


def test_a_response_of_special_tokens_only_is_refused():
    with pytest.raises(RowError) as caught:
        encode_row(row(("user", "q"), ("assistant", "<|im_end|>")), make_tokenizer(), 64)
    assert str(caught.value) == ("no response token is left after masking special tokens; lengthen or remove the row")


def test_batches_hold_every_row_once_within_the_budget():
    rows = [Encoded((1,) * n, (False,) + (True,) * (n - 1), False) for n in (5, 90, 3, 40, 40, 7, 200)]
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
