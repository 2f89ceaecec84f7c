"""What a worker does: predicts the candidates of a unit in blocks, and ranks each request over all of its blocks."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.run_config import RunConfig
from pipeline.schema import KeyColumns
from pipeline.score.candidates import groups
from pipeline.score.candidates.blocks import Block, ItemMemory, make_block
from pipeline.score.candidates.groups import Group, read_groups
from pipeline.score.candidates.plan import CandidatePlan
from pipeline.score.candidates.units import Unit
from pipeline.score.caps import Cap, rank_rows
from pipeline.score.model import PairPredictor, ScoringModel
from pipeline.score.rules import parse_rules

Floats = NDArray[np.float64]


class Counts(NamedTuple):
    """Candidates of some requests, each item of one once; those that filters removed, and that caps kept out."""

    candidates: int = 0
    filtered_out: int = 0
    capped: int = 0

    def plus(self, other: "Counts") -> "Counts":
        return Counts(*map(sum, zip(self, other, strict=True)))


class _Scored(NamedTuple):
    """What is left of a block after the filters: places in the group, fused scores, outputs, the columns of caps."""

    places: NDArray[np.int64]
    score: Floats
    outputs: dict[str, Floats]
    capped: list[pa.ChunkedArray]


def ranked_columns(keys: KeyColumns, outputs: list[str]) -> list[str]:
    of_request = dict.fromkeys(name for name in (keys.request, keys.user) if name)
    return [*of_request, "rank", str(keys.item), "score", *outputs, "model_version"]


class Scorer:
    """A loaded model, the rules of a run, and the items seen so far.

    Raises:
        ArtifactError: the export is damaged.
        ConfigError: the configuration asks for a GPU, and there is none.
    """

    def __init__(self, config: RunConfig, model: ScoringModel, plan: CandidatePlan) -> None:
        assert config.score is not None
        self.plan = plan
        self.predictor = PairPredictor(model, config.train.device)
        self.version = model.version
        self.output_names = self.predictor.serving.output_names
        # Not parsed once for all workers: what is parsed does not travel.
        self.rules = parse_rules(config.score, self.output_names, plan.named)
        self.memory = ItemMemory(plan)

    def rank(self, unit: Unit) -> Iterator[tuple[pa.Table, Counts]]:
        """The ranked candidates of some requests after the others, at least one table, and what was counted.

        Raises:
            ConfigError: a fused score is not finite, or texts are compared with numbers.
            DataError: a candidate or a table holds a value that cannot be used.
        """
        for group in read_groups(self.plan, unit):
            yield self._rank(group)

    def _rank(self, group: Group) -> tuple[pa.Table, Counts]:
        is_repeated = _repeats(group)
        num_candidates = len(group.items) - int(is_repeated.sum())
        scored = [self._empty(group)]
        for first in range(0, len(group.items), groups.CANDIDATES_PER_BLOCK):
            end = min(first + groups.CANDIDATES_PER_BLOCK, len(group.items))
            block = make_block(self.plan, self.memory, group, first, end)
            scored.append(self._score(group, block, first, np.flatnonzero(~is_repeated[first:end])))
        places = np.concatenate([one.places for one in scored])
        score = np.concatenate([one.score for one in scored])
        caps = [
            Cap(_as_codes([one.capped[number] for one in scored[1:]]), cap.max)
            for number, cap in enumerate(self.rules.caps)
        ]
        items = group.items.take(pa.array(places)) if len(places) < len(group.items) else group.items
        ranking = rank_rows(group.request[places], score, items, self.rules.top_k, caps)
        kept = pa.array(places[ranking.places])
        shared = pa.array(group.shared[places[ranking.places]])
        columns = [
            *(group.requests.carried[key].take(shared) for key in self.plan.keys),
            pa.array(ranking.rank),
            group.items.take(kept),
            pa.array(score[ranking.places]),
            *(np.concatenate([o.outputs[name] for o in scored])[ranking.places] for name in self.output_names),
            pa.repeat(self.version, len(kept)),
        ]
        names = ranked_columns(self.plan.schema.keys, self.output_names)
        counts = Counts(num_candidates, num_candidates - len(places), ranking.num_capped)
        return pa.table(columns, names=names), counts

    def _empty(self, group: Group) -> _Scored:
        none = np.zeros(0)
        return _Scored(none.astype(np.int64), none, dict.fromkeys(self.output_names, none), [])

    def _score(self, group: Group, block: Block, first: int, chosen: NDArray[np.int64]) -> _Scored:
        """The chosen candidates of a block that pass the filters; the block begins at `first` in the group."""
        for one in self.rules.early:
            chosen = chosen[one(block.columns)[chosen]]
        if len(chosen) < len(block.item.place):
            block = block.take(chosen)
        if not len(chosen):
            return self._empty(group)._replace(capped=[block.columns[cap.column] for cap in self.rules.caps])
        outputs = self.predictor.predict(block.request, block.item)
        columns = {**block.columns, **outputs}
        score = self.rules.fusion(columns)
        self._check_finite(score, group, first + chosen, outputs)
        is_kept = np.ones(len(chosen), bool)
        for one in self.rules.late:
            is_kept &= one(columns)
        kept = np.flatnonzero(is_kept)
        return _Scored(
            first + chosen[kept],
            score[kept],
            {name: outputs[name][kept] for name in self.output_names},
            [block.columns[cap.column].take(pa.array(kept)) for cap in self.rules.caps],
        )

    def _check_finite(self, score: Floats, group: Group, places: NDArray[np.int64], outputs: dict[str, Floats]) -> None:
        """Raises a ConfigError that names the first candidate whose fused score is no number."""
        is_finite = np.isfinite(score)
        if is_finite.all():
            return
        bad = np.flatnonzero(~is_finite)
        bad = bad[group.request[places[bad]] == group.request[places[bad[0]]]]
        item = group.items.take(pa.array(places[bad]))
        first = int(bad[int(pc.array_sort_indices(item)[0].as_py())])
        request = group.requests.carried[self.plan.request_key][int(group.shared[places[first]])]
        fusion = self.rules.fusion
        values = ", ".join(f"{name} = {outputs[name][first]:g}" for name in sorted(fusion.names & {*outputs}))
        raise ConfigError(
            f"score.fusion {fusion.formula!r} is {score[first]} for item {group.items[int(places[first])]} "
            f"of request {request}{f', where {values}' if values else ''}",
            "change the formula so that it is finite whatever the model predicts",
        )


def _repeats(group: Group) -> NDArray[np.bool_]:
    """Which candidates are an item that their request has already: a candidate set is a set."""
    coded = group.items.dictionary_encode()
    key = group.request * max(len(coded.dictionary), 1) + np.asarray(coded.indices)
    is_repeated = np.zeros(len(key), bool)
    in_order = np.sort(key)
    if (in_order[1:] == in_order[:-1]).any():
        order = np.argsort(key, kind="stable")
        is_repeated[order[1:]] = key[order[1:]] == key[order[:-1]]
    return is_repeated


def _as_codes(parts: list[pa.ChunkedArray]) -> NDArray[np.int64]:
    """The values of all parts as numbers, -1 for null and NaN."""
    if not parts:
        return np.zeros(0, np.int64)
    whole = pa.concat_tables([pa.table([part], ["value"]) for part in parts], promote_options="permissive")[
        0
    ].combine_chunks()
    if pa.types.is_floating(whole.type):
        whole = pc.if_else(pc.is_nan(whole), None, whole)
    return np.asarray(whole.dictionary_encode().indices.fill_null(-1)).astype(np.int64)
