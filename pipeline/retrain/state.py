"""state.json of a slot: which run it is of, against which champion, and which of its stages are complete."""

from pathlib import Path
from typing import Literal

from pipeline.config import Section
from pipeline.files import write_json
from pipeline.forms import read_form

STATE_NAME = "state.json"
Stage = Literal["preprocess", "train", "export", "evaluate", "gate", "publish", "promote", "score"]
STAGES: tuple[Stage, ...] = ("preprocess", "train", "export", "evaluate", "gate", "publish", "promote", "score")


class SlotState(Section):
    """`settings` is the sha256 of the configuration of the slot; `version` the one that its model was published as."""

    format_version: Literal[1] = 1
    run_id: str
    settings: str
    champion: int | None
    complete: tuple[Stage, ...] = ()
    version: int | None = None

    @property
    def is_complete(self) -> bool:
        return self.complete == STAGES

    def with_stage(self, stage: Stage, version: int | None = None) -> "SlotState":
        """The state once a stage is complete."""
        complete = tuple(one for one in STAGES if one == stage or one in self.complete)
        return self.model_copy(update={"complete": complete, "version": version or self.version})


def read_state(folder: Path) -> SlotState | None:
    """The state of a slot; None where it was not begun.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / STATE_NAME
    return read_form(path, SlotState, f"remove {folder}: the slot begins anew") if path.is_file() else None


def write_state(folder: Path, state: SlotState) -> None:
    write_json(folder / STATE_NAME, state.model_dump(mode="json"))
