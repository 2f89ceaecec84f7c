"""Every way in which the score stage refuses: one message, the right exit code, and nothing left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_candidates import (
    FUSION,
    NUM_REQUESTS,
    TABLES,
    TASKS,
    assert_same_ranking,
    candidate_table,
    changed,
    make_candidates,
    read_ranked,
    with_candidates,
)

from pipeline.errors import ArtifactError, ConfigError, DataError, GatehouseError, UsageError
from pipeline.run_config import RunConfig
from pipeline.schema import Schema
from pipeline.score.candidates import cut
from pipeline.score.run import check_score, read_rules, score
from pipeline.train.checkpoints.checkpoint import CheckpointManifest, best_checkpoint

# --- refusals


def refusal(config: RunConfig, error: type[GatehouseError], **options: Any) -> GatehouseError:
    """The error of a score run, which has left nothing behind."""
    before = sorted(config.workspace_dir.rglob("*"))
    with pytest.raises(error) as caught:
        score(config, **options)
    assert caught.value.fix
    assert sorted(config.workspace_dir.rglob("*")) == before
    return caught.value


def edited(row: int, column: str, value: Any) -> pa.Table:
    """The usual candidates with one value changed."""
    rows = candidate_table().to_pylist()
    rows[row][column] = value
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: edited(7, "request", 10_003), "request 10003 stands in {}, row 3 and in {}, row 8"),
        (lambda: edited(7, "request", None), "column 'request' of {}, row 8 is null"),
        (lambda: edited(7, "items", [4, None, 5]), "column 'items' of {}, row 8 lists a null item"),
        (lambda: edited(0, "items", [None]), "column 'items' of {}, row 1 lists a null item"),
        (lambda: candidate_table(items=pa.array([[1.0, float("nan")]] * 24)), "{}, row 1 lists a null item"),
        (lambda: candidate_table(items=pa.array([7] * 24)), "column 'items' of {} has type int64, not lists of items"),
        (lambda: candidate_table(items=pa.array(["1,2"] * 24)), "column 'items' of {} has type string, not lists"),
        (lambda: candidate_table(items=pa.array([[[7]]] * 24)), "not lists of items"),
        (lambda: candidate_table(items=pa.nulls(24)), "column 'items' of {} has type null, not lists of items"),
        (lambda: candidate_table().drop_columns(["items"]), "column 'items' is not in {}"),
        (lambda: candidate_table().drop_columns(["request"]), "column 'request' is not in {}"),
        (lambda: candidate_table().drop_columns(["user"]), "column 'user' is not in {}"),
        (
            lambda: candidate_table().drop_columns(["hour"]),
            "column 'hour' is not in {}, nor among the columns taken from",
        ),
        (lambda: candidate_table()[:0], "{} holds no row"),
        (
            lambda: candidate_table(battery=pa.array(["0.5"] * 19 + ["half"] * 5)),
            "'half' in {}, row 20 is not a number",
        ),
    ],
)
def test_wrong_candidates_are_named_with_their_place(
    trained: RunConfig, tmp_path: Path, make: Callable[[], pa.Table], what: str
) -> None:
    error = refusal(with_candidates(trained, tmp_path, make()), DataError)
    assert what.format(*[tmp_path / "other.parquet"] * 2) in error.what
    assert error.exit_code == 3


def test_a_request_of_two_files_is_found_before_anything_is_scored(trained: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    pq.write_table(candidate_table()[:10], tmp_path / "sets" / "a.parquet", row_group_size=3)
    table = candidate_table()[9:]
    # The same key as text in the other file.
    texts = table.set_column(0, "request", table["request"].cast(pa.string()))
    pq.write_table(texts, tmp_path / "sets" / "b.parquet", row_group_size=3)
    error = refusal(changed(trained, tmp_path, score={"candidates": {"path": str(tmp_path / "sets")}}), DataError)
    assert error.what == (
        f"request 10010 stands in {tmp_path}/sets/a.parquet, row 10 and in {tmp_path}/sets/b.parquet, row 1"
    )


def test_a_row_is_counted_over_the_row_groups_of_its_file(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "REQUESTS_PER_UNIT", 4)
    for column, value in (("items", [None]), ("request", None), ("request", 10_001)):
        error = refusal(with_candidates(trained, tmp_path, edited(14, column, value), group_rows=4), DataError)
        assert "row 15" in error.what
    texts = candidate_table(battery=pa.array(["0.5"] * 14 + ["half"] * 10))
    assert "row 15" in refusal(with_candidates(trained, tmp_path, texts, group_rows=4), DataError).what


def test_a_wrong_value_of_an_item_table_names_the_table(trained: RunConfig, tmp_path: Path) -> None:
    items = pd.read_parquet(Path(trained.inputs) / "items.parquet")
    items["price"] = items["price"].astype(str).where(items["item"] != 7, "dear")
    items.to_parquet(tmp_path / "items.parquet")
    tables = [TABLES[0], {"path": str(tmp_path / "items.parquet"), "key": "item"}, TABLES[2]]
    error = refusal(changed(trained, tmp_path, preprocess={"tables": tables}), DataError)
    assert f"'dear' in {tmp_path}/items.parquet, joined to the items of " in error.what


def test_a_feature_in_the_candidates_and_in_a_table_is_ambiguous_until_a_table_lists_it(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path
) -> None:
    table = candidate_table().append_column("country", pa.array(["nowhere"] * NUM_REQUESTS))
    error = refusal(with_candidates(trained, tmp_path, table), ConfigError)
    assert "column 'country' is in " in error.what
    assert "columns" in error.fix
    assert error.exit_code == 2
    tables = [{**TABLES[0], "columns": ["country", "age"]}, *TABLES[1:]]
    config = with_candidates(trained, tmp_path, table)
    config = changed(trained, tmp_path, score=config.model_dump(mode="json")["score"], preprocess={"tables": tables})
    assert_same_ranking(read_ranked(score(config)), ranked)


def test_a_user_key_that_only_an_item_table_has_is_missing(trained: RunConfig, tmp_path: Path) -> None:
    items = pd.read_parquet(Path(trained.inputs) / "items.parquet")
    items["user"] = 1
    items.to_parquet(tmp_path / "items.parquet")
    tables = [TABLES[0], {"path": str(tmp_path / "items.parquet"), "key": "item"}, TABLES[2]]
    config = with_candidates(trained, tmp_path, candidate_table().drop_columns(["user"]))
    config = changed(trained, tmp_path, score=config.model_dump(mode="json")["score"], preprocess={"tables": tables})
    assert "column 'user' is not in" in refusal(config, DataError).what


@pytest.mark.parametrize("path", ["nowhere.parquet", "nowhere/*.parquet"])
def test_candidates_that_are_not_there_are_named(trained: RunConfig, tmp_path: Path, path: str) -> None:
    error = refusal(changed(trained, tmp_path, score={"candidates": {"path": path}}), DataError)
    assert f"there is no file, folder or match for {trained.inputs}/{path}" in error.what
    assert error.exit_code == 3


def test_csv_candidates_are_told_which_formats_hold_lists(trained: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "sets.csv").write_text("request,user,hour,battery,history,items\n1,2,3,0.5,,1 2\n")
    error = refusal(changed(trained, tmp_path, score={"candidates": {"path": str(tmp_path / "sets.csv")}}), DataError)
    assert "column 'items' of " in error.what
    assert "Parquet, Arrow or JSON-lines" in error.fix


@pytest.mark.parametrize(
    ("fusion", "what"),
    [("click * clik", "names 'clik'"), ("click +", "ends too early"), ("__import__('os')", "not in its grammar")],
)
def test_a_wrong_fusion_is_found_before_anything_is_read(trained: RunConfig, fusion: str, what: str) -> None:
    config = trained.model_copy(update={"score": trained.score and trained.score.model_copy(update={"fusion": fusion})})
    with pytest.raises(ConfigError) as caught:
        score(config.model_copy(update={"workspace": "/nowhere", "inputs": "/nowhere"}))
    assert what in caught.value.what
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("fusion", "value"), [("log(click - click)", "-inf"), ("click ** 0.5 + sqrt(0 - like)", "nan")]
)
def test_a_fusion_that_is_not_finite_names_the_candidate_and_its_outputs(
    trained: RunConfig, tmp_path: Path, fusion: str, value: str
) -> None:
    error = refusal(changed(trained, tmp_path, score={"fusion": fusion}), ConfigError)
    first = min(make_candidates().loc[0, "items"])
    assert f"score.fusion {fusion!r} is {value} for item {first} of request 10001, where click = 0." in error.what
    assert error.exit_code == 2


def test_a_configuration_without_a_score_section_is_told_what_to_add(trained: RunConfig) -> None:
    with pytest.raises(ConfigError, match="no score section"):
        check_score(trained.model_copy(update={"score": None}))


@pytest.mark.parametrize("name", ["score", "rank", "item", "user", "request"])
def test_a_task_that_is_called_like_another_column_is_refused(trained: RunConfig, tmp_path: Path, name: str) -> None:
    schema = trained.data_schema.model_dump(mode="json")
    schema["tasks"].append({"name": name, "kind": "binary", "label": "is_other"})
    config = changed(trained, tmp_path, schema=schema)
    with pytest.raises(ConfigError) as caught:
        check_score(config)
    assert f"two columns {name!r}" in caught.value.what


def test_a_request_may_be_a_user(trained: RunConfig, tmp_path: Path) -> None:
    config = changed(trained, tmp_path, schema={"keys": {"user": "user", "request": "user", "item": "item"}})
    assert read_rules(config).fusion.formula == FUSION


def test_an_earlier_ranking_is_kept_unless_it_is_overwritten(trained: RunConfig, tmp_path: Path) -> None:
    config = changed(trained, tmp_path)
    folder = score(config)
    first = (folder / "part-00000.parquet").read_bytes()
    error = refusal(config, UsageError)
    assert f"{folder} holds ranked candidates already" in error.what
    assert error.exit_code == 2
    # A failure in the middle leaves the earlier ranking whole.
    refusal(changed(trained, tmp_path, score={"fusion": "log(click - click)"}), ConfigError, overwrite=True)
    assert (folder / "part-00000.parquet").read_bytes() == first
    (folder / "part-00001.parquet").touch()
    assert score(config, overwrite=True) == folder
    assert (folder / "part-00000.parquet").read_bytes() == first
    assert not (folder / "part-00001.parquet").exists()


def test_what_an_interrupted_run_left_is_no_ranking(trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path) -> None:
    config = changed(trained, tmp_path)
    unfinished = config.workspace_dir / ".scoring"
    (unfinished / "ranked").mkdir(parents=True)
    (unfinished / "ranked" / "part-00007.parquet").touch()
    assert_same_ranking(read_ranked(score(config)), ranked)
    assert not unfinished.exists()


def test_a_workspace_that_cannot_be_written_is_one_message(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(trained, tmp_path)

    def refuse(path: Path, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    error = refusal(config, UsageError)
    assert "cannot be written" in error.what


@pytest.fixture
def own_checkpoint(trained: RunConfig, tmp_path: Path) -> Path:
    """A copy of the checkpoint to damage."""
    best = best_checkpoint(trained.checkpoints_dir)
    return Path(shutil.copytree(best, tmp_path / best.name))


def test_another_checkpoint_can_be_named(
    trained: RunConfig, ranked: pd.DataFrame, tmp_path: Path, own_checkpoint: Path
) -> None:
    folder = score(changed(trained, tmp_path), checkpoint=own_checkpoint)
    assert json.loads((folder / "manifest.json").read_bytes())["checkpoint"]["path"] == str(own_checkpoint)
    assert_same_ranking(read_ranked(folder), ranked)


def test_a_damaged_checkpoint_is_refused(trained: RunConfig, tmp_path: Path, own_checkpoint: Path) -> None:
    file = max(own_checkpoint.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    config = changed(trained, tmp_path)
    config.export_dir.unlink()
    error = refusal(config, ArtifactError, checkpoint=own_checkpoint)
    assert f"checkpoint file {file} is damaged" in error.what
    assert error.exit_code == 3


def test_a_checkpoint_of_another_schema_is_refused(trained: RunConfig, tmp_path: Path, own_checkpoint: Path) -> None:
    path = own_checkpoint / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["data_schema"]["features"][3]["min_count"] = 9
    manifest["schema_fingerprint"] = Schema.model_validate(manifest["data_schema"]).fingerprint()
    edited = CheckpointManifest.model_validate(manifest)
    path.write_text(edited.model_copy(update={"digest": edited.digest_of_fields()}).model_dump_json())
    error = refusal(changed(trained, tmp_path), ArtifactError, checkpoint=own_checkpoint)
    assert "was trained with another schema: feature 'item': min_count was 9, is 2" in error.what
    assert error.exit_code == 3


def test_another_schema_than_the_datasets_is_refused(trained: RunConfig, tmp_path: Path) -> None:
    config = changed(trained, tmp_path, schema={"tasks": TASKS[:2]})
    config = changed(config, tmp_path, score={"fusion": "click"})
    assert "task 'watch' is gone" in refusal(config, ArtifactError).what


def test_a_workspace_without_a_dataset_or_a_checkpoint_says_which_verb_makes_it(
    trained: RunConfig, tmp_path: Path
) -> None:
    config = changed(trained, tmp_path)
    (config.workspace_dir / "checkpoints").unlink()
    assert "run `train` first" in refusal(config, ArtifactError).fix
    (config.workspace_dir / "dataset").unlink()
    assert "run `preprocess`" in refusal(config, ArtifactError).fix


def test_inputs_that_are_not_there_are_named(trained: RunConfig, tmp_path: Path) -> None:
    config = changed(trained, tmp_path).model_copy(update={"inputs": str(tmp_path / "nowhere")})
    assert "the input folder" in refusal(config, DataError).what
