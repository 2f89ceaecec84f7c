"""state.json of a slot: which run it is of, against which champion, and which of its stages are complete."""

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from pipeline.config import Section
from pipeline.errors import ArtifactError
from pipeline.files import retry, write_json

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
    if not path.is_file():
        return None
    try:
        return SlotState.model_validate(json.loads(retry(path.read_bytes, path)))
    except (ValidationError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path} cannot be read: {reason}", f"remove {folder}: the slot begins anew") from error


def write_state(folder: Path, state: SlotState) -> None:
    write_json(folder / STATE_NAME, state.model_dump(mode="json"))
