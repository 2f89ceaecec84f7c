"""Candidates as rows: the same ranking as of lists, however the rows lie, and wherever their features come from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_candidates import TABLES, assert_same_ranking, changed, make_candidates, read_ranked

from pipeline import storage
from pipeline.errors import ConfigError, DataError, GatehouseError
from pipeline.run_config import RunConfig
from pipeline.score.candidates import cut, groups, units
from pipeline.score.run import score

CONTEXT = ["hour", "battery", "history"]


def make_rows() -> pd.DataFrame:
    """The usual candidates, a row for each."""
    rows = make_candidates().explode("items").rename(columns={"items": "item"}).dropna(subset=["item"])
    return rows.astype({"item": np.int64}).reset_index(drop=True)


def of_rows(trained: RunConfig, tmp_path: Path, path: Path | str, **fields: Any) -> RunConfig:
    return changed(trained, tmp_path, score={"candidates": {"path": str(path)}, "items_column": None, **fields})


def write_rows(path: Path, rows: pd.DataFrame) -> Path:
    """Writes rows in row groups of 10."""
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), path, row_group_size=10)
    return path


def with_rows(trained: RunConfig, tmp_path: Path, rows: pd.DataFrame, **fields: Any) -> RunConfig:
    return of_rows(trained, tmp_path, write_rows(tmp_path / "rows.parquet", rows), **fields)


def in_order(ranking: pd.DataFrame) -> pd.DataFrame:
    return ranking.sort_values(["request", "rank"])


# --- however they lie


def test_rows_are_ranked_like_lists(trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path) -> None:
    folder = score(with_rows(trained, tmp_path, make_rows()))
    assert_same_ranking(read_ranked(folder), ranked)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert (manifest["requests"], manifest["candidates"]) == (make_rows()["request"].nunique(), len(make_rows()))


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.jsonl", "rows.arrow"])
def test_rows_may_lie_in_any_format(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What a request has besides is joined to it by its own key."""
    monkeypatch.setattr(cut, "ROWS_PER_UNIT", 50)
    make_candidates()[["request", *CONTEXT]].to_parquet(tmp_path / "contexts.parquet")
    rows, path = make_rows()[["request", "user", "item"]], tmp_path / name
    if "csv" in name:
        rows.to_csv(path, index=False)
    elif name == "rows.jsonl":
        rows.to_json(path, orient="records", lines=True)
    else:
        table = pa.Table.from_pandas(rows, preserve_index=False)
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    config = of_rows(trained, tmp_path, path)
    tables = [*TABLES, {"path": str(tmp_path / "contexts.parquet"), "key": "request"}]
    config = changed(config, tmp_path, preprocess={"tables": tables})
    folder = score(config)
    assert_same_ranking(read_ranked(folder), ranked)
    assert len(list(folder.glob("part-*"))) > 3


@pytest.mark.parametrize("rows_per_unit", [1, 30, 100])
@pytest.mark.parametrize("rows_at_once", [7, 1_000])
def test_requests_are_whole_wherever_row_groups_and_units_end(
    trained: RunConfig,
    ranked: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows_per_unit: int,
    rows_at_once: int,
) -> None:
    monkeypatch.setattr(cut, "ROWS_PER_UNIT", rows_per_unit)
    monkeypatch.setattr(groups, "CANDIDATES_PER_BLOCK", 9)
    monkeypatch.setattr(units, "ROWS_AT_ONCE", rows_at_once)
    folder = score(with_rows(trained, tmp_path, make_rows()))
    assert_same_ranking(read_ranked(folder), ranked)
    assert len(list(folder.glob("part-*"))) >= len(make_rows()) // (rows_per_unit + 12)


@pytest.mark.parametrize("rows_per_unit", [40, 1_000])
def test_scattered_rows_of_a_request_are_brought_together(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_unit: int
) -> None:
    monkeypatch.setattr(cut, "ROWS_PER_UNIT", rows_per_unit)
    rows = make_rows().sample(frac=1, random_state=1)
    config = with_rows(trained, tmp_path, rows)
    folder = score(config)
    found = read_ranked(folder)
    assert_same_ranking(in_order(found), in_order(ranked))
    assert not found.duplicated(["request", "item"]).any()
    assert len(list(folder.glob("part-*"))) == (1 if rows_per_unit > len(rows) else -(-len(rows) // rows_per_unit))
    assert not list(config.workspace_dir.glob(".*"))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert (manifest["requests"], manifest["candidates"]) == (rows["request"].nunique(), len(rows))


def test_files_of_a_folder_are_regrouped_each_by_itself(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path
) -> None:
    rows = make_rows()
    is_early = rows["request"] < 10_012
    write_rows(tmp_path / "rows" / "a.parquet", rows[is_early].sample(frac=1, random_state=1))
    write_rows(tmp_path / "rows" / "b.parquet", rows[~is_early])
    write_rows(tmp_path / "rows" / "c.parquet", rows[:0])
    found = read_ranked(score(of_rows(trained, tmp_path, tmp_path / "rows")))
    assert_same_ranking(in_order(found), ranked)
    assert found["request"].drop_duplicates().is_monotonic_increasing is False


def test_rows_in_a_store_are_ranked_like_those_on_a_disk(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path, bucket: str
) -> None:
    path = write_rows(tmp_path / "rows.parquet", make_rows())
    storage.upload(path, f"{bucket}/rows/a.parquet")
    assert_same_ranking(read_ranked(score(of_rows(trained, tmp_path, f"{bucket}/rows"))), ranked)


def test_an_item_of_two_rows_of_a_request_has_what_the_first_says(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path
) -> None:
    again = make_rows().assign(battery=0.0)
    rows = pd.concat([make_rows(), again]).sort_values("request", kind="stable")
    assert_same_ranking(read_ranked(score(with_rows(trained, tmp_path, rows))), ranked)


# --- where features come from


def test_features_may_be_joined_already(trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path) -> None:
    rows = make_rows()
    for name, key in (("users", "user"), ("items", "item"), ("sellers", "seller")):
        rows = rows.merge(pd.read_parquet(Path(trained.inputs) / f"{name}.parquet"), on=key, how="left")
    config = changed(with_rows(trained, tmp_path, rows), tmp_path, preprocess={"tables": []})
    assert_same_ranking(read_ranked(score(config)), ranked)


def test_a_row_may_bring_the_key_of_a_table(trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path) -> None:
    items = pd.read_parquet(Path(trained.inputs) / "items.parquet")
    rows = make_rows().merge(items[["item", "seller"]], on="item", how="left")
    tables = [TABLES[0], {**TABLES[1], "columns": ["price", "tags"]}, TABLES[2]]
    config = changed(with_rows(trained, tmp_path, rows), tmp_path, preprocess={"tables": tables})
    assert_same_ranking(read_ranked(score(config)), ranked)


def test_rows_of_one_request_may_differ_in_their_user_and_context(trained: RunConfig, tmp_path: Path) -> None:
    rows = make_rows()
    expected = in_order(read_ranked(score(with_rows(trained, tmp_path, rows, top_k=1_000))))
    merged = rows.assign(request=1)
    found = read_ranked(
        score(with_rows(trained, tmp_path, merged.drop_duplicates("item"), top_k=1_000), overwrite=True)
    )
    pairs = expected.set_index(["request", "item"])["score"]
    first = rows.drop_duplicates("item").set_index("item")
    assert len(found) == merged["item"].nunique()
    np.testing.assert_allclose(
        found["score"], [pairs[first["request"][item], item] for item in found["item"]], rtol=1e-5, atol=1e-6
    )
    assert found["user"].tolist() == first["user"][found["item"]].tolist()


# --- refusals


def refusal(config: RunConfig, error: type[GatehouseError]) -> GatehouseError:
    before = sorted(config.workspace_dir.rglob("*"))
    with pytest.raises(error) as caught:
        score(config)
    assert caught.value.fix
    assert sorted(config.workspace_dir.rglob("*")) == before
    return caught.value


def test_a_request_of_two_files_is_found_before_anything_is_scored(trained: RunConfig, tmp_path: Path) -> None:
    rows = make_rows()
    write_rows(tmp_path / "rows" / "a.parquet", rows[:30])
    # The same key as text in the other file.
    write_rows(tmp_path / "rows" / "b.parquet", rows[30:].astype({"request": str}))
    folder = tmp_path / "rows"
    error = refusal(of_rows(trained, tmp_path, folder), DataError)
    first = int((rows["request"] == rows["request"][30]).idxmax()) + 1
    request = rows["request"][30]
    assert error.what == f"request {request} stands in {folder}/a.parquet, row {first} and in {folder}/b.parquet, row 1"


@pytest.mark.parametrize(("column", "value"), [("request", None), ("item", None)])
def test_a_null_key_is_named_with_its_row(trained: RunConfig, tmp_path: Path, column: str, value: Any) -> None:
    rows = make_rows().astype({column: "Int64"})
    rows.loc[44, column] = value
    error = refusal(with_rows(trained, tmp_path, rows), DataError)
    assert error.what == f"column {column!r} of {tmp_path}/rows.parquet, row 45 is null"


def test_a_wrong_value_is_named_with_its_row(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "CANDIDATES_PER_BLOCK", 20)
    rows = make_rows().astype({"battery": str})
    rows.loc[44, "battery"] = "half"
    assert f"'half' in {tmp_path}/rows.parquet, row 45" in refusal(with_rows(trained, tmp_path, rows), DataError).what


def test_candidates_without_items_are_told_both_ways_to_give_them(trained: RunConfig, tmp_path: Path) -> None:
    error = refusal(with_rows(trained, tmp_path, make_rows().drop(columns="item")), ConfigError)
    assert f"{tmp_path}/rows.parquet has no column 'item', the item key" in error.what
    assert "score.items_column" in error.fix


def test_lists_under_the_item_key_are_told_to_be_named(trained: RunConfig, tmp_path: Path) -> None:
    lists = make_candidates().rename(columns={"items": "item"})
    error = refusal(with_rows(trained, tmp_path, lists), DataError)
    assert "column 'item' of " in error.what
    assert "score.items_column" in error.fix


def test_files_without_a_row_are_refused(trained: RunConfig, tmp_path: Path) -> None:
    error = refusal(with_rows(trained, tmp_path, make_rows()[:0]), DataError)
    assert f"{tmp_path}/rows.parquet holds no row" in error.what


def test_a_wrong_value_among_scattered_rows_names_their_file(trained: RunConfig, tmp_path: Path) -> None:
    rows = make_rows().astype({"battery": str})
    rows.loc[44, "battery"] = "half"
    error = refusal(with_rows(trained, tmp_path, rows.sample(frac=1, random_state=1)), DataError)
    assert f"'half' in {tmp_path}/rows.parquet, regrouped by request, row " in error.what
