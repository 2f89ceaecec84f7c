"""A mirror to a real MLflow server: what people see, after kills and beside another mirror too."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow_registries import add, named
from mlflow_server import MlflowServer, shown
from small_registry import SECONDS, promote, small_lineage, write_files

from pipeline.errors import UsageError
from pipeline.registry.config import MlflowConfig
from pipeline.registry.mirror.mirror import Mirrored, mirror
from pipeline.registry.mirror.server import Server
from pipeline.registry.registry import Registry

CHANGES = ("create_", "log_", "set_", "delete_")


def seen(config: MlflowConfig) -> dict[str, Any]:
    return shown(config.uri, config.model, config.experiment)


@contextmanager
def before_each_change(act: Callable[[int, str], None]) -> Iterator[None]:
    """Calls a function before each call that changes something on the server, but for those that it makes itself.

    It is given the place of the call in the order of these, and its name.
    """
    real, places, acting = Server._ask, iter(range(1_000_000)), [False]

    def ask(self: Server, name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith(CHANGES) and not acting[0]:
            acting[0] = True
            act(next(places), name)
            acting[0] = False
        return real(self, name, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "_ask", ask)
        yield


# --- what people see


def test_people_see_each_version_with_its_lineage_and_metrics_and_the_champion(
    registry: Registry, config: MlflowConfig, tmp_path: Path
) -> None:
    done = mirror(registry, config)
    assert str(done) == "added versions 1, 2, the champion is 2"
    found = seen(config)
    assert found["aliases"] == {"champion": "2", "previous": "1"}
    assert found["tags"] == {"gatehouse.registry": f"gatehouse://{tmp_path}/registry"}
    assert [version[:2] for version in found["versions"]] == [
        (number, f"gatehouse://{tmp_path}/registry/versions/00000{number}") for number in "12"
    ]
    _, _, tags, (run_name, status, start, run_tags, metrics, files) = found["versions"][1]
    assert tags == run_tags
    assert {"gatehouse.parent": "1", "gatehouse.run_id": "run-2", "gatehouse.gate": "promoted"}.items() <= tags.items()
    assert (run_name, status, metrics) == ("run-2", "FINISHED", {"click/auc": 0.52})
    assert start == int(registry.show(2).created.timestamp() * 1000)
    assert files == ["decision.json", "report.json"]


def test_a_second_mirror_changes_nothing(registry: Registry, config: MlflowConfig) -> None:
    mirror(registry, config)
    found = seen(config)

    def fail(_: int, name: str) -> None:
        raise AssertionError(name)

    with before_each_change(fail):
        assert str(mirror(registry, config)) == "nothing to do"
    assert seen(config) == found


def test_aliases_follow_a_promotion_and_a_rollback(registry: Registry, config: MlflowConfig) -> None:
    mirror(registry, config)
    add(registry, 3)
    promote(registry, 3)
    assert str(mirror(registry, config)) == "added version 3, the champion is 3"
    assert seen(config)["aliases"] == {"champion": "3", "previous": "2"}
    with registry.held("the tests", SECONDS) as lease:
        for _ in range(2):
            registry.rollback(token=lease.token, reason="worse")
    assert str(mirror(registry, config)) == "the champion is 1"
    assert seen(config)["aliases"] == {"champion": "1"}


def test_a_removed_version_is_marked_and_stays_and_one_that_is_back_is_not(
    registry: Registry, config: MlflowConfig, tmp_path: Path
) -> None:
    mirror(registry, config)
    found = seen(config)
    folder = Path(registry.root.location, "versions", "000001")
    shutil.move(folder, tmp_path / "aside")
    assert mirror(registry, config).marked == [1]
    assert [version[2].get("gatehouse.removed") for version in seen(config)["versions"]] == ["true", None]
    shutil.move(tmp_path / "aside", folder)
    assert mirror(registry, config).marked == [1]
    assert seen(config) == found


def test_a_damaged_version_is_left_out_with_a_line_until_it_is_mended(registry: Registry, config: MlflowConfig) -> None:
    path = Path(registry.root.at("versions/000002/report.json"))
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    done = mirror(registry, config)
    assert done.added == [1]
    (warning,) = done.warnings
    assert warning.startswith(f"version 2 is not mirrored: {path} is damaged")
    assert seen(config)["aliases"] == {"previous": "1"}
    path.write_bytes(content)
    assert str(mirror(registry, config)) == "added version 2, the champion is 2"


def test_a_registry_in_a_store_is_shown_from_there(bucket: str, tmp_path: Path, config: MlflowConfig) -> None:
    registry = Registry.open(f"{bucket}/models")
    registry.publish(write_files(tmp_path / "made", "1"), small_lineage())
    assert mirror(registry, config).added == [1]
    ((_, source, tags, (*_, files)),) = seen(config)["versions"]
    assert (source, tags["gatehouse.registry"]) == (f"{bucket}/models/versions/000001", f"{bucket}/models")
    assert files == ["config.resolved.yaml", "report.json"]


def test_an_empty_registry_makes_nothing(tmp_path: Path, config: MlflowConfig) -> None:
    with before_each_change(lambda _, name: pytest.fail(name)):
        assert str(mirror(Registry.open(str(tmp_path / "registry")), config)) == "nothing to do"


def test_a_model_of_others_is_not_touched(registry: Registry, config: MlflowConfig, tmp_path: Path) -> None:
    other = Registry.open(str(tmp_path / "other" / "registry"))
    add(other, 1)
    mirror(registry, config)
    found = seen(config)
    with pytest.raises(UsageError, match=rf"shows the registry gatehouse://{registry.root.location}, and this"):
        mirror(other, config)
    assert seen(config) == found
    client_of(config).create_registered_model("by hand")
    with pytest.raises(UsageError, match=r"model by hand of .* was not made by Gatehouse"):
        mirror(registry, config.model_copy(update={"model": "by hand"}))


def client_of(config: MlflowConfig) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(config.uri, config.uri)


# --- kills, and two at once


class Killed(BaseException):
    pass


@pytest.fixture
def small_registry(tmp_path: Path) -> Registry:
    """One version, which is the champion."""
    registry = Registry.open(str(tmp_path / "registry"))
    add(registry, 1)
    promote(registry, 1)
    return registry


def changes_of(registry: Registry, config: MlflowConfig) -> list[str]:
    """The changes that a mirror makes that nothing disturbs."""
    names: list[str] = []
    with before_each_change(lambda _, name: names.append(name)):
        mirror(registry, config)
    run = ["create_run", "log_batch", "log_artifact", "log_artifact", "set_terminated"]
    version = ["create_model_version", "set_registered_model_alias"]
    assert names == ["create_experiment", "create_registered_model", *run, *version]
    return names


def test_a_mirror_that_was_killed_before_any_change_is_completed_by_the_next(
    small_registry: Registry, server: MlflowServer
) -> None:
    config = named(server, "never killed")
    names, expected = changes_of(small_registry, config), seen(config)
    for place in range(1, len(names)):

        def kill(now: int, name: str, place: int = place) -> None:
            if now == place:
                raise Killed(name)

        config = named(server, f"killed {place}")
        with before_each_change(kill), pytest.raises(Killed, match=names[place]):
            mirror(small_registry, config)
        mirror(small_registry, config)
        assert seen(config) == expected, names[place]


@pytest.mark.parametrize(
    ("place", "num_duplicates"),
    [
        *(pytest.param(place, 0, marks=pytest.mark.exhaustive) for place in (0, 1, 8)),
        (2, 0),  # The first other one has finished, and the second removes the run that is made for nothing.
        *(pytest.param(place, 1, marks=pytest.mark.exhaustive) for place in (3, 4, 5, 6)),
        (7, 1),  # Both register the version.
    ],
)
def test_mirrors_that_run_into_each_other_leave_no_duplicates(
    small_registry: Registry, server: MlflowServer, place: int, num_duplicates: int
) -> None:
    """Before a change and the next one of a mirror, another one does all there is to do."""
    config = named(server, f"alone {place}")
    changes_of(small_registry, config)
    expected = seen(config)
    config = named(server, f"beside {place}")
    done: list[Mirrored] = []

    def run_another(now: int, _: str) -> None:
        if now in (place, place + 1):
            done.append(mirror(small_registry, config))

    with before_each_change(run_another):
        done.append(mirror(small_registry, config))
    assert seen(config) == expected
    assert sum(one.num_duplicates for one in done) == num_duplicates
