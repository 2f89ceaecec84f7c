"""`gatehouse registry`: what an operator sees and changes, and the exit codes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_registry import FILES, SECONDS, promote, publish

from jobs.__main__ import main
from pipeline.registry.registry import Registry

ROOT = Path(__file__).parents[2]
USAGE_EXIT_CODE, DAMAGED_EXIT_CODE, LOCKED_EXIT_CODE = 2, 3, 75


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry with three versions, of which the second is the champion, after the first."""
    registry = Registry.open(str(tmp_path / "registry"))
    for text in "123":
        publish(registry, tmp_path / "made", text, int(text) - 1 or None)
    promote(registry, 1, 2)
    return registry


@pytest.fixture
def run(registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a verb on the registry: the exit code, the lines of standard output, and standard error."""

    def run_verb(*arguments: str, named: bool = True) -> tuple[int, list[str], str]:
        options = ["--registry", registry.root.location] if named else []
        monkeypatch.setattr(sys, "argv", ["gatehouse", "registry", *arguments, *options])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run_verb


def test_list_marks_the_champion_and_the_one_before(run: Any, registry: Registry) -> None:
    code, lines, _ = run("list")
    assert code == 0
    assert lines[0].split() == ["version", "created", "run", "parent", "files", "bytes"]
    assert [line.split()[:2] for line in lines[1:3]] == [["1", "before"], ["2", "champion"]]
    assert lines[3].split()[-3:] == ["2", str(len(FILES)), f"{registry.show(3).num_bytes:,}"]
    assert lines[4].startswith(f"registry: {registry.root.location}, champion 2 since 20")
    assert lines[4].endswith("UTC: version 2 is better")


def test_list_shows_the_others_beside_a_damaged_version(run: Any, registry: Registry) -> None:
    Path(registry.root.at("versions/000002/manifest.json")).write_text("{}")
    code, lines, _ = run("list")
    assert code == 0
    assert lines[2].split()[:3] == ["2", "champion", "damaged"]
    assert lines[4].startswith("warning: ")
    assert "versions/000002/manifest.json: field number: Field required" in lines[4]


def test_show_has_lineage_and_files(run: Any, registry: Registry) -> None:
    code, lines, _ = run("show", "3")
    assert code == 0
    assert ["parent", "2"] in [line.split() for line in lines]
    assert ["slot", "2025-03-30T00:30:00Z"] in [line.split() for line in lines]
    entry = registry.show(3).files["report.json"]
    assert ["report.json", entry.sha256[:12], str(entry.bytes)] in [line.split() for line in lines]


def test_promote_and_rollback_say_what_was_and_what_is(run: Any, registry: Registry) -> None:
    assert run("promote", "3", "--reason", "checked by hand") == (
        0, ["champion: it was version 2, it is version 3"], ""
    )  # fmt: skip
    champion = registry.champion()
    assert champion
    assert (champion.version, champion.reason) == (3, "checked by hand")
    assert run("promote", "3") == (0, ["champion: it was version 3 already"], "")
    assert run("rollback") == (0, ["champion: it was version 3, it is version 2"], "")
    assert run("rollback") == (0, ["champion: it was version 2, it is version 1"], "")
    code, _, error = run("rollback")
    assert code == USAGE_EXIT_CODE
    assert "has no champion before the present one. Promote a version." in error
    assert run("promote", "2")[0] == 0  # The lease of a verb that failed was given back.


def test_diff_shows_settings(run: Any) -> None:
    code, lines, _ = run("diff", "1", "2")
    assert code == 0
    assert "config.resolved.yaml: train.epochs: 1 -> 2" in lines
    assert lines[-1] == f"diff: {len(lines) - 1} differences between version 1 and version 2"


def test_retain_says_what_it_removed(run: Any, registry: Registry, tmp_path: Path) -> None:
    assert run("retain", "--keep", "1") == (0, ["removed: no version; 3 are left"], "")
    publish(registry, tmp_path / "made", "4", 3)
    promote(registry, 3, 4)
    assert run("retain", "--keep", "1") == (0, ["removed: 1; 3 are left"], "")


@pytest.mark.parametrize("verb", [("promote", "3"), ("rollback",), ("retain",)])
def test_a_verb_that_changes_something_waits_for_nobody(run: Any, registry: Registry, verb: tuple[str, ...]) -> None:
    lease = registry.acquire("retrain", SECONDS)
    code, lines, error = run(*verb)
    assert (code, lines) == (LOCKED_EXIT_CODE, [])
    assert f"is locked by {lease.describe_holder()}" in error
    assert len(error.splitlines()) == 1
    assert run("list")[0] == run("show", "1")[0] == run("diff", "1", "2")[0] == 0


def test_a_damaged_version_is_not_promoted(run: Any, registry: Registry) -> None:
    Path(registry.root.at("versions/000003/report.json")).write_text("REPORT.json of 3")
    code, _, error = run("promote", "3")
    assert code == DAMAGED_EXIT_CODE
    assert "versions/000003/report.json is damaged: sha256" in error
    assert len(error.splitlines()) == 1


def test_the_registry_is_named_in_the_configuration_or_on_the_command_line(
    run: Any, registry: Registry, demo_settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    without = {key: value for key, value in demo_settings.items() if key not in ("registry", "retrain")}
    path.write_text(yaml.safe_dump({**without, "workspace": str(tmp_path / "run")}))
    location = f"registry.location={registry.root.location}"
    expected = run("list")
    assert run("list", "--config", str(path), "--set", location, named=False) == expected
    assert run("retain", "--config", str(path), "--set", location, "--set", "registry.keep=3", named=False) == (
        0, ["removed: no version; 3 are left"], "",
    )  # fmt: skip
    for arguments, named, said in (
        (("--config", str(path)), False, "has no section registry. Add one with its location"),
        (("--config", str(path)), True, "a registry is named by --config or by --registry"),
        ((), False, "a registry is named by --config or by --registry"),
        (("--set", location), True, "--set changes the file of --config"),
    ):
        code, _, error = run("list", *arguments, named=named)
        assert code == USAGE_EXIT_CODE
        assert said in error


def test_an_empty_registry_says_where_it_was_looked_for(tmp_path: Path, run: Any) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert run("list", "--registry", nowhere, named=False) == (
        0, ["no version", f"registry: {nowhere}, no champion"], "",
    )  # fmt: skip
    code, _, error = run("show", "1", "--registry", nowhere, named=False)
    assert code == USAGE_EXIT_CODE
    assert f"{nowhere} holds no version 1" in error
    assert not Path(nowhere).exists()


def test_the_verb_loads_neither_torch_nor_ray_nor_a_store_for_a_folder(registry: Registry) -> None:
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "jobs",
        "registry",
        "list",
        "--registry",
        registry.root.location,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "ray", "botocore", "pyarrow"}
