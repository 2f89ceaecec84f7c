"""What one part of the log tells: counts over all rows by split, and what is fitted on its training rows only."""

import base64
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.preprocess.checks.quarantine import Quarantine
from pipeline.preprocess.columns.keys import unify
from pipeline.preprocess.features.normalize import Moments
from pipeline.preprocess.profiles.profile import LengthProfile, NumberProfile
from pipeline.preprocess.profiles.sample import QuantileSample
from pipeline.preprocess.split import TimeSpan
from pipeline.shards.manifest import SPLITS, Split

# A count is filed under the path that it has in statistics.json.
Counts = Counter[tuple[str, ...]]
SEPARATOR = "\x1f"


@dataclass
class Survey:
    """Of one part, or of all of them: `rows` by split, `num_distinct` texts by table, `num_keys` by column.

    `num_outside` rows were read and are outside the window.
    """

    counts: Counts = field(default_factory=Counter)
    numbers: dict[str, NumberProfile] = field(default_factory=dict)
    lengths: dict[str, LengthProfile] = field(default_factory=dict)
    samples: dict[str, QuantileSample] = field(default_factory=dict)
    labels: dict[tuple[str, Split], Moments] = field(default_factory=dict)
    key_types: dict[str, list[pa.DataType | None]] = field(default_factory=dict)
    span: TimeSpan | None = None
    num_distinct: Counter[str] = field(default_factory=Counter)
    num_keys: Counter[str] = field(default_factory=Counter)
    quarantine: Quarantine = field(default_factory=Quarantine)
    num_outside: int = 0

    def count(self, path: tuple[str, ...], splits: np.ndarray) -> None:
        """Adds, under `path` and each split, how often the split occurs."""
        for split, count in zip(SPLITS, np.bincount(splits, minlength=len(SPLITS)), strict=True):
            self.counts[(*path, split)] += int(count)

    def repeat(self, path: tuple[str, ...], as_path: tuple[str, ...]) -> None:
        """Adds the counts under `path` under another one too."""
        for split in SPLITS:
            self.counts[(*as_path, split)] += self.counts[(*path, split)]

    def num_rows(self, split: Split) -> int:
        return self.counts["rows", split]

    def add(self, other: "Survey") -> None:
        """Adds the next part; in the order of the parts, so that sums do not depend on who made them."""
        self.counts.update(other.counts)
        self.num_distinct.update(other.num_distinct)
        self.num_keys.update(other.num_keys)
        self.quarantine = self.quarantine.merge(other.quarantine)
        self.num_outside += other.num_outside
        for name, profile in other.numbers.items():
            self.numbers[name] = self.numbers.get(name, NumberProfile()).merge(profile)
        for name, lengths in other.lengths.items():
            self.lengths[name] = self.lengths.get(name, LengthProfile()).merge(lengths)
        for key, moments in other.labels.items():
            self.labels[key] = self.labels.get(key, Moments()).merge(moments)
        for name, sample in other.samples.items():
            self.samples[name] = self.samples.get(name, QuantileSample()).merge(sample)
        for role, types in other.key_types.items():
            self.key_types.setdefault(role, []).extend(types)
        if other.span:
            self.span = self.span.merge(other.span) if self.span else other.span

    def unified_keys(self) -> dict[str, pa.DataType]:
        """The Arrow type of each key that the schema sets, by role."""
        return {role: unify(types) for role, types in self.key_types.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": dump_counts(self.counts),
            "numbers": {name: profile.to_json() for name, profile in self.numbers.items()},
            "lengths": {name: lengths.counts.tolist() for name, lengths in self.lengths.items()},
            "samples": {name: sample.to_text() for name, sample in self.samples.items()},
            "labels": [[task, split, _dump_moments(moments)] for (task, split), moments in self.labels.items()],
            "key_types": {role: [_dump_type(type_) for type_ in types] for role, types in self.key_types.items()},
            "span": list(self.span) if self.span else None,
            "num_distinct": dict(self.num_distinct),
            "num_keys": dict(self.num_keys),
            "quarantine": asdict(self.quarantine),
            "num_outside": self.num_outside,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Survey":
        return cls(
            load_counts(content["counts"]),
            {name: NumberProfile.from_json(values) for name, values in content["numbers"].items()},
            {name: LengthProfile(np.array(counts)) for name, counts in content["lengths"].items()},
            {name: QuantileSample.from_text(text) for name, text in content["samples"].items()},
            {(task, split): _load_moments(values) for task, split, values in content["labels"]},
            {role: [_load_type(text) for text in types] for role, types in content["key_types"].items()},
            TimeSpan(*content["span"]) if content["span"] else None,
            Counter(content["num_distinct"]),
            Counter(content["num_keys"]),
            Quarantine(**content["quarantine"]),
            content["num_outside"],
        )


def dump_counts(counts: Counts) -> list[list[Any]]:
    return [[SEPARATOR.join(path), count] for path, count in counts.items()]


def load_counts(content: list[list[Any]]) -> Counts:
    return Counter({tuple(path.split(SEPARATOR)): count for path, count in content})


def _dump_moments(moments: Moments) -> list[float] | None:
    if not moments.count:
        return None
    return [moments.count, moments.mean, moments.squares, moments.lowest, moments.highest]


def _load_moments(values: list[Any] | None) -> Moments:
    return Moments(*values) if values else Moments()


def _dump_type(type_: pa.DataType | None) -> str | None:
    if type_ is None:
        return None
    return base64.b64encode(pa.schema([pa.field("", type_)]).serialize().to_pybytes()).decode()


def _load_type(text: str | None) -> pa.DataType | None:
    if text is None:
        return None
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))).field(0).type
