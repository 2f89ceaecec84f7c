"""A split becomes a prediction table: every row once, in bounded memory, and a restart makes only what is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_splits import other_settings, rows_of, score
from trained_runs import other_run, train_run

from pipeline.errors import ArtifactError, DataError
from pipeline.evaluate import scoring
from pipeline.evaluate.prediction_table import Impressions, PredictionTable, map_part, write_part
from pipeline.evaluate.scoring import PREDICTIONS_FOLDER, plan_pieces, read_batches
from pipeline.executor import InProcessExecutor
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import ShardEntry, read_index
from pipeline.shards.reader import ShardReader
from pipeline.train.checkpoints.checkpoint import best_checkpoint
from pipeline.train.predictor import Predictor

BATCH_SIZE = 256


@pytest.fixture(scope="module")
def trained(demo_settings: dict[str, Any], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return train_run(
        demo_settings, dataset, tmp_path_factory.mktemp("trained") / "run", evaluate={"batch_size": BATCH_SIZE}
    )


def bytes_of(table: PredictionTable) -> list[bytes]:
    return [path.read_bytes() for path in table.parts]


def test_every_row_is_scored_as_the_model_does_and_ordered_by_its_unit(trained: RunConfig, tmp_path: Path) -> None:
    config = other_run(trained, tmp_path / "run")
    index = read_index(config.dataset_dir)
    shards = [pa.ipc.open_file(config.dataset_dir / shard.path).read_all() for shard in index.of_split("test")]
    encoded = pa.concat_tables(shards)
    predictor = Predictor(config, index, best_checkpoint(config.checkpoints_dir), BATCH_SIZE)
    expected = predictor.predict(encoded)
    table = score(config)
    assert table.num_rows == encoded.num_rows
    assert len(table.parts) > 3
    for part in map(map_part, table.parts):
        hashes = np.asarray(part["unit_hash"])
        assert (hashes[:-1] <= hashes[1:]).all()
    # Put back in the order of the log by what is another one in each row.
    rows = rows_of(table)
    places = {value: place for place, value in enumerate(expected["watch"].tolist())}
    order = [places[value] for value in rows["prediction_watch"].to_pylist()]
    assert sorted(order) == list(range(len(encoded)))
    for name, values in expected.items():
        assert np.array_equal(np.asarray(rows[f"prediction_{name}"]), values[order])
    labels = encoded["labels"].combine_chunks().flatten().to_pylist()
    for place, task in enumerate(("click", "like", "purchase", "watch")):
        assert rows[f"label_{task}"].to_pylist() == [labels[4 * row + place] for row in order]
    for key in ("user", "request"):
        pairs = set(zip(rows[key].to_pylist(), encoded[f"key_{key}"].take(pa.array(order)).to_pylist(), strict=True))
        assert len(pairs) == len({hashed for hashed, _ in pairs}) == len({raw for _, raw in pairs})
    assert rows["user"].equals(rows["unit_hash"])
    mixtures = predictor.mean_mixtures()
    assert list(table.summary.mixtures) == list(mixtures)
    for level, mixture in mixtures.items():
        np.testing.assert_allclose(table.summary.mixtures[level]["mean_weight"], mixture["mean_weight"], rtol=1e-12)


def test_the_truth_is_that_of_the_same_row(trained: RunConfig, tmp_path: Path, simulated: Path) -> None:
    config = other_run(trained, tmp_path / "run")
    truth = pq.read_table(simulated / "truth").to_pylist()
    known = {(row["click"], row["like"], row["purchase"], row["watch"]) for row in truth}
    columns = [rows_of(score(config))[f"truth_{task}"].to_pylist() for task in ("click", "like", "purchase", "watch")]
    found = set(zip(*columns, strict=True))
    assert found <= known
    assert len(found) == read_index(config.dataset_dir).num_rows("test")


def test_threads_make_the_same_parts(trained: RunConfig, tmp_path: Path) -> None:
    one, two = (score(other_run(trained, tmp_path / str(threads)), InProcessExecutor(threads)) for threads in (1, 2))
    assert bytes_of(one) == bytes_of(two)


# --- restarts


def interrupt_after(monkeypatch: pytest.MonkeyPatch, num_parts: int) -> list[Path]:
    """Lets so many more parts be written, and returns the paths of those that were."""
    written: list[Path] = []

    def write_some(path: Path, *others: Any, **more: Any) -> int:
        if len(written) == num_parts:
            raise KeyboardInterrupt
        written.append(path)
        return write_part(path, *others, **more)

    monkeypatch.setattr(scoring, "write_part", write_some)
    return written


def test_a_restart_scores_only_what_is_missing(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = score(other_run(trained, tmp_path / "undisturbed"))
    config = other_run(trained, tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            score(config)
    folder = config.report_dir / PREDICTIONS_FOLDER
    (folder / ".part-00003.arrow.1.partial").write_text("half a part")
    (folder / ".runs-of-a-measurement").mkdir()
    (folder / ".runs-of-a-measurement" / "run.arrow").write_text("half a run")
    written = interrupt_after(monkeypatch, 10_000)
    table = score(config)
    assert written == list(table.parts)[3:]
    assert bytes_of(table) == bytes_of(undisturbed)
    assert not list(folder.glob(".*"))
    written.clear()
    score(config)
    assert written == []


def test_nothing_is_loaded_when_nothing_is_missing(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = other_run(trained, tmp_path / "run")
    before = score(config)
    monkeypatch.setattr(scoring, "Predictor", None)
    assert score(config) == before


Change = Callable[[RunConfig, Path], RunConfig]


def with_other_slices(config: RunConfig, _: Path) -> RunConfig:
    return other_settings(config, slices=["country"])


def with_other_batches(config: RunConfig, _: Path) -> RunConfig:
    return other_settings(config, batch_size=512)


def with_a_baseline(config: RunConfig, checkpoint: Path) -> RunConfig:
    return other_settings(config, baseline=str(checkpoint))


def with_the_other_precision(config: RunConfig, _: Path) -> RunConfig:
    return other_settings(config, precision="bfloat16")


def with_the_other_split(config: RunConfig, _: Path) -> RunConfig:
    return other_settings(config, split="validation")


@pytest.mark.parametrize(
    "change",
    [with_other_slices, with_other_batches, with_a_baseline, with_the_other_precision, with_the_other_split],
)
def test_parts_of_another_evaluation_are_not_used(
    change: Change, trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = other_run(trained, tmp_path / "run")
    score(config)
    written = interrupt_after(monkeypatch, 10_000)
    table = score(change(config, best_checkpoint(trained.checkpoints_dir)))
    assert written == list(table.parts)


def test_parts_of_another_checkpoint_are_not_used(
    trained: RunConfig, demo_settings: dict[str, Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = other_run(trained, tmp_path / "run")
    before = bytes_of(score(config))
    other = train_run(demo_settings, dataset, tmp_path / "other", seed=5)
    written = interrupt_after(monkeypatch, 10_000)
    table = score(config, checkpoint=best_checkpoint(other.checkpoints_dir))
    assert written == list(table.parts)
    assert bytes_of(table)[0] != before[0]


def test_settings_of_what_is_measured_later_change_no_part(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = other_run(trained, tmp_path / "run")
    score(config)
    written = interrupt_after(monkeypatch, 10_000)
    score(other_settings(config, num_replicates=20, k=3, min_slice_rows=5, importance_rows=0))
    assert written == []


# --- two models


def test_a_baseline_is_scored_on_the_same_rows_with_the_model_of_its_own_run(
    trained: RunConfig, demo_settings: dict[str, Any], dataset: Path, tmp_path: Path
) -> None:
    body = {"kind": "shared_bottom", "widths": [8]}
    settings = {**demo_settings, "model": {**demo_settings["model"], "body": body}}
    baseline = train_run(settings, dataset, tmp_path / "baseline", evaluate={"batch_size": BATCH_SIZE})
    checkpoint = best_checkpoint(baseline.checkpoints_dir)
    both = score(other_settings(other_run(trained, tmp_path / "both"), baseline=str(checkpoint)))
    alone = score(other_run(trained, tmp_path / "alone"))
    other = score(other_run(baseline, tmp_path / "other"))
    assert (both.has_baseline, alone.has_baseline) == (True, False)
    for name in ("click", "like", "joint_like", "watch"):
        assert rows_of(both)[f"prediction_{name}"].equals(rows_of(alone)[f"prediction_{name}"])
        assert rows_of(both)[f"baseline_{name}"].equals(rows_of(other)[f"prediction_{name}"])


def test_a_baseline_that_is_not_there_is_a_clear_error(trained: RunConfig, tmp_path: Path) -> None:
    config = other_settings(other_run(trained, tmp_path / "run"), baseline=str(tmp_path / "nowhere"))
    with pytest.raises(ArtifactError, match="nowhere is not a complete checkpoint"):
        score(config)


# --- bounds


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=6), st.integers(1, 700))
def test_pieces_hold_every_row_once_in_whole_batches(rows: list[int], batch_size: int) -> None:
    shards = [ShardEntry(path=str(n), split="test", rows=size, bytes=1, sha256="0" * 64) for n, size in enumerate(rows)]
    pieces = plan_pieces(shards, batch_size)
    assert [piece.first_row for piece in pieces] == np.cumsum([0, *(piece.num_rows for piece in pieces)])[:-1].tolist()
    for shard in shards:
        own = [piece for piece in pieces if piece.shard == shard]
        assert [piece.first_in_shard for piece in own] == np.cumsum([0, *(p.num_rows for p in own)])[:-1].tolist()
        assert sum(piece.num_rows for piece in own) == shard.rows
        assert all(piece.num_rows % batch_size == 0 for piece in own[:-1])
    assert max(piece.num_rows for piece in pieces) < max(sum(rows) / 64, scoring.MAX_PART_ROWS) + batch_size


def test_no_more_rows_are_held_than_those_of_a_part(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_PART_ROWS", 500)
    monkeypatch.setattr(scoring, "NUM_PARTS", 1)
    monkeypatch.setattr(scoring, "SURVEY_ROWS", 300)
    read: list[int] = []
    written: list[int] = []
    read_rows = ShardReader.read

    def read_counted(reader: ShardReader, pieces: Any) -> pa.Table:
        table = read_rows(reader, pieces)
        read.append(table.num_rows)
        return table

    def write_counted(path: Path, rows: Impressions, *others: Any, **more: Any) -> int:
        written.append(len(rows.weight))
        return write_part(path, rows, *others, **more)

    monkeypatch.setattr(ShardReader, "read", read_counted)
    monkeypatch.setattr(scoring, "write_part", write_counted)
    table = score(other_run(trained, tmp_path / "run"), InProcessExecutor(1))
    assert max(read) == 300, "the survey"
    assert max(written) == 512, "of the 3,000 rows, whole batches of 256"
    assert sum(written) == table.num_rows > 2_500


def test_a_piece_is_read_batch_by_batch(trained: RunConfig) -> None:
    index = read_index(trained.dataset_dir)
    pieces = plan_pieces(index.of_split("test"), 100)
    sizes = [table.num_rows for piece in pieces for table in read_batches(trained.dataset_dir, piece, 100)]
    assert set(sizes[:-1]) == {100}
    assert sum(sizes) == index.num_rows("test")


# --- mistakes


def test_a_truth_without_some_rows_says_how_many_and_which_is_first(
    trained: RunConfig, tmp_path: Path, simulated: Path
) -> None:
    truth = pq.read_table(simulated / "truth")
    pq.write_table(truth.slice(0, truth.num_rows - 10), tmp_path / "truth.parquet")
    config = other_settings(
        other_run(trained, tmp_path / "run"),
        truth={"path": str(tmp_path / "truth.parquet"), "key": "impression_id"},
    )
    with pytest.raises(
        DataError, match=r"has no true value for 10 of \d+ rows of test-\d+.arrow, first impression_id = 20991"
    ):
        score(config)


def test_a_truth_without_the_columns_of_some_tasks_says_which(trained: RunConfig, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "click": [0.5], "purchase": [0.5]}), tmp_path / "truth.parquet")
    config = other_settings(
        other_run(trained, tmp_path / "run"), truth={"path": str(tmp_path / "truth.parquet"), "key": "id"}
    )
    with pytest.raises(
        DataError, match=r"truth.parquet has no column 'like' \(task 'like'\), 'watch' \(task 'watch'\)"
    ):
        score(config)


def test_a_damaged_shard_is_named(trained: RunConfig, tmp_path: Path, dataset: Path) -> None:
    config = other_run(trained, tmp_path / "run")
    (config.workspace_dir / "dataset").unlink()
    (config.workspace_dir / "dataset").mkdir()
    for path in dataset.iterdir():
        (config.dataset_dir / path.name).symlink_to(path)
    shard = config.dataset_dir / "test-00000.arrow"
    shard.unlink()
    shard.write_bytes(b"nothing that is a shard")
    with pytest.raises(ArtifactError, match=r"shard .*test-00000.arrow cannot be read"):
        score(config)
