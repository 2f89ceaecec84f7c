"""What each kind of feature says of its columns, table and ids, and the settings that it refuses."""

from typing import Any

import pytest
from small_schema import make_schema, put, section

from pipeline.errors import ConfigError

NEW_KINDS: list[dict[str, Any]] = [
    {"name": "w", "kind": "weighted_multi_valued", "delimiter": ",", "table": "tags"},
    {"name": "beside", "kind": "weighted_multi_valued", "weights": "shares", "max_length": 9},
    {"name": "past", "kind": "history", "table": "item", "times": "past_at"},
    {"name": "pair", "kind": "crossed", "columns": ["user", "city"], "num_hash_buckets": 100},
    {"name": "hour", "kind": "time_part", "column": "at", "part": "hour"},
    {"name": "day", "kind": "time_part", "column": "at", "part": "day_of_month"},
    {"name": "cost", "kind": "bucketed", "column": "item_price", "num_buckets": 8},
    {"name": "steps", "kind": "bucketed", "boundaries": [0, 1.5]},
    {"name": "freshness", "kind": "numeric", "column": "at", "since": "made_at", "unit": "days"},
]


def test_every_kind_says_its_columns_its_table_and_its_ids() -> None:
    data = section()
    data["features"] += NEW_KINDS
    schema = make_schema(data)
    assert schema.input_columns()[7:] == ["w", "beside", "shares", "past", "past_at", "city", "steps", "made_at"]
    assert schema.columns_of(schema.features[8]) == ["past", "past_at", "at"]
    assert schema.columns_of(schema.features[3]) == ["history"]
    rows = {name: owner.fixed_rows for name, owner in schema.table_owners().items()}
    assert rows == {
        "user": None,
        "item": None,
        "tags": None,
        "beside": None,
        "pair": 102,
        "hour": 26,
        "day": 33,
        "cost": 10,
        "steps": 5,
    }
    assert list(schema.vocabulary_owners()) == ["user", "item", "tags", "beside"]
    ids = schema.max_ids_per_row
    assert (ids["w"], ids["beside"], ids["past"], ids["pair"], ids["hour"], ids["cost"]) == (64, 9, 50, 1, 1, 1)
    assert [feature.name for feature in schema.bucketed_features] == ["cost", "steps"]
    assert schema.dense_names == ["age", "age_is_null", "price", "freshness"]


CROSSED = {"name": "pair", "kind": "crossed", "columns": ["a", "b"], "num_hash_buckets": 5}
WEIGHTED = {"name": "w", "kind": "weighted_multi_valued"}
BUCKETED = {"name": "b", "kind": "bucketed"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("features.6", {**CROSSED, "columns": ["a"]}, "features.6.columns is ['a']: needs at least 2"),
        ("features.6", {**CROSSED, "columns": ["a", "a"]}, "columns is ['a', 'a']: column 'a' is named twice"),
        ("features.6", {"name": "pair", "kind": "crossed", "columns": ["a", "b"]}, "num_hash_buckets is missing"),
        ("features.6", {**CROSSED, "columns": ["a", "liked"]}, "feature 'pair' reads 'liked', which is the label of"),
        ("features.6", {**WEIGHTED, "weights": "liked"}, "feature 'w' reads 'liked', which is the label of"),
        ("features.6", {**WEIGHTED, "weights": "v", "weight_delimiter": "@"}, "weight_delimiter does not apply"),
        ("features.6", {**WEIGHTED, "delimiter": ":"}, "delimiter and weight_delimiter are both ':'"),
        ("features.3.time_unit", "hours", "time_unit applies to a history with times"),
        ("features.3.times", "liked", "feature 'history' reads 'liked', which is the label of"),
        ("features.6", BUCKETED, "a bucketed feature needs either num_buckets or boundaries"),
        ("features.6", {**BUCKETED, "num_buckets": 3, "boundaries": [1]}, "needs either num_buckets or boundaries"),
        ("features.6", {**BUCKETED, "boundaries": [1, 1]}, "each boundary must be above the one before it"),
        ("features.6", {**BUCKETED, "boundaries": []}, "boundaries is []: needs at least 1"),
        ("features.6", {**BUCKETED, "num_buckets": 1}, "should be greater than or equal to 2"),
        ("features.6", {"name": "t", "kind": "time_part", "part": "minute"}, "features.6.part is 'minute'"),
        ("features.4.unit", "days", "unit applies to an age, which needs since"),
        ("features.4.time_unit", "days", "time_unit applies to an age, which needs since"),
        ("features.4.fill", "median", "features.4.fill"),
        ("features.4", {"name": "n", "kind": "numeric", "log1p": True, "fill": -1}, "fill is -1, below 0, where log1p"),
    ],
)
def test_settings_of_a_kind_that_contradict_each_other_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_schema(put(path, value))
    assert message in str(caught.value)


def test_a_table_of_buckets_crosses_or_times_is_not_shared() -> None:
    data = put("features.3.table", "pair")
    data["features"].append(CROSSED)
    with pytest.raises(ConfigError, match="feature 'history' shares table 'pair', whose rows are not values of a colu"):
        make_schema(data)


def test_a_history_with_times_needs_the_rows_own_time() -> None:
    data = put("features.3.times", "seen_at")
    assert make_schema(data).columns_of(make_schema(data).features[3]) == ["history", "seen_at", "at"]
    data["keys"].pop("time")
    with pytest.raises(ConfigError, match=r"feature 'history' has times, which needs keys.time, the row's own time"):
        make_schema(data)
