"""What `gatehouse retrain` would do: the slots that are due, what each would train and read. Nothing is written."""

from datetime import datetime
from typing import NamedTuple

from pipeline.preprocess.raw_files.sources import plan_partitions
from pipeline.preprocess.raw_files.window import Window
from pipeline.registry.registry import Registry
from pipeline.registry.root import Clock, utc_now
from pipeline.retrain.champion import Champion, read_champion
from pipeline.retrain.history import last_done, tried_until
from pipeline.retrain.plan import SlotPlan, folder_of, plan_slot, window_of
from pipeline.retrain.run import check_retrain
from pipeline.retrain.slots import Schedule
from pipeline.retrain.state import STAGES, Stage, read_state
from pipeline.run_config import RunConfig

# Of as many the files are looked into.
MAX_SLOTS = 10


class Preview(NamedTuple):
    """One slot; after the first one, `plan` is what it does if the slot before it is promoted.

    `stages` are those that are left of it. `num_files` may hold rows of the window, `num_rows` of them at most; None
    where only reading them would tell.
    """

    plan: SlotPlan
    stages: tuple[Stage, ...]
    num_files: int
    num_rows: int | None


def preview(
    config: RunConfig, *, until: datetime | None = None, clock: Clock = utc_now
) -> tuple[list[Preview], list[datetime]]:
    """The first slots that are due, and those after them.

    Raises:
        ConfigError, DataError, ArtifactError: what would stop the first of them before it reads a row.
    """
    check_retrain(config)
    assert config.retrain is not None
    assert config.registry is not None
    registry = Registry.open(config.registry.location, clock)
    now = min(until, clock()) if until else clock()
    due = Schedule.of(config.retrain).due(now, last_done(config, registry))
    found = registry.champion()
    champion = read_champion(registry, found.version, config.data_schema) if found else None
    previews: list[Preview] = []
    for slot in due[:MAX_SLOTS]:
        tried = previews[-1].plan.training.end if previews else tried_until(registry, slot)
        plan = plan_slot(config.retrain, slot, champion, tried)
        state = read_state(folder_of(config, slot))
        stages = tuple(stage for stage in STAGES if state is None or stage not in state.complete)
        previews.append(Preview(plan, stages, *_read(config, plan)))
        # Its number is not known yet.
        champion = Champion(0, plan.training.end, has_same_schema=True)
    return previews, due[MAX_SLOTS:]


def _read(config: RunConfig, plan: SlotPlan) -> tuple[int, int | None]:
    assert config.retrain is not None
    section = config.preprocess
    window = Window.of(window_of(config, config.retrain, plan))
    partitions = plan_partitions(config.source(section.log), section.rows_per_partition, window=window)
    rows = [partition.num_rows for partition in partitions]
    num_rows = sum(one for one in rows if one is not None)
    return len({one.path for one in partitions}), None if None in rows else num_rows
