"""Which row a value has: vocabularies that only grow, their merge from parts, hashed tables, files that are damaged."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ArtifactError
from pipeline.preprocess.columns.text import as_codes
from pipeline.preprocess.features import distinct, vocabulary
from pipeline.preprocess.features.distinct import Column, distinct_texts, merge_range, plan_ranges, write_vocabulary
from pipeline.preprocess.features.vocabulary import HashBuckets, Vocabulary, encode
from pipeline.preprocess.stage import StagedPart, write_staged
from pipeline.shards.vocabularies import digest_vocabulary, vocabulary_path

Parts = list[list[str]]


def fit(
    folder: Path,
    parts: Parts,
    min_count: int = 1,
    max_size: int | None = None,
    earlier: Vocabulary | None = None,
) -> Vocabulary:
    """The vocabulary of some parts of training rows, as the stage makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for number, values in enumerate(parts):
        codes = as_codes(pa.array(values, pa.string()), "x")
        texts, _ = distinct_texts([Column(codes, np.ones(len(values), bool))])
        write_staged(StagedPart(folder, number).texts_path, [texts])
        total += len(texts)
    before = {} if earlier is None else {"x": earlier}
    merged = [
        merge_range(folder, len(parts), ["x"], {"x": min_count}, before, one) for one in plan_ranges({"x": total})
    ]
    write_vocabulary(folder, merged, max_size, earlier, folder / "x.arrow")
    return Vocabulary.load(folder / "x.arrow")


def values_of(found: Vocabulary) -> list[str]:
    return [value for batch in found.batches for value in batch.column("value").to_pylist()]


def counts_of(found: Vocabulary) -> dict[str, int]:
    return {
        value: count
        for batch in found.batches
        for value, count in zip(*(batch.column(name).to_pylist() for name in ("value", "count")), strict=True)
    }


texts = st.text(st.sampled_from("abcdé"), max_size=2)


@given(st.lists(st.lists(texts), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 9))
def test_the_counts_of_all_parts_are_added_up_in_any_number_of_ranges(
    tmp_path_factory: pytest.TempPathFactory, parts: Parts, min_count: int, limit: int
) -> None:
    expected = {value: n for value, n in Counter(v for part in parts for v in part).items() if n >= min_count}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distinct, "MAX_MERGED_VALUES", limit)
        found = fit(tmp_path_factory.mktemp("ranges"), parts, min_count)
    assert counts_of(found) == expected
    whole = fit(tmp_path_factory.mktemp("whole"), [[value for part in parts for value in part]], min_count)
    assert values_of(found) == values_of(whole)
    assert found.fingerprint() == whole.fingerprint()


@given(st.lists(texts, min_size=1), st.lists(texts), st.integers(1, 5))
def test_every_value_has_its_own_row_and_others_are_unseen(
    tmp_path_factory: pytest.TempPathFactory, known: list[str], asked: list[str], batch_values: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "BATCH_VALUES", batch_values)
        patch.setattr(distinct, "BATCH_VALUES", batch_values)
        found = fit(tmp_path_factory.mktemp("fit"), [known])
    rows = {value: row for row, value in enumerate(values_of(found), start=2)}
    assert set(rows) == set(known)
    assert found.rows_of(pa.array(asked, pa.string())).tolist() == [rows.get(value, 0) for value in asked]


@given(st.lists(texts), st.lists(texts))
def test_a_later_fit_only_adds(tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str]) -> None:
    folder = tmp_path_factory.mktemp("grown")
    before = fit(folder / "first", [first])
    after = fit(folder / "second", [second], earlier=before)
    assert values_of(after)[: before.num_values] == values_of(before)
    assert set(values_of(after)) == {*first, *second}
    assert len(values_of(after)) == after.num_values
    every = pa.array(sorted({*first, *second}), pa.string())
    assert sorted(after.rows_of(every).tolist()) == list(range(2, after.num_rows))


def test_texts_with_the_same_hash_have_rows_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few_hashes(values: pa.StringArray, seed: int = 0) -> np.ndarray:
        return np.array([len(value) for value in values.to_pylist()], np.uint64)

    for module in (distinct, vocabulary):
        monkeypatch.setattr(module, "hash64", few_hashes)
    found = fit(tmp_path, [["aa", "bb", "cc", "d"]])
    assert values_of(found) == ["d", "aa", "bb", "cc"]
    asked = pa.array(["cc", "aa", "ee", "d", "bb", "f"])
    assert found.rows_of(asked).tolist() == [5, 3, 0, 2, 4, 0]


def test_the_most_frequent_values_are_kept_and_a_tie_goes_by_hash(tmp_path: Path) -> None:
    part = ["a"] * 3 + ["b"] * 2 + ["c"] * 2 + ["d"]
    assert set(values_of(fit(tmp_path / "min", [part], min_count=2))) == {"a", "b", "c"}
    two = fit(tmp_path / "two", [part], max_size=2)
    order = values_of(fit(tmp_path / "all", [part]))
    assert set(values_of(two)) == {"a", min("bc", key=order.index)}
    assert fit(tmp_path / "none", [part], min_count=9).num_rows == 2


def test_a_full_table_takes_no_new_value_and_keeps_the_old_ones(tmp_path: Path) -> None:
    before = fit(tmp_path / "first", [["a", "b"]], max_size=3)
    after = fit(tmp_path / "second", [["c", "c", "d", "a"]], max_size=3, earlier=before)
    assert values_of(after) == [*values_of(before), "c"]


def test_features_that_share_a_table_share_its_texts_and_counts() -> None:
    first, second = as_codes(pa.array(["a", "b", None]), "x"), as_codes(pa.array(["b", "c"]), "x")
    found, places = distinct_texts(
        [Column(first, np.array([True, True, True])), Column(second, np.array([True, False]))]
    )
    names = found.column("value").to_pylist()
    assert dict(zip(names, found.column("count").to_pylist(), strict=True)) == {"a": 1, "b": 2, "c": 0}
    assert [[[*names, None][place] for place in own.to_pylist()] for own in places] == [["a", "b", None], ["b", "c"]]
    hashes = np.asarray(found.column("hash"))
    assert (hashes[1:] >= hashes[:-1]).all()


def test_row_0_is_unseen_and_row_1_is_null() -> None:
    kept = Vocabulary.of(["b", "a"])
    rows = {value: row for row, value in enumerate(values_of(kept), start=2)}
    found = encode(as_codes(pa.array(["a", None, "b", "new"]), "x"), kept)
    assert found.tolist() == [rows["a"], 1, rows["b"], 0]


def test_hash_buckets_keep_the_reserved_rows_free() -> None:
    rows = encode(as_codes(pa.array([*map(str, range(200)), None]), "x"), HashBuckets(3))
    assert set(rows[:-1].tolist()) == {2, 3, 4}
    assert rows[-1] == 1
    assert HashBuckets(3).num_rows == 5


def test_a_saved_vocabulary_is_the_same_again_and_its_digest_is_of_its_beginning(tmp_path: Path) -> None:
    kept = Vocabulary.of(["b", "a", "é", ""], [2, 1, 1, 1])
    path = vocabulary_path(tmp_path, "x")
    kept.save(path)
    again = Vocabulary.load(path)
    assert again.batches == kept.batches
    assert again.fingerprint() == kept.fingerprint() == digest_vocabulary(tmp_path, "x").sha256
    Vocabulary((*kept.batches, *Vocabulary.of(["z"]).batches)).save(vocabulary_path(tmp_path, "longer"))
    assert digest_vocabulary(tmp_path, "longer", 4) == digest_vocabulary(tmp_path, "x")
    assert digest_vocabulary(tmp_path, "longer") != digest_vocabulary(tmp_path, "x")


def test_a_loaded_vocabulary_is_sent_as_its_path(tmp_path: Path) -> None:
    kept = Vocabulary.of([f"value {number}" for number in range(10_000)])
    kept.save(tmp_path / "x.arrow")
    loaded = Vocabulary.load(tmp_path / "x.arrow")
    sent = pickle.dumps(loaded)
    assert len(sent) < 1000 < len(pickle.dumps(kept))
    texts = pa.array(["value 7", "other"])
    for again in (pickle.loads(sent), pickle.loads(pickle.dumps(kept))):
        assert again.rows_of(texts).tolist() == kept.rows_of(texts).tolist()


def test_a_missing_or_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    with pytest.raises(ArtifactError, match=r"vocabulary .*x\.arrow cannot be read"):
        Vocabulary.load(path)
    path.write_bytes(b"ARROW1 but not really")
    with pytest.raises(ArtifactError, match=r"vocabulary .*x\.arrow cannot be read"):
        Vocabulary.load(path)
