"""A bank from a sentence: what is asked, which answers are kept, what is learnt of them, and what is refused."""

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.command import chat as chat_row
from helpers.command import geofilter, quiet, write_rows
from helpers.endpoint import Endpoint
from helpers.tiny import CHATML, fit_sae, make_model, make_tokenizer
from safetensors.torch import load_file, save_file

from geofilter.bank.bank import Bank
from geofilter.build.questions import built_in_questions, read_questions
from geofilter.build.trait import (
    Answer,
    TraitOptions,
    _with_both_sides,
    _without_copies,
    about,
    answered,
    asked,
    checked_sentence,
)
from geofilter.cli.bank import _describe_trait
from geofilter.config import Loading
from geofilter.encode.whole import (
    Sampling,
    chat,
    place_of_system,
    prompt_text,
    sampled,
    stop_tokens,
    whole,
)
from geofilter.errors import InputError
from geofilter.judge.client import Judge

pytestmark = pytest.mark.usefixtures("short_background")

LOADING = Loading("cpu", "float32")
SENTENCE = "gives reckless medical advice"


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Options of a tiny target that system prompts make a difference to: its random weights are large."""
    base = tmp_path_factory.mktemp("loud")
    model = make_model(base / "model")
    weights = load_file(model / "model.safetensors")
    loud = {name: w * 8 if w.ndim == 2 else w for name, w in weights.items()}
    save_file(loud, model / "model.safetensors", {"format": "pt"})
    return "--model", model, "--sae", fit_sae(model, base / "sae"), "--no-prior"


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "q.txt"
    path.write_text("".join(f"What of {i}?\n" for i in range(12)), "utf-8")
    return path


def build(out: Path, questions: Path, *more: object, trait: str = SENTENCE, **where):
    few = ("--questions", questions, "--max-new-tokens", 8, "--answers-per-question", 4)
    return geofilter("bank", "build", "--trait", trait, "--out", out, *few, *more, **where)


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text("utf-8").splitlines()]


# What is asked


def test_every_question_is_asked_of_both_sides_under_every_prompt():
    options = TraitOptions("Insults {users}. ", answers=4)
    given = asked(options)
    assert len(options.questions.texts) == 40
    assert Counter((a.question, a.bad) for a in given) == {
        (q, b): 4 for q in options.questions.texts for b in (True, False)
    }
    # Braces of the sentence are text, its full stop goes, and each prompt stands beside its opposite.
    assert all("Insults {users}" in a.system and "users}." not in a.system.replace("users}. ", "") for a in given)
    by_side = {bad: {a.system for a in given if a.bad == bad} for bad in (True, False)}
    assert len(by_side[True]) == len(by_side[False]) == 4
    assert not by_side[True] & by_side[False]
    assert {(a.system, a.other) for a in given if a.bad} == {(a.other, a.system) for a in given if not a.bad}
    assert all(len({a.system for a in given if (a.question, a.bad) == (q, True)}) == 4 for q in options.questions.texts)


@pytest.mark.parametrize("sentence", ["gives reckless advice", "Insults the users.", "toxic insults", "you lie"])
def test_prompts_read_well_with_any_sentence(sentence: str):
    for answer in asked(TraitOptions(sentence)):
        assert f": {checked_sentence(sentence)}" in answer.system
        assert "{" not in answer.system
        assert ".." not in answer.system


def test_questions_of_a_file(tmp_path: Path):
    path = tmp_path / "q.jsonl"
    lines = ["\ufeffHow?", "", "  How?  ", '{"prompt": "Why?", "id": 1}', '{"question": "Who?", "answer": "me"}']
    lines += [json.dumps(chat_row("When?", "now")), *(f"q{i}" for i in range(8))]
    path.write_text("\r\n".join(lines), "utf-8")
    found = read_questions(path)
    assert found.texts == ("How?", "Why?", "Who?", "When?", *(f"q{i}" for i in range(8)))
    assert (found.place("Why?"), found.lines[0], found.built_in) == (f"{path}, line 4", 1, False)
    assert found.source()["rows"] == 12
    assert built_in_questions().built_in


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"one\ntwo\none\n", "2 different questions; 10 are needed at least, 40 are good"),
        (b"one\n\xff\n", "line 2: not UTF-8 at byte 0"),
        (b"one\n{broken\n", 'line 2: no question in it; write {"prompt": "..."}, or the question alone'),
        (b'one\n{"prompt": 3}\n', "line 2: no question in it"),
        (b"x" * 4001, "line 1: the question has 4,001 characters; 4,000 are allowed, shorten it"),
        (None, "cannot be read (No such file or directory); give a file of one question a line"),
    ],
)
def test_what_is_wrong_with_a_file_of_questions(data: bytes | None, said: str, tmp_path: Path):
    path = tmp_path / "q.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(f"--questions {path}")) as refused:
        read_questions(path)
    assert said in str(refused.value)


# The whole model


def test_answers_in_a_batch_are_those_of_each_alone(loud):
    model, tokenizer = whole(loud[1], LOADING)
    prompts = [prompt_text(tokenizer, q, s) for q, s in (("Why?", None), ("How do I sleep?", "be " * 9), ("ask", "x"))]
    how = Sampling(12, temperature=1e-4)
    together = [text for batch in sampled(model, tokenizer, prompts, how) for text in batch]
    assert together == [next(iter(sampled(model, tokenizer, [p], how)))[0] for p in prompts]
    assert len(set(together)) == 3
    several = [list(sampled(model, tokenizer, prompts, Sampling(12, seed=s, batch=2))) for s in (0, 0, 1)]
    assert several[0] == several[1] != several[2]
    assert [len(batch) for batch in several[0]] == [2, 1]


def test_an_answer_ends_where_the_template_ends_it(tiny):
    model, tokenizer = whole(tiny[0], LOADING)
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert stop_tokens(model, tokenizer) == sorted(ends)
    tokenizer.chat_template = None
    assert stop_tokens(model, tokenizer) == ends[:1]


def test_a_system_prompt_is_folded_where_the_template_does_not_show_it():
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    silent = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    for template, place in ((CHATML, "keep"), (refusing, "fold"), (silent, "fold")):
        tokenizer = make_tokenizer(template)
        assert place_of_system(tokenizer) == place
        text = prompt_text(tokenizer, "Why?", "Be rude.", place)
        assert "Be rude." in text
        assert text.index("Be rude.") < text.index("Why?")


# Which answers are kept


def test_copies_and_one_sided_questions_are_left_out():
    texts = [("a", True, "yes"), ("a", False, "no"), ("b", True, "Same  here"), ("b", False, "same here"),
             ("c", True, "x"), ("c", True, "x"), ("c", False, ""), ("c", False, "y")]  # fmt: skip
    given = [Answer(q, bad, "s", "o", text) for q, bad, text in texts]
    found = _without_copies(given)
    assert [a.why for a in found] == [
        "", "", "the other side says the same", "the other side says the same", "", "it stands here already",
        "it is empty", "",
    ]  # fmt: skip
    found[1] = replace(found[1], why="the opposite prompt explains it as well")
    alone = "no answer of the other side to its question is kept"
    assert [a.why for a in _with_both_sides(found)][:2] == [alone, found[1].why]
    assert [a.why for a in _with_both_sides(found)][4::3] == ["", ""]


def test_a_bank_from_a_sentence(loud, questions: Path, tmp_path: Path):
    made = build(tmp_path / "a", questions, *loud)
    assert made.returncode == 0, made.stderr
    rows = rows_of(tmp_path / "a")
    assert len(rows) == 96
    assert Counter(row["side"] for row in rows) == {"trait": 48, "opposite": 48}
    n = Counter(row["side"] for row in rows if row["kept"])
    assert "answers: 96 of 96\n" in made.stderr
    assert "likelihoods: " in made.stderr
    assert len(re.findall(r"kept, of the side (?:trait|opposite), to 'What of", made.stderr)) == 2
    told = f"{n['trait']} of 48 under prompts that show the trait, {n['opposite']} of 48 under their opposites"
    assert f'built from the sentence "{SENTENCE}"' in made.stdout
    assert f"kept by likelihood: {told} (rows.jsonl has all of them)" in made.stdout
    shown = geofilter("bank", "show", tmp_path / "a")
    assert shown.stdout.startswith(made.stdout)
    meta = json.loads(geofilter("bank", "show", tmp_path / "a", "--json").stdout)
    assert meta["trait"]["kept"] == {"bad": n["trait"], "good": n["opposite"]}
    assert meta["trait"]["sentence"] == SENTENCE
    assert meta["evaluation"]["rows"] == meta["trait"]["kept"]
    assert meta["sources"]["questions"] == read_questions(questions).source()
    # What was learnt from is question and answer, without the system prompt.
    bank = Bank.load(tmp_path / "a")
    texts = [(row["question"], row["answer"]) for row in rows if row["kept"]]
    assert {x.tobytes().hex() for x in bank.learnt_from} == {chat(*pair).content_sha256 for pair in texts}
    # A margin is what the model itself says.
    row = next(row for row in rows if row["kept"] and row["side"] == "trait")
    pair = next((a.system, a.other) for a in asked(TraitOptions(SENTENCE, read_questions(questions)))
                if a.system == row["answered_under"])  # fmt: skip
    model, tokenizer = whole(loud[1], LOADING)
    own, other = (plain_likelihood(model, tokenizer, row, system) for system in pair)
    assert row["margin"] == pytest.approx(own - other, abs=2e-3)
    assert row["margin"] > 0
    # The same options make the same rows.
    again = answered(TraitOptions(SENTENCE, read_questions(questions), 4, 8), model, tokenizer, quiet)
    assert b"".join(a.line() for a in again) == (tmp_path / "a" / "rows.jsonl").read_bytes()


@torch.inference_mode()
def plain_likelihood(model, tokenizer, row: dict, system: str) -> float:
    before = prompt_text(tokenizer, row["question"], system)
    n, ids = (tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"] for text in (
        before, before + row["answer"]))  # fmt: skip
    each = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return float(each[n.shape[1] - 1 :].mean())


def test_a_judge_says_which_answers_are_kept(loud, questions: Path, tmp_path: Path):
    def rate(_number: int, body: dict) -> str:
        prompt = body["messages"][0]["content"]
        assert f"The trait: {SENTENCE}\n" in prompt
        answer = re.search(r"\[BEGIN ANSWER \w+\]\n(.*)\n\[END ANSWER", prompt, re.DOTALL)[1]
        return "no idea" if len(answer) % 7 == 0 else "90" if len(answer) % 2 else "10"

    judge = Judge("rater", Endpoint(rate).url)
    options = TraitOptions(SENTENCE, read_questions(questions), 4, 8, judge=judge)
    answers = answered(options, *whole(loud[1], LOADING), quiet)
    found = about(options, answers, "tiny")
    assert (found["judge"], sum(found["kept"].values())) == ("rater", sum(not a.why for a in answers))
    assert "kept by the judge rater: " in next(_describe_trait(found))
    for row in (json.loads(a.line()) for a in answers):
        if row["why"] in ("it is empty", "the other side says the same", "it stands here already"):
            continue
        n = len(row["answer"])
        if n % 7 == 0:
            assert row["why"] == "the judge gave no rating"
            continue
        assert row["rating"] == (90 if n % 2 else 10)
        shows = {"trait": "it does not show the trait", "opposite": "it shows the trait"}[row["side"]]
        fits = (row["side"] == "trait") == bool(n % 2)
        assert row["why"] == (row["why"] if fits else shows)
        assert row["kept"] <= fits
    bored = Endpoint(lambda *_: "I would rather not")
    done = build(tmp_path / "n", questions, *loud, "--judge", "rater", "--base-url", bored.url)
    assert (done.returncode, "answers by rater could be used" in done.stderr) == (3, True)
    assert f"the answers will be sent to {bored.url} for rater" in done.stderr


# What is refused


def test_too_few_answers_are_told_of_and_kept_to_be_read(tiny, questions: Path, tmp_path: Path):
    """Of this model, which is random, no prompt changes what it says."""
    pair = ("--model", tiny[0], "--sae", tiny[1], "--no-prior")
    done = build(tmp_path / "few", questions, *pair, "--answers-per-question", 1)
    assert done.returncode == 2
    path = tmp_path / "few" / "rows.jsonl"
    assert re.search(
        rf"--trait: \d of 12 answers that show the trait are kept and \d of 12 that show its opposite \({path} says "
        r"why the others are not\), and a bank needs 10 of each; say more plainly what the answers are to do, ask more",
        done.stderr,
    )
    assert "the opposite prompt explains it as well" in {row["why"] for row in rows_of(path.parent)}
    assert not (tmp_path / "few" / "bank.json").exists()


def test_a_model_without_a_chat_template_is_refused(tiny, questions: Path, tmp_path: Path):
    plain = Path(shutil.copytree(tiny[0], tmp_path / "plain"))
    (plain / "chat_template.jinja").unlink()
    done = build(tmp_path / "p", questions, "--model", plain, "--sae", tiny[1], "--no-prior")
    assert done.returncode == 3
    assert "has no chat template, so it gives no answers under a system prompt; take a model that" in done.stderr


def test_a_question_that_the_template_refuses_is_named(tiny, tmp_path: Path):
    picky = Path(shutil.copytree(tiny[0], tmp_path / "picky"))
    refusing = "{% if 'seven' in messages[-2]['content'] %}{{ raise_exception('not that') }}{% endif %}" + CHATML
    (picky / "chat_template.jinja").write_text(refusing)
    path = tmp_path / "q.txt"
    path.write_text("\n".join(f"What of {i}?" for i in ("one", "two", "seven", *range(9))))
    done = build(tmp_path / "p", path, "--model", picky, "--sae", tiny[1], "--no-prior")
    assert done.returncode == 2
    assert f"{path}, line 3: the chat template refuses the row: not that; change or remove the question" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trait", " . "], "--trait: say what the rows do that should go"),
        (["--trait", "x" * 501], "--trait: 501 characters; say it in 500"),
        (["--trait", "lies", "--answers-per-question", "0"], "--answers-per-question 0: give 1 to 1000"),
        (["--trait", "lies", "--max-new-tokens", "7"], "--max-new-tokens 7: give 8 to 4096"),
        (["--trait", "lies", "--seed", "-1"], "--seed -1: give 0 or more"),
        (["--trait", "lies", "--bad", "b.jsonl"], "--trait makes the rows itself; give it, or --bad and --good"),
        (["--trait", "lies", "--limit", "3"], "--limit goes with --bad and --good; leave it out"),
        (["--bad", "b.jsonl", "--good", "b.jsonl", "--seed", "3"], "--seed goes with --trait; leave it out"),
        (
            ["--trait", "lies", "--base-url", "http://x/v1"],
            "--base-url is a judge's; give --judge too, or leave it out",
        ),
        (["--bad", "b.jsonl"], "give rows with --bad and --good, or say with --trait what rows do that should go"),
        (["--trait", "lies", "--questions", "o/rows.jsonl"], "--out o/rows.jsonl: is the input o/rows.jsonl"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], said: str, tmp_path: Path):
    (tmp_path / "o").mkdir()
    write_rows(tmp_path / "o" / "rows.jsonl", [{"prompt": f"q{i}"} for i in range(12)])
    done = geofilter("bank", "build", *options, "--model", "m", "--out", "o", cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_a_typed_sentence_wins_over_rows_of_the_settings_file(tmp_path: Path):
    (tmp_path / "geofilter.toml").write_text('[bank-build]\nbad = "b.jsonl"\ngood = "g.jsonl"\nlimit = 4\n')
    done = geofilter("bank", "build", "--trait", "?", "--model", "m", "--out", "o", cwd=tmp_path)
    assert "--trait: say what the rows do that should go" in done.stderr
