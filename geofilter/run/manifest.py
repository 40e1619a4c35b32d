"""What stands in a run's JSON files: manifest.json, and a line of scores.jsonl."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from geofilter.bank.about import BankAbout, Like
from geofilter.errors import RunError
from geofilter.files import from_json, own_bytes
from geofilter.run.power import PowerVerdict
from geofilter.sums import FileSum, broken
from geofilter.typed import check_typed


class InputFile(TypedDict):
    """One input of a scan."""

    path: str
    """as given"""
    sha256: str
    """of its rows' bytes as `rows.lines.read_lines` gives them"""
    lines: int
    rows: int
    """lines that were scanned: all, or the first ones of --limit"""
    bytes: NotRequired[int]
    """that they have"""
    origin: NotRequired[dict[str, str]]
    """id, config, split and revision of a data set of the hub; url and version of a file in a store"""


class Encoding(TypedDict):
    """Everything that the stored features depend on; its hash is the run's fingerprint."""

    data: list[list[str]]
    """path and sha256 of each input"""
    target: str
    """fingerprint"""
    device: str
    """type of it: cpu or cuda"""
    dtype: str
    sae_dtype: str
    system: str
    max_tokens: int
    limit: int | None
    shard_rows: int
    token_budget: int
    """padded tokens in one forward pass"""
    format: int
    train: str
    score_thinking: bool
    token_shares: bool
    """whether shards keep what each token adds to a score"""
    fields: NotRequired[dict[str, str]]
    """columns of the rows, see `rows.fields.Fields`"""
    only: NotRequired[list[list[str]]]
    """columns and values that scored rows have, see `rows.reading.Reading`"""
    with_loss: NotRequired[bool]
    """shards keep the rows' loss under the whole model, see `Loss`"""
    pairs: NotRequired[str]
    """`difference` where rejected answers of preferences are read too, and rows are ranked by chosen less rejected"""


class SaeFile(TypedDict):
    """A file that an SAE was made from."""

    repo: str
    name: str
    commit: str


class TargetAbout(TypedDict):
    """Model, SAE and hook."""

    name: str
    model: str
    model_revision: str | None
    sae: str
    sae_model: str
    llama_scope_gate: str | None
    sae_files: list[SaeFile]
    hook: str
    neuronpedia: str | None
    fingerprint: str
    notes: list[str]
    choice: dict[str, Any]
    """what opens the same target again, see `config.TargetChoice`"""


class LoadingAbout(TypedDict):
    """Where and how model and SAE were held, see `config.Loading`."""

    device: str
    dtype: str
    sae_dtype: str
    device_map: str | None
    max_memory: NotRequired[str | None]
    """absent from runs of versions that had no such option"""


class Counts(TypedDict):
    """Rows of a run."""

    rows: int
    scored: int
    quarantined: int
    passed_over: int
    """rows that --only leaves out: not scored, and kept as they are"""
    windowed: int
    """scored rows longer than --max-tokens, which were read in several windows"""
    response_tokens: int
    """of the scored rows"""
    tokens: int
    """response tokens that were read; the others are outliers"""


class Scored(TypedDict):
    """What scoring writes into the manifest."""

    scorer: str
    topics: list[str]
    """of all banks"""
    counts: Counts
    remarks: dict[str, int]
    """scored rows of which something is told, see `shapes.REMARKS`"""
    sources: list[str]
    """where rows say they come from, in the order of their numbers"""
    reference_scores: list[float]
    """scores of ordinary chat, ascending"""
    share_keys: dict[str, str]
    """of each bank whose scores are sums over features, see `linear.Shares.key`: which stored shares are its own"""
    power: list[PowerVerdict]
    headline: str


class Least(TypedDict):
    """What every manifest has, whatever it is of."""

    complete: bool
    fingerprint: str
    encoding: dict[str, Any]
    data: list[InputFile]


class Started(TypedDict):
    """A manifest before anything is scored."""

    format: int
    complete: bool
    geofilter: str
    """version"""
    versions: dict[str, str]
    """of Python and of the packages that decide a number"""
    fingerprint: str
    encoding: Encoding
    target: TargetAbout
    sae_folder: str
    loading: LoadingAbout
    data: list[InputFile]
    scorer: str
    seed: int
    command: NotRequired[list[str]]
    """what makes this run, as words of a shell; what goes on with it where it is not finished"""
    failed: NotRequired[str]
    """why its rows could not be scored, and never can be"""
    scanned_banks: NotRequired[list[BankAbout]]
    """the banks of the scan, where one learnt from labels, or some of them alone, have taken their place"""
    scoring: NotRequired[str]
    """the command that was scoring the run with other banks when it was stopped: label, which goes on with the same
    labels, or filter"""
    seal: NotRequired[dict[str, str]]
    """hashes of the other fields, see `sums.sealed`; of every manifest that was written"""


class Manifest(Started, Scored):
    """manifest.json of a finished run; an unfinished one is `Started`."""

    banks: list[BankAbout]
    seconds: dict[str, float]
    """of each stage"""
    tokens_encoded_now: int
    """by the last call; the rest were there already"""
    files: dict[str, FileSum]
    """every file that the run consists of, by its name below the run's folder"""


class BankScore(TypedDict):
    """Score and percentile of a row under a bank."""

    score: float
    percentile: float


class Loss(TypedDict):
    """Mean negative log-probability of a row's response tokens under the whole model, in nats."""

    with_prompt: float
    without_prompt: float | None
    """of the response alone, behind the template's own words; None where the chat template refuses it so"""


class NearFeature(TypedDict):
    """The toxic feature that another one is nearest to."""

    feature: int
    label: str
    cosine: float


class NamedFeature(TypedDict):
    """A feature that a row scores by."""

    feature: int
    label: str
    """words it is strongest on in the bank's texts; empty where it has none of its own"""
    share: float
    """of the score"""
    times: float | None
    """its mean activation on the row's tokens over that in ordinary chat; None where ordinary chat never has it"""
    toxic: bool
    """it is one of the bank's toxic features"""
    near: NearFeature | None
    """of the others the nearest one, where the cosine is `geometry.NEAR` at least"""
    at: NotRequired[list[int]]
    """[start, end) of its strongest token in `Row.response`; of a run with token shares"""


class RowScore(BankScore):
    """A scored row, under the bank that gives it its score, see `handicap`."""

    file: str
    line: int
    """1-based"""
    sha256: str
    bank: str
    topic: str | None
    """closest one; None under a bank without topics"""
    topics: dict[str, float]
    n_tokens: int
    """response tokens that were read"""
    top_features: list[NamedFeature]
    """those with the largest shares, largest first, without those of tone and punctuation, see `Shares.carried`"""
    common: float
    """summed share of the features of tone and punctuation, see `Bank.common`"""
    explained: float
    """part of the score, in [0, 1], that `top_features` and `common` carry together"""
    like: NotRequired[Like]
    """the labelled rows of the bank that it is most like, where the bank keeps any"""
    rejected_score: NotRequired[float]
    """what the rejected answer of a preference scores by itself; of a run with --pairs difference"""


class ScoreLine(RowScore):
    """A line of scores.jsonl."""

    banks: dict[str, BankScore]
    response_tokens: int
    """of the row; those not read are outliers, see `reader.OUTLIER_NORM`"""
    windows: int
    """windows of --max-tokens it was read in"""
    loss: NotRequired[Loss]
    """of a run with --with-loss"""


class Quarantined(TypedDict):
    """A line of quarantine.jsonl: a row that could not be scored."""

    file: str
    line: int
    error: str
    raw: NotRequired[str]
    raw_base64: NotRequired[str]
    """where its bytes are not UTF-8"""
    bytes: NotRequired[int]
    """how many it has, where they are too many to be kept here; then neither of the two above is there"""
    sha256: NotRequired[str]
    """of them"""
    offset: NotRequired[int]
    """where they begin in the file, unpacked; of rows that were too long to be read"""


def read_manifest(path: Path, known: int) -> Manifest:
    """A run's manifest.json.

    Args:
        known: the format of which all is checked; of others only that it is some manifest.

    Raises:
        RunError: it is damaged.
    """
    try:
        value: Manifest = from_json(own_bytes(path))
        if not isinstance(value, dict):
            raise ValueError("no object")
        check_typed(value.get("format"), int, "format")
        wrong = broken(value) if value.get("format") == known else None
        if wrong:
            raise ValueError(f"its field {wrong} is not what was written")
        if value.get("format") == known:
            check_typed(value, Least)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: damaged ({error}); run the same geofilter scan again, which writes it anew") from None
    return value


def again(manifest: Started) -> str:
    """The scan that makes a run, as it is typed."""
    command = manifest.get("command")
    return shlex.join(command) if command else "the same geofilter scan"


def remedy(manifest: Started, called: str, labels: str) -> str:
    """What finishes a run, or why nothing does, in words.

    Args:
        called: the run's folder or URL.
        labels: the file of its labels.
    """
    if manifest.get("failed"):
        return f"it failed: {manifest['failed']}"
    if "scoring" in manifest:
        name, banks = manifest["scoring"], manifest.get("scanned_banks", [])
        more = [word for bank in banks for word in ("--bank", bank["name"])] if name == "filter" else ["--from", labels]
        words = shlex.join(["geofilter", name, called, *more])
        return f"geofilter {name} was stopped while it scored the rows anew; go on with: {words}"
    return f"go on with: {again(manifest)}" if "command" in manifest else "run the same geofilter scan command again"
