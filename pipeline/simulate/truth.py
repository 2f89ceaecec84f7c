"""The true reaction to every impression: logit_k = intercept_k + spread_k * (w_k . x), x being whitened signals.

The weights are those of the synthetic data in the MMoE paper (Ma et al., KDD 2018, section 3.2), for more tasks: with
orthonormal u_1..u_K and a correlation p, w_1 = u_1 and w_k = p u_1 + sqrt(1 - p^2) u_k. As x is white, p is also the
correlation, over impressions, between the true logits of the first task and of any other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipeline.simulate.feed import Impressions
from pipeline.simulate.world import DAY_US, MEAN_LOG_DURATION, NUM_TASTES, Floats, World

TASKS = ("click", "like", "purchase", "watch")
# The mean outcome of each task, for `watch` as a fraction of the duration, and the standard deviation of its logit.
MEANS = (0.32, 0.22, 0.15, 0.45)
SPREADS = (1.45, 1.50, 1.50, 0.80)
DRIFT_RADIANS_PER_DAY = 0.02

# How much each signal counts, on average over worlds, in the order in which `_signals` yields them. Ids and products
# count for less: theirs is the part of the truth that takes the most rows to learn.
STRENGTHS = (
    {"age": 0.8, "country": 1.0, "activity": 0.8, "user_id": 0.2}
    | {f"interests_{i}": 0.7 for i in range(NUM_TASTES)}
    | {"tags": 0.8, "price": 1.0, "duration": 1.0, "author_id": 0.3, "item_id": 0.2}
    | {f"category_{i}": 0.9 for i in range(NUM_TASTES)}
    | {f"interests_x_category_{i}": 0.4 for i in range(NUM_TASTES)}
    | {"country_x_tags": 0.3, "age_x_price": 0.4}
    | {"device": 1.0, "device_x_duration": 0.5, "hour_cos": 0.8, "hour_sin": 0.8, "freshness": 0.2}
)


@dataclass(frozen=True)
class Truth:
    """Weights (S signals, T tasks) of the raw signals: on the first day, and those that they slowly turn into.

    `centre` (S,) are the means of the signals, `intercept` has shape (T,). A day turns the weights by
    `radians_per_day`, so that those of two days are correlated by its cosine.
    """

    weights: Floats
    quarter_turn: Floats
    centre: Floats
    intercept: Floats
    radians_per_day: float

    def outcomes(self, world: World, impressions: Impressions) -> dict[str, Floats]:
        """Task name to its true value per impression, shape (B,): P(click), P(like | click), P(purchase | click), and
        the expected watch seconds given a click."""
        values_TB = _sigmoid(self.logits(world, impressions) + self.intercept[:, None])
        values_TB[-1] *= world.items.duration[impressions.item]
        return dict(zip(TASKS, values_TB, strict=True))

    def logits(self, world: World, impressions: Impressions) -> Floats:
        """Logits without their intercepts, shape (T, B).

        Summed signal by signal, not as a matrix product, so that a row's value does not depend on the rows beside it.
        """
        angle = self.radians_per_day * impressions.day
        weights_ST = np.cos(angle) * self.weights + np.sin(angle) * self.quarter_turn
        logits_TB = np.zeros((len(TASKS), len(impressions.user)))
        for signal_B, weights_T, centre in zip(_signals(world, impressions), weights_ST, self.centre, strict=True):
            logits_TB += weights_T[:, None] * (signal_B - centre)
        return logits_TB


def make_truth(
    rng: np.random.Generator, world: World, probe: Impressions, task_correlation: float, drift: float = 0.0
) -> Truth:
    """Draws the weights; `probe`, a sample of impressions, sets their scale and the intercepts.

    `drift` is what a day turns the weights by, in radians, beside `DRIFT_RADIANS_PER_DAY`.
    """
    signals_BS = np.stack(list(_signals(world, probe)), axis=1)
    variances, axes = np.linalg.eigh(np.cov(signals_BS, rowvar=False))
    whiten_SS = axes / np.sqrt(np.maximum(variances, 1e-9)) @ axes.T

    num_signals, num_tasks = len(STRENGTHS), len(TASKS)
    signs = rng.choice((-1.0, 1.0), (num_signals, 2 * num_tasks))
    draw = signs * rng.uniform(0.7, 1.3, signs.shape) * np.array(list(STRENGTHS.values()))[:, None]
    draw[:, 0] = np.abs(draw[:, 0])  # the shared direction: users like what fits them
    orthonormal, triangle = np.linalg.qr(draw)
    orthonormal *= np.sign(np.diag(triangle))
    now_ST, later_ST = (
        whiten_SS @ _correlate(half, task_correlation) * SPREADS for half in np.split(orthonormal, 2, axis=1)
    )
    truth = Truth(now_ST, later_ST, signals_BS.mean(axis=0), np.zeros(num_tasks), DRIFT_RADIANS_PER_DAY + drift)
    return replace(truth, intercept=_intercepts(truth.logits(world, probe)))


def _correlate(directions_ST: Floats, correlation: float) -> Floats:
    mixed_ST = correlation * directions_ST[:, :1] + np.sqrt(1 - correlation**2) * directions_ST
    mixed_ST[:, 0] = directions_ST[:, 0]
    return np.asarray(mixed_ST)


def _intercepts(logits_TB: Floats) -> Floats:
    """The intercepts, shape (T,), that give `MEANS`: the first task over all rows, the others over expected clicks."""
    intercepts = [_intercept(logits_TB[0], np.ones_like(logits_TB[0]), MEANS[0])]
    clicks_B = _sigmoid(logits_TB[0] + intercepts[0])
    intercepts += [
        _intercept(logits_B, clicks_B, mean) for logits_B, mean in zip(logits_TB[1:], MEANS[1:], strict=True)
    ]
    return np.array(intercepts)


def _intercept(logits_B: Floats, weights_B: Floats, mean: float) -> float:
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        is_low = np.average(_sigmoid(logits_B + middle), weights=weights_B) < mean
        low, high = (middle, high) if is_low else (low, middle)
    return low


def _signals(world: World, impressions: Impressions) -> Iterator[Floats]:
    users, items = world.users, world.items
    user_B, item_B = impressions.user, impressions.item
    yield from (signal_U[user_B] for signal_U in users.signals)
    yield from (signal_N[item_B] for signal_N in items.signals)
    yield from (trait_U[user_B] * trait_N[item_B] for trait_U, trait_N in zip(users.traits, items.traits, strict=True))
    device_B = world.device_effect[impressions.device]
    yield device_B
    yield device_B * (np.log(items.duration) - MEAN_LOG_DURATION)[item_B]
    day_angle_B = impressions.time % DAY_US * (2 * np.pi / DAY_US)
    yield np.cos(day_angle_B)
    yield np.sin(day_angle_B)
    yield np.exp((items.published[item_B] - impressions.time) / (1.5 * DAY_US))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))
