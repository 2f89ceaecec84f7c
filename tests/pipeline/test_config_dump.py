"""The resolved dump of a configuration is the configuration."""

from pathlib import Path

import pytest
from demo_config import CONFIGS, set_on_demo

from pipeline.config import RESOLVED_NAME, dump, read_config
from pipeline.run_config import RunConfig, load_run_config


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.name)
def test_a_shipped_configuration_is_the_same_after_a_dump(path: Path, tmp_path: Path) -> None:
    config = load_run_config(path)
    dump(config, tmp_path / "run")
    resolved = tmp_path / "run" / RESOLVED_NAME
    assert load_run_config(resolved) == config
    # And a second dump is the same bytes.
    dump(load_run_config(resolved), tmp_path / "again")
    assert (tmp_path / "again" / RESOLVED_NAME).read_bytes() == resolved.read_bytes()


@pytest.mark.parametrize(
    "overrides",
    [
        ("preprocess.split={kind: time, column: t, validation_from: 2025-01-11 10:00:00, test_from: 2025-01-12}",),
        ("preprocess.split={kind: time, column: t, validation_from: 5, test_from: 7.5}",),
        ("preprocess.split={kind: time, column: t, validation_from: '5', test_from: '007'}",),
        ("preprocess.split={kind: hash, column: user_id, seed: 3}",),
        ("preprocess.log.null_values=['', 'no', 'null', '~', '1e3']", "preprocess.log.delimiter='\t'"),
        ("schema.tasks.0.positive='1'",),
        ("schema.tasks.0.positive=1",),
        ("schema.tasks.0.positive=true",),
        ("schema.tasks.1={name: mood, kind: multiclass, label: l, classes: {warm: 1, cold: '1', hot: true, a: 'on'}}",),
        ("schema.weight='on'",),
        ("schema.features.10.clip=[-1e300, 0.1]",),
        ("train.early_stopping=null", "score=null", "evaluate.truth=null"),
        ("workspace='é: # \"'", "seed=123456789012345678"),
        ("train.dense_optimizer.learning_rate=1e-3", "train.sparse_optimizer.eps=1.0e-30"),
        ("model.body={kind: shared_bottom, widths: [8, 4]}",),
    ],
)
def test_unusual_values_are_the_same_after_a_dump(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = set_on_demo(*overrides)
    dump(config, tmp_path)
    again = load_run_config(tmp_path / RESOLVED_NAME)
    assert again == config
    # Equal numbers of another type would be other values in a message or a file.
    assert repr(again) == repr(config)


def test_the_dump_shows_every_default(tmp_path: Path) -> None:
    dump(set_on_demo(), tmp_path)
    written = read_config(tmp_path / RESOLVED_NAME)
    assert written.keys() == {field.alias or name for name, field in RunConfig.model_fields.items()}
    assert written["train"]["num_lanes"] == 8
    assert written["schema"]["features"][0]["max_size"] is None
