"""JSON files of a fixed form: read whole, or named with what is wrong in them."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import ArtifactError
from pipeline.files import retry

FormT = TypeVar("FormT", bound=BaseModel)


def read_form(path: Path, form: type[FormT], fix: str) -> FormT:
    """What a file holds.

    Raises:
        ArtifactError: it is missing, damaged or of another form; names the first field that is wrong, and says `fix`.
    """
    try:
        return form.model_validate(json.loads(retry(path.read_bytes, path)))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"])) or "the whole"
        reason = f"{field}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
    raise ArtifactError(f"{path} cannot be read: {reason}", fix)
