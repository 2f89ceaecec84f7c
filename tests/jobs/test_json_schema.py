"""The JSON schema for editors: it accepts the configurations of the project, explains them, and refuses mistakes."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from jobs import json_schema
from pipeline.feature_kinds import TIME_PART_VALUES

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "jobs" / "configs").glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    """A configuration as an editor sees it, where a date is a text."""
    config: dict[str, Any] = json.loads(json.dumps(yaml.safe_load(path.read_text()), default=str))
    return config


@pytest.fixture
def schema(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    json_schema.main()
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_schema_accepts_each_configuration_of_the_project(path: Path, schema: dict[str, Any]) -> None:
    jsonschema.validate(read(path), schema)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"name": "x", "kind": "categorical", "max_sise": 3}, "max_sise"),
        ({"name": "x", "kind": "time_part", "part": "minute"}, "minute"),
        ({"name": "x", "kind": "crossed", "columns": ["a"], "num_hash_buckets": 3}, "'a'"),
        ({"name": "x", "kind": "listed"}, "listed"),
    ],
)
def test_the_schema_refuses_a_mistake(mistake: dict[str, Any], message: str, schema: dict[str, Any]) -> None:
    config = read(CONFIGS[0])
    config["schema"]["features"].append(mistake)
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(config, schema)


def test_every_setting_of_a_feature_is_explained(schema: dict[str, Any]) -> None:
    kinds = [section for name, section in schema["$defs"].items() if name.endswith("Feature")]
    assert len(kinds) == 8
    for section in kinds:
        assert section["description"]
        for name, setting in section["properties"].items():
            assert "description" in setting or name == "kind", (section["title"], name)
    assert schema["$defs"]["TimePartFeature"]["properties"]["part"]["enum"] == list(TIME_PART_VALUES)
