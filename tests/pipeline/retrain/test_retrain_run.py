"""Slots of retraining on a small log: what each reads, starts from and is judged by, and what a refusal leaves."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from small_retrain import (
    FIRST_SLOT,
    ROWS_PER_DAY,
    Clock,
    make_config,
    make_log,
    registry_of,
    run_until,
    slot_of,
    turn_labels,
)

from pipeline.errors import ArtifactError, DataError
from pipeline.preprocess.profiles.statistics import read_statistics
from pipeline.retrain.champion import SLOT_NAME
from pipeline.retrain.plan import folder_of
from pipeline.retrain.preview import preview
from pipeline.retrain.run import SlotResult
from pipeline.retrain.state import STAGES
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import read_index
from pipeline.shards.vocabularies import digest_vocabulary
from pipeline.train.checkpoints.warm_start import WARM_START_NAME

BAD_DAY = 4


class Done(NamedTuple):
    config: RunConfig
    log: Path
    results: list[SlotResult]
    said: list[str]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Three slots: two good ones, and one whose fresh day has wrong labels."""
    folder = tmp_path_factory.mktemp("retrain")
    log = make_log(folder / "log", {BAD_DAY: turn_labels})
    config = make_config(log, folder)
    said: list[str] = []
    first = run_until(config, FIRST_SLOT, said=said)
    return Done(config, log, [*first, *run_until(config, BAD_DAY + 1, said=said)], said)


def test_missed_slots_are_done_in_order_and_a_good_challenger_is_promoted(done: Done) -> None:
    assert [result.slot for result in done.results] == [slot_of(day) for day in (3, 4, 5)]
    assert [result.is_promoted for result in done.results] == [True, True, False]
    assert len({result.run_id for result in done.results}) == 3
    assert [result.version for result in done.results] == [1, 2, 3]


def test_a_refused_challenger_is_published_with_its_reasons_and_the_champion_stays(done: Done) -> None:
    registry = registry_of(done.config)
    champion = registry.champion()
    assert champion is not None
    assert champion.version == 2
    assert done.results[1].run_id in champion.reason
    decision = json.loads((registry.fetch(3, done.log) / "decision.json").read_bytes())
    assert decision["promoted"] is False
    assert any("not surely above the 0.5 of chance" in reason for reason in done.results[2].decision.refusals)
    assert [rule["reason"] for rule in decision["rules"] if not rule["passed"]] == done.results[2].decision.refusals


def test_versions_know_their_slot_and_what_they_were_trained_on_from(done: Done) -> None:
    registry = registry_of(done.config)
    lineages = [registry.verify(number).lineage for number in registry.numbers()]
    assert [lineage.parent for lineage in lineages] == [None, 1, 2]
    assert [lineage.slot for lineage in lineages] == [result.slot for result in done.results]
    assert [lineage.run_id for lineage in lineages] == [result.run_id for result in done.results]
    assert all(lineage.code_revision for lineage in lineages)


def test_each_slot_trains_on_what_was_fresh_in_the_one_before(done: Done) -> None:
    rows = []
    for result in done.results:
        record = json.loads((result.folder / SLOT_NAME).read_bytes())
        index = read_index(result.folder / "dataset")
        assert index.time_range is not None
        assert index.time_range[0][:10] == record["trained_from"][:10]
        rows.append((index.num_rows("train") + index.num_rows("validation"), index.num_rows("test")))
        assert read_statistics(result.folder / "dataset")["window"]["rows_outside"] == 0
    assert rows == [(2 * ROWS_PER_DAY, ROWS_PER_DAY), (ROWS_PER_DAY, ROWS_PER_DAY), (ROWS_PER_DAY, ROWS_PER_DAY)]
    untils = [json.loads((result.folder / SLOT_NAME).read_bytes())["trained_until"][:10] for result in done.results]
    assert untils == ["2025-01-08", "2025-01-09", "2025-01-10"]


def test_a_later_slot_extends_the_vocabulary_and_trains_on_from_the_champion(done: Done) -> None:
    first, second = (result.folder for result in done.results[:2])
    before = digest_vocabulary(first / "dataset", "item_id")
    assert digest_vocabulary(second / "dataset", "item_id", before.num_values) == before
    warm = json.loads((second / WARM_START_NAME).read_bytes())
    assert warm["changed_tables"] == []
    assert warm["new"] == []
    assert not (first / WARM_START_NAME).exists()


def test_requests_are_not_divided_between_training_and_validation(done: Done) -> None:
    folder = done.results[0].folder / "dataset"
    requests = {}
    for split in ("train", "validation"):
        paths = sorted(folder.glob(f"{split}-*.arrow"))
        tables = [pa.ipc.open_file(path).read_all() for path in paths]
        requests[split] = set(pa.concat_tables(tables)["key_request"].to_pylist())
    assert requests["train"].isdisjoint(requests["validation"])
    share = len(requests["validation"]) / sum(map(len, requests.values()))
    assert 0.05 < share < 0.15


def test_what_is_done_is_not_done_again(done: Done) -> None:
    assert run_until(done.config, BAD_DAY + 1) == []
    assert registry_of(done.config).numbers() == [1, 2, 3]


def test_a_preview_says_what_would_be_read_and_changes_nothing(done: Done, tmp_path: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in done.config.workspace_dir.parent.rglob("*"))
    (shown,), more = preview(done.config, until=slot_of(6), clock=Clock())
    assert more == []
    assert (str(shown.plan.training), str(shown.plan.fresh)) == ("2025-01-10 to 2025-01-11", "2025-01-11 to 2025-01-12")
    assert (shown.num_files, shown.num_rows, shown.stages) == (2, 2 * ROWS_PER_DAY, STAGES)
    shown_all, more = preview(done.config, until=slot_of(60), clock=Clock())
    assert len(shown_all) + len(more) == 55
    # If the one before is promoted.
    assert str(shown_all[1].plan.training) == "2025-01-11 to 2025-01-12"
    assert sorted(path.stat().st_mtime_ns for path in done.config.workspace_dir.parent.rglob("*")) == before


@pytest.fixture
def copied(done: Done, tmp_path: Path) -> RunConfig:
    """The registry of the three slots in another place, with no workspace."""
    shutil.copytree(Path(registry_of(done.config).root.location), tmp_path / "registry")
    return make_config(done.log, tmp_path)


def test_the_registry_alone_is_enough_to_go_on(copied: RunConfig) -> None:
    (result,) = run_until(copied, 6)
    assert registry_of(copied).show(result.version).lineage.parent == 2
    assert result.slot == slot_of(6)


def test_a_champion_of_another_schema_makes_a_cold_start_that_says_so(copied: RunConfig) -> None:
    schema = copied.data_schema.model_copy(update={"features": copied.data_schema.features[:3]})
    said: list[str] = []
    (result,) = run_until(copied.model_copy(update={"data_schema": schema}), 6, said=said)
    assert "slot 2025-01-12: champion 2 has another schema and is not compared with" in said
    assert "trained anew on 2025-01-09 to 2025-01-11, measured on" in said[-2]
    assert registry_of(copied).show(result.version).lineage.parent is None


def tear(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("champion.json", tear),
        ("champion.json", edit),
        ("champion.json", Path.unlink),
        ("versions/000002/manifest.json", tear),
        ("versions/000002", shutil.rmtree),
        ("versions/000002/slot.json", Path.unlink),
        ("versions/000002/checkpoint", shutil.rmtree),
        ("versions/000002/dataset/index.json", tear),
    ],
)
def test_a_champion_that_cannot_be_read_stops_the_run_and_is_not_replaced(
    copied: RunConfig, name: str, damage: Any
) -> None:
    root = Path(registry_of(copied).root.location)
    damage(root / name)
    left = (root / "champion.json").read_text() if (root / "champion.json").exists() else None
    with pytest.raises(ArtifactError) as caught:
        run_until(copied, 6)
    assert caught.value.exit_code == 3
    assert not folder_of(copied, slot_of(6)).exists()
    if left is None:
        assert not (root / "champion.json").exists()
    else:
        # A lease raises the token; nothing else may have changed.
        kept = (root / "champion.json").read_text()
        assert kept == left or json.loads(kept)["champion"] == json.loads(left)["champion"]


def test_a_slot_whose_rows_are_not_there_yet_waits_for_them(copied: RunConfig) -> None:
    said = r"slot 2025-01-13: the test split has no row.*See whether the log has all rows of 2025-01-10"
    with pytest.raises(DataError, match=said):
        run_until(copied.model_copy(update={"retrain": _from(copied, 7)}), 7)
    assert registry_of(copied).numbers() == [1, 2, 3]


def _from(config: RunConfig, day: int) -> Any:
    assert config.retrain is not None
    return config.retrain.model_copy(update={"first_slot": slot_of(day)})


def test_a_registry_in_a_store_is_trained_on_from_a_copy_that_does_not_pile_up(
    done: Done, bucket: str, tmp_path: Path
) -> None:
    changes = {"registry": {"location": f"{bucket}/models", "lease_seconds": 60}}
    config = make_config(done.log, tmp_path, **changes)
    results = run_until(config, FIRST_SLOT + 1)
    assert [result.is_promoted for result in results] == [True, True]
    assert registry_of(config).show(2).lineage.parent == 1
    copies = folder_of(config, results[0].slot).parent / "champions"
    assert [path.name for path in copies.iterdir()] == ["000001"]
    vocabularies = [
        read_index(result.folder / "dataset").vocabulary_version for result in (*results, *done.results[:2])
    ]
    assert vocabularies[:2] == vocabularies[2:]
