"""What must not change a ranking: the blocks it is computed in, the files, types and order of the candidates."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_candidates import (
    NUM_REQUESTS,
    assert_same_ranking,
    candidate_table,
    changed,
    make_candidates,
    read_ranked,
    with_candidates,
)

from pipeline.executor import InProcessExecutor
from pipeline.export.serving import Serving, Side
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.score import model
from pipeline.score.candidates import cut, groups, units
from pipeline.score.candidates.plan import plan_candidates
from pipeline.score.run import score

ITEMS = [None if items is None else items.tolist() for items in make_candidates()["items"]]
TEXT_ITEMS = [None if items is None else [str(item) for item in items] for items in ITEMS]


# --- blocks


@pytest.mark.parametrize("num_candidates", [1, 7, 12, 100])
def test_the_size_of_a_block_does_not_matter(
    trained: RunConfig,
    ranked: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_candidates: int,
) -> None:
    monkeypatch.setattr(groups, "CANDIDATES_PER_BLOCK", num_candidates)
    assert_same_ranking(read_ranked(score(changed(trained, tmp_path))), ranked)


def test_a_group_holds_whole_requests_and_few_candidates_more_than_its_size(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "CANDIDATES_PER_BLOCK", 30)
    fitted = FittedTransform.load(trained.dataset_dir, trained.data_schema)
    assert trained.score is not None
    plan = plan_candidates(trained, trained.score, fitted, [], tmp_path)
    (unit,) = cut.cut_units(plan, tmp_path, tmp_path, InProcessExecutor(), None)
    found = list(groups.read_groups(plan, unit))
    requests = [request for group in found for request in group.requests.carried["request"].to_pylist()]
    assert requests == make_candidates()["request"].tolist()
    assert sum(len(group.items) for group in found) == sum(len(items or ()) for items in ITEMS)
    assert all(20 < len(group.items) < 30 + 12 for group in found[:-1])
    assert all(len(group.items) == len(group.request) == len(group.shared) for group in found)


@pytest.mark.parametrize("has_lists", [True, False])
def test_no_more_of_a_large_request_is_encoded_and_predicted_at_a_time_than_a_block(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_lists: bool
) -> None:
    items = np.random.default_rng(2).permutation(900) + 1
    table = candidate_table()[:1].set_column(5, "items", pa.array([items.tolist()]))
    if not has_lists:
        columns = {name: pa.repeat(table[name][0], 900) for name in table.column_names[:5]}
        table = pa.table({**columns, "item": pa.array(items)})
    config = with_candidates(trained, tmp_path, table, top_k=1_000, items_column="items" if has_lists else None)
    expected = read_ranked(score(config))
    monkeypatch.setattr(groups, "CANDIDATES_PER_BLOCK", 100)
    monkeypatch.setattr(units, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(model, "MAX_DISTINCT", 30)
    num_encoded: list[int] = []
    num_predicted: list[int] = []
    encode, predict = FittedTransform.encode_features, Serving.predict_pairs

    def encode_counted(fitted: FittedTransform, rows: pa.Table, *arguments: Any) -> pa.Table:
        num_encoded.append(rows.num_rows)
        return encode(fitted, rows, *arguments)

    def predict_counted(serving: Serving, request: Side, item: Side) -> Any:
        num_predicted.append(max(len(item.place), item.rows.num_rows))
        return predict(serving, request, item)

    monkeypatch.setattr(FittedTransform, "encode_features", encode_counted)
    monkeypatch.setattr(Serving, "predict_pairs", predict_counted)
    found = read_ranked(score(config, overwrite=True))
    assert sum(num_predicted) == 900
    assert max(num_predicted) == 30
    assert max(num_encoded) == 100
    # Most of the items are unknown, so all alike: how a block rounds may order them otherwise. In both every item has
    # the place that its own score, and among equal ones its name, gives it.
    for one in (found, expected):
        assert one["rank"].tolist() == list(range(1, 901))
        by_score = one.sort_values(["score", "item"], ascending=[False, True])
        assert one["item"].tolist() == by_score["item"].tolist()
    assert_same_ranking(*(one.sort_values("item").assign(rank=0) for one in (found, expected)))


# --- candidates


def test_several_row_groups_give_several_files_with_the_same_rows(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "REQUESTS_PER_UNIT", 8)
    folder = score(with_candidates(trained, tmp_path, candidate_table(), group_rows=4))
    assert [file.name for file in sorted(folder.glob("part-*"))] == [
        f"part-{number:05d}.parquet" for number in range(3)
    ]
    assert_same_ranking(read_ranked(folder), ranked)


def test_several_files_give_the_same_rows(trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    pq.write_table(candidate_table()[:10], tmp_path / "sets" / "a.parquet")
    pq.write_table(candidate_table()[10:], tmp_path / "sets" / "b.parquet")
    folder = score(changed(trained, tmp_path, score={"candidates": {"path": str(tmp_path / "sets")}}))
    assert len(list(folder.glob("part-*"))) == 2
    assert_same_ranking(read_ranked(folder), ranked)


def test_the_order_of_requests_and_of_their_lists_does_not_matter(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path
) -> None:
    frame = make_candidates().iloc[::-1]
    frame["items"] = [None if items is None else items[::-1] for items in frame["items"]]
    table = pa.Table.from_pandas(frame, preserve_index=False)
    other = read_ranked(score(with_candidates(trained, tmp_path, table)))
    assert other["request"].drop_duplicates().tolist() == ranked["request"].drop_duplicates().tolist()[::-1]
    assert_same_ranking(other.sort_values(["request", "rank"]), ranked)


def test_an_item_that_a_list_holds_twice_is_ranked_once(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path
) -> None:
    items = [None if items is None else [*items, *items[:3]] for items in make_candidates()["items"]]
    other = read_ranked(score(with_candidates(trained, tmp_path, candidate_table(items=pa.array(items)))))
    assert_same_ranking(other, ranked)


def test_equal_scores_are_ordered_by_item(trained: RunConfig, tmp_path: Path) -> None:
    rows = read_ranked(score(changed(trained, tmp_path, score={"fusion": "0 * click", "top_k": 3})))
    lists = make_candidates().set_index("request")["items"]
    for request, items in rows.groupby("request")["item"]:
        assert items.tolist() == sorted(lists[request])[:3]


@pytest.mark.parametrize(
    "columns",
    [
        {"items": pa.array(ITEMS, pa.large_list(pa.int32()))},
        {"items": pa.array(ITEMS, pa.list_(pa.float64()))},
        {"items": pa.array(TEXT_ITEMS, pa.list_(pa.string()))},
        {"items": pa.array(TEXT_ITEMS, pa.list_(pa.large_string()))},
        {"items": pa.array(TEXT_ITEMS, pa.list_(pa.string_view()))},
        {"items": pa.array(TEXT_ITEMS, pa.list_(pa.dictionary(pa.int32(), pa.string())))},
        {
            "user": pa.array(make_candidates()["user"].astype(str)).dictionary_encode(),
            "request": pa.array(make_candidates()["request"].astype(str)).dictionary_encode(),
        },
        {"user": pa.array(make_candidates()["user"].astype(str), pa.large_string())},
    ],
    ids=lambda columns: ", ".join(f"{name}: {values.type}" for name, values in columns.items()),
)
def test_keys_may_have_any_type(
    trained: RunConfig, everything: pd.DataFrame, tmp_path: Path, columns: dict[str, pa.Array]
) -> None:
    config = with_candidates(trained, tmp_path, candidate_table(**columns), top_k=1_000)
    other = read_ranked(score(config))
    other["item"] = other["item"].astype(np.int64)
    assert_same_ranking(other, everything)


def test_lists_of_fixed_size_are_lists(trained: RunConfig, everything: pd.DataFrame, tmp_path: Path) -> None:
    full = [row for row, items in enumerate(ITEMS) if items is not None and len(items) == 12]
    table = candidate_table().take(full)
    table = table.set_column(5, "items", table["items"].cast(pa.list_(pa.int64(), 12)))
    other = read_ranked(score(with_candidates(trained, tmp_path, table, top_k=1_000)))
    assert_same_ranking(other, everything[everything["request"].isin(table["request"].to_pylist())])


def test_candidates_may_be_json_lines(trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "sets.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in candidate_table().to_pylist()))
    assert_same_ranking(
        read_ranked(score(changed(trained, tmp_path, score={"candidates": {"path": str(path)}}))), ranked
    )


def test_columns_that_nothing_reads_may_be_anything(trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path) -> None:
    table = candidate_table()
    for name in ("rank", "score", "click", "is_click", "item"):
        table = table.append_column(name, pa.array([{"any": "thing"}] * NUM_REQUESTS))
    assert_same_ranking(read_ranked(score(with_candidates(trained, tmp_path, table))), ranked)


def test_the_list_may_be_called_like_the_item_key(trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path) -> None:
    table = candidate_table().rename_columns({"items": "item"})
    assert_same_ranking(read_ranked(score(with_candidates(trained, tmp_path, table, items_column="item"))), ranked)


def test_a_feature_may_read_the_list_of_candidates_too(trained: RunConfig, tmp_path: Path) -> None:
    table = candidate_table()
    histories = read_ranked(score(with_candidates(trained, tmp_path, table, items_column="history")))
    other = table.set_column(5, "items", table["history"])
    assert_same_ranking(read_ranked(score(with_candidates(trained, tmp_path, other), overwrite=True)), histories)
