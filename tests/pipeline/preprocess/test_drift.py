"""Drift is found where the log changed and nowhere else, and what is undefined is null with a reason."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ArtifactError, DataError
from pipeline.preprocess.checks.drift import Finding, check_drift, describe_drift, find_drift, psi, read_previous
from pipeline.preprocess.config import DriftConfig
from pipeline.preprocess.profiles.profile import NumberProfile
from pipeline.preprocess.profiles.sample import RowOrder

NUM_ROWS = 20_000


def make_profile(shift: float = 0.0, seed: int = 0, num_rows: int = NUM_ROWS) -> NumberProfile:
    values = np.random.default_rng(seed).normal(shift, size=num_rows)
    return NumberProfile.of(values, RowOrder.of(np.arange(num_rows)))


def make_statistics(profile: NumberProfile | None = None) -> dict[str, Any]:
    profile = profile or make_profile()
    return {
        "rows": {"train": NUM_ROWS, "validation": 100, "test": 100},
        "features": {
            "price": {"kind": "numeric", "nulls": {"train": 200}, "profile": {"train": profile.describe()}},
            "city": {
                "kind": "categorical",
                "table": "city",
                "nulls": {"train": 0},
                "unseen_fraction": {"train": 0.0, "test": 0.02},
            },
            "seen": {
                "kind": "history",
                "table": "city",
                "null_lists": {"train": 0},
                "nulls": {"train": 10**6},
                "unseen_fraction": {"train": 0.0, "test": 0.05},
            },
        },
        "tables": {"city": {"num_values": 10_000, "top_values": [["york", 6000], ["bath", 3000]]}},
        "tasks": {
            "click": {"mean": {"train": 0.1}},
            "mood": {"classes": {"warm": {"train": 9000}, "cold": {"train": 1000}}},
        },
    }


def find(before: dict[str, Any], now: dict[str, Any], profile: NumberProfile | None = None) -> list[Finding]:
    return find_drift(before, now, {"price": profile or make_profile(seed=1)}, DriftConfig())


def test_the_index_is_the_one_computed_by_hand() -> None:
    # (0.7 - 0.5) ln(0.7 / 0.5) + (0.3 - 0.5) ln(0.3 / 0.5)
    assert psi([5, 5], [70, 30]) == pytest.approx(0.2 * math.log(1.4) - 0.2 * math.log(0.6))
    assert psi([5, 5], [70, 30]) == pytest.approx(0.16946, abs=1e-5)
    # An empty bin counts as one row in ten thousand: (0.5 - 1) ln(0.5) + (0.5 - 0.0001) ln(5000)
    assert psi([10, 0], [5, 5]) == pytest.approx(0.34657 + 0.4999 * math.log(5000), abs=1e-5)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=20))
def test_the_index_is_symmetric_and_is_0_for_equal_shares_only(pairs: list[tuple[int, int]]) -> None:
    before, now = ([pair[side] + (place == 0) for place, pair in enumerate(pairs)] for side in (0, 1))
    assert psi(before, now) == pytest.approx(psi(now, before))
    assert psi(before, [7 * count for count in before]) == pytest.approx(0, abs=1e-12)
    p, q = (np.array(side) / sum(side) for side in (before, now))
    assert (psi(before, now) > 1e-12) == (not np.allclose(p, q, atol=1e-9))


def test_two_samples_of_one_log_have_no_drift() -> None:
    findings = find(make_statistics(), make_statistics())
    assert [(one.of, one.name, one.measure) for one in findings] == [
        ("feature", "price", "increase of the null rate"),
        ("feature", "price", "population stability index"),
        ("feature", "city", "increase of the null rate"),
        ("feature", "city", "increase of the unseen rate"),
        ("feature", "city", "population stability index"),
        ("feature", "seen", "increase of the null rate"),
        ("feature", "seen", "increase of the unseen rate"),
        ("task", "click", "change of the mean label"),
        ("task", "mood", "population stability index"),
    ]
    assert not any(one.is_over for one in findings)
    assert all(one.value is not None and one.value < 0.01 for one in findings)
    assert check_drift(findings, DriftConfig(action="stop")) == []


def test_numbers_are_compared_on_the_bins_of_the_previous_dataset() -> None:
    (found,) = (one for one in find(make_statistics(), make_statistics(), make_profile(1.0)) if one.is_over)
    # Between two unit normals one deviation apart, the index of infinitely many bins is 1.
    assert found.value == pytest.approx(1.0, abs=0.15)
    assert str(found).startswith("feature 'price': population stability index is 0.9")
    assert str(found).endswith(", above 0.25")


INDEX = "population stability index"
CHANGES: list[tuple[str, Any, str]] = [
    ("features.price.nulls", {"train": 4200}, "increase of the null rate is 0.2, above 0.1, from 0.01 to 0.21"),
    ("features.seen.null_lists", {"train": 10_000}, "increase of the null rate is 0.5, above 0.1, from 0 to 0.5"),
    (
        "features.city.unseen_fraction",
        {"test": 0.3},
        "increase of the unseen rate is 0.28, above 0.1, from 0.02 to 0.3",
    ),
    # 2 (0.6 - 0.3) ln(2), the rest as before
    ("tables.city.top_values", [["bath", 6000], ["york", 3000]], f"{INDEX} is 0.4159, above 0.25"),
    # 0.5999 ln(6000) + 0.2999 ln(3000) + 0.8999 ln(9.999)
    ("tables.city.top_values", [["hull", 9999], ["york", 1]], f"{INDEX} is 9.692, above 0.25"),
    ("tasks.click.mean", {"train": 0.2}, "change of the mean label is 1, above 0.25, from 0.1 to 0.2"),
    ("tasks.click.mean", {"train": 0.0}, "change of the mean label is 1, above 0.25, from 0.1 to 0"),
    # 0.8999 ln(9000) + 0.4 ln(5) + 0.4999 ln(5000)
    ("tasks.mood.classes", {"cold": {"train": 5000}, "hot": {"train": 5000}}, f"{INDEX} is 13.1, above 0.25"),
    ("features.age", {"kind": "numeric"}, "presence: is new"),
    ("features.price.kind", "categorical", "presence: was numeric, is categorical"),
    ("tasks.buy", {}, "presence: is new"),
]


@pytest.mark.parametrize(("path", "value", "message"), CHANGES)
def test_each_change_is_one_finding_that_comes_first(path: str, value: Any, message: str) -> None:
    before = make_statistics()
    now = copy.deepcopy(before)
    section, name, *keys = path.split(".")
    node = now[section]
    for key in [name, *keys][:-1]:
        node = node[key]
    node[[name, *keys][-1]] = value
    findings = find(before, now)
    of = "task" if section == "tasks" else "feature"
    assert [str(one) for one in findings if one.is_over] == [f"{of} {name!r}: {message}"]
    assert findings[0].is_over
    assert check_drift(findings, DriftConfig()) == [str(findings[0])]


def test_a_feature_that_is_gone_is_a_finding() -> None:
    now = make_statistics()
    del now["features"]["seen"]
    assert [str(one) for one in find(make_statistics(), now) if one.is_over] == ["feature 'seen': presence: is gone"]


def test_what_is_undefined_is_null_with_a_reason() -> None:
    before, now = make_statistics(make_profile(num_rows=999)), make_statistics()
    before["tasks"]["click"] = {"mean": {"train": 0.0}}
    del before["tables"]["city"], now["features"]["seen"]["unseen_fraction"]
    findings = find(before, now)
    undefined = {(one.name, one.measure): one.reason for one in findings if one.value is None}
    assert undefined == {
        ("price", "population stability index"): "999 values are too few, it needs 1,000",
        ("city", "population stability index"): "one of the two datasets has no counts to compare",
        ("seen", "increase of the unseen rate"): "the current dataset does not tell the rate",
        ("click", "change of the mean label"): "the previous mean label is 0",
    }
    assert not any(one.is_over for one in findings)


def test_statistics_written_before_there_were_profiles_are_compared_as_far_as_they_go() -> None:
    before = make_statistics()
    del before["features"]["price"]["profile"], before["tables"]["city"]["top_values"]
    found = {(one.name, one.measure) for one in find(before, make_statistics()) if one.value is None}
    assert found == {("price", "population stability index"), ("city", "population stability index")}


def test_stopping_takes_one_message_however_much_has_drifted() -> None:
    over = [Finding("feature", f"f{n}", "presence", None, None, None, None, True, "is new") for n in range(20)]
    config = DriftConfig(previous="runs/old/dataset", action="stop")
    with pytest.raises(DataError) as caught:
        check_drift(over, config)
    message = str(caught.value)
    assert message.startswith("the log has drifted from runs/old/dataset: feature 'f0': presence: is new; feature 'f1'")
    assert "feature 'f7': presence: is new; 12 more. Check what changed" in message
    assert len(check_drift(over, DriftConfig())) == 20


def test_findings_are_written_as_json() -> None:
    findings = find(make_statistics(), make_statistics())
    content = json.loads(json.dumps(describe_drift(findings, "old"), allow_nan=False))
    assert content["previous"] == "old"
    assert content["findings"][0] == {
        "of": "feature",
        "name": "price",
        "measure": "increase of the null rate",
        "before": 0.01,
        "now": 0.01,
        "value": 0.0,
        "threshold": 0.1,
        "is_over": False,
        "reason": None,
    }


def test_the_previous_statistics_are_found_by_folder_and_by_file(tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps(make_statistics()))
    assert read_previous(str(tmp_path)) == read_previous(str(file)) == make_statistics()
    for content in ("{", "[]", '{"features": {}}'):
        file.write_text(content)
        with pytest.raises(ArtifactError, match=r"the statistics of the previous dataset, .*statistics\.json, cannot"):
            read_previous(str(tmp_path))
    with pytest.raises(ArtifactError, match=r"cannot be read: .*No such file"):
        read_previous(str(tmp_path / "nowhere.json"))
