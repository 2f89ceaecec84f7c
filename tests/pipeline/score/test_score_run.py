"""What the score stage ranks on a small trained workspace, in what order, and what is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_candidates import (
    FUSION,
    NUM_REQUESTS,
    OUTPUTS,
    UNKNOWN_ITEM,
    UNKNOWN_USER,
    assert_same_ranking,
    candidate_table,
    changed,
    make_candidates,
    read_ranked,
    with_candidates,
)

from pipeline.export.manifest import read_manifest
from pipeline.files import sha256_of
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.score.candidates import cut
from pipeline.score.formula import parse_fusion
from pipeline.score.run import score
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import best_checkpoint
from pipeline.train.predictor import Predictor

NUM_CANDIDATES = sum(len(items) for items in make_candidates()["items"].dropna())


# --- what comes out


def test_the_output_has_its_columns_and_ranks_without_gaps(ranked: pd.DataFrame) -> None:
    assert list(ranked.columns) == ["request", "user", "rank", "item", "score", *OUTPUTS, "model_version"]
    sets = make_candidates().set_index("request")
    for request, rows in ranked.groupby("request"):
        items = sets.loc[request, "items"]
        assert rows["rank"].tolist() == list(range(1, min(5, len(items)) + 1))
        assert rows["score"].is_monotonic_decreasing
        assert set(rows["item"]) <= set(items)
        assert set(rows["user"]) == {sets.loc[request, "user"]}
    filled = [request for request, items in sets["items"].items() if items is not None and len(items)]
    assert ranked["request"].drop_duplicates().tolist() == filled
    assert len(filled) == NUM_REQUESTS - 2


def test_the_manifest_tells_the_files_and_what_they_were_made_with(trained: RunConfig, ranked: pd.DataFrame) -> None:
    folder = trained.scores_dir
    manifest = json.loads((folder / "manifest.json").read_bytes())
    best = best_checkpoint(trained.checkpoints_dir)
    assert manifest == {
        "fusion": FUSION,
        "filters": [],
        "caps": [],
        "top_k": 5,
        "checkpoint": {"path": str(best), "step": int(best.name.removeprefix("step-"))},
        "model_version": read_manifest(trained.export_dir).version,
        "requests": NUM_REQUESTS,
        "candidates": NUM_CANDIDATES,
        "filtered_out": 0,
        "capped": 0,
        "files": [
            {"path": "part-00000.parquet", "rows": len(ranked), "sha256": sha256_of(folder / "part-00000.parquet")}
        ],
        "newer_values": {},
    }
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.resolved.yaml",
        "manifest.json",
        "part-00000.parquet",
    ]
    assert not list(trained.workspace_dir.glob(".*"))
    assert set(ranked["model_version"]) == {manifest["model_version"]}


def test_scores_are_the_fusion_of_the_written_outputs(ranked: pd.DataFrame) -> None:
    outputs = {name: ranked[name].to_numpy() for name in OUTPUTS}
    np.testing.assert_allclose(ranked["score"], parse_fusion(FUSION, OUTPUTS)(outputs), rtol=0, atol=1e-9)
    np.testing.assert_allclose(ranked["score"], ranked.click * ranked.joint_like**0.5 + ranked.watch / 100, atol=1e-9)
    np.testing.assert_allclose(ranked["joint_like"], ranked["click"] * ranked["like"], rtol=1e-5)


def test_scores_are_those_of_rows_joined_by_hand(trained: RunConfig, everything: pd.DataFrame) -> None:
    inputs = Path(trained.inputs)
    rows = make_candidates().explode("items").rename(columns={"items": "item"}).dropna(subset=["item"])
    rows["item"] = rows["item"].astype(np.int64)
    rows = rows.merge(pd.read_parquet(inputs / "users.parquet"), on="user", how="left")
    rows = rows.merge(pd.read_parquet(inputs / "items.parquet"), on="item", how="left")
    rows = rows.merge(pd.read_parquet(inputs / "sellers.parquet"), on="seller", how="left")
    index = read_index(trained.dataset_dir)
    fitted = FittedTransform.load(trained.dataset_dir, trained.data_schema, index.vocabulary_version)
    predictor = Predictor(trained, index, best_checkpoint(trained.checkpoints_dir), 1_000)
    encoded = fitted.encode_features(pa.Table.from_pandas(rows, preserve_index=False), "by hand")
    for name, values in predictor.predict(encoded).items():
        rows[name] = values
    rows["score"] = rows.click * rows.joint_like**0.5 + rows.watch / 100
    rows = rows.sort_values(["request", "score"], ascending=[True, False])
    rows["rank"] = rows.groupby("request").cumcount() + 1
    rows["model_version"] = read_manifest(trained.export_dir).version
    assert rows["score"].nunique() > len(rows) * 0.9
    assert_same_ranking(everything, rows[everything.columns])


def test_top_k_keeps_the_best_of_the_whole_ranking(ranked: pd.DataFrame, everything: pd.DataFrame) -> None:
    assert len(everything) == NUM_CANDIDATES
    assert_same_ranking(ranked, everything.groupby("request").head(5))


def test_an_unknown_item_is_ranked_among_the_others(everything: pd.DataFrame) -> None:
    rows = everything[everything["request"] == 10_003]
    assert sorted(rows["item"]) == [5, 7, UNKNOWN_ITEM]
    assert np.isfinite(rows["score"]).all()
    assert len(everything[everything["user"] == UNKNOWN_USER]) == 12


def test_progress_counts_requests_and_candidates(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "REQUESTS_PER_UNIT", 6)
    calls: list[tuple[Any, ...]] = []
    score(changed(trained, tmp_path), progress=lambda *call: calls.append(call))
    assert calls[:2] == [("partitions surveyed", n, 1, n * NUM_REQUESTS, "rows") for n in range(2)]
    calls = calls[2:]
    done = [call[1] for call in calls]
    assert len(done) > 3
    assert done == sorted(set(done))
    assert {(call[0], call[2], call[4]) for call in calls} == {("requests ranked", NUM_REQUESTS, "candidates")}
    assert (calls[0][1], calls[0][3]) == (0, 0)
    assert (calls[-1][1], calls[-1][3]) == (NUM_REQUESTS, NUM_CANDIDATES)


def test_the_ranking_may_be_written_as_arrow(trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path) -> None:
    folder = score(changed(trained, tmp_path, score={"format": "arrow"}))
    (path,) = folder.glob("part-*")
    assert path.name == "part-00000.arrow"
    with pa.ipc.open_file(str(path)) as reader:
        pd.testing.assert_frame_equal(reader.read_pandas(), ranked)


def test_a_given_export_needs_neither_a_dataset_nor_a_checkpoint(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path
) -> None:
    config = changed(trained, tmp_path)
    for folder in (config.dataset_dir, config.checkpoints_dir, config.export_dir):
        folder.unlink()
    folder = score(config, exported=trained.export_dir)
    pd.testing.assert_frame_equal(read_ranked(folder), ranked)
    expected = json.loads((trained.scores_dir / "manifest.json").read_bytes())
    assert json.loads((folder / "manifest.json").read_bytes()) == expected


def test_the_export_is_made_where_there_is_none_of_the_checkpoint(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path
) -> None:
    config = changed(trained, tmp_path)
    config.export_dir.unlink()
    pd.testing.assert_frame_equal(read_ranked(score(config)), ranked)
    assert read_manifest(config.export_dir).version == read_manifest(trained.export_dir).version


# --- nothing to rank


@pytest.mark.parametrize("type_", [pa.list_(pa.int64()), pa.list_(pa.string()), pa.list_(pa.null())], ids=str)
def test_only_empty_lists_give_a_file_with_no_rows(trained: RunConfig, tmp_path: Path, type_: pa.DataType) -> None:
    table = candidate_table(items=pa.array([[], None] * (NUM_REQUESTS // 2), type_))
    folder = score(with_candidates(trained, tmp_path, table))
    rows = pq.read_table(folder / "part-00000.parquet")
    assert rows.num_rows == 0
    assert rows.column_names == ["request", "user", "rank", "item", "score", *OUTPUTS, "model_version"]
    assert (rows.schema.field("request").type, rows.schema.field("score").type) == (pa.int64(), pa.float64())
    assert json.loads((folder / "manifest.json").read_bytes())["requests"] == NUM_REQUESTS


def test_a_file_without_rows_beside_others_is_no_failure(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "sets").mkdir()
    pq.write_table(candidate_table()[:0], tmp_path / "sets" / "a.parquet")
    pq.write_table(candidate_table(), tmp_path / "sets" / "b.parquet")
    config = changed(trained, tmp_path, score={"candidates": {"path": str(tmp_path / "sets")}})
    assert_same_ranking(read_ranked(score(config)), ranked)
