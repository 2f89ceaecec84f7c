"""Sharding plans for hardware that is not here: what each rank gets, and what does not fit."""

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from planned_tables import ADAGRAD, CPUS, GPUS, ROWS, WIDTH, config_with, placed, refusal, settings_with, types_in

from pipeline.config import build
from pipeline.run_config import RunConfig
from pipeline.train.tables.placement import Hardware, Placement, place
from pipeline.train.tables.plan import plan_run, tables_of

TWO_SMALL_GPUS = replace(GPUS, num_ranks=2, ranks_per_node=2, device_memory_gib=2.0, host_memory_gib=8.0)
TABLE_WISE = {"sparse_optimizer": ADAGRAD, "sharding": {"tables": {"item": "table_wise"}}}


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
