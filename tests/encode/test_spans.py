"""Where each response token stands in the response: its text is there, whatever the template does around it."""

import pytest
from helpers.cases import CASES, NAMES, expected
from helpers.families import family_tokenizer, template
from helpers.tiny import CHATML, make_tokenizer

from geofilter.encode.rendering import Placed
from geofilter.encode.tokens import Encoded, encode_row, encode_rows, spans_of
from geofilter.rows.lines import read_lines
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, parse_line
from geofilter.rows.turns import Turn

BROKEN = "\N{REPLACEMENT CHARACTER}"
NOWHERE = "\0"


def row(*turns: tuple[str, str]) -> Row:
    return Row("f", 1, "0", "messages", tuple(Turn(*t) for t in turns), {})


def check(found: Row, encoded: Encoded, tokenizer) -> str:
    """Hold the spans against what the tokens decode to; return the response with `NOWHERE` for what no token has."""
    response, ids = found.response, [i for i, m in zip(encoded.ids, encoded.mask, strict=True) if m]
    assert encoded.spans.shape == (len(ids), 2)
    before = 0, 0
    for token, (start, end) in zip(ids, encoded.spans.tolist(), strict=True):
        assert 0 <= start <= end <= len(response)
        # Only of a character that two tokens make together both have it.
        assert start >= before[0] and end >= before[1] and start >= before[1] - 1
        decoded, there = tokenizer.decode([token]), response[start:end]
        if BROKEN in decoded or not decoded.strip():
            assert BROKEN not in decoded or there
        elif start < before[1]:
            assert there.strip() in decoded
        else:
            assert there.strip() == decoded.strip()
        before = start, end
    shown = [False] * len(response)
    for start, end in encoded.spans.tolist():
        shown[start:end] = [True] * (end - start)
    return "".join(c if s or c.isspace() else NOWHERE for c, s in zip(response, shown, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "files"])
def test_of_rows_of_every_kind(name: str):
    about = expected(name)
    only = tuple((column, value) for column, value in about.get("only", ()))
    reading = Reading(train=about.get("train", "all"), thinking=about.get("thinking", False), only=only)
    tokenizer = make_tokenizer(template(about["template"]) if "template" in about else CHATML)
    parsed = (parse_line(line, "f", 1, reading) for line in read_lines(CASES / f"{name}.jsonl"))
    rows = [found for found in parsed if isinstance(found, Row)]
    checked = 0
    for found, encoded in zip(rows, encode_rows(rows, tokenizer, about.get("max_tokens", 1024)), strict=True):
        if isinstance(encoded, Encoded):
            text, checked = check(found, encoded, tokenizer), checked + 1
            # Words that a template drops, thinking too, and special tokens in a row's own text.
            assert name in ("tools-dropped", "thinking-scored", "text") or NOWHERE not in text
    assert checked


TALK = [
    ("system", "be kind"), ("user", "what – ünïcode?"),
    ("assistant", "\n  first, 漢字 \N{CLOWN FACE}\N{CLOWN FACE} x  "),
    ("user", "and?"), ("assistant", " second\n\n"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["gemma2", "llama", "gpt_oss", "chatml", "none", "other space"])
@pytest.mark.parametrize("size", [400, 24])
def test_of_conversations_under_every_template(kind: str, size: int):
    """Templates that trim, keep and change the space around an answer; several windows; folded system turns."""
    if kind in ("gemma2", "llama", "gpt_oss"):
        tokenizer = family_tokenizer(kind)
    else:
        spaced = "{% for m in messages %}<s>{{ m.role }}\n   {{ m.content | trim }}\n\n</s>{% endfor %}"
        tokenizer = make_tokenizer({"chatml": CHATML, "none": None, "other space": spaced}[kind])
    found = row(*TALK)
    encoded = encode_row(found, tokenizer, size, "fold" if kind == "gemma2" else "keep")
    assert (len(encoded.windows) > 1) == (size == 24)
    assert NOWHERE not in check(found, encoded, tokenizer)
    cut = encoded.cut()
    assert cut.spans.tolist() == encoded.spans[: cut.n_response].tolist()


def test_thinking_that_a_template_drops_has_its_place_and_no_token():
    found = Row("f", 1, "0", "messages", (
        Turn("user", "q"), Turn("assistant", "<think>\nhm so\n</think>\n\nFour it is", thinking=True),
        Turn("user", "r"), Turn("assistant", "", {"reasoning_content": "well"}, thinking=True),
        Turn("assistant", "five", {"reasoning_content": "why"}, thinking=True),
    ), {})  # fmt: skip
    drops = "{% for m in messages %}<s>{{ m.content.split('</think>')[-1] }}</s>{% endfor %}"
    tokenizer = make_tokenizer(drops)
    encoded = encode_row(found, tokenizer, 64)
    assert found.response.count("\n") > 3
    assert check(found, encoded, tokenizer).replace(NOWHERE, ".").split() == [
        "..", "..", "Four", "it", "is", "....", "...", "five",
    ]  # fmt: skip


def byte_fallback():
    """A tokenizer as SentencePiece makes them: what it has no token for is bytes, and a space goes with the word."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = ["\u2581", *"youfl", "yo", "\u2581yo", "ou", "\u2581you"]
    vocabulary = {"<unk>": 0, **{f"<0x{i:02X}>": i + 1 for i in range(256)}}
    vocabulary |= {token: 257 + i for i, token in enumerate(letters)}
    merges = [("y", "o"), ("\u2581", "yo"), ("o", "u"), ("\u2581yo", "u")]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<unk>")


@pytest.mark.parametrize("text", ["you you\N{CLOWN FACE} you", "\N{CLOWN FACE}\N{CLOWN FACE}é you", "you"])
def test_of_bytes_that_stand_for_characters(text: str):
    tokenizer = byte_fallback()
    found = row(("text", text))
    encoded = encode_row(found, tokenizer, 400)
    assert NOWHERE not in check(found, encoded, tokenizer)
    for token, (start, end) in zip(encoded.ids[1:], encoded.spans.tolist(), strict=True):
        if 0 < token <= 256:
            assert end - start == 1 and text[start] in "\N{CLOWN FACE}é"


def test_a_token_over_an_edge_is_cut_there_and_of_two_parts_it_is_in_the_larger_piece():
    parts = [Placed(2, 6, 10, 12, 16), Placed(6, 9, 11, 17, 20)]
    offsets = [(0, 2), (1, 3), (3, 7), (5, 9), (9, 9)]
    spans = spans_of(offsets, [False, True, True, True, False], parts)
    assert spans.tolist() == [[12, 13], [13, 16], [17, 20]]
    assert spans_of([], [], parts).tolist() == []
