"""The diagnostics of a trained model: what its checkpoint tells of its tables, and the same answer each time."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from changed_settings import merged
from numpy.typing import NDArray

from pipeline.config import build
from pipeline.evaluate.diagnostics import diagnose as diagnose_module
from pipeline.evaluate.diagnostics import sample
from pipeline.evaluate.diagnostics.diagnose import diagnose
from pipeline.evaluate.diagnostics.sample import sample_rows
from pipeline.evaluate.diagnostics.tables import examine_tables
from pipeline.evaluate.prediction_table import LABEL_PREFIX, PREDICTION_PREFIX, measured_things
from pipeline.run_config import RunConfig
from pipeline.shards.assignment import Piece, SampleOrder
from pipeline.shards.manifest import LABELS_COLUMN, SPARSE_PREFIX, WEIGHT_COLUMN, DatasetIndex, Split, read_index
from pipeline.shards.reader import ShardReader
from pipeline.train.newer_values import NewerValues
from pipeline.train.predictor import Predictor
from pipeline.train.run import train

NUM_ROWS = 900


@dataclass(frozen=True)
class Trained:
    config: RunConfig
    index: DatasetIndex
    checkpoint: Path

    def predictor(self) -> Predictor:
        return Predictor(self.config, self.index, self.checkpoint, batch_size=500)

    def rows(self, split: Split) -> pa.Table:
        """All rows of a split."""
        shards = self.index.of_split(split)
        order = SampleOrder(tuple(shard.rows for shard in shards), 1, 1 << 16, 1 << 16, 1, 0, shuffle=False)
        reader = ShardReader(self.config.dataset_dir, shards, order)
        return reader.read([Piece(place, 0, shard.rows) for place, shard in enumerate(shards)])

    def sample(self, num_rows: int = NUM_ROWS, seed: int = 1) -> pa.Table:
        return sample_rows(self.config.dataset_dir, self.index.of_split("test"), num_rows, seed)


@pytest.fixture(scope="module")
def trained(demo_settings: dict[str, Any], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model whose table of devices keeps no state."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(dataset, folder / "dataset")
    sgd = {"device": {"kind": "sgd", "learning_rate": 0.05}}
    changes = {"workspace": str(folder), "train": {"sparse_optimizers": sgd}}
    config = build(RunConfig, merged(demo_settings, changes), "the tests")
    return Trained(config, read_index(config.dataset_dir), train(config))


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "WINDOW_ROWS", 128)


@pytest.mark.usefixtures("small_windows")
def test_a_sample_holds_rows_of_the_split_once_and_in_their_order(trained: Trained) -> None:
    everything, rows = trained.rows("test"), trained.sample()
    assert rows.num_rows == NUM_ROWS < everything.num_rows
    places = {key: place for place, key in enumerate(everything["key_row"].to_pylist())}
    taken = [places[key] for key in rows["key_row"].to_pylist()]
    assert taken == sorted(set(taken))
    assert rows.equals(everything.take(pa.array(taken)))
    # Each tenth of the split has its share, and another seed takes others.
    tenths = np.histogram(taken, bins=10, range=(0, everything.num_rows))[0]
    assert (abs(tenths - NUM_ROWS / 10) < 40).all()
    assert trained.sample().equals(rows)
    assert not trained.sample(seed=2).equals(rows)


@pytest.mark.usefixtures("small_windows")
def test_a_sample_of_more_rows_than_there_are_is_all_of_them(trained: Trained) -> None:
    assert trained.sample(10**9).equals(trained.rows("test"))


def ids_of(table: pa.Table, feature: str) -> NDArray[np.int64]:
    column = table[SPARSE_PREFIX + feature].combine_chunks()
    return np.asarray(column.flatten() if pa.types.is_list(column.type) else column)


def test_untrained_rows_are_those_that_no_training_row_has(trained: Trained) -> None:
    found = examine_tables(trained.predictor(), [trained.predictor().batch_of(trained.sample())])
    training, rows = trained.rows("train"), trained.sample()
    tables = {table["name"]: table for table in found["tables"]}
    assert tables.keys() == trained.index.table_rows.keys()
    assert tables["item_id"]["features"] == ["item_id", "history"]
    seen = {
        name: np.unique(np.concatenate([ids_of(training, feature) for feature in table["features"]]))
        for name, table in tables.items()
    }
    for name, table in tables.items():
        num_rows = trained.index.table_rows[name]
        assert (table["rows"], table["used_rows"]) == (num_rows, num_rows - 2)
        untrained = num_rows - 2 - np.count_nonzero(seen[name] >= 2)
        assert table["untrained_rows"] == (None if name == "device" else untrained), name
    assert tables["author_id"]["untrained_rows"] > 1_000, "most of its hashed rows have no author"
    for feature in found["features"]:
        ids = ids_of(rows, feature["name"])
        assert feature["values"] == len(ids)
        assert feature["unseen"] == np.count_nonzero(ids == 0)
        untrained = np.count_nonzero(~np.isin(ids, [0, *seen[feature["table"]]]))
        assert feature["untrained"] == (None if feature["table"] == "device" else untrained)
    assert sum(feature["unseen"] for feature in found["features"]) > 0


def test_rows_that_are_planted_in_a_table_are_told_of_that_table_alone(trained: Trained) -> None:
    predictor = trained.predictor()
    parameters = dict(predictor.model.named_parameters())
    weight = parameters["front_end.embeddings.embedding_bags.hour.weight"]
    weight.data[4:7] = 0
    weight.data[10:13] = weight.data[9]
    found = examine_tables(predictor, [predictor.batch_of(trained.sample())])
    told = {table["name"]: (table["zero_rows"], table["repeated_rows"]) for table in found["tables"]}
    assert told.pop("hour") == (3, 3)
    assert set(told.values()) == {(0, 0)}


def test_values_that_are_newer_than_the_model_are_unseen_and_not_counted_again(trained: Trained) -> None:
    predictor, rows = trained.predictor(), trained.sample()
    known_rows = {**trained.index.table_rows, "item_id": 60}
    predictor.newer_values = NewerValues(trained.index, known_rows)
    found = examine_tables(predictor, [predictor.batch_of(rows)])
    (item,) = (feature for feature in found["features"] if feature["name"] == "item_id")
    ids = ids_of(rows, "item_id")
    assert item["unseen"] == np.count_nonzero((ids == 0) | (ids >= 60)) > np.count_nonzero(ids == 0)
    (table,) = (table for table in found["tables"] if table["name"] == "item_id")
    assert table["used_rows"] == 58
    assert predictor.newer_values.counts["item_id"] == {"values": 0, "newer": 0}


def make_table(trained: Trained, rows: pa.Table, folder: Path, num_parts: int = 1) -> Any:
    """What the diagnostics read of the prediction table of some rows."""
    tasks = trained.index.data_schema.tasks
    labels = np.asarray(rows[LABELS_COLUMN].combine_chunks().flatten(), np.float64).reshape(rows.num_rows, -1)
    columns = {
        LABEL_PREFIX + task.name: pa.array(labels[:, place], from_pandas=True) for place, task in enumerate(tasks)
    }
    outputs = trained.predictor().predict(rows)
    batch = pa.record_batch(columns | {PREDICTION_PREFIX + name: pa.array(values) for name, values in outputs.items()})
    paths = []
    for part, places in enumerate(np.array_split(np.arange(rows.num_rows), num_parts)):
        paths.append(folder / f"part-{num_parts}-{part}.arrow")
        with pa.OSFile(str(paths[-1]), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch.take(pa.array(places)))
    return SimpleNamespace(parts=tuple(paths), measured=measured_things(tasks))


def slices_of(rows: pa.Table) -> dict[str, pa.DictionaryArray]:
    return {"device": rows["sparse_device"].cast(pa.string()).combine_chunks().dictionary_encode()}


def test_the_diagnostics_of_a_model_are_plain_values_and_the_same_each_time(trained: Trained, tmp_path: Path) -> None:
    rows = trained.sample()
    table = make_table(trained, rows, tmp_path)
    found, again = (diagnose(table, trained.predictor(), rows, slices=slices_of(rows), seed=3) for _ in range(2))
    text = json.dumps(found, allow_nan=False)
    assert json.dumps(again, allow_nan=False) == text
    assert json.loads(text) == found
    assert list(found) == [
        "scores",
        "correlations",
        "rows",
        "parts",
        "importance",
        "tables",
        "features",
        "experts",
        "alarms",
    ]
    assert (found["rows"], found["parts"]) == (NUM_ROWS, 8)
    features = trained.index.data_schema.features
    assert {feature["name"] for feature in found["importance"]["features"]} == {feature.name for feature in features}
    assert found["importance"]["features"][0]["total"] > 0.01
    assert {one["dimension"] for one in found["experts"]["experts"]["slices"]} == {"device"}
    assert list(found["scores"]) == ["click", "like", "joint_like", "purchase", "joint_purchase"]
    measured = sum(found["scores"]["click"]["negatives"]) + sum(found["scores"]["click"]["positives"])
    assert measured == found["correlations"]["rows"] == NUM_ROWS


def test_predicting_leaves_the_mixtures_and_the_model_as_they_were(trained: Trained, tmp_path: Path) -> None:
    rows, predictor = trained.sample(), trained.predictor()
    before = predictor.predict(rows)
    mixtures = predictor.mean_mixtures()["experts"]["mean_weight"].tolist()
    diagnose(make_table(trained, rows, tmp_path), predictor, rows)
    assert predictor.mean_mixtures()["experts"]["mean_weight"].tolist() == mixtures
    after = trained.predictor().predict(rows)
    assert all((before[name] == after[name]).all() for name in before)


def test_a_model_whose_training_diverged_is_diagnosed_all_the_same(trained: Trained, tmp_path: Path) -> None:
    rows, predictor = trained.sample(), trained.predictor()
    parameters = dict(predictor.model.named_parameters())
    parameters["front_end.embeddings.embedding_bags.hour.weight"].data[5] = np.nan
    parameters["body.gate.weight_GIN"].data[:] = np.nan
    found = diagnose(make_table(trained, rows, tmp_path), predictor, rows, slices=slices_of(rows))
    assert "NaN" not in json.dumps(found, allow_nan=False)
    (hour,) = (table for table in found["tables"] if table["name"] == "hour")
    assert hour["not_finite_rows"] == 1
    assert found["importance"]["tasks"]["click"]["value"] is None


def test_a_prediction_table_alone_tells_scores_and_correlations_however_it_is_divided(
    trained: Trained, tmp_path: Path
) -> None:
    rows = trained.sample()
    one, seven = (diagnose(make_table(trained, rows, tmp_path, num_parts)) for num_parts in (1, 7))
    assert list(one) == ["scores", "correlations"]
    assert one["scores"] == seven["scores"]
    for place, line in enumerate(one["correlations"]["predictions"]["spearman"]):
        assert seven["correlations"]["predictions"]["spearman"][place] == pytest.approx(line, abs=2e-6)


def test_correlations_of_a_large_table_are_those_of_a_sample(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = trained.sample()
    table = make_table(trained, rows, tmp_path, 3)
    whole = diagnose(table)
    monkeypatch.setattr(diagnose_module, "SAMPLE_ROWS", 600)
    found = diagnose(table)
    assert found["correlations"]["rows"] == 600
    assert found["scores"] == whole["scores"]
    first, other = (one["correlations"]["predictions"]["pearson"][0][1] for one in (found, whole))
    assert first != other
    assert first == pytest.approx(other, abs=0.1)


def test_importance_can_be_left_out_and_rows_can_count_alike(trained: Trained, tmp_path: Path) -> None:
    rows = trained.sample(300)
    table = make_table(trained, rows, tmp_path)
    heavy = pa.array(np.random.default_rng(0).choice([0.1, 5.0], 300).astype(np.float32))
    weighted_rows = rows.append_column(WEIGHT_COLUMN, heavy)
    assert diagnose(table, trained.predictor(), rows, has_importance=False)["importance"] is None
    plain, weighted, ignored = (
        diagnose(table, trained.predictor(), given, weighted=weighted)["importance"]
        for given, weighted in ((rows, True), (weighted_rows, True), (weighted_rows, False))
    )
    assert plain == ignored
    assert plain["tasks"]["click"]["value"] != weighted["tasks"]["click"]["value"]
