"""One source never costs another one its metrics; what is exported holds names and numbers."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from monitored import FIRST_SLOT, errors_in, make_config, publish, record, report, text_of, values_in, write_records
from s3_store import ACCESS_KEY, SECRET_KEY, Store
from small_registry import promote

from pipeline.monitor import collector
from pipeline.monitor.collector import Monitor
from pipeline.monitor.metrics import METRICS, PREFIX, Sample
from pipeline.registry.registry import Registry
from pipeline.run_config import RunConfig


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return make_config(tmp_path, registry=None, retrain=None)


def test_a_source_that_hangs_costs_its_own_metrics_until_it_is_read_anew(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "READ_SECONDS", 0.2)
    may_go_on, versions = Event(), iter(range(1, 9))

    def read() -> Iterator[Sample]:
        yield Sample("champion_version", next(versions))
        may_go_on.wait()

    said: list[str] = []
    monitor = Monitor(config, said.append)
    monitor.sources["champion"] = read
    write_records(config.workspace_dir, record(10, 1.0))
    for _ in range(2):
        values = values_in(text_of(monitor))
        assert errors_in(values) == {"champion"}
        assert ("champion_version",) not in values
        assert values["training_step", "workspace"] == 10
    assert said == [f"champion: {collector.STILL_READING}"]
    may_go_on.set()
    monitor.readings["champion"].join()
    # What the first attempt has read is not shown now.
    assert values_in(text_of(monitor))["champion_version",] == 2
    assert said[1:] == ["champion: can be read again"]


def test_a_fault_in_the_monitor_itself_is_an_error_of_one_source(config: RunConfig) -> None:
    def read() -> Iterator[Sample]:
        yield Sample("champion_version", 3)
        raise KeyError("a\nb")

    said: list[str] = []
    monitor = Monitor(config, said.append)
    monitor.sources["champion"] = read
    values = values_in(text_of(monitor))
    assert errors_in(values) == {"champion"}
    assert values["champion_version",] == 3
    assert said == [r"champion: KeyError: 'a\nb'"]


def test_the_same_problem_is_said_once(config: RunConfig) -> None:
    said: list[str] = []
    monitor = Monitor(config, said.append)
    config.workspace_dir.rmdir()
    for _ in range(3):
        text_of(monitor)
    assert len(said) == 1
    config.workspace_dir.mkdir()
    text_of(monitor)
    assert said[1:] == ["training: can be read again"]


def test_every_metric_has_a_name_a_unit_and_a_meaning() -> None:
    for name, metric in METRICS.items():
        assert name == name.lower()
        assert not name.endswith("_total"), "they are gauges"
        assert ("timestamp" in name) <= name.endswith("_timestamp_seconds")
        assert metric.meaning.endswith(".")


def test_no_location_and_no_credential_is_printed(tmp_path: Path, bucket: str, store: Store) -> None:
    config = make_config(tmp_path, f"{bucket}/secret-folder")
    registry = Registry.open(f"{bucket}/secret-folder")
    promote(registry, publish(registry, tmp_path / "made", FIRST_SLOT, report=report(auc=0.7)))
    text = text_of(Monitor(config, print))
    assert f"{PREFIX}champion_version 1.0" in text
    for secret in (bucket.removeprefix("s3://"), "secret-folder", str(tmp_path), ACCESS_KEY, SECRET_KEY, "127.0.0.1"):
        assert secret not in text
