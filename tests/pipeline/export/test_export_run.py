"""A checkpoint becomes an export that says the same: by itself, as a program, in smaller types."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from trained_export import Trained, export_anew, other, train_on

from models.tables import ServingTable
from pipeline.assemble import build_serving_model
from pipeline.errors import ArtifactError
from pipeline.export import run as export_run
from pipeline.export.inputs import inputs_of
from pipeline.export.manifest import PROGRAM_NAME, TENSORS_NAME, read_manifest
from pipeline.export.program import run_program
from pipeline.export.run import export
from pipeline.export.serving import Serving, Side
from pipeline.run_config import RunConfig
from pipeline.schema import Schema
from pipeline.shards.manifest import DENSE_COLUMN, SPARSE_PREFIX, read_index
from pipeline.train.predictor import Predictor

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
OF_REQUEST = ("user_id", "country", "interests", "age", "activity", "device", "hour", "history")


@pytest.fixture(scope="module")
def trained(demo_settings: dict[str, Any], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_on(dataset, demo_settings, tmp_path_factory.mktemp("exported") / "run")


@pytest.fixture(scope="module")
def exported(trained: Trained) -> Path:
    return export_anew(trained)


def encoded_rows(config: RunConfig) -> pa.Table:
    (shard,) = read_index(config.dataset_dir).of_split("test")
    with pa.ipc.open_file(config.dataset_dir / shard.path) as reader:
        return reader.read_all()


def predict(config: RunConfig, checkpoint: Path, rows: pa.Table) -> dict[str, np.ndarray]:
    return Predictor(config, read_index(config.dataset_dir), checkpoint, 512).predict(rows)


def assert_close(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-6) -> None:
    assert sorted(found) == sorted(expected)
    for name, values in expected.items():
        # A regression is tens of seconds.
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=40 * tolerance, err_msg=name)


def test_an_export_says_what_its_checkpoint_says(trained: Trained, exported: Path) -> None:
    rows = encoded_rows(trained.config)
    serving = Serving.load(exported)
    expected = predict(trained.config, trained.checkpoint, rows)
    assert serving.output_names == list(serving.predict(rows))
    assert_close(serving.predict(rows), expected)
    assert {name: len(values) for name, values in serving.predict(rows.slice(0, 0)).items()} == dict.fromkeys(
        expected, 0
    )
    parity = serving.manifest.parity
    assert parity is not None
    assert parity.rows == 300
    assert max(parity.serving, parity.program) < 1e-6
    assert serving.manifest.quality is None


def restrict(schema: Schema, of_request: bool) -> Schema:
    features = tuple(feature for feature in schema.features if (feature.name in OF_REQUEST) == of_request)
    return schema.model_copy(update={"features": features})


def dense_of(rows: pa.Table) -> np.ndarray:
    matrix: np.ndarray = rows[DENSE_COLUMN].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
    return matrix


def with_dense(columns: dict[str, Any], matrix: np.ndarray) -> pa.Table:
    dense = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
    return pa.table({**columns, DENSE_COLUMN: dense})


def side_of(rows: pa.Table, whole: Schema, schema: Schema, place: np.ndarray) -> Side:
    """Encoded rows with the features of one side only."""
    columns = {SPARSE_PREFIX + feature.name: rows[SPARSE_PREFIX + feature.name] for feature in schema.sparse_features}
    matrix = dense_of(rows)[:, [whole.dense_names.index(name) for name in schema.dense_names]]
    return Side(schema, with_dense(columns, matrix), place)


def test_pairs_of_requests_and_items_say_what_their_rows_say(trained: Trained, exported: Path) -> None:
    serving = Serving.load(exported)
    whole = serving.schema
    of_request, of_item = restrict(whole, True), restrict(whole, False)
    rows = encoded_rows(trained.config).slice(0, 60).combine_chunks()
    generator = np.random.default_rng(0)
    request, item = generator.integers(0, 20, 500), generator.integers(0, 60, 500)
    found = serving.predict_pairs(
        side_of(rows.slice(0, 20), whole, of_request, request), side_of(rows, whole, of_item, item)
    )
    requests, items = (rows.take(pa.array(place)) for place in (request, item))
    names = [SPARSE_PREFIX + feature.name for feature in of_request.sparse_features]
    columns = {
        name: (requests if name in names else items)[name]
        for name in (SPARSE_PREFIX + feature.name for feature in whole.sparse_features)
    }
    is_of_request = [name in of_request.dense_names for name in whole.dense_names]
    assert any(is_of_request)
    assert not all(is_of_request)
    pairs = with_dense(columns, np.where(is_of_request, dense_of(requests), dense_of(items)))
    assert_close(found, predict(trained.config, trained.checkpoint, pairs))
    none = np.empty(0, np.int64)
    empty = serving.predict_pairs(side_of(rows, whole, of_request, none), side_of(rows, whole, of_item, none))
    assert {name: len(values) for name, values in empty.items()} == dict.fromkeys(found, 0)


def run_without_torchrec(*arguments: Path | str) -> dict[str, Any]:
    script = Path(__file__).with_name("without_torchrec.py")
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    outputs: dict[str, Any] = json.loads(Path(arguments[-1]).read_text())
    return outputs


def test_an_export_serves_where_torchrec_is_not_installed(trained: Trained, exported: Path, tmp_path: Path) -> None:
    rows = encoded_rows(trained.config).slice(0, 50)
    with pa.ipc.new_file(tmp_path / "rows.arrow", rows.schema) as writer:
        writer.write_table(rows)
    found = run_without_torchrec("serve", exported, tmp_path / "rows.arrow", tmp_path / "out.json")
    assert_close(found, predict(trained.config, trained.checkpoint, rows))


def test_the_program_runs_by_itself_on_any_number_of_rows(trained: Trained, exported: Path, tmp_path: Path) -> None:
    manifest = read_manifest(exported)
    rows = encoded_rows(trained.config)
    for num_rows in (1, 77):
        few = rows.slice(11, num_rows)
        inputs = inputs_of(few, trained.config.data_schema, manifest.table_rows, CPU)
        assert {name: str(value.dtype).removeprefix("torch.") for name, value in inputs.items()} == {
            name: described.split()[0] for name, described in manifest.program_inputs.items()
        }
        expected = predict(trained.config, trained.checkpoint, few)
        assert_close({k: v.numpy() for k, v in run_program(exported / PROGRAM_NAME, inputs).items()}, expected)
    torch.save(inputs, tmp_path / "inputs.pt")
    found = run_without_torchrec("run", exported / PROGRAM_NAME, tmp_path / "inputs.pt", tmp_path / "out.json")
    assert_close(found, expected)


@pytest.mark.parametrize(
    ("tables", "dense", "bytes_per_value"),
    [("int8", "float32", 1), ("bfloat16", "bfloat16", 2), ("int8", "bfloat16", 1)],
)
def test_smaller_types_cost_little_and_the_export_says_how_much(
    trained: Trained, exported: Path, tmp_path: Path, tables: str, dense: str, bytes_per_value: int
) -> None:
    config = other(trained, tmp_path / "run", export={"tables": tables, "dense": dense})
    folder, _ = export(config)
    serving, manifest = Serving.load(folder), read_manifest(folder)
    assert manifest.version != read_manifest(exported).version
    table = serving.model.front_end.tables["item_id"]
    assert isinstance(table, ServingTable)
    assert table.weight.element_size() == bytes_per_value
    assert (folder / TENSORS_NAME).stat().st_size < (exported / TENSORS_NAME).stat().st_size
    quality = {one["task"]: one for one in manifest.quality or ()}
    assert list(quality) == ["click", "like", "joint_like", "purchase", "joint_purchase", "watch"]
    for name in ("click", "like", "purchase"):
        assert 0 < quality[name]["largest_change"] < 0.02
        for metric in ("auc", "log_loss"):
            found = quality[name]["metrics"][metric]
            assert abs(found["change"]) < 0.005
            assert found["after"] == pytest.approx(found["before"] + found["change"])
            assert found["change_low"] <= found["change"] <= found["change_high"]
    rows = encoded_rows(config)
    expected = predict(trained.config, trained.checkpoint, rows)
    assert np.abs(serving.predict(rows)["click"] - expected["click"]).max() < 0.02


def test_an_export_that_says_something_else_is_refused_and_leaves_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_model(*arguments: Any) -> Any:
        model = build_serving_model(*arguments)
        load_trained = model.load_trained

        def load_and_change(state: Any) -> None:
            load_trained(state)
            model.towers.output.bias_N1H.data[0] += 1e-3

        monkeypatch.setattr(model, "load_trained", load_and_change)
        return model

    config = other(trained, tmp_path / "run")
    monkeypatch.setattr(export_run, "build_serving_model", another_model)
    with pytest.raises(
        ArtifactError, match=r"output '.*' of the exported model differs by .* from that of the checkpoint"
    ):
        export(config)
    assert [path.name for path in config.workspace_dir.iterdir() if "export" in path.name] == []
