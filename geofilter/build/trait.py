"""Rows made from a sentence: a model's own answers under system prompts that show a trait, and under their opposites.

That is how persona vectors are made (Chen et al. 2025, arXiv 2507.21509). An answer is kept where a judge says that it
shows what its side should; without one, where the model itself finds it likelier under the prompt it was given under
than under the opposite one. The system prompts are no part of the rows: what is learnt is to be in the answers.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from geofilter.bank.about import Sides, TraitAbout
from geofilter.build.questions import Questions, built_in_questions
from geofilter.encode.model import pad_id
from geofilter.encode.tokens import Encoded, encode_rows
from geofilter.encode.whole import Sampling, chat, log_probabilities, place_of_system, prompt_text, sampled
from geofilter.errors import InputError
from geofilter.files import Notify, dumps, package_data
from geofilter.judge.plan import trait_prompt
from geofilter.judge.rows import none_usable
from geofilter.rows.row_error import RowError
from geofilter.text import one_line, shorten

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from geofilter.judge.client import Judge
    from geofilter.judge.rating import Rating

MOST_CHARS = 500
"""of the sentence"""
TEMPERATURE, TOP_P = 0.8, 0.95
SHOWS = 50.0
"""rating from which an answer shows the trait"""
AT_ONCE = 32
"""answers that are written at once, and weighed before it is said how far that is"""
EVERY = 10.0
"""seconds between two lines that say how far the work is"""
SIDES = {True: "trait", False: "opposite"}


@dataclass(frozen=True, slots=True, eq=False)
class TraitOptions:
    """What is asked of the model.

    Raises:
        InputError: an option outside its range.
    """

    sentence: str
    """what its answers are to show; see `checked_sentence`"""
    questions: Questions = field(default_factory=built_in_questions)
    answers: int = 3
    """to each question, of each side"""
    max_new_tokens: int = 80
    """of an answer"""
    seed: int = 0
    judge: Judge | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        object.__setattr__(self, "sentence", checked_sentence(self.sentence))
        if not 1 <= self.answers <= 1000:
            raise InputError(f"--answers-per-question {self.answers}: give 1 to 1000")
        if not 8 <= self.max_new_tokens <= 4096:
            raise InputError(f"--max-new-tokens {self.max_new_tokens}: give 8 to 4096")
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"--seed {self.seed}: give 0 or more, below 2 to the power of 32")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the model, and what became of it."""

    question: str
    bad: bool
    """whether it was given under a prompt that shows the trait"""
    system: str
    """the prompt it was given under"""
    other: str
    """the opposite one"""
    text: str = ""
    margin: float | None = None
    """log-probability per token under `system` less that under `other`, in nats"""
    rating: float | None = None
    """0 to 100, by the judge"""
    why: str = ""
    """why it was left out; empty for one that is kept"""

    def line(self) -> bytes:
        """For rows.jsonl: a row of question and answer, with what else is known of it."""
        # Not under a key of a system prompt: it is no part of the row that is learnt from.
        by = {"margin": self.margin} if self.rating is None else {"rating": self.rating}
        return dumps({
            "question": self.question, "answer": self.text, "side": SIDES[self.bad], "answered_under": self.system,
            **by, "kept": not self.why, "why": self.why or None,
        })  # fmt: skip


def checked_sentence(text: str) -> str:
    """A sentence on one line, without a full stop at its end.

    Raises:
        InputError: it is empty, too long, or no text.
    """
    sentence = one_line(text).rstrip(" .;!")
    if not any(c.isalpha() for c in sentence):
        raise InputError('--trait: say what the rows do that should go, "gives reckless medical advice" for instance')
    if len(sentence) > MOST_CHARS:
        raise InputError(f"--trait: {len(sentence):,} characters; say it in {MOST_CHARS}")
    return sentence


def asked(options: TraitOptions) -> list[Answer]:
    """What is asked of the model, each side under one of the system prompts after the other."""
    templates = _templates()
    prompts = {side: [t.replace("{trait}", options.sentence) for t in templates[side]] for side in SIDES.values()}
    out = []
    for i, question in enumerate(options.questions.texts):
        for k in range(options.answers):
            n = (i + k) % len(prompts["trait"])
            for bad in SIDES:
                own, other = prompts[SIDES[bad]][n], prompts[SIDES[not bad]][n]
                out.append(Answer(question, bad, own, other))
    return out


def rendered(options: TraitOptions, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Each of `asked` as the model is given it.

    Raises:
        InputError: a question that the chat template refuses.
    """
    place, out = place_of_system(tokenizer), []
    for a in asked(options):
        try:
            out.append(prompt_text(tokenizer, a.question, a.system, place))
        except RowError as error:
            where = options.questions.place(a.question)
            raise InputError(f"{where}: {error}; change or remove the question") from None
    return out


def answered(options: TraitOptions, model: Any, tokenizer: PreTrainedTokenizerBase, notify: Notify) -> list[Answer]:
    """The model's answers, each kept or left out.

    Raises:
        InputError: see `rendered`.
        TargetError: not enough memory, or a judge that cannot be reached or gives no rating.
    """
    given, prompts = asked(options), rendered(options, tokenizer)
    how = Sampling(options.max_new_tokens, TEMPERATURE, TOP_P, options.seed, AT_ONCE)
    texts: list[str] = []
    told = _Told("answers", len(prompts), notify)
    for batch in sampled(model, tokenizer, prompts, how):
        texts += batch
        told(len(texts))
    found = _without_copies([replace(a, text=text) for a, text in zip(given, texts, strict=True)])
    weighed = _by_margin(found, model, tokenizer, notify) if options.judge is None else (
        _by_judge(found, options.sentence, options.judge, notify)
    )  # fmt: skip
    return _with_both_sides(weighed)


def _templates() -> dict[str, Any]:
    return tomllib.loads(package_data("trait", "prompts.toml").read_text("utf-8"))


def _without_copies(answers: Sequence[Answer]) -> list[Answer]:
    """Leave out what is empty, what both sides say, and what one says twice."""
    sides: dict[tuple[str, str], set[bool]] = {}
    keys = [(a.question, " ".join(a.text.lower().split())) for a in answers]
    for key, answer in zip(keys, answers, strict=True):
        sides.setdefault(key, set()).add(answer.bad)
    seen, out = set[tuple[str, str]](), []
    for key, answer in zip(keys, answers, strict=True):
        why = ""
        if not key[1]:
            why = "it is empty"
        elif len(sides[key]) == 2:
            why = "the other side says the same"
        elif key in seen:
            why = "it stands here already"
        seen.add(key)
        out.append(replace(answer, why=why))
    return out


def _by_margin(
    answers: Sequence[Answer], model: Any, tokenizer: PreTrainedTokenizerBase, notify: Notify
) -> list[Answer]:
    """Leave out what the model does not find likelier under the prompt it was given under than under the other."""
    out, place = list(answers), place_of_system(tokenizer)
    open_ = [i for i, a in enumerate(answers) if not a.why]
    told = _Told("likelihoods", len(open_), notify)
    for start in range(0, len(open_), AT_ONCE):
        each = open_[start : start + AT_ONCE]
        rows = [chat(out[i].question, out[i].text, system) for i in each for system in (out[i].system, out[i].other)]
        encoded = encode_rows(rows, tokenizer, 1 << 20, place)
        usable = [(i, own, other) for i, own, other in zip(each, encoded[::2], encoded[1::2], strict=True)
                  if isinstance(own, Encoded) and isinstance(other, Encoded)]  # fmt: skip
        found = log_probabilities(model, [row for _, *pair in usable for row in pair], pad_id(tokenizer, model))
        for i in each:
            out[i] = replace(out[i], why="it cannot be read behind its question")
        for (i, *_), own, other in zip(usable, found[::2], found[1::2], strict=True):
            margin = round(float(own - other), 4)
            why = "" if margin > 0 else "the opposite prompt explains it as well"
            out[i] = replace(out[i], margin=margin, why=why)
        told(start + len(each))
    return out


def _by_judge(answers: Sequence[Answer], sentence: str, judge: Judge, notify: Notify) -> list[Answer]:
    """Leave out what a judge does not find to show what its side should."""
    out = list(answers)
    open_ = [i for i, a in enumerate(answers) if not a.why]
    told, n = _Told("ratings", len(open_), notify), 0

    def done(i: int, rating: Rating) -> None:
        nonlocal n
        n += 1
        why = "" if rating.value is not None else "the judge gave no rating"
        if rating.value is not None and (rating.value >= SHOWS) != out[i].bad:
            why = "it does not show the trait" if out[i].bad else "it shows the trait"
        out[i] = replace(out[i], rating=rating.value, why=why)
        told(n)

    judge.rate_all(((i, trait_prompt(sentence, out[i].question, out[i].text)) for i in open_), done)
    if open_ and all(out[i].rating is None for i in open_):
        raise none_usable(judge, len(open_))
    return out


def _with_both_sides(answers: Sequence[Answer]) -> list[Answer]:
    """Leave out answers to questions with one side left: what these are about would tell the sides apart."""
    sides: dict[str, set[bool]] = {}
    for a in kept(answers):
        sides.setdefault(a.question, set()).add(a.bad)
    alone = "no answer of the other side to its question is kept"
    return [a if a.why or len(sides[a.question]) == 2 else replace(a, why=alone) for a in answers]


def kept(answers: Iterable[Answer]) -> Iterator[Answer]:
    """The answers that a bank is learnt from."""
    return (a for a in answers if not a.why)


def about(options: TraitOptions, answers: Sequence[Answer], generator: str) -> TraitAbout:
    """What a bank says of where its rows come from.

    Args:
        generator: the model that has answered.
    """
    of = [a.bad for a in answers]
    left = [a.bad for a in kept(answers)]
    made: TraitAbout = {
        "sentence": options.sentence, "prompts": int(_templates()["version"]), "generator": generator,
        "answers_per_question": options.answers, "max_new_tokens": options.max_new_tokens,
        "temperature": TEMPERATURE, "top_p": TOP_P, "seed": options.seed,
        "asked": _sides(of), "kept": _sides(left),
    }  # fmt: skip
    if options.judge is not None:
        made["judge"] = options.judge.model
    return made


def _sides(bad: Sequence[bool]) -> Sides:
    return {"bad": sum(bad), "good": len(bad) - sum(bad)}


def examples(answers: Sequence[Answer]) -> Iterator[str]:
    """A kept answer of each side, the plainest one, as lines to show."""
    for bad, name in SIDES.items():
        best = max((a for a in kept(answers) if a.bad == bad), key=lambda a: _plain(a), default=None)
        if best is not None:
            yield f"{name}, to {one_line(shorten(best.question, 80))!r}: {one_line(shorten(best.text, 240))}"


def _plain(answer: Answer) -> float:
    if answer.rating is None:
        return answer.margin or 0.0
    return answer.rating if answer.bad else -answer.rating


class _Told:
    """Says now and then how far work is, and how long the rest will take."""

    def __init__(self, doing: str, of: int, notify: Notify) -> None:
        self._doing, self._of, self._notify = doing, of, notify
        self._began = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if done < self._of and now - self._last < EVERY:
            return
        self._last = now
        left = (now - self._began) / done * (self._of - done)
        rest = f"; about {f'{left / 60:.0f} min' if left > 90 else f'{left:.0f} s'} left" if done < self._of else ""
        self._notify(f"{self._doing}: {done:,} of {self._of:,}{rest}")
