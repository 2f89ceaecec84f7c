"""Every stage with its inputs and its dataset in a store, against the same stages on a disk."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from s3_store import ACCESS_KEY, SECRET_KEY, Store, refuse

from jobs.ray_executor import RayExecutor
from pipeline import storage
from pipeline.config import build
from pipeline.errors import DataError, StorageError, UsageError
from pipeline.evaluate.run import REPORT_JSON, evaluate
from pipeline.executor import InProcessExecutor
from pipeline.files import sha256_of
from pipeline.preprocess.restart import STAGING_FOLDER
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.score.run import score
from pipeline.shards.manifest import INDEX_NAME, STATISTICS_NAME, read_index
from pipeline.shards.remote import COPY_OF_NAME
from pipeline.train.run import train
from pipeline.train.tables.placement import Hardware
from pipeline.train.tables.plan import plan_run
from pipeline.train.telemetry import read_history


@pytest.fixture
def settings(demo_settings: dict[str, Any], simulated: Path, bucket: str, tmp_path: Path) -> dict[str, Any]:
    """The small log in a store, and a place in it for the dataset."""
    for path in sorted(simulated.rglob("*")):
        if path.is_file():
            storage.upload(path, storage.join(f"{bucket}/logs", path.relative_to(simulated).as_posix()))
    places = {"workspace": str(tmp_path / "run"), "inputs": f"{bucket}/logs", "dataset": f"{bucket}/data/dataset"}
    return demo_settings | places


def content_of(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.glob(pattern) if path.is_file()}


def test_all_stages_in_a_store_that_falters_give_what_they_give_on_a_disk(
    settings: dict[str, Any], make_config: Any, dataset: Path, store: Store, tmp_path: Path, capfd: Any, caplog: Any
) -> None:
    config = build(RunConfig, settings, "the tests")
    bucket = f"/{config.inputs.split('/')[2]}"
    busy = refuse("503 Slow Down", "SlowDown")
    for request in (f"GET {bucket}/logs/log/", f"GET {bucket}/logs/users", f"PUT {bucket}/data/dataset/train"):
        store.fail(2, busy, request)
    preprocess(config, InProcessExecutor())

    # What lies in the store is the local dataset; only the places of the tables have other names.
    found = {location.removeprefix(f"{config.dataset}/") for location in storage.find_files(f"{config.dataset}/**")}
    assert found == set(content_of(dataset))
    for name in found - {STATISTICS_NAME}:
        assert storage.read_bytes(f"{config.dataset}/{name}") == (dataset / name).read_bytes(), name
    statistics = storage.read_bytes(f"{config.dataset}/{STATISTICS_NAME}").decode()
    local = make_config("local")
    assert json.loads(statistics.replace(config.inputs, local.inputs)) == json.loads(
        (dataset / STATISTICS_NAME).read_text()
    )

    # Elsewhere nothing is there yet.
    elsewhere = build(RunConfig, settings | {"workspace": str(tmp_path / "elsewhere")}, "the tests")
    plan_run(elsewhere, Hardware(1, 1, "cpu", 0.0, 64.0, 0.1))
    assert not list(elsewhere.dataset_dir.glob("*.arrow"))
    for request in (f"GET {bucket}/data/dataset/train", f"GET {bucket}/logs/candidates"):
        store.fail(2, busy, request)
    tensors = []
    for one in (elsewhere, local):
        tensors.append(content_of(train(one), "*.distcp"))
        evaluate(one)
        score(one)
    assert tensors[0] == tensors[1]
    reports = [json.loads((one.report_dir / REPORT_JSON).read_text())["tasks"] for one in (elsewhere, local)]
    assert reports[0] == reports[1]
    assert content_of(elsewhere.scores_dir, "part-*") == content_of(local.scores_dir, "part-*")
    assert store.num_faults == 0

    shown = "".join(capfd.readouterr()).encode() + caplog.text.encode()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [key for key in (ACCESS_KEY, SECRET_KEY) for text in (shown, *written) if key.encode() in text]


@pytest.mark.exhaustive
@pytest.mark.ray
def test_tasks_and_ranks_on_ray_write_and_read_a_dataset_in_a_store(
    settings: dict[str, Any], make_config: Any, dataset: Path
) -> None:
    config = build(RunConfig, settings | {"train": settings["train"] | {"num_ranks": 2}}, "the tests")
    with RayExecutor(None, 2) as executor:
        preprocess(config, executor)
        shutil.rmtree(config.dataset_dir)
        best = train(config)
    assert content_of(config.dataset_dir, "train-*") == content_of(dataset, "train-*")
    local = make_config("local", train={"num_ranks": 1})
    assert best.name == train(local).name
    losses = [[record["losses"] for record in read_history(one.workspace_dir)] for one in (config, local)]
    assert [pytest.approx(one, abs=1e-5) for one in losses[0]] == losses[1]


def test_a_dataset_that_was_not_uploaded_whole_does_not_exist_and_the_next_attempt_goes_on(
    settings: dict[str, Any], store: Store
) -> None:
    config = build(RunConfig, settings, "the tests")
    store.fail(3, refuse("503 Slow Down", "SlowDown"), f"PUT /{config.inputs.split('/')[2]}/data/dataset/{INDEX_NAME}")
    with pytest.raises(StorageError, match=rf"{config.dataset}/{INDEX_NAME} failed 3 times in a row: slow down"):
        preprocess(config, InProcessExecutor())
    assert not storage.exists(f"{config.dataset}/{INDEX_NAME}")
    staged = {path: path.stat().st_mtime_ns for path in (config.dataset_dir / STAGING_FOLDER).glob("part-*.json")}
    store.fail(3, refuse("503 Slow Down", "SlowDown"), f"PUT /{config.inputs.split('/')[2]}/data/dataset/{INDEX_NAME}")
    with pytest.raises(StorageError):
        preprocess(config, InProcessExecutor())
    assert staged == {path: path.stat().st_mtime_ns for path in staged}
    shards = [shard.path for shard in read_index(config.dataset_dir).shards]
    storage.remove(f"{config.dataset}/{shards[0]}")
    preprocess(config, InProcessExecutor())
    found = {storage.name_of(file) for file in storage.find_files(f"{config.dataset}")}
    assert found >= {*shards, INDEX_NAME}
    assert storage.exists(f"{config.dataset}/{INDEX_NAME}")
    assert not (config.dataset_dir / STAGING_FOLDER).exists()
    with pytest.raises(UsageError, match=rf"^{config.dataset} holds a complete dataset"):
        preprocess(config, InProcessExecutor())
    storage.remove(f"{config.dataset}/{INDEX_NAME}")
    with pytest.raises(UsageError, match=rf"^{config.dataset_dir} holds a complete dataset"):
        preprocess(config, InProcessExecutor())


def test_a_new_dataset_takes_the_place_of_the_earlier_one_only_when_asked(
    settings: dict[str, Any], bucket: str, tmp_path: Path
) -> None:
    earlier = build(RunConfig, settings, "the tests")
    preprocess(earlier, InProcessExecutor())
    (tmp_path / "note").write_text("kept")
    storage.upload(tmp_path / "note", f"{bucket}/data/dataset/train.txt")
    # One shard of training rows instead of many small ones, in another workspace.
    later = settings | {"workspace": str(tmp_path / "later"), "preprocess": {**settings["preprocess"], "extend": None}}
    later["preprocess"]["rows_per_shard"] = 5_000
    config = build(RunConfig, later, "the tests")
    with pytest.raises(UsageError, match=rf"^{bucket}/data/dataset holds a complete dataset"):
        preprocess(config, InProcessExecutor())
    index = preprocess(config, InProcessExecutor(), overwrite=True)
    shards = [location for location in storage.find_files(f"{bucket}/data/dataset") if location.endswith(".arrow")]
    assert [storage.name_of(location) for location in shards] == sorted(shard.path for shard in index.shards)
    assert storage.exists(f"{bucket}/data/dataset/train.txt")
    assert (config.dataset_dir / COPY_OF_NAME).read_text() == f"{bucket}/data/dataset"


def test_a_dataset_in_a_store_is_extended_and_compared_with(
    settings: dict[str, Any], bucket: str, tmp_path: Path
) -> None:
    earlier = preprocess(build(RunConfig, settings, "the tests"), InProcessExecutor())
    section = settings["preprocess"] | {
        "extend": f"{bucket}/data/dataset",
        "contract": {"drift": {"previous": f"{bucket}/data/dataset"}},
    }
    changes = {"workspace": str(tmp_path / "later"), "dataset": f"{bucket}/later", "preprocess": section}
    config = build(RunConfig, settings | changes, "the tests")
    later = preprocess(config, InProcessExecutor())
    assert later.vocabulary_version == earlier.vocabulary_version
    statistics = json.loads((config.dataset_dir / STATISTICS_NAME).read_text())
    assert statistics["drift"]["previous"] == f"{bucket}/data/dataset"
    assert not [finding for finding in statistics["drift"]["findings"] if finding["is_over"]]


def test_inputs_that_are_not_there_are_told_from_a_bucket_that_is_not(settings: dict[str, Any], bucket: str) -> None:
    def attempt(inputs: str) -> None:
        preprocess(build(RunConfig, settings | {"inputs": inputs}, "the tests"), InProcessExecutor())

    with pytest.raises(StorageError, match="there is no bucket 'not-there'"):
        attempt("s3://not-there/logs")
    with pytest.raises(DataError, match=rf"the input folder {bucket}/nothing is not there"):
        attempt(f"{bucket}/nothing")
    with pytest.raises(DataError, match=rf"there is no file, folder or match for {bucket}/logs/log/log"):
        attempt(f"{bucket}/logs/log")
