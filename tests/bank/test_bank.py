import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import D_SAE, directions, random_pooled
from safetensors.numpy import load_file, save_file

from geofilter.bank.bank import Bank
from geofilter.bank.check import check_arrays
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.geometry import effect_sizes, strongest
from geofilter.bank.scorer import Scorer
from geofilter.bank.validate import group_folds, validate
from geofilter.bank.words import BETWEEN, says_something
from geofilter.build.build import BUILT_IN
from geofilter.build.seeds import built_in_seeds
from geofilter.errors import BankError
from geofilter.files import package_data
from geofilter.rows.shipped import background_rows
from geofilter.rows.style import STYLE, style_features


def test_effect_sizes_equal_the_formula():
    pooled, dense = random_pooled(30, seed=3)
    bad = np.arange(30) % 3 == 0
    sd = np.sqrt((dense[bad].var(0) + dense[~bad].var(0)) / 2)
    np.testing.assert_allclose(
        effect_sizes(pooled, bad, D_SAE), (dense[bad].mean(0) - dense[~bad].mean(0)) / sd, rtol=1e-3, atol=1e-4
    )


def test_choose_takes_both_ends_strongest_first():
    toxic, aligned = strongest(np.array([0.1, -0.5, 0.9, 0.0, -0.7, 0.3], np.float32), 2)
    assert toxic.tolist() == [2, 5]
    assert aligned.tolist() == [4, 1]
    # No feature that does not differ, and among equals the earlier toxic one.
    toxic, aligned = strongest(np.array([0.5, 0.0, 0.9, 0.5, -0.1], np.float32), 4)
    assert (toxic.tolist(), aligned.tolist()) == ([2, 0, 3], [4])
    for effect in ([0, 0, 0], [0.3, 0, 0.2], [-0.3, 0, 0]):
        with pytest.raises(BankError) as caught:
            strongest(np.array(effect, np.float32), 2)
        assert str(caught.value) == (
            "no feature differs between the bad and the good rows; check that the two files differ"
        )


def test_save_and_load_give_the_same_bank(bank: Bank, tmp_path: Path):
    bank.save(tmp_path / "b")
    again = Bank.load(tmp_path / "b", "f" * 64)
    for name in ("toxic", "aligned", "effect", "weights", "shuffled", "random", "dense"):
        np.testing.assert_array_equal(getattr(again, name), getattr(bank, name))
    np.testing.assert_array_equal(again.closeness.contrast, bank.closeness.contrast)
    for scorer in ("ridge", "contrast"):
        np.testing.assert_array_equal(Scorer(again, scorer).scale.sorted, Scorer(bank, scorer).scale.sorted)
    assert again.labels == list(bank.labels)


def test_a_bank_of_an_earlier_version_counts_nothing_as_common(bank: Bank, tmp_path: Path):
    rate = np.full(D_SAE, 0.01, np.float32)
    rate[5] = 0.04
    replace(bank, rate=rate).save(tmp_path / "now")
    now = Bank.load(tmp_path / "now")
    assert np.flatnonzero(now.common).tolist() == [5]
    np.testing.assert_array_equal(now.closeness.other_cosine, bank.closeness.other_cosine)
    shutil.copytree(tmp_path / "now", tmp_path / "before")
    arrays = load_file(tmp_path / "before" / "bank.safetensors")
    later = {"rate", "closeness.other", "closeness.other_cosine"}
    save_file({k: v for k, v in arrays.items() if k not in later}, tmp_path / "before" / "bank.safetensors")
    text = json.loads((tmp_path / "before" / "bank.json").read_text("utf-8"))
    (tmp_path / "before" / "bank.json").write_text(json.dumps({k: v for k, v in text.items() if k != "arrays"}))
    before = Bank.load(tmp_path / "before")
    assert not before.common.any()
    assert before.closeness.near(int(before.toxic[0]), 0) is None
    before.save(tmp_path / "again")
    assert not Bank.load(tmp_path / "again").common.any()


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("rate", lambda a: a + 1.01),
        ("rate", lambda a: a[:-1]),
        ("closeness.other", lambda a: a + len(a)),
        ("closeness.other_cosine", lambda a: a[:-1]),
    ],
)
def test_what_later_versions_say_is_held_to_its_form(bank: Bank, name: str, made, tmp_path: Path):
    bank.save(tmp_path / "b")
    arrays = load_file(tmp_path / "b" / "bank.safetensors")
    with pytest.raises(ValueError, match=name):
        check_arrays({**arrays, name: made(arrays[name])}, D_SAE, 0)


def test_a_bank_that_cannot_be_used_says_why(bank: Bank, tmp_path: Path):
    path = tmp_path / "b"
    bank.save(path)
    with pytest.raises(BankError) as caught:
        Bank.load(path, "0" * 64)
    assert str(caught.value) == (
        f"{path}: made for target t (ffffffff), not for this one (00000000); build a bank for this target"
    )
    with pytest.raises(BankError) as caught:
        Bank.load(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: not a bank folder (bank.json, bank.safetensors); make one with geofilter bank build"
    )
    text = json.loads((path / "bank.json").read_text())
    (path / "bank.json").write_text(json.dumps({**text, "format": 99}))
    with pytest.raises(BankError) as caught:
        Bank.load(path)
    assert str(caught.value) == f"{path}: bank format 99 is not readable here; build it again"
    for damaged, why in [({k: v for k, v in text.items() if k != "labels"}, "KeyError: 'labels'"),
                         ({**text, "labels": text["labels"][1:]}, "127 labels, not 128"),
                         ({**text, "topics": ["one"]}, "topics.weights is float32 (128, 0), not float32 (128, 1)"),
                         ({**text, "target": "t"}, "target is no object"),
                         ({**text, "evaluation": None}, "evaluation is no object"),
                         ({**text, "evaluation": {"rows": {}}}, "evaluation.rows.bad is missing"),
                         ({**text, "max_tokens": 2.5}, "max_tokens is no int"),
                         ({**text, "examples": [[{"text": "", "strong": [[1]], "bad": True, "topic": ""}]]},
                          "examples has a span that is no pair")]:  # fmt: skip
        (path / "bank.json").write_text(json.dumps(damaged))
        with pytest.raises(BankError) as caught:
            Bank.load(path, "f" * 64)
        assert str(caught.value).startswith(f"{path}: the bank is damaged ({why}")
    (path / "bank.json").write_text(
        json.dumps({**text, "max_tokens": 0}).replace('"max_tokens": 0', '"max_tokens": 1e999')
    )
    with pytest.raises(BankError, match="1e999 is no number"):
        Bank.load(path)
    (path / "bank.json").write_text("[]")
    with pytest.raises(BankError, match="bank format None is not readable here"):
        Bank.load(path)
    (path / "bank.json").write_text(json.dumps({k: v for k, v in text.items() if k != "arrays"}))
    shutil.copy(path / "bank.json", path / "bank.safetensors")
    with pytest.raises(BankError, match="the bank is damaged"):
        Bank.load(path)


def test_folds_never_split_a_group_and_hold_both_sides():
    groups = [f"g{i // 2}" for i in range(20)] + [f"lone{i}" for i in range(10)]
    bad = np.array([i % 2 == 0 for i in range(30)])
    folds = group_folds(groups, bad, 5, 0)
    assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(30))
    for train, test in folds:
        assert not {groups[i] for i in train} & {groups[i] for i in test}
        assert bad[test].any()
        assert not bad[test].all()


def test_validation_marks_noise_weak_and_a_real_difference_strong():
    seeds, _ = random_pooled(60, seed=4)
    reference, _ = random_pooled(60, seed=5)
    bad = np.arange(60) % 2 == 0
    texts = [f"row number {i} of some words" for i in range(60)]
    groups = [str(i) for i in range(60)]
    noise = validate(directions(), Examples(seeds, bad, groups, texts), reference, LearnOptions(10))
    assert noise["weak"] is True
    moved = seeds.values.copy()
    row_of = np.repeat(np.arange(60), np.diff(seeds.indptr))
    moved[bad[row_of] & (seeds.indices < 12)] += 3
    real = type(seeds)(seeds.indptr, seeds.indices, moved, seeds.n_tokens, seeds.residual)
    found = validate(directions(), Examples(real, bad, groups, texts), reference, LearnOptions(10))
    assert found["weak"] is False
    assert found["contrast"] > 0.75  # a dozen of 128 features: picking a few is better than weighing all
    moved[bad[row_of] & (seeds.indices >= 12) & (seeds.indices < 40)] += 3
    moved[bad[row_of] & (seeds.indices < 40)] += 27
    real = type(seeds)(seeds.indptr, seeds.indices, moved, seeds.n_tokens, seeds.residual)
    found = validate(directions(), Examples(real, bad, groups, texts), reference, LearnOptions(10))
    assert found["weak"] is False
    assert found["auroc"] > 0.75


def test_a_bank_whose_rows_share_one_prompt_is_still_checked():
    seeds, _ = random_pooled(40, seed=4)
    reference, _ = random_pooled(40, seed=5)
    bad = np.arange(40) < 20
    texts = [f"row number {i}" for i in range(40)]
    found = validate(directions(), Examples(seeds, bad, ["same"] * 40, texts), reference, LearnOptions(10))
    assert 0 <= found["auroc"] <= 1  # a number, and noise
    assert found["weak"] is True


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_contrast_texts_carry_no_length_or_format_signal(name: str):
    seeds = built_in_seeds(name)
    assert len(seeds) >= 600
    from geofilter.stats import auroc

    bad = np.array([s.bad for s in seeds])
    style = np.stack([style_features(s.row.response) for s in seeds])
    for column, word in enumerate(STYLE):
        assert 0.44 <= auroc(style[:, column], bad) <= 0.56, word
    longer = [len(b.row.response) > len(g.row.response) for b, g in zip(seeds[::2], seeds[1::2], strict=True)]
    assert 0.42 <= np.mean(longer) <= 0.58


def test_background_is_large_enough_and_distinct():
    rows = background_rows()
    assert len(rows) >= 300
    assert len({r.sha256 for r in rows}) == len(rows)


def test_labels_are_readable_though_banks_store_them_with_escapes(bank: Bank, tmp_path: Path):
    labels = ['say "hi"', "back\\slash", 'a \\" in code', *bank.labels[3:]]
    replace(bank, labels=labels).save(tmp_path / "b")
    assert Bank.load(tmp_path / "b").labels == labels
    text = json.loads((tmp_path / "b" / "bank.json").read_text("utf-8"))
    assert text["labels"][:3] == ['say \\"hi\\"', "back\\\\slash", 'a \\\\\\" in code']
    text["labels"][0] = 'no \\x "escape"'
    (tmp_path / "b" / "bank.json").write_text(json.dumps(text), "utf-8")
    assert Bank.load(tmp_path / "b").labels[0] == 'no \\x "escape"'


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_the_shipped_banks_name_features_by_words_with_content(name: str):
    bank = Bank.load(package_data("banks", "smollm2-135m", name))
    named = [label.split(BETWEEN) for label in bank.labels if label]
    assert len(named) > 2000
    assert all(len(words) <= 4 and all(map(says_something, words)) for words in named)
    # Known to be of tone and punctuation: forms of "to be", the full stop, the comma.
    assert bank.common[[2909, 1483, 489, 741]].all()
    assert 0.3 < bank.common.mean() < 0.4
