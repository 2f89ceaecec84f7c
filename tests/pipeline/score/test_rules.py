"""Filters, caps and columns in the fusion: the rank order of 1,000 requests as pandas finds it from all scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_candidates import changed, make_candidates, make_context, make_workspace, read_ranked

from pipeline.errors import ConfigError
from pipeline.run_config import RunConfig
from pipeline.score.candidates import groups
from pipeline.score.run import check_score, score

NUM_REQUESTS, ITEMS_PER_REQUEST, K = 1_000, 30, 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("score")
    config = make_workspace(folder)
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(make_context(rng, NUM_REQUESTS))
    sizes = rng.integers(0, ITEMS_PER_REQUEST + 1, NUM_REQUESTS)
    frame["items"] = [rng.choice(60, size, replace=False) + 1 for size in sizes]
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "many.parquet")
    return changed(config, folder, score={"candidates": {"path": str(folder / "many.parquet")}, "top_k": K})


@pytest.fixture(scope="module")
def everything(trained: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Every candidate with its outputs, and the columns of the tables."""
    rows = read_ranked(score(changed(trained, tmp_path_factory.mktemp("all"), score={"top_k": 1_000})))
    for name, key in (("users", "user"), ("items", "item"), ("sellers", "seller")):
        rows = rows.merge(pd.read_parquet(Path(trained.inputs) / f"{name}.parquet"), on=key, how="left")
    context = pd.read_parquet(Path(trained.inputs) / "many.parquet")
    return rows.merge(context[["request", "hour"]], on="request")


def by_pandas(rows: pd.DataFrame, fused: pd.Series, is_kept: pd.Series, caps: dict[str, int]) -> pd.DataFrame:
    """Request, rank and item of the best rows that are kept, row by row within the caps."""
    rows = rows.assign(score=fused)[is_kept].sort_values(["request", "score", "item"], ascending=[True, False, True])
    ranked = []
    for request, own in rows.groupby("request"):
        counts: dict[Any, int] = {}
        rank = 0
        for row in own.to_dict("records"):
            kinds = [(column, row[column]) for column in caps if not pd.isna(row[column])]
            if rank == K or any(counts.get(kind, 0) == caps[kind[0]] for kind in kinds):
                continue
            rank += 1
            counts.update({kind: counts.get(kind, 0) + 1 for kind in kinds})
            ranked.append((request, rank, row["item"]))
    return pd.DataFrame(ranked, columns=["request", "rank", "item"])


@pytest.mark.parametrize("candidates_per_block", [1_000, 200_000])
@pytest.mark.parametrize(
    ("section", "fused", "is_kept"),
    [
        ({}, lambda r: r.click, lambda r: r.click >= 0),
        ({"filters": ["price < 60"]}, lambda r: r.click, lambda r: r.price < 60),
        (
            {"filters": ["city != 'bath'", "click > 0.4"]},
            lambda r: r.click,
            lambda r: (r.city.notna() & (r.city != "bath")) & (r.click > 0.4),
        ),
        (
            {"filters": ["country in ('c1', 'c2')", "not item == 7"]},
            lambda r: r.click,
            lambda r: r.country.isin(["c1", "c2"]) & (r.item != 7),
        ),
        ({"caps": [{"column": "seller", "max": 1}]}, lambda r: r.click, lambda r: r.click >= 0),
        (
            {"filters": ["hour >= 6"], "caps": [{"column": "seller", "max": 2}, {"column": "city", "max": 2}]},
            lambda r: r.click,
            lambda r: r.hour >= 6,
        ),
        (
            {"fusion": "like * (1 + item / 100) + hour / 50"},
            lambda r: r.like * (1 + r.item / 100) + r.hour / 50,
            lambda r: r.click >= 0,
        ),
    ],
)
def test_the_order_of_a_thousand_requests_is_that_of_pandas(
    trained: RunConfig,
    everything: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    section: dict[str, Any],
    fused: Any,
    is_kept: Any,
    candidates_per_block: int,
) -> None:
    monkeypatch.setattr(groups, "CANDIDATES_PER_BLOCK", candidates_per_block)
    section = {"fusion": "click", **section}
    folder = score(changed(trained, tmp_path, score=section))
    found = read_ranked(folder)[["request", "rank", "item"]].reset_index(drop=True)
    kept = is_kept(everything)
    expected = by_pandas(
        everything, fused(everything), kept, {cap["column"]: cap["max"] for cap in section.get("caps", [])}
    )
    assert len(expected) > 500
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["candidates"] == len(everything)
    assert manifest["filtered_out"] == len(everything) - kept.sum()
    assert (manifest["capped"] > 0) == bool(section.get("caps"))


def test_columns_of_rows_are_read_from_them(trained: RunConfig, tmp_path: Path) -> None:
    rows = make_candidates().explode("items").rename(columns={"items": "item"}).dropna(subset=["item"])
    rows = rows.assign(author=rows["item"].astype(int) % 3, bid=rows["item"].astype(float) / 60)
    rows.astype({"item": np.int64}).to_parquet(tmp_path / "rows.parquet")
    section = {
        "candidates": {"path": str(tmp_path / "rows.parquet")},
        "items_column": None,
        "fusion": "0 * click + bid",
        "filters": ["bid < 0.5"],
        "caps": [{"column": "author", "max": 1}],
    }
    found = read_ranked(score(changed(trained, tmp_path, score=section)))
    kept = rows[rows["bid"] < 0.5].sort_values(["request", "bid"], ascending=[True, False])
    best = kept.groupby(["request", "author"]).head(1)
    assert found[["request", "item"]].values.tolist() == best[["request", "item"]].values.tolist()
    assert found["score"].tolist() == best["bid"].tolist()


@pytest.mark.parametrize(
    ("section", "what"),
    [
        (
            {"filters": ["prise < 3"]},
            "score.filters 'prise < 3' names 'prise', which is not an output of the model or a",
        ),
        ({"fusion": "click * prise"}, "score.fusion 'click * prise' names 'prise', which is not an output"),
        ({"caps": [{"column": "sellr", "max": 3}]}, "score.caps names column 'sellr', which neither"),
        ({"caps": [{"column": "seller", "max": 0}]}, "score.caps.0.max is 0: should be greater than or equal to 1"),
        ({"filters": ["price <"]}, "score.filters 'price <' "),
    ],
)
def test_a_rule_that_cannot_be_is_found_before_a_row_is_read(
    trained: RunConfig, tmp_path: Path, section: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_score(changed(trained, tmp_path, score=section))
    assert what in caught.value.what


def test_a_text_that_is_compared_with_a_number_is_refused(trained: RunConfig, tmp_path: Path) -> None:
    config = changed(trained, tmp_path, score={"filters": ["city < 3"]})
    before = sorted(config.workspace_dir.rglob("*"))
    with pytest.raises(ConfigError, match="compares the texts of 'city' with a number"):
        score(config)
    assert sorted(config.workspace_dir.rglob("*")) == before
