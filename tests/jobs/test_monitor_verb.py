"""`gatehouse monitor` after a real retraining: what it prints, what it serves, how it ends."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_mistakes import gatehouse, one_line
from test_retrain_verb import FIRST_SLOT, exit_code, settings, write

from pipeline.monitor.metrics import METRICS, PREFIX
from pipeline.registry.registry import Registry
from pipeline.simulate.run import simulate

ROOT = Path(__file__).parents[2]
# Nothing was refused, no run is at work, and no `train` was run in the workspace itself.
NOT_THERE = {"refusals", "lease_expires_timestamp_seconds"}
Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration, the workspace and the registry of a retraining that did its first slot."""
    folder = tmp_path_factory.mktemp("retrained")
    simulate(folder / "log", 7500, seed=5, num_days=5, num_users=60, num_items=110, num_candidate_requests=5)
    config = write(folder, settings(folder))
    with pytest.MonkeyPatch.context() as patch:
        assert exit_code(patch, ["gatehouse", "retrain", "--config", config, "--until", FIRST_SLOT]) == 0
    return folder


def samples_in(text: str) -> Samples:
    """By the name of a metric and the values of its labels."""
    found = (one for family in text_string_to_metric_families(text) for one in family.samples)
    named = ((one.name.removeprefix(PREFIX), one) for one in found)
    return {(name, tuple(one.labels[label] for label in METRICS[name].labels)): one.value for name, one in named}


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "jobs", "monitor", "--config", str(folder / "run.yaml"), *arguments]


@pytest.fixture(scope="module")
def printed(retrained: Path) -> str:
    return subprocess.run(command(retrained, "--once"), cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_once_prints_what_the_files_of_the_retraining_say(retrained: Path, printed: str) -> None:
    samples = samples_in(printed)
    slot = retrained / "work" / "retrain" / FIRST_SLOT
    records = [json.loads(line) for line in (slot / "metrics.jsonl").read_text().splitlines()]
    report = json.loads((slot / "report" / "report.json").read_text())["tasks"][0]
    champion = Registry.open(str(retrained / "registry")).champion()
    assert champion
    time = datetime.fromisoformat(FIRST_SLOT).replace(tzinfo=UTC).timestamp()
    last = {record["kind"]: record for record in records}
    main = report["main_metric"]
    for expected, metric, *labels in (
        (records[-1]["step"], "training_step", "slot"),
        (records[-1]["samples"], "training_samples", "slot"),
        (1, "training_finished", "slot"),
        (last["train"]["losses"]["click"], "training_loss", "slot", "train", "click"),
        (last["validation"]["losses"]["click"], "training_loss", "slot", "validation", "click"),
        (1, "retrain_stage_complete", "score"),
        (1, "champion_version"),
        (champion.promoted_at.timestamp(), "champion_promoted_timestamp_seconds"),
        (time, "champion_slot_timestamp_seconds"),
        (time + 86400, "retrain_next_slot_timestamp_seconds"),
        (report["metrics"][main]["value"], "champion_main_metric", "click", main),
        (report["metrics"]["calibration"]["value"], "champion_calibration", "click"),
        (1, "versions", "promoted"),
        (1, "last_decision_promoted"),
        (0, "refusals_in_a_row"),
        (0, "lease_held"),
    ):
        assert samples[str(metric), tuple(map(str, labels))] == pytest.approx(expected, rel=1e-12), metric
    assert {value for (name, _), value in samples.items() if name == "scrape_error"} == {0}
    assert {name for name, _ in samples} == set(METRICS) - NOT_THERE


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_finds_nothing_to_object_to_in_the_names(printed: str) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=printed, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_the_same_until_a_signal_ends_it(
    retrained: Path, printed: str, sent: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        command(retrained, "--listen", "127.0.0.1:0"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            (address,) = re.findall(r"^monitor: (http://127\.0\.0\.1:\d+/metrics)\n$", process.stdout.readline())
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain")
                assert samples_in(answer.read().decode()) == samples_in(printed)
        finally:
            process.send_signal(sent)
        assert process.wait(60) == code


def test_nothing_is_written(retrained: Path, printed: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in retrained.rglob("*")}
    subprocess.run(command(retrained, "--once"), cwd=ROOT, capture_output=True, check=True)
    assert {path: path.stat().st_mtime_ns for path in retrained.rglob("*")} == before


def test_the_verb_loads_neither_torch_nor_ray(retrained: Path) -> None:
    python, *arguments = command(retrained, "--once")
    done = subprocess.run(
        [python, "-X", "importtime", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "prometheus_client" in loaded
    assert not loaded & {"torch", "ray", "botocore"}


@pytest.mark.parametrize("address", ["9464", "127.0.0.1", "127.0.0.1:", ":9464", "127.0.0.1:http", "127.0.0.1:65536"])
def test_what_is_no_address_is_2(
    retrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    config = str(retrained / "run.yaml")
    code, error = gatehouse(monkeypatch, capsys, "monitor", "--config", config, "--listen", address)
    assert code == 2
    assert f"--listen {address!r} is no HOST:PORT" in one_line(error)


def test_an_address_that_is_in_use_is_2(retrained: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            command(retrained, "--listen", address), cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert one_line(done.stderr) == (
        f"error: --listen {address} cannot be used: Address already in use. Give another address or port."
    )


def test_a_mistake_in_the_configuration_is_2(
    retrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(retrained / "run.yaml")
    code, error = gatehouse(monkeypatch, capsys, "monitor", "--config", config, "--set", "registry.locaton=x")
    assert code == 2
    assert "unknown key registry.locaton" in one_line(error)
