"""Every row has its value of each dimension: what the raw log says of it, whatever shards made of that."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import build
from pipeline.errors import ConfigError
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.dimensions import check_slices, open_dimensions, read_days
from pipeline.evaluate.slices import NONE, OTHER, Dimension, Slicer, Survey, range_names
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.columns.text import Codes, as_codes
from pipeline.preprocess.run import preprocess
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.schema import Schema
from pipeline.shards.manifest import read_index

NUM_ROWS, FIRST_TEST_ROW = 3_000, 2_400
START = datetime(2025, 1, 6, tzinfo=UTC)
CITIES = ("york", "bath", "hull", "ely", "ripon")

FEATURES: list[dict[str, Any]] = [
    {"name": "user", "kind": "categorical", "min_count": 2},
    {"name": "city", "kind": "categorical"},
    {"name": "twin", "column": "city", "kind": "categorical", "table": "city"},
    {"name": "price", "kind": "numeric", "log1p": True, "null_indicator": True},
    {"name": "age", "kind": "numeric", "clip": [18, 60]},
    {"name": "size", "column": "age", "kind": "bucketed", "boundaries": [20, 40.5]},
    {"name": "weekday", "column": "time", "kind": "time_part", "part": "weekday"},
    {"name": "tags", "kind": "multi_valued", "delimiter": ","},
    {"name": "shop", "column": "item", "kind": "categorical", "num_hash_buckets": 10},
    {"name": "pair", "kind": "crossed", "columns": ["city", "item"], "num_hash_buckets": 10},
]
SCHEMA: dict[str, Any] = {
    "keys": {"user": "user", "item": "item", "time": "time", "row": "row"},
    "features": FEATURES,
    "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
}


def raw_log() -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    cities = [None if draw > 0.9 else CITIES[int(5 * draw * draw)] for draw in rng.random(NUM_ROWS)]
    return {
        "row": list(range(NUM_ROWS)),
        "time": [START + timedelta(minutes=4 * row) for row in range(NUM_ROWS)],
        # From row 2,500 on, users that no training row has.
        "user": [
            f"u{int(user) + (500 if row >= 2_500 else 0)}" for row, user in enumerate(rng.integers(0, 60, NUM_ROWS))
        ],
        "item": rng.integers(0, 50, NUM_ROWS).tolist(),
        "city": cities,
        "price": [None if draw < 0.1 else float(round(50 * draw * draw, 2)) for draw in rng.random(NUM_ROWS)],
        "age": rng.integers(10, 80, NUM_ROWS).tolist(),
        "tags": ["a,b"] * NUM_ROWS,
        "click": rng.integers(0, 2, NUM_ROWS).tolist(),
    }


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("feed")
    pq.write_table(pa.table(raw_log()), folder / "log.parquet")
    settings = {
        "workspace": str(folder),
        "inputs": str(folder),
        "schema": SCHEMA,
        "preprocess": {
            "log": {"path": "log.parquet"},
            "split": {"kind": "order", "validation_fraction": 0.1, "test_fraction": 0.2},
        },
    }
    config = build(RunConfig, settings, "the tests")
    preprocess(config, InProcessExecutor())
    return config


def slices_of(*slices: Any) -> Any:
    return EvaluateConfig(slices=slices).slices


Slice = Callable[..., dict[str, list[str]]]


@pytest.fixture(scope="module")
def sliced(feed: RunConfig) -> Slice:
    """Gives the test rows their slices, surveyed in two halves."""
    index = read_index(feed.dataset_dir)
    shards = [pa.ipc.open_file(feed.dataset_dir / shard.path).read_all() for shard in index.of_split("test")]
    rows = pa.concat_tables(shards)
    fitted = FittedTransform.load(feed.dataset_dir, feed.data_schema)

    def make(*slices: Any, **known_rows: int) -> dict[str, list[str]]:
        checked = check_slices(feed.data_schema, slices_of(*slices))
        dimensions = open_dimensions(feed.data_schema, checked, fitted, {**index.table_rows, **known_rows})
        halves = [Survey.of(dimensions, rows.slice(first, 300), first) for first in (0, 300)]
        slicer = Slicer.of(dimensions, halves[1].merge(halves[0]))
        found = slicer.slice(rows.slice(0, 100)), slicer.slice(rows.slice(100))
        assert all(column.dictionary.equals(slicer.values[name]) for half in found for name, column in half.items())
        return {name: found[0][name].to_pylist() + found[1][name].to_pylist() for name in found[0]}

    return make


def of_test(column: str) -> list[Any]:
    return raw_log()[column][FIRST_TEST_ROW:]


def test_a_categorical_feature_and_a_key_have_the_values_of_the_log(sliced: Slice) -> None:
    found = sliced("city", "twin", {"column": "item", "top": 100})
    expected = [NONE if city is None else city for city in of_test("city")]
    assert found["city"] == expected
    assert found["twin"] == expected
    assert found["item"] == [str(item) for item in of_test("item")]


def test_the_most_frequent_values_are_kept_apart_and_the_others_taken_together(sliced: Slice) -> None:
    found = sliced({"column": "city", "top": 2})["city"]
    counts = Counter(city for city in of_test("city") if city)
    kept = sorted(counts, key=lambda city: (-counts[city], city))[:2]
    assert found == [NONE if city is None else city if city in kept else OTHER for city in of_test("city")]


def test_of_equally_frequent_values_the_first_texts_are_kept() -> None:
    table = pa.table({"x": ["b", "a", "c", "c", "d"]})
    dimension = Dimension("x", lambda rows: as_codes(rows["x"], "x"), top=2)
    values = Slicer.of([dimension], Survey.of([dimension], table, 0)).slice(table)["x"].to_pylist()
    assert values == [OTHER, "a", "c", "c", OTHER]


def test_buckets_have_equal_shares_and_are_cut_at_the_raw_numbers(sliced: Slice) -> None:
    prices = np.array([np.nan if price is None else price for price in of_test("price")])
    found = np.array(sliced({"column": "price", "buckets": 4})["price"])
    assert (found == NONE).tolist() == np.isnan(prices).tolist()
    names = [name for name in dict.fromkeys(found.tolist()) if name != NONE]
    assert len(names) == 4
    by_price = sorted(names, key=lambda name: prices[found == name].min())
    for name, following in pairwise(by_price):
        assert prices[found == name].max() < prices[found == following].min()
        # Where one ends the next begins; float32 keeps seven digits of a number, and names show four.
        edge = float(following.split(" ")[0])
        assert edge == pytest.approx(prices[found == following].min(), rel=1e-3)
    share = [np.mean(found[found != NONE] == name) for name in names]
    assert max(share) - min(share) < 0.02


def test_a_number_without_an_indicator_is_what_the_model_sees_clipped(sliced: Slice) -> None:
    found = np.array(sliced({"column": "age", "buckets": 2})["age"])
    ages = np.clip(of_test("age"), 18, 60)
    low, high = sorted(set(found.tolist()), key=lambda name: ages[found == name].min())
    assert ages[found == low].max() < ages[found == high].min()
    assert (low, high) == (f"below {ages[found == high].min()}", f"{ages[found == high].min()} and above")


def test_buckets_and_parts_of_times_of_the_schema_have_names(sliced: Slice) -> None:
    found = sliced("size", "weekday")
    sizes = np.digitize(of_test("age"), [20, 40.5])
    assert found["size"] == [["below 20", "20 to 40.5", "40.5 and above"][size] for size in sizes]
    assert found["weekday"] == [time.strftime("%A") for time in of_test("time")]


def test_days_are_those_of_utc(sliced: Slice) -> None:
    assert sliced("day")["day"] == [time.date().isoformat() for time in of_test("time")]


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3, 1e6, 60e6, 3_600e6, 86_400e6])
def test_numbers_are_times_in_the_one_unit_in_which_they_are_of_this_century(unit: float) -> None:
    moments = [
        datetime(2000, 1, 2, tzinfo=UTC),
        datetime(2031, 7, 4, 0, tzinfo=UTC),
        datetime(2099, 12, 30, tzinfo=UTC),
    ]
    numbers = [moment.timestamp() * 1e6 / unit for moment in moments]
    codes = read_days("t", pa.table({"t": pa.array([*numbers, None, -5.0])}))
    texts = [None if code < 0 else codes.texts[int(code)].as_py() for code in codes.codes]
    assert texts == ["2000-01-02", "2031-07-04", "2099-12-30", None, None]


def test_texts_and_dates_are_times_too() -> None:
    for column in (["2025-01-06T23:30:00-02:00", None], [datetime(2025, 1, 7).date(), None]):
        codes = read_days("t", pa.table({"t": column}))
        texts = [None if code < 0 else codes.texts[int(code)].as_py() for code in codes.codes]
        assert texts == ["2025-01-07", None]


def test_a_new_user_is_one_that_the_model_did_not_learn(sliced: Slice, feed: RunConfig) -> None:
    log = raw_log()
    num_training = NUM_ROWS - round(0.2 * NUM_ROWS) - round(0.1 * NUM_ROWS)
    counts = Counter(log["user"][:num_training])
    expected = ["known" if counts[user] >= 2 else "new" for user in of_test("user")]
    assert sliced("new_user")["new_user"] == expected
    assert set(expected) == {"known", "new"}
    # A model that knows none of the rows of the vocabulary.
    assert set(sliced("new_user", user=2)["new_user"]) == {"new"}


def test_by_default_a_report_has_the_days_and_what_is_new_as_far_as_the_keys_allow() -> None:
    def default(**keys: str | None) -> list[str]:
        section = {**SCHEMA, "keys": {**SCHEMA["keys"], **keys}}
        return [one.column for one in check_slices(build(Schema, section, "the tests"), None)]

    assert default() == ["day", "new_user"], "the items' feature is hashed"
    assert default(item="city") == ["day", "new_user", "new_item"]
    assert default(time=None, user=None) == []


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ("citty", r"names 'citty', which is no feature or key of the schema\. Did you mean 'city'\?"),
        ("tags", "names 'tags', a feature of kind multi_valued, which has several values in a row"),
        ("pair", "names 'pair', a feature of kind crossed"),
        ("shop", "names 'shop', whose values are hashed, and not known any more"),
        ("time", r"names 'time', which is the time of a row\. Write day"),
        ("row", "names 'row', which is another one in each row"),
        ("new_item", "names 'new_item', and no categorical feature with a vocabulary is read from 'item'"),
        ({"column": "price", "top": 3}, "names 'price' with top, and it is numeric"),
        ({"column": "city", "buckets": 3}, "names 'city' with buckets, and it is not numeric"),
    ],
)
def test_a_slice_that_cannot_be_made_is_a_clear_error(one: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_slices(build(Schema, SCHEMA, "the tests"), slices_of(one))


def test_a_slice_without_its_key_is_a_clear_error() -> None:
    schema = build(Schema, {**SCHEMA, "keys": {}}, "the tests")
    for name, key in (("day", "time"), ("new_user", "user"), ("new_item", "item")):
        with pytest.raises(ConfigError, match=f"names '{name}', and the schema has no key `{key}`"):
            check_slices(schema, slices_of(name))


def test_a_slice_that_stands_twice_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="names 'city' twice"):
        check_slices(build(Schema, SCHEMA, "the tests"), slices_of("city", {"column": "city", "top": 2}))


def test_settings_of_slices_are_checked_when_they_are_read() -> None:
    for one, message in (
        ({"column": "city", "top": 2, "buckets": 2}, "give one of the two"),
        ({"column": "city", "tops": 2}, "unknown key slices.0.tops. Did you mean 'top'"),
        ({"column": "price", "buckets": 1}, "greater than or equal to 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(EvaluateConfig, {"slices": [one]}, "the tests")


def test_ranges_have_as_many_digits_as_tell_them_apart() -> None:
    assert range_names([]) == ["all values"]
    assert range_names([1 / 3, 20.0]) == ["below 0.3333", "0.3333 to 20", "20 and above"]
    assert range_names([1.00001, 1.00002]) == ["below 1.00001", "1.00001 to 1.00002", "1.00002 and above"]


def test_a_survey_keeps_no_more_than_the_distinct_values_and_a_sample() -> None:
    def read_text(table: pa.Table) -> Codes:
        return as_codes(table["text"], "text")

    def read_number(table: pa.Table) -> np.ndarray:
        return np.asarray(table["number"])

    dimensions = [Dimension("text", read_text), Dimension("number", read_number, buckets=3)]
    survey = Survey({}, {})
    for piece in range(20):
        rows = np.arange(piece * 10_000, (piece + 1) * 10_000)
        table = pa.table({"text": (rows % 7).astype(str), "number": rows.astype(float)})
        found = Survey.of(dimensions, table, int(rows[0]))
        survey = survey.merge(found) if piece else found
    assert survey.counts["text"].num_rows == 7
    assert sum(survey.counts["text"]["count"].to_pylist()) == 200_000
    assert len(survey.samples["number"].values) == 1 << 16
    cuts = survey.samples["number"].boundaries(3)
    assert cuts == pytest.approx((66_667, 133_333), rel=0.02)


def test_no_slice_leaves_every_row_in_the_whole(sliced: Slice) -> None:
    assert sliced() == {}
    assert Slicer.of([], Survey({}, {})).slice(pa.table({"x": [1]})) == {}
