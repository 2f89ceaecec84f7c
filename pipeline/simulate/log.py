"""The rows of the log and of the truth beside it, chunk by chunk, and the requests to score after it."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.simulate.feed import Feed, Histories, Requests
from pipeline.simulate.truth import TASKS, Truth
from pipeline.simulate.world import DAY_US, DEVICES, Floats, World

ROWS_PER_CHUNK = 100_000
# Of the gamma distribution of watch seconds around their true mean.
WATCH_SHAPE = 2.0

LOG_SCHEMA = pa.schema(
    {
        "impression_id": pa.int64(),
        "request_id": pa.int64(),
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "timestamp": pa.timestamp("us"),
        "hour": pa.int64(),
        "device": pa.string(),
        "history": pa.list_(pa.int64()),
        "click": pa.int8(),
        "like": pa.int8(),
        "purchase": pa.int8(),
        "watch_seconds": pa.float32(),
    }
)
TRUTH_SCHEMA = pa.schema({"impression_id": pa.int64(), **dict.fromkeys(TASKS, pa.float64())})


class Log:
    """Makes the days in order, one after the other; holds what carries over and what has been counted."""

    def __init__(self, world: World, truth: Truth, items_per_request: int) -> None:
        self._world, self._truth, self._items_per_request = world, truth, items_per_request
        self._histories = Histories(len(world.users.activity))
        self._num_rows = self._num_requests = 0
        self._label_sums = np.zeros(len(TASKS))

    def day(self, day: int, num_rows: int, rng: np.random.Generator) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Chunks of the log and of the truth, in order of time; the last request is cut to end at `num_rows`."""
        feed_rng, label_rng, watch_rng = rng.spawn(3)
        num_requests = -(-num_rows // self._items_per_request)
        feed = Feed(feed_rng, self._world, day, num_requests, self._items_per_request)
        most_requests = max(ROWS_PER_CHUNK // self._items_per_request, 1)
        while num_rows:
            requests = feed.take(min(most_requests, -(-num_rows // self._items_per_request)))
            impressions = requests.impressions(max_rows=num_rows)
            truth = self._truth.outcomes(self._world, impressions)
            labels = _draw_labels(label_rng, watch_rng, truth)
            request_B = np.arange(len(impressions.item)) // self._items_per_request

            is_click_B = labels["click"] == 1
            num_clicks_R = np.bincount(request_B[is_click_B], minlength=len(requests.user))
            history_R = self._histories.advance(requests.user, num_clicks_R, impressions.item[is_click_B] + 1)
            context = self._context(requests, history_R)
            ids = np.arange(self._num_rows, self._num_rows + len(request_B)) + 1
            yield (
                pa.table(
                    {
                        "impression_id": ids,
                        "item_id": impressions.item + 1,
                        **{name: column.take(pa.array(request_B)) for name, column in context.items()},
                        **labels,
                        "watch_seconds": pa.array(labels["watch_seconds"], mask=~is_click_B),
                    },
                    LOG_SCHEMA,
                ),
                pa.table({"impression_id": ids, **truth}, TRUTH_SCHEMA),
            )
            self._num_rows += len(request_B)
            self._label_sums += [label_B.sum(dtype=np.float64) for label_B in labels.values()]
            num_rows -= len(request_B)

    def candidates(self, day: int, num_requests: int, num_items: int, rng: np.random.Generator) -> pa.Table:
        """Requests of `day`, each with `num_items` distinct items to score, drawn by their popularity of that day."""
        feed_rng, item_rng = rng.spawn(2)
        requests = Feed(feed_rng, self._world, day, num_requests, 1).take(num_requests)
        none = np.zeros(num_requests, dtype=np.int64)
        histories = self._histories.advance(requests.user, none, none[:0])
        weights = self._world.items.weights(day)
        fractions = weights / weights.sum()
        items = [item_rng.choice(len(weights), num_items, replace=False, p=fractions) + 1 for _ in range(num_requests)]
        return pa.table({**self._context(requests, histories), "items": pa.array(items, pa.list_(pa.int64()))})

    def label_rates(self) -> dict[str, float | None]:
        """The click rate over all rows, and the mean of each other label over clicked rows; null without clicks."""
        clicks, *others = self._label_sums.tolist()
        rates = [total / clicks if clicks else None for total in others]
        return dict(zip(TASKS, [clicks / self._num_rows, *rates], strict=True))

    def _context(self, requests: Requests, history_R: pa.ListArray) -> dict[str, pa.Array]:
        """The columns of requests, one element each; their ids follow those given before."""
        num_requests = len(requests.user)
        ids = np.arange(self._num_requests, self._num_requests + num_requests) + 1
        self._num_requests += num_requests
        device_R = pa.array(requests.device, mask=requests.is_device_unknown)
        return {
            "request_id": pa.array(ids),
            "user_id": pa.array(requests.user + 1),
            "timestamp": pa.array(requests.time).cast(pa.timestamp("us")),
            "hour": pa.array(requests.time % DAY_US // (DAY_US // 24)),
            "device": pa.array(DEVICES).take(device_R),
            "history": history_R,
        }


def _draw_labels(
    label_rng: np.random.Generator, watch_rng: np.random.Generator, truth: dict[str, Floats]
) -> dict[str, npt.NDArray[np.int8] | npt.NDArray[np.float32]]:
    """One draw of every label from its true value; without a click, the others are 0."""
    click_draw, like_draw, purchase_draw = label_rng.random((len(truth["click"]), 3)).T
    click_B = click_draw < truth["click"]
    seconds_B = watch_rng.standard_gamma(WATCH_SHAPE, len(click_B)) * truth["watch"] / WATCH_SHAPE
    return {
        "click": click_B.astype(np.int8),
        "like": (click_B & (like_draw < truth["like"])).astype(np.int8),
        "purchase": (click_B & (purchase_draw < truth["purchase"])).astype(np.int8),
        "watch_seconds": (click_B * seconds_B).astype(np.float32),
    }
