"""Names for features by a judge: it sees where one fires, names it, and is tried on other texts by the name alone.

The second question is asked without the pieces that the name was made from. A name counts for what it is right in: the
mean of the share of pieces with the feature that are told to have it and the share of pieces without it that are told
not to (balanced accuracy). An answer that cannot be used counts as wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from geofilter.bank.feature_names import FeatureName, Names
from geofilter.build.contexts import Drawn, Shown
from geofilter.errors import InputError
from geofilter.files import Notify, append, dumps, from_json, own_bytes, silent, write_text
from geofilter.judge.naming import NO_NAME, name_prompt, try_prompt
from geofilter.judge.rows import none_usable
from geofilter.text import one_line, shorten

if TYPE_CHECKING:
    from geofilter.judge.client import Judge
    from geofilter.judge.rating import Rating

MOST_NAME = 100
"""characters of a name"""
QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("«", "»"))
FIRES = 50.0
"""rating from which a judge says that a feature fires in a piece"""
EVERY = 500
"""answers between two lines that say how far the work is"""


@dataclass
class Journal:
    """Answers of a judge that are kept while it is asked, so that none is paid for twice.

    Args:
        path: where they are kept, one a line.
        model: that answers; those of another one are not taken.
    """

    path: Path
    model: str
    _known: dict[str, tuple[float | None, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.is_file():
            return
        whole, end, _ = own_bytes(self.path).rpartition(b"\n")
        for line in whole.splitlines():
            try:
                told = from_json(line)
                if told["model"] == self.model:
                    self._known[told["prompt"]] = told["value"], told["reply"]
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{self.path}: is no list of a judge's answers; give another --out") from None
        # The last line of a process that was killed goes: the next answer would be joined to it.
        write_text(self.path, (whole + end).decode("utf-8"))

    def ask(
        self, judge: Judge, prompts: Mapping[int, str], notify: Notify, *, in_words: bool
    ) -> dict[int, tuple[float | None, str]]:
        """The answers to prompts: a rating where there is one, and the reply.

        Args:
            in_words: see `Judge.rate_all`.

        Raises:
            TargetError: see `Judge.rate_all`.
        """
        keys = {i: hashlib.sha256(prompt.encode()).hexdigest() for i, prompt in prompts.items()}
        open_ = [(i, prompts[i]) for i, key in keys.items() if key not in self._known]
        n = 0

        def done(i: int, rating: Rating) -> None:
            nonlocal n
            n += 1
            if n % EVERY == 0:
                notify(f"{n:,} of {len(open_):,} answers ...")
            if rating.answered:
                self._known[keys[i]] = rating.value, rating.reply
                told = {"prompt": keys[i], "model": self.model, "value": rating.value, "reply": rating.reply}
                append(self.path, dumps(told).decode())

        judge.rate_all(open_, done, in_words=in_words)
        return {i: self._known[key] for i, key in keys.items() if key in self._known}


def requests(drawn: Mapping[int, Drawn]) -> int:
    """Requests that it takes to name features and to try the names, at most."""
    return sum(1 + len(of.on) + len(of.off) for of in drawn.values())


def named_by_judge(drawn: Mapping[int, Drawn], judge: Judge, journal: Journal, notify: Notify = silent) -> Names:
    """Names of features, each with what it was right in.

    Args:
        drawn: by feature.
        journal: answers that are there already, and where others go.

    Raises:
        TargetError: the judge cannot be reached, or no answer can be used.
    """
    notify(f"naming {len(drawn):,} features ...")
    prompts = {f: name_prompt([marked(piece) for piece in of.named_by]) for f, of in drawn.items()}
    told = journal.ask(judge, prompts, notify, in_words=True)
    names = {f: name for f, (_, reply) in sorted(told.items()) if (name := cleaned(reply))}
    if drawn and not names:
        raise none_usable(judge, len(drawn))
    pieces = [(f, piece, fires) for f in names for piece, fires in _pieces(drawn[f])]
    notify(f"trying {len(names):,} names on {len(pieces):,} pieces of text ...")
    ratings = journal.ask(
        judge, dict(enumerate(try_prompt(names[f], piece) for f, piece, _ in pieces)), notify, in_words=False
    )
    right: dict[int, list[tuple[bool, bool]]] = {f: [] for f in names}
    for i, (f, _, fires) in enumerate(pieces):
        value = ratings.get(i, (None, ""))[0]
        right[f].append((fires, value is not None and (value >= FIRES) == fires))
    return {
        "by": f"{judge.model}, by where each feature fires",
        "features": [scored(f, name, right[f]) for f, name in names.items()],
    }


def _pieces(drawn: Drawn) -> Iterable[tuple[str, bool]]:
    return [*((piece, True) for piece in drawn.on), *((piece, False) for piece in drawn.off)]


def marked(piece: Shown) -> str:
    """A piece with « and » around the words that a feature fires on most."""
    out, end = [], 0
    for start, stop in piece.strong:
        out += [piece.text[end:start], "«", piece.text[start:stop], "»"]
        end = stop
    return "".join([*out, piece.text[end:]]).replace("»«", "")


def cleaned(reply: str) -> str:
    """A judge's label on one line, without quotes or a full stop around it; empty where it gives none."""
    text = one_line(reply).strip().strip("*`").removesuffix(".").strip()
    for start, end in QUOTES:
        inside = text[1:-1]
        if text[:1] == start and text[-1:] == end and start not in inside and end not in inside:
            text = inside.removesuffix(".").strip()
    return "" if not text or text.upper() == NO_NAME else shorten(text, MOST_NAME)


def scored(feature: int, name: str, answers: Sequence[tuple[bool, bool]]) -> FeatureName:
    """A name, and its balanced accuracy.

    Args:
        answers: of each piece whether the feature fires in it, and whether that was told.
    """
    sides = [[good for fires, good in answers if fires == side] for side in (True, False)]
    right = sum(sum(side) / len(side) for side in sides) / 2
    return {"feature": feature, "name": name, "right": round(right, 4), "pieces": len(answers)}
