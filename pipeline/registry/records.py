"""What the registry's own files say: JSON with a digest of the other fields, checked whenever one is read."""

import hashlib
import json
import secrets
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, Field, PositiveInt, ValidationError, model_validator

from pipeline.config import Section
from pipeline.errors import ArtifactError
from pipeline.registry.names import check_names

MAX_REASON_LENGTH = 500
# One line: it is shown on terminals.
Text = Annotated[str, Field(max_length=MAX_REASON_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
UtcTime = Annotated[AwareDatetime, AfterValidator(lambda time: time.astimezone(UTC))]


class Record(Section):
    """A file of the registry. `nonce` is drawn at each writing; `digest` is the sha256 over all other fields."""

    nonce: str = ""
    digest: str = ""

    def digest_of_fields(self) -> str:
        fields = self.model_dump(mode="json", exclude={"digest"})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """The file, unlike any that another process writes."""
        drawn = self.model_copy(update={"nonce": secrets.token_hex(8)})
        fields = drawn.model_dump(mode="json") | {"digest": drawn.digest_of_fields()}
        return (json.dumps(fields, indent=1, allow_nan=False) + "\n").encode()


RecordT = TypeVar("RecordT", bound=Record)


def parse_record(kind: type[RecordT], data: bytes, location: str, remedy: str) -> RecordT:
    """The checked record in a file.

    Raises:
        ArtifactError: it is no such record, or was changed; names the file and the field.
    """
    try:
        record = kind.model_validate(json.loads(data))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "(all)"
        shown = field if field.isprintable() and len(field) <= 200 else ascii(field[:200])
        raise ArtifactError(f"{location}: field {shown}: {problem['msg']}", remedy) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{location} is not JSON: {error}", remedy) from error
    if record.digest != record.digest_of_fields():
        raise ArtifactError(f"{location} is damaged: its fields do not fit its field digest", remedy)
    return record


# --- versions


class FileEntry(Section):
    bytes: int = Field(ge=0)
    sha256: Sha256


class Lineage(Section):
    """What a version was made of: what is needed to make it again, and to say why it is as it is."""

    parent: PositiveInt | None = Field(None, description="the version that the training was warm-started from")
    run_id: Text
    slot: UtcTime | None = Field(None, description="the scheduled time that the run was for")
    data_manifest: Text = Field(description="the sha256 of the dataset's index")
    vocabulary_version: Text
    schema_fingerprint: Text
    checkpoint: Text = Field(description="the digest in the checkpoint's manifest")
    config: Text = Field(description="the sha256 of the resolved configuration")
    code_revision: Text | None = None
    reports: tuple[str, ...] = Field((), description="the files of the version that say how good it is")


class Version(Record):
    """The manifest of a version: it is written last, and a version without it does not exist."""

    format_version: Literal[1] = 1
    number: PositiveInt
    created: UtcTime
    lineage: Lineage
    files: dict[str, FileEntry] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_hold(self) -> "Version":
        check_names(self.files.keys())
        for name in self.lineage.reports:
            if name not in self.files:
                raise ValueError(f"lineage.reports names {name!a}, which is no file of the version")
        if self.lineage.parent is not None and self.lineage.parent >= self.number:
            raise ValueError(f"lineage.parent is {self.lineage.parent}, and a parent comes before its version")
        return self

    @property
    def num_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())


class Numbers(Record):
    """The highest number that was given to a version: none is given twice, whatever is removed."""

    format_version: Literal[1] = 1
    last: int = Field(ge=0)


# --- the champion and the lease


class Champion(Section):
    """The version in use, since when, by whom and why; `token` is that of the lease it was promoted under."""

    version: PositiveInt
    token: PositiveInt
    promoted_at: UtcTime
    promoted_by: Text
    reason: Text


class Promotions(Record):
    """The file of the champion. It is there, without one, before the first lease is.

    `token` is the highest that was given out; `before` are the champions that a rollback goes back to, the nearest
    last; `history` are all changes, the present champion's last.
    """

    format_version: Literal[1] = 1
    token: int = Field(ge=0)
    champion: Champion | None = None
    before: tuple[PositiveInt, ...] = ()
    history: tuple[Champion, ...] = ()


class Holder(Section):
    host: Text
    pid: int
    run: Text


class Lease(Record):
    """The file of the lease: held until `expires`, unless `holder` has released it."""

    format_version: Literal[1] = 1
    token: PositiveInt
    holder: Holder | None
    since: UtcTime
    expires: UtcTime
    seconds: float = Field(gt=0, allow_inf_nan=False)

    def is_held(self, now: datetime) -> bool:
        return self.holder is not None and now < self.expires

    def describe_holder(self) -> str:
        if self.holder is None:
            return "nobody"
        since = self.since.isoformat(timespec="seconds")
        return f"host {self.holder.host}, pid {self.holder.pid}, run {self.holder.run}, since {since}"
