"""What the registry says of earlier retrainings: the newest slot that was done, and the versions of a run."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from pipeline.errors import ArtifactError
from pipeline.registry.records import Lineage
from pipeline.registry.registry import Registry
from pipeline.retrain.champion import read_record
from pipeline.retrain.plan import folder_of
from pipeline.retrain.slots import PERIODS
from pipeline.retrain.state import read_state
from pipeline.run_config import RunConfig


def last_done(config: RunConfig, registry: Registry) -> datetime | None:
    """The newest slot that needs no more work here; None before the first one.

    Slots are done in order, and one is done when its model was published, unless its workspace says that more was to
    come.
    """
    assert config.retrain is not None
    newest = next((lineage.slot for _, lineage in lineages(registry) if lineage.slot), None)
    if newest is None:
        return None
    state = read_state(folder_of(config, newest))
    is_done = state is None or state.is_complete
    return newest if is_done else newest - PERIODS[config.retrain.every]


def tried_until(registry: Registry, slot: datetime) -> datetime | None:
    """When the rows end that the newest challenger of an earlier slot was trained on; None if there was none."""
    for number, lineage in lineages(registry):
        if lineage.slot is not None and lineage.slot < slot:
            with suppress(ArtifactError):
                return read_record(registry, number).trained_until
    return None


def find_version(registry: Registry, run_id: str, slot: datetime) -> int | None:
    """The version that a run has published for a slot, if it has."""
    for number, lineage in lineages(registry):
        if lineage.run_id == run_id:
            return number
        if lineage.slot is not None and lineage.slot < slot:
            break
    return None


def lineages(registry: Registry) -> Iterator[tuple[int, Lineage]]:
    """Of each version that can be read, the newest first: a damaged one is no reason not to train."""
    for number in reversed(registry.numbers()):
        try:
            yield number, registry.show(number).lineage
        except ArtifactError:
            continue
