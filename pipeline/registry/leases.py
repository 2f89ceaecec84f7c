"""The lease of a registry: one holder at a time, for so long, with a token that only grows.

A lease that has run out is stolen with a higher token, never before. The token is then written into the champion's
file, too, whose version every promotion compares: a holder that was taken for dead and goes on changes nothing more.
So hosts whose clocks differ can cost a run its lease, and never a champion.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, Thread

from pipeline.errors import ArtifactError, GatehouseError, LockedError, SetupError, StorageError
from pipeline.registry.records import Holder, Lease, Promotions
from pipeline.registry.root import Root

LEASE_NAME = "lease.json"
CHAMPION_NAME = "champion.json"
LEASE_REMEDY = "restore it, or remove it when no run is at work"
CHAMPION_REMEDY = (
    f"restore it, or remove it and {LEASE_NAME} and promote a version by hand: nothing replaces it unasked"
)
RENEWALS_PER_LEASE = 4


def read_lease(root: Root) -> tuple[Lease, str] | None:
    return root.read(Lease, LEASE_NAME, LEASE_REMEDY)


def read_promotions(root: Root) -> tuple[Promotions, str] | None:
    """The champion's file; None in a registry that was never held.

    Raises:
        ArtifactError: it is damaged, or it is gone: it is there before the first lease is.
    """
    # In this order: of another process that begins the registry right now, the lease comes last.
    has_lease = read_lease(root) is not None
    found = root.read(Promotions, CHAMPION_NAME, CHAMPION_REMEDY)
    if found is None and has_lease:
        raise ArtifactError(f"{root.at(CHAMPION_NAME)} is gone, and {LEASE_NAME} is there", CHAMPION_REMEDY)
    return found


def acquire(root: Root, run: str, seconds: float) -> Lease:
    """Takes the lease for so many seconds; `run` says in the message of others what holds it.

    Raises:
        LockedError: another one holds it; names its host, process, run and since when.
        ArtifactError: the file of the champion or of the lease is damaged.
    """
    holder = Holder(host=socket.gethostname(), pid=os.getpid(), run=run)
    while True:
        promotions = read_promotions(root)
        if promotions is None:
            root.swap(CHAMPION_NAME, Promotions(token=0), None)
            _check_conditions(root)
            continue
        found = read_lease(root)
        now = root.clock()
        if found and found[0].is_held(now):
            raise _locked(root, found[0])
        token = max(found[0].token if found else 0, promotions[0].token) + 1
        lease = Lease(token=token, holder=holder, since=now, expires=now + timedelta(seconds=seconds), seconds=seconds)
        if root.swap(LEASE_NAME, lease, found[1] if found else None):
            _raise_token(root, lease)
            return lease


def _check_conditions(root: Root) -> None:
    """Raises a SetupError where a store writes whatever the condition says, as those do that do not know conditions."""
    for version in (None, f'"{"0" * 32}"'):
        if root.swap(CHAMPION_NAME, Promotions(token=0), version):
            raise SetupError(
                f"the store of {root.location} knows no conditional writes (If-None-Match, If-Match)",
                "keep the registry on a disk, or in a store that does",
            )


def _raise_token(root: Root, lease: Lease) -> None:
    """Writes the token into the champion's file, so that one with a lower token cannot change it any more."""
    while True:
        found = read_promotions(root)
        if found is None or found[0].token > lease.token:
            raise _lost(root)
        if root.swap(CHAMPION_NAME, found[0].model_copy(update={"token": lease.token}), found[1]):
            return


def renew(root: Root, lease: Lease) -> Lease:
    """The lease from now on, for as many seconds as it was taken for.

    Raises:
        LockedError: another one has taken it, or it was released.
    """
    while True:
        found = _own(root, lease)
        if found is None:
            raise _lost(root)
        renewed = lease.model_copy(update={"expires": root.clock() + timedelta(seconds=lease.seconds)})
        if root.swap(LEASE_NAME, renewed, found):
            return renewed


def release(root: Root, lease: Lease) -> None:
    """Gives the lease back, if it is still the holder's."""
    while (found := _own(root, lease)) is not None:
        if root.swap(LEASE_NAME, lease.model_copy(update={"holder": None}), found):
            return


def _own(root: Root, lease: Lease) -> str | None:
    """The version of the lease's file, if it is still this one: no two have the same token."""
    found = read_lease(root)
    return found[1] if found and found[0].token == lease.token and found[0].holder else None


@contextmanager
def held(root: Root, run: str, seconds: float) -> Iterator[Lease]:
    """Holds the lease while the block runs, and renews it in a thread. Raises what `acquire` does."""
    lease = acquire(root, run, seconds)
    has_ended = Event()

    def keep() -> None:
        while not has_ended.wait(seconds / RENEWALS_PER_LEASE):
            try:
                renew(root, lease)
            except LockedError:
                return  # What the block promotes will be refused by its token.
            except GatehouseError:
                continue  # A store that does not answer may do so before the lease runs out.

    thread = Thread(target=keep, name="registry lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        has_ended.set()
        thread.join()
        with suppress(StorageError):  # What was done is done, and the lease runs out by itself.
            release(root, lease)


def _locked(root: Root, lease: Lease) -> LockedError:
    expires = lease.expires.isoformat(timespec="seconds")
    return LockedError(
        f"{root.location} is locked by {lease.describe_holder()}",
        f"wait until it has ended; if it was killed, its lease runs out at {expires}",
    )


def _lost(root: Root) -> LockedError:
    found = read_lease(root)
    now_by = found[0].describe_holder() if found else "nobody"
    return LockedError(
        f"the lease of {root.location} has run out, and is now held by {now_by}", "run the same command again"
    )
