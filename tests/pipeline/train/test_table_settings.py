"""Optimizer and placement of each table, and the pairs of settings that are refused."""

from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.train.config import ScheduleConfig, TrainConfig
from pipeline.train.optimizers import factor_at
from pipeline.train.run import train
from pipeline.train.tables.settings import check_table_settings, table_settings

TABLES = ("user_id", "user_city", "item_id")


def check(device: str = "cpu", attended: tuple[str, ...] = (), **settings: Any) -> None:
    check_table_settings(table_settings(TABLES, TrainConfig.model_validate(settings)), device, attended)


def test_a_table_takes_its_own_settings_before_those_of_a_pattern_and_these_before_the_common_ones() -> None:
    config = TrainConfig.model_validate(
        {
            "sparse_optimizers": {"user_*": {"kind": "sgd"}, "user_id": {"kind": "adagrad"}},
            "sharding": {"default": "row_wise", "tables": {"*_id": "table_wise", "user_*": {"type": "column_wise"}}},
        }
    )
    found = table_settings(TABLES, config)
    assert {table: s.optimizer.kind for table, s in found.items()} == {
        "user_id": "adagrad",
        "user_city": "sgd",
        "item_id": "rowwise_adagrad",
    }
    assert {table: s.sharding.type for table, s in found.items()} == {
        "user_id": "table_wise",
        "user_city": "column_wise",
        "item_id": "table_wise",
    }
    assert found["user_id"].optimizer_key == "train.sparse_optimizers.user_id"


BY_COLUMNS = {"tables": {"item_id": "column_wise"}}
REPLICATED = {"tables": {"item_id": "data_parallel"}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparse_optimizer": {"kind": "adam"}}, "kind is adam, which runs on GPUs only"),
        ({"sparse_optimizer": {"weight_decay": 0.1}}, "weight_decay is 0.1, which the CPU would ignore"),
        ({"sharding": {"tables": {"*": {"kernel": "fused_uvm"}}}}, r"tables\.\*\.kernel is fused_uvm, which the CPU"),
        ({"sharding": BY_COLUMNS}, "'item_id' has .* column_wise and .* rowwise_adagrad, which has one step size per"),
        ({"sharding": {"default": "grid"}}, "train.sharding.default grid and"),
        (
            {"sharding": REPLICATED, "sparse_optimizer": {"max_gradient": 1.0}},
            "'item_id' is data_parallel, which does not go with train.sparse_optimizer.max_gradient 1.0",
        ),
        (
            {"sharding": {"tables": {"item_id": {"type": "row_wise", "min_columns": 8}}}},
            "min_columns has no effect on type row_wise",
        ),
    ],
)
def test_a_setting_that_would_be_ignored_or_go_wrong_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(**settings)


def test_the_same_settings_are_fine_where_they_work() -> None:
    check("cuda", sparse_optimizer={"kind": "adam", "weight_decay": 0.1, "betas": [0.9, 0.99]})
    check("cuda", sharding={"tables": {"*": {"kernel": "fused_uvm_caching"}}})
    check(sharding=BY_COLUMNS, sparse_optimizers={"item_id": {"kind": "adagrad"}})
    check(sharding=REPLICATED)


def test_a_table_read_by_attention_takes_what_works_for_rows() -> None:
    check(attended=("user_id",), sharding=REPLICATED)
    with pytest.raises(ConfigError, match=r"'item_id' is read by attention and has .* data_parallel"):
        check(attended=("item_id",), sharding=REPLICATED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparse_optimizers": {"itm": {}}}, r"sparse_optimizers names 'itm', which fits no table"),
        ({"sharding": {"tables": {"it?m": "row_wise"}}}, r"sharding.tables names 'it\?m', which fits no table"),
        ({"sparse_optimizer": {"kind": "sgd", "eps": 1e-3}}, "eps has no effect on kind sgd"),
        ({"sparse_optimizer": {"betas": [0.9, 0.9]}}, "betas have no effect on kind rowwise_adagrad"),
        ({"dense_schedule": {"decay": "none", "final_factor": 0.1}}, "no effect without decay"),
        ({"sharding": {"default": "grid"}}, "one step size per row"),
        ({"pipeline": "sparse_dist"}, "looks at each batch twice"),
    ],
)
def test_a_mistake_in_the_train_section_is_found_before_any_work(
    make_config: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        train(make_config(model={"balancer": {"kind": "famo"}}, train=changes))
    assert "\n" not in str(caught.value)


def factors(num_steps: int = 10, **settings: Any) -> list[float]:
    schedule = ScheduleConfig.model_validate(settings)
    return [round(factor_at(schedule, step, num_steps), 6) for step in range(num_steps)]


def test_schedules_rise_hold_and_fall() -> None:
    assert factors() == [1.0] * 10
    assert factors(warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, *[1.0] * 6]
    assert factors(decay="linear") == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert factors(warmup_steps=2, decay="linear", decay_steps=4, final_factor=0.2) == [
        *(0.5, 1.0, 1.0, 0.8, 0.6, 0.4),
        *[0.2] * 4,
    ]
    cosine = factors(decay="cosine", final_factor=0.5)
    assert cosine[0] == 1.0
    assert cosine[5] == 0.75
    assert cosine == sorted(cosine, reverse=True)
