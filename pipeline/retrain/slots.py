"""Slots: the times in UTC at which a retraining is due, and the windows of the log that each of them reads."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from pipeline.retrain.config import Period, RetrainConfig

# In UTC every day has 24 hours.
PERIODS: dict[Period, timedelta] = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}


class Span(NamedTuple):
    """From `first` on, before `end`."""

    first: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{_show(self.first)} to {_show(self.end)}"


@dataclass(frozen=True)
class Schedule:
    """The slots `first`, `first + period` and so on."""

    first: datetime
    period: timedelta
    train_slots: int
    fresh_slots: int

    @classmethod
    def of(cls, config: RetrainConfig) -> "Schedule":
        return cls(config.first_slot, PERIODS[config.every], config.train_slots, config.fresh_slots)

    def due(self, now: datetime, last: datetime | None) -> list[datetime]:
        """The slots up to now that are after the last one that was done, in order."""
        start = self.first if last is None else max(self.first, self._after(last))
        count = (now - start) // self.period + 1
        return [start + number * self.period for number in range(max(count, 0))]

    def _after(self, time: datetime) -> datetime:
        return self.first + ((time - self.first) // self.period + 1) * self.period

    def number_of(self, slot: datetime) -> int:
        """How many slots come before it."""
        return (slot - self.first) // self.period

    def fresh(self, slot: datetime) -> Span:
        """The newest rows, which no model has been trained on: the test."""
        return Span(slot - self.fresh_slots * self.period, slot)

    def training(self, slot: datetime, tried_until: datetime | None) -> Span:
        """The rows to train on: those since `tried_until`, or without it those of the last `train_slots` slots.

        Empty where `first` is not before `end`.
        """
        end = self.fresh(slot).first
        return Span(end - self.train_slots * self.period if tried_until is None else tried_until, end)


def name_of(slot: datetime) -> str:
    """The name of a slot's folder; names are in the order of their slots."""
    return f"{slot:%Y-%m-%d}" if slot == _midnight(slot) else f"{slot:%Y-%m-%dT%H.%M.%S}"


def _show(time: datetime) -> str:
    return f"{time:%Y-%m-%d}" if time == _midnight(time) else f"{time:%Y-%m-%d %H:%M:%S}"


def _midnight(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0)
