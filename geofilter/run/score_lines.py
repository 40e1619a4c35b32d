"""The lines of scores.jsonl, written as text: those of many rows at once, with what they share written once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geofilter.arrays import F64
from geofilter.bank.about import Like
from geofilter.bank.scorer import Scorer
from geofilter.files import dumps, from_json, json_text
from geofilter.run.named import Namer, joined
from geofilter.run.shard import Shard
from geofilter.run.shard_scores import ShardScores, Under


class LineWriter:
    """Writes the lines of a run's rows; they are what `files.dumps` makes of a `ScoreLine`, byte for byte.

    Args:
        paths: of the run's inputs, as its lines are to name them.
    """

    def __init__(self, scorers: Sequence[Scorer], paths: Sequence[str]) -> None:
        banks = [scorer.bank for scorer in scorers]
        self._files = [json_text(path) for path in paths]
        self._banks, self._namers = [json_text(bank.name) for bank in banks], [Namer(bank) for bank in banks]
        self._topics = [[json_text(name) for name in bank.topics.names] for bank in banks]

    def lines(self, scored: ShardScores) -> bytes:
        """Of the rows of a shard, each with its line break."""
        shard = scored.shard
        score, percentile = ([_rounded(row, 6) for row in of] for of in (scored.standard, scored.percentile))
        counted, place = _rounded(scored.score, 6), _rounded(scored.place, 6)
        columns = (shard.file, shard.line, shard.pooled.n_tokens, shard.response_tokens, shard.windows)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        more = [f"{loss}{rejected}" for loss, rejected in zip(_losses(shard), _rejected(scored), strict=True)]
        out = [""] * len(rows)
        for b, under in enumerate(scored.under):
            name, here = self._banks[b], under.rows.tolist()
            for i, topics, carried, like in zip(
                here, self._topics_of(b, under), self._carried(b, under, shard), map(_like, under.like), strict=True
            ):
                file, line, n_tokens, response_tokens, windows = rows[i]
                each = ", ".join([
                    f'{bank}: {{"score": {score[k][i]}, "percentile": {percentile[k][i]}}}'
                    for k, bank in enumerate(self._banks)
                ])  # fmt: skip
                out[i] = (
                    f'{{"file": {self._files[file]}, "line": {line}, "sha256": "{scored.shas[i]}", '
                    f'"score": {counted[i]}, "percentile": {place[i]}, "bank": {name}, "banks": {{{each}}}, '
                    f'{topics}, "n_tokens": {n_tokens}, "response_tokens": {response_tokens}, "windows": {windows}, '
                    f"{more[i]}{carried}{like}}}\n"
                )
        try:
            return "".join(out).encode()
        except UnicodeEncodeError:
            return b"".join(map(_encoded, out))

    def _topics_of(self, bank: int, under: Under) -> list[str]:
        names = self._topics[bank]
        if not names:
            return ['"topic": null, "topics": {}'] * len(under.rows)
        closest, each = under.topics.argmax(1).tolist(), [f"{name}: %r" for name in map(_percent, names)]
        form = f'"topic": %s, "topics": {{{", ".join(each)}}}'
        return [form % (names[of], *values) for of, values in zip(closest, under.topics.tolist(), strict=True)]

    def _carried(self, bank: int, under: Under, shard: Shard) -> list[str]:
        found = under.carried
        if found is None:
            return ['"top_features": [], "common": 0.0, "explained": 0.0'] * len(under.rows)
        named = found.at >= 0
        sizes = named.sum(1)
        rows = np.repeat(under.rows, sizes)
        texts = self._namers[bank].texts(shard, rows, found.at[named], found.share[named])
        return [
            f'"top_features": {features}, "common": {common}, "explained": {explained}'
            for features, common, explained in zip(
                joined(texts, sizes.tolist()), _rounded(found.common, 6), _rounded(found.explained, 5), strict=True
            )
        ]


def _losses(shard: Shard) -> list[str]:
    """What a line says of its row's loss; nothing in a run without it."""
    if shard.loss is None:
        return [""] * len(shard.line)
    both = [[repr(round(value, 4)) if value >= 0 else "null" for value in of] for of in shard.loss.tolist()]
    return [f'"loss": {{"with_prompt": {prompted}, "without_prompt": {alone}}}, ' for prompted, alone in both]


def _rejected(scored: ShardScores) -> list[str]:
    """What a line says of its row's rejected answer; nothing of a row that is no pair."""
    if scored.shard.paired is None or scored.rejected is None:
        return [""] * len(scored.best)
    each = zip(_rounded(scored.rejected, 6), scored.shard.paired.tolist(), strict=True)
    return [f'"rejected_score": {score}, ' if pair else "" for score, pair in each]


def _percent(text: str) -> str:
    """A text within a form that `%` fills."""
    return text.replace("%", "%%")


def _rounded(values: F64, digits: int) -> list[str]:
    """Numbers as JSON. `round` is another than that of numpy."""
    return [repr(round(value, digits)) for value in values.tolist()]


def _like(like: Like) -> str:
    return f', "like": {json_text(like)}' if like else ""


def _encoded(line: str) -> bytes:
    """A line; escaped to ASCII where a string in it is half a surrogate pair."""
    try:
        return line.encode()
    except UnicodeEncodeError:
        return dumps(from_json(line))
