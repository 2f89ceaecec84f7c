"""What the monitor says of a registry, on a disk and in a store: the champion, decisions, the lease, the next slot."""

import json
import shutil
from pathlib import Path

import pytest
from monitored import (
    DAY,
    FIRST_SLOT,
    Values,
    days,
    decision,
    errors_in,
    make_config,
    publish,
    record,
    report,
    scrape,
    write_records,
)
from s3_store import ACCESS_KEY, SECRET_KEY, Fault, Store, refuse
from small_registry import SECONDS, promote

from pipeline import storage
from pipeline.evaluate.run import REPORT_JSON
from pipeline.gate.decide import DECISION_JSON
from pipeline.monitor import models
from pipeline.registry.registry import Registry
from pipeline.registry.versions import remove
from pipeline.run_config import RunConfig

SOURCES = {"training", "champion", "report", "lease", "decisions", "slot", "schedule"}


@pytest.fixture(params=["disk", "store"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "store":
        return f"{request.getfixturevalue('bucket')}/models"
    (tmp_path / "registry").mkdir()
    return str(tmp_path / "registry")


@pytest.fixture
def config(location: str, tmp_path: Path) -> RunConfig:
    return make_config(tmp_path, location)


@pytest.fixture
def registry(location: str) -> Registry:
    return Registry.open(location)


def judged(registry: Registry, folder: Path, *outcomes: str) -> None:
    """A version for each slot: promoted, refused by a rule, or without a decision; the promoted ones are champions."""
    for slot, outcome in zip(days(), outcomes, strict=False):
        files = {} if outcome == "none" else {"decision": decision(*([] if outcome == "promoted" else [outcome]))}
        number = publish(registry, folder, slot, report=report(auc=0.7, calibration=1.1), **files)
        if outcome == "promoted":
            promote(registry, number)


def by_label(values: Values, metric: str) -> dict[str, float]:
    return {key[1]: value for key, value in values.items() if key[0] == metric}


def test_the_champion_is_exported_with_its_slot_and_its_report(
    config: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    judged(registry, tmp_path / "made", "promoted", "promoted", "drift.max_psi")
    champion = registry.champion()
    assert champion
    values = scrape(config)
    assert values["champion_version",] == champion.version == 2
    assert values["champion_promoted_timestamp_seconds",] == champion.promoted_at.timestamp()
    assert values["champion_slot_timestamp_seconds",] == (FIRST_SLOT + DAY).timestamp()
    assert values["champion_main_metric", "click", "auc"] == 0.7
    assert values["champion_calibration", "click"] == 1.1
    assert errors_in(values) == set()


def test_decisions_are_counted_over_the_versions_that_are_there(
    config: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    judged(registry, tmp_path / "made", "max_loss", "promoted", "max_loss", "none", "drift.max_psi")
    values = scrape(config)
    assert by_label(values, "versions") == {"promoted": 1, "refused": 3, "none": 1}
    assert by_label(values, "refusals") == {"max_loss": 2, "drift.max_psi": 1}
    assert values["refusals_in_a_row",] == 2
    assert values["last_decision_promoted",] == 0
    assert values["last_decision_timestamp_seconds",] == registry.show(5).created.timestamp()
    assert values["champion_version",] == 2
    lease = registry.acquire("the tests", SECONDS)
    assert registry.retain(1, token=lease.token) == [1, 3, 4]
    registry.release(lease)
    values = scrape(config)
    assert by_label(values, "versions") == {"promoted": 1, "refused": 1}
    assert values["refusals_in_a_row",] == 1


def test_a_rule_that_refuses_several_times_in_a_decision_refuses_one_version(
    config: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "made", FIRST_SLOT, decision=decision("max_loss", "max_loss", "min_rows"))
    assert by_label(scrape(config), "refusals") == {"max_loss": 1, "min_rows": 1}


def test_a_promotion_ends_the_refusals_in_a_row(config: RunConfig, registry: Registry, tmp_path: Path) -> None:
    judged(registry, tmp_path / "made", "max_loss", "max_loss", "promoted")
    values = scrape(config)
    assert (values["refusals_in_a_row",], values["last_decision_promoted",]) == (0, 1)


def test_an_empty_registry_has_no_champion_and_waits_for_the_first_slot(config: RunConfig) -> None:
    values = scrape(config)
    assert errors_in(values) == set()
    assert not [key for key in values if key[0].startswith(("champion", "last_decision", "versions"))]
    assert (values["lease_held",], values["refusals_in_a_row",]) == (0, 0)
    assert values["retrain_next_slot_timestamp_seconds",] == FIRST_SLOT.timestamp()
    assert values["retrain_period_seconds",] == DAY.total_seconds()


def test_the_next_slot_follows_the_newest_one_that_is_done(
    config: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    judged(registry, tmp_path / "made", "promoted", "max_loss")
    assert scrape(config)["retrain_next_slot_timestamp_seconds",] == (FIRST_SLOT + 2 * DAY).timestamp()


def test_a_lease_is_held_until_it_is_released(config: RunConfig, registry: Registry) -> None:
    lease = registry.acquire("the tests", SECONDS)
    values = scrape(config)
    assert (values["lease_held",], values["lease_expires_timestamp_seconds",]) == (1, lease.expires.timestamp())
    registry.release(lease)
    values = scrape(config)
    assert values["lease_held",] == 0
    assert ("lease_expires_timestamp_seconds",) not in values


def test_a_lease_that_ran_out_is_not_held(config: RunConfig, registry: Registry) -> None:
    lease = registry.acquire("a run that died", 1e-6)
    values = scrape(config)
    assert (values["lease_held",], values["lease_expires_timestamp_seconds",]) == (0, lease.expires.timestamp())


def test_a_damaged_champion_costs_what_it_says_and_no_more(
    config: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    judged(registry, tmp_path / "made", "promoted", "max_loss")
    spoil(registry, "champion.json", b"{", tmp_path)
    write_records(config.workspace_dir, record(10, 1.0))
    said: list[str] = []
    values = scrape(config, said)
    assert errors_in(values) == {"champion", "report"}
    assert not [key for key in values if key[0].startswith("champion")]
    assert by_label(values, "versions") == {"promoted": 1, "refused": 1}
    assert values["training_step", "workspace"] == 10
    assert {line.split(":")[0] for line in said} == errors_in(values)
    assert all("champion.json is not JSON" in line for line in said)


def spoil(registry: Registry, name: str, content: bytes, folder: Path) -> None:
    (folder / "spoilt").write_bytes(content)
    storage.upload(folder / "spoilt", registry.root.at(name))


@pytest.mark.parametrize("name", ["manifest.json", "decision.json"])
def test_a_damaged_version_is_counted_as_such_and_hides_the_row_of_refusals(
    config: RunConfig, registry: Registry, tmp_path: Path, name: str
) -> None:
    judged(registry, tmp_path / "made", "promoted", "max_loss", "max_loss", "max_loss")
    spoil(registry, f"versions/000002/{name}", json.dumps(decision()).encode(), tmp_path)
    values = scrape(config)
    assert errors_in(values) == {"decisions"}
    assert by_label(values, "versions") == {"promoted": 1, "refused": 2, "unreadable": 1}
    assert ("refusals_in_a_row",) not in values
    assert values["last_decision_promoted",] == 0


def test_a_version_that_is_removed_at_that_moment_is_no_error(
    config: RunConfig, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(registry, tmp_path / "made", "max_loss", "promoted")
    remove(registry.root, 1)
    monkeypatch.setattr(Registry, "numbers", lambda self: [1, 2])
    values = scrape(config)
    assert by_label(values, "versions") == {"promoted": 1}
    assert errors_in(values) == set()


def test_of_a_damaged_newest_version_the_last_decision_is_not_known(
    config: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    judged(registry, tmp_path / "made", "promoted", "max_loss")
    spoil(registry, "versions/000002/decision.json", b"", tmp_path)
    values = scrape(config)
    assert errors_in(values) == {"decisions"}
    assert not [key for key in values if key[0].startswith(("last_decision", "refusals"))]


def test_a_damaged_version_before_a_promotion_changes_no_count_after_it(
    config: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    judged(registry, tmp_path / "made", "max_loss", "promoted", "max_loss")
    spoil(registry, "versions/000001/decision.json", b"", tmp_path)
    assert scrape(config)["refusals_in_a_row",] == 1


@pytest.mark.parametrize(
    "content",
    [{"tasks": [{"name": "click"}]}, {"tasks": [{"name": "click", "main_metric": "auc", "metrics": {"auc": 1}}]}, {}],
)
def test_a_report_of_another_form_is_an_error(
    config: RunConfig, registry: Registry, tmp_path: Path, content: dict[str, object]
) -> None:
    promote(registry, publish(registry, tmp_path / "made", FIRST_SLOT, report=content))
    values = scrape(config)
    assert errors_in(values) == {"report"}
    assert values["champion_version",] == 1


def test_an_undefined_metric_is_left_out(config: RunConfig, registry: Registry, tmp_path: Path) -> None:
    promote(registry, publish(registry, tmp_path / "made", FIRST_SLOT, report=report(auc=None, calibration=0.9)))
    values = scrape(config)
    assert values["champion_calibration", "click"] == 0.9
    assert "champion_main_metric" not in {key[0] for key in values}
    assert errors_in(values) == set()


def test_a_champion_that_was_published_by_hand_has_no_report(
    config: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    promote(registry, publish(registry, tmp_path / "made", FIRST_SLOT))
    values = scrape(config)
    assert (values["champion_version",], errors_in(values)) == (1, set())
    assert "champion_calibration" not in {key[0] for key in values}


def test_what_is_kept_of_a_version_is_not_that_of_another_one_with_its_number(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    for outcome, auc in (("promoted", 0.7), ("promoted", 0.8)):
        shutil.rmtree(tmp_path / "registry", ignore_errors=True)
        registry = Registry.open(str(tmp_path / "registry"))
        number = publish(registry, tmp_path / "made", FIRST_SLOT, decision=decision(), report=report(auc=auc))
        promote(registry, number)
        values = scrape(config)
        assert (number, values["champion_main_metric", "click", "auc"]) == (1, auc)
        assert by_label(values, "versions") == {outcome: 1}


def test_a_registry_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_records(config.workspace_dir, record(10, 1.0))
    values = scrape(config)
    assert errors_in(values) == {"champion", "report", "lease", "decisions", "schedule"}
    assert values["training_step", "workspace"] == 10
    assert values["retrain_period_seconds",] == DAY.total_seconds()
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize(
    "answer", [refuse("403 Forbidden", "AccessDenied"), refuse("503 Slow Down", "SlowDown")], ids=["refused", "busy"]
)
def test_a_store_that_does_not_answer_costs_the_registry_alone(
    tmp_path: Path, bucket: str, store: Store, answer: Fault
) -> None:
    config = make_config(tmp_path, f"{bucket}/models")
    write_records(config.workspace_dir, record(10, 1.0))
    store.fail(1000, answer)
    said: list[str] = []
    values = scrape(config, said)
    store.forget()
    assert errors_in(values) == SOURCES - {"training", "slot"}
    assert values["training_step", "workspace"] == 10
    assert not [line for line in said if ACCESS_KEY in line or SECRET_KEY in line]


def test_a_bucket_that_is_not_there_is_an_error(tmp_path: Path, store: Store) -> None:
    config = make_config(tmp_path, "s3://no-such-bucket/models")
    assert errors_in(scrape(config)) == SOURCES - {"training", "slot"}


def test_the_files_have_the_names_that_a_retraining_publishes() -> None:
    assert models.REPORT_JSON == REPORT_JSON
    assert models.DECISION_JSON == DECISION_JSON
