"""What the feed shows to whom and when, and what each user clicked before."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.simulate.world import DAY_US, FIRST_DAY_US, Bools, Floats, Ints, World

MAX_HISTORY = 20
DEVICE_FRACTIONS = (0.68, 0.17, 0.09, 0.06)
UNKNOWN_DEVICE_FRACTION = 0.03
# Relative traffic per hour of the day: quiet at 4, a bump at noon, the peak at 21.
TRAFFIC_BY_HOUR = (
    *(30, 20, 13, 9, 8, 10, 18, 32, 45, 52, 56, 62),
    *(70, 66, 58, 55, 57, 64, 74, 86, 97, 100, 82, 52),
)


@dataclass(frozen=True)
class Impressions:
    """B items shown on one day (the first is 0): users, items and devices by index, times in us since 1970."""

    day: int
    user: Ints
    item: Ints
    device: Ints
    time: Ints


@dataclass(frozen=True)
class Requests:
    """R requests of one day in order of time; `item` has shape (R, K), K distinct items each."""

    day: int
    user: Ints
    device: Ints
    is_device_unknown: Bools
    time: Ints
    item: Ints

    def impressions(self, max_rows: int | None = None) -> Impressions:
        """The R K impressions, request by request, cut to the first `max_rows`."""
        num_shown = self.item.shape[1]
        user_B, device_B, time_B = (np.repeat(x_R, num_shown)[:max_rows] for x_R in (self.user, self.device, self.time))
        return Impressions(self.day, user_B, self.item.ravel()[:max_rows], device_B, time_B)


class Feed:
    """The requests of one day, in order of time.

    What a request holds depends on the generator and on its place in the day, not on how many are taken at a time.
    """

    def __init__(self, rng: np.random.Generator, world: World, day: int, num_requests: int, num_shown: int) -> None:
        self._rng, self._order_rng = rng.spawn(2)
        self._published_N = world.items.published
        self._day, self._num_requests, self._num_shown = day, num_requests, num_shown
        self._user_cdf = np.cumsum(world.users.activity)
        weights_N = world.items.weights(day)
        # Equal steps meet an item twice when it has more than 1 / num_shown of the weight: stay well below.
        num_published = np.searchsorted(self._published_N, FIRST_DAY_US + day * DAY_US)
        self._item_cdf = np.cumsum(np.minimum(weights_N, weights_N[:num_published].sum() / (2 * num_shown)))
        self._num_taken = 0

    def take(self, count: int) -> Requests:
        """The next `count` requests."""
        time_draw, user_draw, device_draw, unknown_draw, item_draw = self._rng.random((count, 5)).T
        # One request per equal slice of the day's traffic: sorted by construction, and no two at the same time.
        slice_R = (self._num_taken + np.arange(count) + 0.9 * time_draw) / self._num_requests
        self._num_taken += count
        time_R = FIRST_DAY_US + self._day * DAY_US + _time_of_day(slice_R)
        return Requests(
            day=self._day,
            user=_inverse(self._user_cdf, user_draw * self._user_cdf[-1]),
            device=_inverse(np.cumsum(DEVICE_FRACTIONS), device_draw),
            is_device_unknown=unknown_draw < UNKNOWN_DEVICE_FRACTION,
            time=time_R,
            item=self._items(time_R, item_draw),
        )

    def _items(self, time_R: Ints, draw_R: Floats) -> Ints:
        """Systematic sampling among the items published by then: equal steps in the cumulated weights."""
        last_R = np.searchsorted(self._published_N, time_R, side="right") - 1
        step_RK = (draw_R[:, None] + np.arange(self._num_shown)) / self._num_shown
        item_RK = np.minimum(_inverse(self._item_cdf, step_RK * self._item_cdf[last_R][:, None]), last_R[:, None])
        return self._order_rng.permuted(item_RK, axis=1)


def _inverse(cdf: Floats, points: Floats) -> Ints:
    return np.minimum(np.searchsorted(cdf, points, side="right"), len(cdf) - 1)


def _time_of_day(fraction_of_traffic: Floats) -> Ints:
    cumulated = np.concatenate([[0], np.cumsum(TRAFFIC_BY_HOUR)]) / sum(TRAFFIC_BY_HOUR)
    hours = np.interp(fraction_of_traffic, cumulated, np.arange(25))
    return np.minimum((hours * (DAY_US // 24)).astype(np.int64), DAY_US - 1)


class Histories:
    """The last `MAX_HISTORY` items that each user clicked, moved forward request by request."""

    def __init__(self, num_users: int) -> None:
        self._item_UH = np.zeros((num_users, MAX_HISTORY), dtype=np.int64)  # oldest first, filled from the left
        self._length_U = np.zeros(num_users, dtype=np.int64)

    def advance(self, user_R: Ints, num_clicks_R: Ints, clicked_C: Ints) -> pa.ListArray:
        """What each user had clicked before each request, most recent first; then adds the clicks of these requests.

        `clicked_C` holds the items clicked in all requests, in order, `num_clicks_R` of them in each.
        """
        users, place_R = np.unique(user_R, return_inverse=True)
        is_kept = np.arange(MAX_HISTORY) < self._length_U[users][:, None]
        # Everything known so far is as one earlier request of each user: then sort by user, and by time within.
        owner = np.concatenate([np.arange(len(users)), place_R])
        counts = np.concatenate([self._length_U[users], num_clicks_R])
        clicks = np.concatenate([self._item_UH[users][is_kept], clicked_C])
        order = np.argsort(owner, kind="stable")
        clicks = clicks[_ranges((np.cumsum(counts) - counts)[order], counts[order])]
        starts = np.empty_like(counts)
        starts[order] = np.cumsum(counts[order]) - counts[order]
        first, ends = starts[: len(users)], starts[len(users) :]

        lengths = np.minimum(ends - first[place_R], MAX_HISTORY)
        newest_first = np.repeat(ends - 1, lengths) - _ranges(np.zeros_like(lengths), lengths)
        histories = pa.ListArray.from_arrays(_offsets(lengths), pa.array(clicks[newest_first]))

        last = np.append(first[1:], len(clicks))
        self._length_U[users] = kept = np.minimum(last - first, MAX_HISTORY)
        rows = np.zeros((len(users), MAX_HISTORY), dtype=np.int64)
        rows[np.arange(MAX_HISTORY) < kept[:, None]] = clicks[_ranges(last - kept, kept)]
        self._item_UH[users] = rows
        return histories


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """starts[0], starts[0] + 1, ... (counts[0] of them), then the same for the next."""
    before = np.cumsum(counts) - counts
    return np.asarray(np.arange(counts.sum()) + np.repeat(starts - before, counts))


def _offsets(lengths: Ints) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
