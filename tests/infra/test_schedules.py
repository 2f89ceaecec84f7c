"""The schedules for one machine and for Airflow: valid, and exit codes that are in order raise no alarm."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from jobs.__main__ import app

FOLDER = Path(__file__).parents[2] / "infra" / "schedule"
IN_ORDER = (0, 4, 75)


def read_unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(FOLDER / name)
    return parser


def cron_command() -> str:
    lines = [line for line in (FOLDER / "gatehouse.cron").read_text().splitlines() if re.match(r"\d", line)]
    assert len(lines) == 1
    user, command = lines[0].split(maxsplit=6)[5:]
    assert user == "gatehouse"
    assert "%" not in command, "cron would make lines of it"
    return command


@pytest.mark.parametrize("code", [*IN_ORDER, 1, 2, 3])
def test_cron_mails_only_what_is_out_of_order(code: int, tmp_path: Path) -> None:
    program = tmp_path / ".venv" / "bin" / "gatehouse"
    program.parent.mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    program.write_text(f'#!/bin/sh\necho "$@"\nexit {code}\n')
    program.chmod(0o755)
    command = cron_command().replace("/srv/gatehouse", str(tmp_path))
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert (done.stdout == "") == (code in IN_ORDER)
    assert (tmp_path / "runs" / "retrain.log").read_text() == "retrain --config /etc/gatehouse/run.yaml\n"


def test_systemd_takes_the_same_codes_as_in_order_and_leaves_time_for_a_checkpoint() -> None:
    service = read_unit("gatehouse-retrain.service")["Service"]
    codes = {int(code) for code in service["SuccessExitStatus"].split()}
    assert codes == {*IN_ORDER, 143} - {0}
    assert service["Type"] == "oneshot"
    assert int(service["TimeoutStopSec"]) >= 60
    assert read_unit("gatehouse-retrain.timer")["Timer"]["Persistent"] == "true"


def test_systemd_keeps_the_monitor_running_and_lets_it_write_nothing() -> None:
    service = read_unit("gatehouse-monitor.service")["Service"]
    assert service["Restart"] == "on-failure"
    assert service["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in service
    program, verb, *arguments = shlex.split(service["ExecStart"])
    assert program == shlex.split(read_unit("gatehouse-retrain.service")["Service"]["ExecStart"])[0]
    command = getattr(typer.main.get_command(app), "commands", {})[verb]
    assert command.make_context(verb, arguments).params["config"] == "/etc/gatehouse/run.yaml"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_knows_every_line_of_the_units(tmp_path: Path) -> None:
    for name in ("gatehouse-retrain.service", "gatehouse-retrain.timer", "gatehouse-monitor.service"):
        text = (FOLDER / name).read_text()
        # The program that the service starts is not on this machine.
        (tmp_path / name).write_text(text.replace("/srv/gatehouse/.venv/bin/gatehouse", "/bin/true"))
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def airflow_task(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the DAG's one task, read with stand-ins for Airflow's classes."""
    tasks: list[dict[str, Any]] = []

    class Dag:
        def __init__(self, **settings: Any) -> None:
            assert (settings["max_active_runs"], settings["catchup"]) == (1, False)

        def __enter__(self) -> "Dag":
            return self

        def __exit__(self, *arguments: object) -> None:
            pass

    bash, sdk = ModuleType("bash"), ModuleType("sdk")
    bash.BashOperator = lambda **settings: tasks.append(settings)  # type: ignore[attr-defined]
    sdk.DAG = Dag  # type: ignore[attr-defined]
    for name in ("airflow", "airflow.providers", "airflow.providers.standard", "airflow.providers.standard.operators"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "airflow.providers.standard.operators.bash", bash)
    monkeypatch.setitem(sys.modules, "airflow.sdk", sdk)
    path = FOLDER / "airflow_dag.py"
    exec(compile(path.read_text(), path, "exec"), {"__name__": "airflow_dag"})
    assert len(tasks) == 1
    return tasks[0]


def test_airflow_skips_what_is_in_order_and_follows_the_run_of_the_slot(airflow_task: dict[str, Any]) -> None:
    assert {0, *airflow_task["skip_on_exit_code"]} == set(IN_ORDER)
    words = shlex.split(airflow_task["bash_command"].replace("{{ ts_nodash }}", "20260101T033000"))
    assert words[:3] == ["gatehouse", "submit", "retrain"]
    submit = getattr(typer.main.get_command(app), "commands", {})["submit"]
    context = submit.make_context("submit", words[2:])
    assert context.args == []
    assert context.params["run_id"] == "retrain-20260101T033000"
