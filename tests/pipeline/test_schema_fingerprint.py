"""The fingerprint of a schema, and the differences that two schemas have."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_schema import FEELING, make_schema, put, section

CHANGES = [
    ("features.0.min_count", 3),
    ("features.0.column", "user_id"),
    ("features.0.kind", "multi_valued"),
    ("features.0.max_size", 100),
    ("features.1.num_hash_buckets", 100),
    ("features.2.delimiter", ";"),
    ("features.2.max_length", 10),
    ("features.2.name", "labels"),
    ("features.4.null_indicator", False),
    ("features.4.standardise", False),
    ("features.4.log1p", True),
    ("features.4.fill", "mean"),
    ("features.4.fill", 0),
    ("features.4.since", "born"),
    ("features.4", {"name": "age", "kind": "numeric", "null_indicator": True, "since": "born", "unit": "days"}),
    ("features.3.times", "seen_at"),
    ("features.6", {"name": "hour", "kind": "time_part", "part": "hour"}),
    ("features.6", {"name": "hour", "kind": "time_part", "part": "hour", "utc_offset_hours": 8}),
    ("features.6", {"name": "b", "kind": "bucketed", "num_buckets": 3}),
    ("features.6", {"name": "b", "kind": "bucketed", "boundaries": [1, 2]}),
    ("features.5.clip", [0, 11]),
    ("features.6", {"name": "city", "kind": "categorical"}),
    ("tasks.0.label", "pressed"),
    ("tasks.0.positive", "yes"),
    ("tasks.0.positive", 1),
    ("tasks.0.positive", "1"),
    ("tasks.0.positive", True),
    ("tasks.2.kind", "watch_time"),
    ("tasks.3", FEELING),
    ("tasks.3", {**FEELING, "classes": {"cold": "two", "warm": 2}}),
    ("tasks.3", {**FEELING, "classes": {"warm": "2", "cold": "two"}}),
    ("weight", "item_price"),
    ("tasks.2.space", "click"),
    ("tasks.2.kind", "binary"),
    ("tasks.2.name", "stay"),
    ("keys.user", "user_id"),
    ("keys.row", "row"),
]


def test_each_change_of_meaning_changes_the_fingerprint() -> None:
    fingerprints = [make_schema(put(path, value)).fingerprint() for path, value in CHANGES]
    assert len({make_schema(section()).fingerprint(), *fingerprints}) == len(CHANGES) + 1


def test_the_fingerprint_of_a_schema_is_what_it_was_when_earlier_datasets_were_made() -> None:
    assert make_schema(section()).fingerprint() == "1754216d45d01f1d364bddf7faef7f2c6cd66d7a6645702a3f40dab66d35f384"


@pytest.mark.parametrize("kind", ["features", "tasks"])
def test_another_order_changes_the_fingerprint(kind: str) -> None:
    data = section()
    for task in data["tasks"]:
        task.pop("space", None)
    before = make_schema(data)
    data[kind].reverse()
    after = make_schema(data)
    assert before.fingerprint() != after.fingerprint()
    assert after.differences(before) == [f"the {kind} are in another order"]


def test_how_a_schema_is_written_does_not_change_the_fingerprint() -> None:
    schema = make_schema(section())
    backwards = {
        key: value if isinstance(value, dict) else [dict(reversed(entry.items())) for entry in value]
        for key, value in reversed(section().items())
    }
    assert make_schema(backwards).fingerprint() == schema.fingerprint()
    # With every default written out, as in a resolved configuration.
    assert make_schema(schema.model_dump(mode="json")).fingerprint() == schema.fingerprint()
    assert make_schema(put("features.5.clip", [0.0, 10])).fingerprint() == schema.fingerprint()


# --- differences


@pytest.mark.parametrize(
    ("path", "value", "phrase"),
    [
        ("features.0.min_count", 3, "feature 'user': min_count was 2, is 3"),
        ("features.3.table", None, "feature 'history': table was 'item', is None"),
        ("features.4.fill", 3, "feature 'age': fill was None, is 3.0"),
        ("features.5.clip", None, "feature 'price': clip was (0.0, 10.0), is None"),
        ("features.6", {"name": "city", "kind": "categorical"}, "feature 'city' is new"),
        ("tasks.2.space", "click", "task 'watch': space was 'like', is 'click'"),
        ("tasks.0.positive", "yes", "task 'click': positive was None, is 'yes'"),
        ("keys.user", "user_id", "the key columns differ"),
        ("weight", "share", "weight was None, is 'share'"),
    ],
)
def test_a_difference_is_one_phrase(path: str, value: Any, phrase: str) -> None:
    before, after = make_schema(section()), make_schema(put(path, value))
    assert after.differences(before) == [phrase]
    assert before.differences(before) == []


def test_another_order_of_classes_is_a_difference() -> None:
    before = make_schema(put("tasks.3", FEELING))
    after = make_schema(put("tasks.3", {**FEELING, "classes": {"cold": "two", "warm": 2}}))
    assert after.differences(before) == [
        "task 'feeling': classes was {'warm': 2, 'cold': 'two'}, is {'cold': 'two', 'warm': 2}"
    ]


def test_a_feature_that_is_gone_is_named() -> None:
    data = section()
    del data["features"][4]
    assert make_schema(data).differences(make_schema(section())) == ["feature 'age' is gone"]


def test_a_renamed_feature_is_gone_and_new() -> None:
    assert make_schema(put("features.2.name", "labels")).differences(make_schema(section())) == [
        "feature 'labels' is new",
        "feature 'tags' is gone",
    ]


def test_another_kind_names_each_setting_that_differs() -> None:
    assert make_schema(put("features.1.kind", "history")).differences(make_schema(section())) == [
        "feature 'item': kind was 'categorical', is 'history'",
        "feature 'item': max_length was None, is 50",
    ]


@given(st.sampled_from(CHANGES), st.sampled_from(CHANGES))
def test_there_is_a_difference_exactly_when_the_fingerprints_differ(
    first: tuple[str, Any], second: tuple[str, Any]
) -> None:
    before, after = make_schema(put(*first)), make_schema(put(*second))
    assert bool(after.differences(before)) == (after.fingerprint() != before.fingerprint())
