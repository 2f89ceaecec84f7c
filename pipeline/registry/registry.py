"""The registry of models: immutable versions, a champion that is swapped atomically, a lease that fences late writers.

A registry is a folder, or one in a store:
versions/000001/   a version: its files, then manifest.json
champion.json      which version is in use, since when, by whom and why, and which were before it
lease.json         who may change that, until when
numbers.json       the highest number that a version was given
"""

import getpass
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import LockedError, UsageError
from pipeline.registry import leases, versions
from pipeline.registry.differences import describe_differences
from pipeline.registry.records import MAX_REASON_LENGTH, Champion, Lease, Lineage, Promotions, Version
from pipeline.registry.root import Clock, Root, utc_now

# Of changes and of champions before the present one.
MAX_REMEMBERED = 1000


class Registry:
    """Every method that reads a version checks its manifest, and every one that changes the champion takes a token.

    Raises, beside what each says: ArtifactError, where a file of the registry is damaged; StorageError and SetupError,
    where the storage does not answer or lets nobody in.
    """

    def __init__(self, root: Root) -> None:
        self.root = root

    @classmethod
    def open(cls, location: str, clock: Clock = utc_now) -> "Registry":
        """The registry in a folder or at s3://bucket/folder; an empty one where there is nothing yet.

        `clock` gives the time in UTC.
        """
        return cls(Root(location, clock))

    # --- versions

    def numbers(self) -> list[int]:
        """The numbers of all versions that are whole, the oldest first."""
        return versions.list_numbers(self.root)

    def versions(self) -> list[Version]:
        """The manifests of all versions, the oldest first."""
        return [self.show(number) for number in self.numbers()]

    def show(self, number: int) -> Version:
        """The manifest of a version. Raises a UsageError when there is none."""
        return versions.read_version(self.root, number)

    def publish(self, files: Mapping[str, Path], lineage: Lineage) -> int:
        """Copies files, given by their names in the version, into a new one. Returns its number.

        Nothing of it is there before all of it is, and nobody changes it afterwards.

        Raises:
            UsageError: a name is no plain relative one, a path is no file, or the lineage cannot be.
        """
        return versions.publish(self.root, files, lineage)

    def verify(self, number: int) -> Version:
        """Compares every file of a version with its sha256. Raises an ArtifactError that names the first bad one."""
        return versions.verify(self.root, number)

    def fetch(self, number: int, folder: Path) -> Path:
        """A local folder with the verified files of a version, its own or, of one in a store, a copy below `folder`.

        It is not to be written to.
        """
        return versions.fetch(self.root, number, folder)

    def diff(self, before: int, after: int) -> list[str]:
        """A line for each difference of lineage, settings and files; empty for equal ones."""
        return describe_differences(self.root, self.show(before), self.show(after))

    def retain(self, keep: int, *, token: int) -> list[int]:
        """Removes versions and what publications that ended early have left. Returns the numbers of the removed ones.

        The newest `keep` stay, the champion, the one before it, and the parents of all these, whose checkpoints they
        were warm-started from.

        Raises:
            LockedError: a higher token was given out.
        """
        kept = self._kept(keep, self._read_under(token)[0])
        removed = []
        for number in self.numbers():
            if number not in kept:
                self._read_under(token)
                versions.remove(self.root, number)
                removed.append(number)
        versions.sweep(self.root)
        return removed

    def _kept(self, keep: int, found: Promotions) -> set[int]:
        numbers = self.numbers()
        used = {found.champion.version, *found.before[-1:]} if found.champion else set()
        kept = used | set(numbers[-keep:])
        return kept | {parent for number in kept & set(numbers) if (parent := self.show(number).lineage.parent)}

    # --- the champion

    def promotions(self) -> Promotions:
        """The champion, those before it and the history."""
        found = leases.read_promotions(self.root)
        return found[0] if found else Promotions(token=0)

    def champion(self) -> Champion | None:
        """The version in use; None where none was promoted yet. One that cannot be read is an ArtifactError."""
        return self.promotions().champion

    def promote(self, number: int, *, token: int, reason: str) -> Champion:
        """Makes a verified version the champion; one that is stays as it is.

        Raises:
            LockedError: a higher token was given out.
            UsageError: there is no such version.
        """
        self._read_under(token)
        self.verify(number)

        def change(found: Promotions) -> Promotions:
            if found.champion is None:
                return self._changed(found, number, (), reason)
            if found.champion.version == number:
                return found
            return self._changed(found, number, (*found.before, found.champion.version), reason)

        return self._change(token, change)

    def rollback(self, *, token: int, reason: str) -> Champion:
        """Makes the champion before the present one the champion again, and so on: the next goes one further back.

        Raises:
            LockedError: a higher token was given out.
            UsageError: there was no champion before.
        """
        before = self._read_under(token)[0].before
        if not before:
            raise UsageError(f"{self.root.location} has no champion before the present one", "promote a version")
        self.verify(before[-1])

        def change(found: Promotions) -> Promotions:
            return self._changed(found, before[-1], before[:-1], reason) if found.before == before else found

        return self._change(token, change)

    def _change(self, token: int, change: Callable[[Promotions], Promotions]) -> Champion:
        while True:
            found, version = self._read_under(token)
            changed = change(found)
            if changed is found or self.root.swap(leases.CHAMPION_NAME, changed, version):
                assert changed.champion is not None
                return changed.champion

    def _read_under(self, token: int) -> tuple[Promotions, str]:
        """The champion's file and its version. Raises a LockedError if the token is not the last one given out."""
        found = leases.read_promotions(self.root)
        if found is None or found[0].token != token:
            raise LockedError(
                f"token {token} of {self.root.location} is not the last one, {found[0].token if found else 0}: "
                "the lease has run out and another run has taken it",
                "run the same command again",
            )
        return found

    def _changed(self, found: Promotions, number: int, before: tuple[int, ...], reason: str) -> Promotions:
        if not reason.isprintable() or len(reason) > MAX_REASON_LENGTH:
            raise UsageError(
                f"the reason {reason[:40]!a} is no line of text", f"give at most {MAX_REASON_LENGTH} letters"
            )
        champion = Champion(
            version=number, token=found.token, promoted_at=self.root.clock(), promoted_by=_who(), reason=reason
        )
        history = (*found.history, champion)[-MAX_REMEMBERED:]
        return Promotions(token=found.token, champion=champion, before=before[-MAX_REMEMBERED:], history=history)

    # --- the lease

    def acquire(self, run: str, seconds: float) -> Lease:
        """Takes the lease; its `token` is what a change of the champion needs.

        Raises:
            LockedError: another one holds it; names its host, process, run and since when.
        """
        return leases.acquire(self.root, run, seconds)

    def renew(self, lease: Lease) -> Lease:
        """The lease, for as long again from now on. Raises a LockedError when another one has taken it."""
        return leases.renew(self.root, lease)

    def release(self, lease: Lease) -> None:
        """Gives the lease back, if another one has not taken it."""
        leases.release(self.root, lease)

    @contextmanager
    def held(self, run: str, seconds: float) -> Iterator[Lease]:
        """Holds the lease while the block runs, and renews it in a thread. Raises what `acquire` does."""
        with leases.held(self.root, run, seconds) as lease:
            yield lease


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
