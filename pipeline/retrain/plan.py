"""What one slot does: the rows it reads, what it starts from, and the configuration that its stages run with."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pipeline.preprocess.columns.times import MICROSECONDS
from pipeline.preprocess.config import TimeHashSplit, WindowConfig
from pipeline.retrain.champion import DATASET_FOLDER, Champion, ChampionFiles
from pipeline.retrain.config import RetrainConfig
from pipeline.retrain.slots import Schedule, Span, name_of
from pipeline.run_config import RunConfig

RETRAIN_FOLDER = "retrain"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SlotPlan(NamedTuple):
    """`is_cold` is of a model that is trained anew; `compared` is the champion that the challenger has to beat."""

    slot: datetime
    training: Span
    fresh: Span
    is_cold: bool
    compared: Champion | None

    def describe(self) -> str:
        """In a line."""
        start = f"trained on from version {self.compared.version}" if self.compared else "trained anew"
        if self.compared and self.is_cold:
            start = f"trained anew, compared with version {self.compared.version}"
        return f"{start} on {self.training}, measured on {self.fresh}"


def folder_of(config: RunConfig, slot: datetime) -> Path:
    """The workspace of a slot."""
    return config.workspace_dir / RETRAIN_FOLDER / name_of(slot)


def plan_slot(
    retrain: RetrainConfig, slot: datetime, champion: Champion | None, tried_until: datetime | None
) -> SlotPlan:
    """What a slot does while this is the champion. A champion of another schema is as none.

    `tried_until` is when the rows end that challengers of earlier slots were trained on. Those of a refused one are not
    trained on again: with a bad day among them all later challengers would be refused, too.
    """
    schedule = Schedule.of(retrain)
    compared = champion if champion and champion.has_same_schema else None
    is_cold = compared is None or not retrain.warm_start
    until = None
    if compared and not is_cold:
        until = max(compared.trained_until, tried_until or compared.trained_until)
    return SlotPlan(slot, schedule.training(slot, until), schedule.fresh(slot), is_cold, compared)


def window_of(config: RunConfig, retrain: RetrainConfig, plan: SlotPlan) -> WindowConfig:
    """The rows that a slot reads."""
    ends = {"from": _bound(retrain, plan.training.first), "to": _bound(retrain, plan.fresh.end)}
    return WindowConfig.model_validate({"column": config.data_schema.keys.time, **ends})


def configure(config: RunConfig, retrain: RetrainConfig, plan: SlotPlan, champion: ChampionFiles | None) -> RunConfig:
    """The configuration of a slot: its workspace, its window and split, and what it extends, starts from and meets.

    `champion` are the files of the one that the plan compares with.
    """
    keys = config.data_schema.keys
    assert keys.time is not None
    split = TimeHashSplit(
        kind="time_hash",
        column=keys.time,
        test_from=_bound(retrain, plan.fresh.first),
        key=keys.request or keys.user or "",
        validation_fraction=retrain.validation_fraction,
        # Of users the same ones would never be trained on.
        seed=Schedule.of(retrain).number_of(plan.slot),
        disjoint=config.preprocess.split.disjoint,
    )
    earlier = str(champion.folder / DATASET_FOLDER) if champion else None
    drift = config.preprocess.contract.drift.model_copy(update={"previous": earlier})
    contract = config.preprocess.contract.model_copy(update={"drift": drift})
    preprocess = {
        "window": window_of(config, retrain, plan),
        "split": split,
        "extend": earlier,
        "contract": contract,
    }
    baseline = str(champion.checkpoint) if champion else None
    return config.model_copy(
        update={
            "workspace": str(folder_of(config, plan.slot)),
            "preprocess": config.preprocess.model_copy(update=preprocess),
            "train": config.train.model_copy(update={"warm_start": None if plan.is_cold else baseline}),
            "evaluate": config.evaluate.model_copy(update={"split": "test", "baseline": baseline, "predictions": None}),
        }
    )


def _bound(retrain: RetrainConfig, time: datetime) -> float | str:
    """A time as the key `time` has it."""
    if retrain.time_unit is None:
        return time.isoformat()
    return (time - EPOCH).total_seconds() * 1e6 / MICROSECONDS[retrain.time_unit]


def digest_of(config: RunConfig) -> str:
    """A sha256 over what decides the result of a slot."""
    settings = config.model_dump(mode="json", by_alias=True, exclude={"cluster", "registry"})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
