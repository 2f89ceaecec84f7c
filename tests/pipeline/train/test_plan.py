"""Sharding plans for hardware that is not here: what is printed, what each rank gets, and what does not fit."""

import os
import re
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

from jobs.__main__ import main
from pipeline.config import build
from pipeline.errors import ConfigError
from pipeline.run_config import RunConfig
from pipeline.train.config import ShardingConfig
from pipeline.train.tables.misfit import misfit
from pipeline.train.tables.placement import Hardware, Placement, TableSet, place
from pipeline.train.tables.plan import plan_run, tables_of
from pipeline.train.tables.sharding import plan_tables

ROWS = {"user": 3_000_000, "item": 10_000_000, "brand": 1_000, "country": 250}
WIDTH = 64
GPUS = Hardware(16, 8, "cuda", device_memory_gib=80.0, host_memory_gib=128.0, reserved_fraction=0.15)
TWO_SMALL_GPUS = replace(GPUS, num_ranks=2, ranks_per_node=2, device_memory_gib=2.0, host_memory_gib=8.0)
CPUS = replace(GPUS, num_ranks=4, ranks_per_node=2, device="cpu")
ADAGRAD = {"kind": "adagrad"}
TABLE_WISE = {"sparse_optimizer": ADAGRAD, "sharding": {"tables": {"item": "table_wise"}}}


def settings_with(rows: dict[str, int] = ROWS, train: Any = None, front_end: Any = None) -> dict[str, Any]:
    """A run of four tables, one of them shared with a history, without a dataset."""
    names = ("user", "item", "brand", "country")
    return {
        "workspace": "no-such-workspace",
        "schema": {
            "features": [
                *({"name": name, "kind": "categorical"} for name in names),
                {"name": "history", "kind": "history", "table": "item"},
            ],
            "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
        },
        "preprocess": {"log": {"path": "log"}, "split": {"kind": "order"}},
        "model": {"front_end": {"embedding_dim": WIDTH, "num_embeddings": rows, **(front_end or {})}},
        "train": {"num_lanes": 64, "global_batch_size": 4096, **(train or {})},
    }


def config_with(rows: dict[str, int] = ROWS, train: Any = None, front_end: Any = None) -> RunConfig:
    return build(RunConfig, settings_with(rows, train, front_end), "the tests")


def placed(config: RunConfig, hardware: Hardware) -> Placement:
    placement = place(tables_of(config, hardware), hardware)
    assert placement is not None
    return placement


def types_in(placement: Placement) -> dict[str, str]:
    return {option.name: option.sharding_type for option in placement.options}


def refusal(config: RunConfig, hardware: Hardware) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        plan_run(config, hardware)
    return raised.value


# --- what fits


def test_ten_billion_rows_on_64_gpus_give_a_plan_within_every_budget() -> None:
    config, hardware = config_with(ROWS | {"item": 10**10}), replace(GPUS, num_ranks=64)
    usage = placed(config, hardware).usage(64)
    assert all(device <= hardware.device_budget_gib and host == 0 for device, host, _ in usage)
    rows = 10**10 + sum(ROWS.values()) - ROWS["item"]
    # Row-wise Adagrad keeps one number per row; the planner adds buffers for a batch.
    assert sum(device for device, _, _ in usage) == pytest.approx(rows * (WIDTH + 1) * 4 / 2**30, rel=0.02)
    text = plan_run(config, hardware)
    assert re.search(r"^item +row_wise +fused +rowwise_adagrad +10,000,000,000 +64 +64 +64 +2,421.4$", text, re.M)
    assert all(re.search(rf"^{table} ", text, re.M) for table in ROWS)
    assert max(map(len, text.splitlines())) <= 120


def test_every_rank_is_in_one_line_of_the_plan() -> None:
    text = plan_run(config_with(ROWS | {"item": 10**10}), replace(GPUS, num_ranks=64))
    lines = text.split("\n\n")[2].splitlines()[1:]
    ranks = [span.split("-") for line in lines for span in re.split(r"  +", line)[0].split(", ")]
    assert sorted(r for first, *last in ranks for r in range(int(first), int((last or [first])[0]) + 1)) == [*range(64)]


@pytest.mark.parametrize(
    ("type_", "num_parts"),
    [
        ("table_wise", 1),
        ("row_wise", 16),
        ("column_wise", 4),
        ("table_row_wise", 8),
        ("grid", 32),
        ("data_parallel", 16),
    ],
)
def test_a_table_is_sharded_as_configured(type_: str, num_parts: int) -> None:
    chosen = {"type": type_, "min_columns": 16} if type_ in ("column_wise", "grid") else type_
    config = config_with(train={"sharding": {"tables": {"user": chosen}}, "sparse_optimizer": ADAGRAD})
    option = next(option for option in placed(config, GPUS).options if option.name == "user")
    assert option.sharding_type == {"grid": "grid_shard"}.get(type_, type_)
    assert option.compute_kernel == ("dense" if type_ == "data_parallel" else "fused")
    assert option.num_shards == num_parts
    assert re.search(rf"^user +{type_} ", plan_run(config, GPUS), re.M)


def test_a_pattern_shards_the_tables_that_it_fits() -> None:
    sharding = {"default": "row_wise", "tables": {"*r*": "table_row_wise", "user": "table_wise"}}
    assert types_in(placed(config_with(train={"sharding": sharding}), GPUS)) == {
        "user": "table_wise",
        "item": "row_wise",
        "brand": "table_row_wise",
        "country": "table_row_wise",
    }


def test_the_planner_splits_columns_only_where_the_optimizer_does_not_look_at_whole_rows() -> None:
    by_columns = {"column_wise", "grid_shard"}
    assert not by_columns & set(types_in(placed(config_with(), GPUS)).values())
    assert by_columns & set(types_in(placed(config_with(train={"sparse_optimizer": ADAGRAD}), GPUS)).values())


def test_the_planner_never_replicates_a_table_of_itself() -> None:
    for hardware in (GPUS, CPUS):
        assert "data_parallel" not in types_in(placed(config_with(), hardware)).values()


def test_of_equally_fast_types_the_simplest_is_taken() -> None:
    one = replace(GPUS, num_ranks=1, ranks_per_node=1)
    tables = tables_of(config_with(train={"sparse_optimizer": ADAGRAD}), one)
    placement = place(replace(tables, ids_per_row={}), one)
    assert placement is not None
    assert set(types_in(placement).values()) == {"table_wise"}


def test_a_table_in_host_memory_takes_none_of_the_gpu() -> None:
    kernel = {"tables": {"item": {"type": "row_wise", "kernel": "fused_uvm"}}}
    item = next(o for o in placed(config_with(train={"sharding": kernel}), GPUS).options if o.name == "item")
    assert item.total_storage.ddr == pytest.approx(ROWS["item"] * (WIDTH + 1) * 4, rel=0.01)
    assert item.total_storage.hbm < 0.05 * item.total_storage.ddr


def test_a_plan_without_tables_says_so() -> None:
    settings = settings_with({})
    settings["schema"]["features"] = [{"name": "age", "kind": "numeric"}]
    assert plan_run(build(RunConfig, settings, "the tests"), CPUS) == ("no embedding tables\n")


# --- what does not fit


def test_a_cluster_that_is_too_small_names_the_table_and_the_missing_memory() -> None:
    hardware = replace(GPUS, num_ranks=8)
    config = config_with(ROWS | {"item": 10**10})
    error = refusal(config, hardware)
    assert error.what.startswith("table 'item' does not fit on 8 ranks: ")
    missing = float(re.search(r": ([\d,.]+) GiB of GPU memory are missing", error.what)[1])  # type: ignore[index]
    assert missing == pytest.approx(10**10 * (WIDTH + 1) * 4 / 8 / 2**30 - hardware.device_budget_gib, rel=0.03)

    def plan_with(more_gib: float) -> Placement | None:
        grown = replace(hardware, device_memory_gib=80.0 + more_gib / (1 - hardware.reserved_fraction))
        return place(tables_of(config, grown), grown)

    assert plan_with(missing + 0.1)
    assert not plan_with(missing * 0.95)


def test_more_ranks_are_offered_as_many_as_are_needed_and_no_more() -> None:
    config = config_with(ROWS | {"item": 10**10})
    assert refusal(config, replace(GPUS, num_ranks=8)).fix == (
        "what makes the tables fit, each planned again:\n  - 64 ranks like these (8 nodes of 8) instead of 8"
    )
    refusal(config, replace(GPUS, num_ranks=32))
    plan_run(config, replace(GPUS, num_ranks=64))


@pytest.mark.parametrize(
    ("train", "hardware", "num_remedies"),
    [
        ({"sparse_optimizer": ADAGRAD}, TWO_SMALL_GPUS, 2),
        (TABLE_WISE, replace(TWO_SMALL_GPUS, device_memory_gib=4.0), 3),
        ({"sharding": {"tables": {"item": {"kernel": "fused_uvm"}}}}, replace(TWO_SMALL_GPUS, host_memory_gib=1.0), 2),
        ({"sharding": {"tables": {"item": "data_parallel"}}}, replace(CPUS, host_memory_gib=2.0), 2),
    ],
)
def test_each_remedy_makes_the_tables_fit(train: dict[str, Any], hardware: Hardware, num_remedies: int) -> None:
    remedies = refusal(config_with(train=train), hardware).fix.split("\n  - ")[1:]
    assert len(remedies) == num_remedies
    for remedy in remedies:
        assert "item" in plan_run(*remedied(remedy, train, hardware))


def remedied(remedy: str, train: dict[str, Any], hardware: Hardware) -> tuple[RunConfig, Hardware]:
    """The configuration and hardware that a remedy asks for."""
    if ranks := re.match(r"(\d+) ranks", remedy):
        return config_with(train=train), replace(hardware, num_ranks=int(ranks[1]))
    if width := re.match(r"model\.front_end\.embedding_dims\.item: (\d+)", remedy):
        return config_with(train=train, front_end={"embedding_dims": {"item": int(width[1])}}), hardware
    chosen = re.match(r"train\.sharding\.tables\.item: (\{.*\}|\w+)", remedy)
    assert chosen, remedy
    return config_with(train={**train, "sharding": {"tables": {"item": yaml.safe_load(chosen[1])}}}), hardware


def test_where_no_single_table_is_to_blame_the_planner_is_given_its_freedom() -> None:
    error = refusal(config_with(ROWS | {"item": 10**10, "user": 10**9}, {"sharding": {"default": "table_wise"}}), GPUS)
    freedom, ranks = re.search(r"  - (train\.sharding\.default: auto), .*, and (\d+) ranks", error.fix).groups()  # type: ignore[union-attr]
    assert freedom == "train.sharding.default: auto"
    plan_run(config_with(ROWS | {"item": 10**10, "user": 10**9}), replace(GPUS, num_ranks=int(ranks)))


def test_what_no_remedy_mends_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.train.tables.misfit.MAX_RANKS", 32)
    error = refusal(config_with(ROWS | {"item": 10**15}), GPUS)
    assert error.fix.startswith("no single change makes the tables fit (tried: ")


@pytest.mark.parametrize("hardware", [replace(CPUS, host_memory_gib=1.0), replace(GPUS, device_memory_gib=0.25)])
def test_reserved_memory_is_kept_free_on_every_device(hardware: Hardware) -> None:
    config = config_with(train={"sharding": {"tables": {"item": "row_wise"}}})
    placed(config, replace(hardware, reserved_fraction=0.0))
    assert "less 50% reserved" in refusal(config, replace(hardware, reserved_fraction=0.5)).what


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
