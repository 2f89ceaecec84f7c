"""What a plan is made of and where it is told: rows of tables, settings, a run's own plan, the verb `plan`."""

import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from combination_ranks import on_ranks
from planned_tables import ADAGRAD, CPUS, GPUS, ROWS, config_with, placed, refusal, settings_with, types_in

from jobs.__main__ import main
from pipeline.config import build
from pipeline.errors import ConfigError
from pipeline.run_config import RunConfig
from pipeline.train.config import ShardingConfig
from pipeline.train.tables.misfit import misfit
from pipeline.train.tables.placement import Hardware, TableSet
from pipeline.train.tables.plan import plan_run, tables_of
from pipeline.train.tables.sharding import plan_tables

# --- rows of tables


def test_a_table_whose_rows_nobody_knows_is_named_with_the_key_to_set() -> None:
    error = refusal(config_with({name: rows for name, rows in ROWS.items() if name != "brand"}), GPUS)
    assert "table 'brand'" in error.what
    assert "model.front_end.num_embeddings.brand" in error.fix


def test_without_a_dataset_buckets_and_sizes_of_the_schema_give_the_rows() -> None:
    settings = settings_with({"user": 100, "country": 250})
    settings["schema"]["features"][1]["num_hash_buckets"] = 5_000
    settings["schema"]["features"][2]["max_size"] = 700
    options = placed(build(RunConfig, settings, "the tests"), CPUS).options
    assert {o.name: o.tensor.shape[0] for o in options} == {"user": 100, "item": 5_002, "brand": 702, "country": 250}


def test_with_a_dataset_its_rows_count_unless_more_are_asked_for(make_config: Any) -> None:
    known = {o.name: o.tensor.shape[0] for o in placed(make_config(), CPUS).options}
    more = make_config(model={"front_end": {"num_embeddings": {"user_id": 10**6}}})
    assert {o.name: o.tensor.shape[0] for o in placed(more, CPUS).options} == {**known, "user_id": 10**6}
    with pytest.raises(ConfigError, match="has ids for"):
        plan_run(make_config(model={"front_end": {"num_embeddings": {"user_id": 3}}}), CPUS)


# --- settings


def test_settings_that_the_planned_device_would_ignore_are_refused() -> None:
    config = config_with(train={"sparse_optimizer": {"kind": "adam"}})
    assert "adam" in plan_run(config, GPUS)
    assert "runs on GPUs only" in refusal(config, CPUS).what


def test_attended_tables_get_only_types_that_sequences_have() -> None:
    attention = {"attention": {"history": {"target": "item"}}}
    config = config_with(train={"sparse_optimizer": ADAGRAD}, front_end=attention)
    assert types_in(placed(config, GPUS))["item"] in ("table_wise", "row_wise", "column_wise")
    grid = config_with(
        train={"sparse_optimizer": ADAGRAD, "sharding": {"tables": {"item": "grid"}}}, front_end=attention
    )
    assert "read by attention" in refusal(grid, GPUS).what


def test_lanes_that_the_ranks_do_not_divide_are_mentioned() -> None:
    assert "note: " not in plan_run(config_with(), CPUS)
    note = plan_run(config_with(), replace(CPUS, num_ranks=3, ranks_per_node=3)).splitlines()[-1]
    assert note == "note: a run on 3 ranks needs train.num_lanes to be a multiple of them; it is 64"


# --- the plan of a run


def plan_here(config: RunConfig, sharding: ShardingConfig) -> str:
    hardware = replace(CPUS, num_ranks=dist.get_world_size(), ranks_per_node=dist.get_world_size())
    tables = tables_of(config, hardware)
    cpu = torch.device("cpu")
    return plan_tables(
        tables.model,
        tables.table_of,
        tables.settings,
        sharding,
        tables.sharders,
        cpu,
        tables.rows_per_rank,
        tables.ids_per_row,
    ).text


def test_a_run_writes_the_plan_that_the_verb_prints() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        text = plan_here(config_with(), ShardingConfig(host_memory_gib=64, reserved_fraction=0.25))
    finally:
        dist.destroy_process_group()
    hardware = Hardware(1, 1, "cpu", 0.0, host_memory_gib=64.0, reserved_fraction=0.25)
    assert text == plan_run(config_with(), hardware)
    assert "memory per rank: 64.0 GiB host (48.0 for tables); 25% is reserved" in text


def refusals() -> list[str]:
    """What two ranks raise; the first one looks for remedies only after the second one has raised."""
    os.environ.pop("LOCAL_WORLD_SIZE", None)
    store = dist.distributed_c10d._get_default_store()

    def misfit_at_last(tables: TableSet, hardware: Hardware) -> ConfigError:
        store.wait(["told"], timedelta(seconds=30))
        return misfit(tables, hardware)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.train.tables.sharding.misfit", misfit_at_last)
        with pytest.raises(ConfigError) as raised:
            plan_here(config_with(), ShardingConfig(host_memory_gib=0.5))
    if dist.get_rank() == 1:
        store.set("told", "yes")
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, str(raised.value))
    return found


def test_every_rank_is_told_at_once_that_the_tables_do_not_fit_and_the_first_one_says_what_helps(
    tmp_path: Path,
) -> None:
    first, second = on_ranks(refusals, 2, tmp_path)
    hardware = Hardware(2, 2, "cpu", 0.0, host_memory_gib=0.5, reserved_fraction=ShardingConfig().reserved_fraction)
    assert first == str(refusal(config_with(), hardware))
    assert first.startswith("table 'item' does not fit on 2 ranks")
    assert second.startswith("the embedding tables do not fit. ")


def test_one_rank_alone_says_what_helps() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        with pytest.raises(ConfigError) as raised:
            plan_here(config_with(), ShardingConfig(host_memory_gib=0.5, reserved_fraction=0.25))
    finally:
        dist.destroy_process_group()
    hardware = Hardware(1, 1, "cpu", 0.0, host_memory_gib=0.5, reserved_fraction=0.25)
    assert str(raised.value) == str(refusal(config_with(), hardware))


# --- the verb


def gatehouse_plan(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gatehouse", "plan", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings_with()))
    return str(path)


def test_the_verb_plans_for_the_hardware_that_it_is_given(
    config_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = ("--device-memory-gib", "40", "--host-memory-gib", "99")
    ranks = ("--ranks", "16", "--ranks-per-node", "4", "--device", "cuda")
    assert gatehouse_plan(monkeypatch, "--config", config_file, *ranks, *memory) == 0
    hardware = Hardware(16, 4, "cuda", 40.0, 99.0, 0.15)
    assert capsys.readouterr().out == plan_run(config_with(), hardware)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--ranks 0", "--ranks is 0. Give a number above 0"),
        ("--device tpu", "--device is 'tpu'. Choose cpu or cuda"),
        ("--ranks 7 --ranks-per-node 3", "7 ranks are not a whole number of nodes of 3"),
        ("--host-memory-gib nan", "--host-memory-gib is nan"),
        ("--ranks 2 --device cuda --device-memory-gib 1", "table 'item' does not fit on 2 ranks"),
    ],
)
def test_hardware_that_cannot_be_is_refused(
    options: str, said: str, config_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gatehouse_plan(monkeypatch, "--config", config_file, *options.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
