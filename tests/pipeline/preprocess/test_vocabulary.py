"""Vocabularies by hand: order, limits, counts that are added up, files."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ArtifactError
from pipeline.preprocess import vocabulary
from pipeline.preprocess.text import as_codes
from pipeline.preprocess.vocabulary import HashBuckets, ValueCounts, Vocabulary, count_values, encode


def count(values: list[str | None]) -> pa.Table:
    counts = ValueCounts()
    counts.add(count_values(as_codes(pa.array(values, pa.string()), "x")))
    return counts.total()


def test_values_are_ordered_by_count_then_text() -> None:
    kept = Vocabulary.select(count(["b", "a", "é", "c", "c", None, "a", "b", "z"]), min_count=1, max_size=None)
    assert kept.table.to_pydict() == {"value": ["a", "b", "c", "z", "é"], "count": [2, 2, 2, 1, 1]}
    assert kept.num_rows == 7


def test_rare_values_and_values_beyond_the_size_are_left_out() -> None:
    counts = count(["a", "a", "a", "b", "b", "c", "c", "d"])
    assert Vocabulary.select(counts, 2, None).table["value"].to_pylist() == ["a", "b", "c"]
    assert Vocabulary.select(counts, 1, 2).table["value"].to_pylist() == ["a", "b"]
    assert Vocabulary.select(counts, 9, None).num_rows == 2


def test_row_0_is_unseen_and_row_1_is_null() -> None:
    kept = Vocabulary.select(count(["b", "b", "a"]), 1, None)
    assert encode(as_codes(pa.array(["a", None, "b", "new"]), "x"), kept).tolist() == [3, 1, 2, 0]


def test_hash_buckets_keep_the_reserved_rows_free() -> None:
    rows = encode(as_codes(pa.array([*map(str, range(200)), None]), "x"), HashBuckets(3))
    assert set(rows[:-1].tolist()) == {2, 3, 4}
    assert rows[-1] == 1
    assert HashBuckets(3).num_rows == 5


@given(st.lists(st.lists(st.sampled_from("abcdef"))))
def test_counts_add_up_whenever_they_are_compacted(parts: list[list[str]]) -> None:
    counts = ValueCounts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "MAX_PENDING_VALUES", 3)
        for part in parts:
            counts.add(count_values(as_codes(pa.array(part, pa.string()), "x")))
    everything = [value for part in parts for value in part]
    found = dict(zip(*counts.total().to_pydict().values(), strict=True))
    assert found == {value: everything.count(value) for value in set(everything)}


def test_a_saved_vocabulary_is_the_same_again(tmp_path: Path) -> None:
    kept = Vocabulary.select(count(["b", "b", "a", "é"]), 1, None)
    kept.save(tmp_path / "x.arrow")
    again = Vocabulary.load(tmp_path / "x.arrow")
    assert again.table.equals(kept.table)
    assert again.fingerprint() == kept.fingerprint()
    assert again.fingerprint() != Vocabulary.select(count(["b", "b", "a"]), 1, None).fingerprint()


def test_a_missing_or_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    with pytest.raises(ArtifactError, match=r"vocabulary .*x\.arrow cannot be read"):
        Vocabulary.load(path)
    path.write_bytes(b"ARROW1 but not really")
    with pytest.raises(ArtifactError, match=r"vocabulary .*x\.arrow cannot be read"):
        Vocabulary.load(path)
