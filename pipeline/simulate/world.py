"""The simulated world: its users and items, the tables that describe them, and what reactions depend on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DAY_US = 86_400_000_000
FIRST_DAY_US = int(np.datetime64("2025-01-06", "us").astype(np.int64))

COUNTRIES = ("US", "IN", "BR", "DE", "JP", "FR", "MX", "GB", "ID", "KR", "ES", "NG")
CATEGORIES = (
    *("music", "comedy", "sports", "news", "games", "food", "travel", "beauty", "fashion", "film"),
    *("science", "cars", "pets", "fitness", "crafts", "finance", "books", "photo", "dance", "nature"),
)
TAGS = tuple(f"{category}_{kind}" for category in CATEGORIES for kind in ("tips", "stories"))
DEVICES = ("phone", "desktop", "tablet", "tv")

NUM_TASTES = 2
MEAN_LOG_DURATION = 4.2
# An id with this many rows in the log has half of its full effect, one with fewer less: they could not teach it.
HALF_EFFECT_ROWS = 200.0


@dataclass(frozen=True)
class Users:
    """U users by index; their user_id is the index plus 1. Every array has shape (U,).

    A signal acts on a reaction alone, trait i of the user in a product with trait i of the item.
    """

    table: pa.Table
    activity: Floats
    signals: Sequence[Floats]
    traits: Sequence[Floats]


@dataclass(frozen=True)
class Items:
    """N items by index, in order of publication; their item_id is the index plus 1. Every array has shape (N,)."""

    table: pa.Table
    published: Ints
    popularity: Floats
    drift_phase: Floats
    duration: Floats
    signals: Sequence[Floats]
    traits: Sequence[Floats]

    def weights(self, day: int) -> Floats:
        """How often each item is shown on `day` (the first is 0), up to a factor: drifts, and favours new items."""
        age_days_N = np.maximum(FIRST_DAY_US + day * DAY_US - self.published, 0) / DAY_US
        drift_N = np.exp(0.3 * np.sin(2 * np.pi * day / 14 + self.drift_phase))
        return np.asarray(self.popularity * drift_N * (1 + 2 * np.exp(-age_days_N / 2)))


@dataclass(frozen=True)
class World:
    users: Users
    items: Items
    device_effect: Floats


def make_world(rng: np.random.Generator, num_rows: int, num_users: int, num_items: int, num_days: int) -> World:
    """Draws users and items; `num_rows`, the length of the log, says how much it can teach about an id."""
    taste_CT = rng.standard_normal((len(CATEGORIES), NUM_TASTES))
    return World(
        users=_make_users(rng, num_rows, num_users, taste_CT),
        items=_make_items(rng, num_rows, num_items, num_days, taste_CT),
        device_effect=rng.standard_normal(len(DEVICES)),
    )


def _make_users(rng: np.random.Generator, num_rows: int, num_users: int, taste_CT: Floats) -> Users:
    activity_U = _zipf(rng, num_users, 0.6)
    country_U = _choose(rng, _by_rank(len(COUNTRIES), 0.9), num_users)
    age_U = np.minimum(18 + rng.gamma(2.2, 9.0, num_users), 90)
    is_interest_UC = _choose_sets(rng, np.log(_by_rank(len(CATEGORIES), 0.5)), rng.integers(1, 6, num_users))
    table = pa.table(
        {
            "user_id": np.arange(1, num_users + 1),
            "country": _named(COUNTRIES, country_U),
            "age": pa.array(age_U.astype(np.float32), mask=rng.random(num_users) < 0.05),
            "activity": (activity_U * num_users).astype(np.float32),
            "interests": _name_lists(CATEGORIES, is_interest_UC, is_null=rng.random(num_users) < 0.05),
        }
    )
    country_score_U = rng.standard_normal(len(COUNTRIES))[country_U]
    interest_UT = is_interest_UC @ taste_CT / is_interest_UC.sum(axis=1, keepdims=True)
    signals = (
        np.exp(-(((age_U - 32) / 14) ** 2)),
        country_score_U,
        np.log(activity_U),
        _id_effect(rng, activity_U, num_rows),
        *interest_UT.T,
    )
    traits = _centre((*interest_UT.T, country_score_U, age_U), activity_U)
    return Users(table, activity_U, signals, traits)


def _make_items(rng: np.random.Generator, num_rows: int, num_items: int, num_days: int, taste_CT: Floats) -> Items:
    num_old = round(0.7 * num_items)
    published_N = np.concatenate([rng.uniform(-60, 0, num_old), rng.uniform(0, num_days, num_items - num_old)])
    published_N = FIRST_DAY_US + (np.sort(published_N) * DAY_US).astype(np.int64)
    popularity_N = _zipf(rng, num_items, 0.8)
    category_N = _choose(rng, _by_rank(len(CATEGORIES), 0.5), num_items)
    home_T = np.arange(len(TAGS)) // 2
    is_tag_NT = _choose_sets(rng, 3.0 * (home_T == category_N[:, None]), rng.integers(1, 5, num_items))
    num_authors = max(num_items // 10, 1)
    author_N = _choose(rng, _by_rank(num_authors, 0.7), num_items)
    log_price_N = 2.5 + 0.4 * rng.standard_normal(len(CATEGORIES))[category_N] + 0.6 * rng.standard_normal(num_items)
    log_duration_N = MEAN_LOG_DURATION + 0.6 * rng.standard_normal(num_items)
    duration_N = np.exp(log_duration_N)
    table = pa.table(
        {
            "item_id": np.arange(1, num_items + 1),
            "category": _named(CATEGORIES, category_N),
            "author_id": author_N + 1,
            "tags": pc.binary_join(_name_lists(TAGS, is_tag_NT), ","),
            "price": pa.array(np.exp(log_price_N).astype(np.float32), mask=rng.random(num_items) < 0.05),
            "duration_seconds": duration_N.astype(np.float32),
            "published": pa.array(published_N).cast(pa.timestamp("us")),
        }
    )
    popularity_A = np.bincount(author_N, popularity_N, num_authors).astype(np.float64)
    tag_score_N = is_tag_NT @ rng.standard_normal(len(TAGS)) / is_tag_NT.sum(axis=1)
    signals = (
        tag_score_N,
        -log_price_N,
        -((log_duration_N - MEAN_LOG_DURATION - 0.3) ** 2),
        _id_effect(rng, popularity_A, num_rows)[author_N],
        _id_effect(rng, popularity_N, num_rows),
        *taste_CT[category_N].T,
    )
    traits = _centre((*taste_CT[category_N].T, tag_score_N, -log_price_N), popularity_N)
    drift_phase_N = rng.uniform(0, 2 * np.pi, num_items)
    return Items(table, published_N, popularity_N, drift_phase_N, duration_N, signals, traits)


def _by_rank(count: int, exponent: float) -> Floats:
    """Zipf fractions, largest first: proportional to rank ** -exponent."""
    weights = np.arange(1, count + 1) ** -exponent
    return np.asarray(weights / weights.sum())


def _zipf(rng: np.random.Generator, count: int, exponent: float) -> Floats:
    return rng.permutation(_by_rank(count, exponent))


def _choose(rng: np.random.Generator, fractions: Floats, count: int) -> Ints:
    return rng.choice(len(fractions), count, p=fractions)


def _choose_sets(rng: np.random.Generator, log_weights: Floats, sizes: Ints) -> Bools:
    """Membership of shape (rows, choices): `sizes` distinct choices in each row, by their weights (Gumbel top-k)."""
    num_choices = log_weights.shape[-1]
    keys = log_weights + rng.gumbel(size=(len(sizes), num_choices))
    ranks = np.argsort(np.argsort(-keys, axis=1), axis=1)
    return np.asarray(ranks < sizes[:, None])


def _id_effect(rng: np.random.Generator, fractions: Floats, num_rows: int) -> Floats:
    rows = fractions * num_rows
    return np.asarray(rng.standard_normal(len(fractions)) * rows / (rows + HALF_EFFECT_ROWS))


def _centre(traits: Sequence[Floats], weights: Floats) -> list[Floats]:
    """Each less its mean over impressions, so that a product of traits says nothing that one of them says alone."""
    return [trait - np.average(trait, weights=weights) for trait in traits]


def _named(names: Sequence[str], index: Ints) -> pa.Array:
    return pa.array(names).take(pa.array(index))


def _name_lists(names: Sequence[str], is_member: Bools, is_null: Bools | None = None) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(is_member.sum(axis=1))]).astype(np.int32)
    mask = None if is_null is None else pa.array(is_null)
    return pa.ListArray.from_arrays(pa.array(offsets), _named(names, np.nonzero(is_member)[1]), mask=mask)
