"""What a prediction table holds: what is measured on it, its parts, and their summaries."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from finished_tables import SCHEMA

from pipeline.config import build
from pipeline.evaluate.prediction_table import (
    Impressions,
    PartSummary,
    map_part,
    measured_things,
    read_summary,
    write_part,
)
from pipeline.preprocess.columns.hashing import hash64
from pipeline.schema import KeyColumns, Schema

NAN = float("nan")


def test_a_task_is_measured_where_its_whole_chain_is_1_and_a_joint_where_it_is_known() -> None:
    things = {one.name: one for one in measured_things(build(Schema, SCHEMA, "the tests").tasks)}
    assert {name: one.outputs for name, one in things.items()} == {
        "click": ("click",),
        "buy": ("buy",),
        "joint_buy": ("joint_buy",),
        "mood": ("mood_bad", "mood_good"),
        "watch": ("watch",),
    }
    labels = {
        "click": np.array([1, 1, 1, 0, 0, NAN, NAN]),
        "buy": np.array([1, 0, NAN, 1, NAN, 1, 0]),
        "watch": np.array([5, 6, 7, 8, 9, 10, 11.0]),
    }
    expected = {
        "click": [1, 1, 1, 0, 0, NAN, NAN],
        "buy": [1, 0, NAN, NAN, NAN, NAN, NAN],
        # A 0 decides it, wherever it stands.
        "joint_buy": [1, 0, NAN, 0, 0, NAN, 0],
        "watch": [5, NAN, NAN, NAN, NAN, NAN, NAN],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(things[name].select_labels(labels), values)


def impressions(num_rows: int = 6, first_row: int = 0, **changes: Any) -> Impressions:
    rows = np.arange(num_rows, dtype=np.float64)
    fields: dict[str, Any] = {
        "keys": {"user": pa.chunked_array([pa.array(np.arange(num_rows) % 3)])},
        "weight": np.ones(num_rows),
        "labels": {"click": np.where(rows == 1, NAN, rows % 2)},
        "predictions": {"click": rows / 10},
        "slices": {"day": pa.DictionaryArray.from_arrays(pa.array(np.arange(num_rows) % 2, pa.int32()), ["a", "b"])},
    }
    return Impressions(first_row, **(fields | changes))


def written(folder: Path, rows: Impressions, keys: KeyColumns, **seen: Any) -> pa.RecordBatch:
    assert write_part(folder / "part.arrow", rows, keys, **seen) == len(rows.weight)
    return map_part(folder / "part.arrow")


def test_a_part_is_one_batch_in_the_order_of_its_units_whose_rows_keep_their_order(tmp_path: Path) -> None:
    part = written(tmp_path, impressions(), KeyColumns(user="u"))
    assert part.schema.names == ["unit_hash", "user", "weight", "label_click", "prediction_click", "slice_day"]
    assert part["unit_hash"].type == part["user"].type == pa.uint64()
    hashes = part["unit_hash"].to_pylist()
    assert hashes == sorted(hashes)
    assert part["user"].to_pylist() == hashes
    of_user: dict[int, list[float]] = {}
    for user, value in zip(hashes, part["prediction_click"].to_pylist(), strict=True):
        of_user.setdefault(user, []).append(value)
    assert sorted(of_user.values()) == [[0.0, 0.3], [0.1, 0.4], [0.2, 0.5]]
    assert part["label_click"].null_count == 1
    assert part["slice_day"].to_pylist() == [
        "ab"[round(10 * value) % 2] for value in part["prediction_click"].to_pylist()
    ]


def test_a_user_is_one_unit_whatever_type_its_key_has(tmp_path: Path) -> None:
    keys = KeyColumns(user="u")
    hashes = []
    for column in (
        pa.array([7, 8]),
        pa.array(["7", "8"]),
        pa.array([7.0, 8.0]),
        pa.array(["7", "8"]).dictionary_encode(),
    ):
        rows = impressions(2, keys={"user": pa.chunked_array([column])})
        hashes.append(sorted(written(tmp_path, rows, keys)["unit_hash"].to_pylist()))
    assert hashes[0] == hashes[1] == hashes[2] == hashes[3]
    assert len(set(hashes[0])) == 2


def test_a_row_without_the_key_is_a_unit_of_its_own(tmp_path: Path) -> None:
    rows = impressions(4, keys={"user": pa.chunked_array([["a", None, "a", None]])})
    part = written(tmp_path, rows, KeyColumns(user="u"))
    assert len(set(part["unit_hash"].to_pylist())) == 3
    assert part["user"].null_count == 2


def test_without_a_user_key_the_unit_is_the_request_and_without_both_the_row(tmp_path: Path) -> None:
    request = pa.chunked_array([["q", "q", "r", "s"]])
    part = written(tmp_path, impressions(4, keys={"request": request}), KeyColumns(request="r"))
    assert part["unit_hash"].equals(part["request"])
    first = written(tmp_path, impressions(4, keys={}), KeyColumns())["unit_hash"].to_pylist()
    second = written(tmp_path, impressions(4, first_row=4, keys={}), KeyColumns())["unit_hash"].to_pylist()
    assert len({*first, *second}) == 8


def test_the_units_of_a_split_by_their_hash_still_fill_all_hashes(tmp_path: Path) -> None:
    users = pa.array([str(user) for user in range(20_000)])
    of_test = users.filter(pa.array(hash64(users) / 2.0**64 < 0.1))
    part = written(
        tmp_path, impressions(len(of_test), keys={"user": pa.chunked_array([of_test])}), KeyColumns(user="u")
    )
    shares = np.bincount((np.asarray(part["unit_hash"]) >> np.uint64(61)).astype(int), minlength=8) / len(of_test)
    assert shares == pytest.approx([1 / 8] * 8, rel=0.25)


def test_summaries_merge_to_what_all_rows_say(tmp_path: Path) -> None:
    summaries = []
    for place, (rows, mean, newer) in enumerate([(2, 0.25, 1), (6, 0.75, 0)]):
        mixtures = {"level": {"experts": ["a", "b"], "mean_weight": [[mean, 1 - mean], [None, 1.0]]}}
        path = tmp_path / f"{place}.arrow"
        write_part(
            path,
            impressions(rows),
            KeyColumns(),
            mixtures=mixtures,
            newer_values={"f": {"values": rows, "newer": newer}},
        )
        summaries.append(read_summary(path))
    merged = summaries[0].merge(summaries[1])
    assert merged == PartSummary(
        8,
        {"level": {"experts": ["a", "b"], "mean_weight": [[0.625, 0.375], [None, 1.0]]}},
        {"f": {"values": 8, "newer": 1}},
    )
