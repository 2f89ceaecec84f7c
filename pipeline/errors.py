"""The errors a user can meet, each with its exit code and one message: what is wrong, and what to change.

GatehouseError
|-- UsageError       2    the command line, or a run folder that already holds something
|-- ConfigError      2    the configuration, alone or against what it points at
|-- SetupError       2    the installed packages do not fit together, or a store refuses the credentials
|-- DataError        3    a raw log, a table, or a value in them
|-- ArtifactError    3    something Gatehouse wrote: a dataset, a vocabulary, a checkpoint, a report
|-- StorageError     3    a disk, a file system or a store that is full or does not answer
|-- TrainingError    3    a loss that is no number, a rank that does not answer
|-- LockedError     75    another run holds the workspace, or the lease of the registry
`-- StoppedError   143    SIGTERM or a preemption, after a checkpoint
"""


class GatehouseError(Exception):
    """A failure with one clear message.

    `what` names the thing, the value and the rule it breaks; `fix` says what to change. Both end without a full stop.
    """

    exit_code = 1

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}. {self.fix[:1].upper()}{self.fix[1:]}."


class UsageError(GatehouseError):
    exit_code = 2


class ConfigError(GatehouseError):
    exit_code = 2


class SetupError(GatehouseError):
    exit_code = 2


class DataError(GatehouseError):
    exit_code = 3


class ArtifactError(GatehouseError):
    exit_code = 3


class StorageError(GatehouseError):
    exit_code = 3


class TrainingError(GatehouseError):
    exit_code = 3


class LockedError(GatehouseError):
    exit_code = 75


class StoppedError(GatehouseError):
    exit_code = 143
