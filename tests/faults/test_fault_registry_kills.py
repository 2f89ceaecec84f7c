"""Kills between the writes of a registry: the champion is the old or the new one."""

from pathlib import Path
from typing import Any

import pytest
from disturbed_registries import Process, champion_of, place_for_registry
from small_registry import SECONDS, Clock, promote, publish

from pipeline.registry.registry import Registry

KILLED_EXIT_CODE = 9

# A process that does one thing again and again, each time in a child of its own that ends, without any clean-up, before
# another one of its writes; until one child ends by itself. Between two of them it waits to be told to go on.
KILLED = """
import os, sys
from datetime import timedelta
from pathlib import Path
from pipeline import s3, storage
from pipeline.registry import swap
from pipeline.registry.registry import Registry
from pipeline.registry.root import utc_now
from small_registry import publish

location, action, folder = sys.argv[1:]

def counting(function, moments):
    def counted(*args, **kwargs):
        moments[0] -= 1
        if not moments[0]:
            os._exit(9)
        return function(*args, **kwargs)
    return counted

def act(moment):
    # The one before was killed, and its lease has run out.
    registry = Registry.open(location, lambda: utc_now() + moment * timedelta(hours=1))
    moments = [moment]
    swap.swap = counting(swap.swap, moments)
    storage.upload = counting(storage.upload, moments)
    os.replace = counting(os.replace, moments)
    if action == "publish":
        publish(registry, Path(folder), str(moment))
    else:
        champion = registry.champion()
        with registry.held("killed", 600) as lease:
            if action == "promote":
                registry.promote(3 - champion.version, token=lease.token, reason="")
            else:
                registry.rollback(token=lease.token, reason="")

if storage.is_remote(location):
    # Loaded once, for all children; the client connects when it is first asked something.
    import pyarrow.fs
    swap._connect(s3.endpoint(), os.environ["AWS_REGION"])
moment = 0
while True:
    moment += 1
    child = os.fork()
    if not child:
        act(moment)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, flush=True)
    if code != 9 or not sys.stdin.readline():
        break
"""


@pytest.fixture(params=["disk", pytest.param("store", marks=pytest.mark.exhaustive)])
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return place_for_registry(request, tmp_path, monkeypatch)


@pytest.mark.parametrize("action", ["promote", "rollback", "publish"])
def test_a_kill_before_any_write_leaves_the_old_or_the_new_champion_and_it_verifies(
    location: str, tmp_path: Path, action: str
) -> None:
    registry = Registry.open(location)
    for text in "12":
        publish(registry, tmp_path / "made", text)
    promote(registry, *[1, 2] * 15)
    killed = Process(KILLED, location, action, str(tmp_path / "other"))
    codes, champions, numbers = [], [champion_of(registry)], [1, 2]
    while True:
        codes.append(int(killed.hear()))
        champions.append(champion_of(registry))
        assert registry.numbers()[: len(numbers)] == numbers, codes
        numbers = registry.numbers()
        for number in numbers:
            registry.verify(number)
        if codes[-1] != KILLED_EXIT_CODE:
            break
        killed.tell()
    killed.end()
    print(f"{len(codes) - 1} kills")
    # Of a write on a disk there are two moments: before the file is written beside its place, and before it is renamed.
    writes = {"promote": 4, "rollback": 4, "publish": 5}[action]
    assert codes == [KILLED_EXIT_CODE] * (writes * (1 if location.startswith("s3://") else 2)) + [0]
    assert set(champions) == ({2} if action == "publish" else {1, 2})
    assert (len(numbers) > 2) == (action == "publish")


def test_the_first_promotion_that_is_killed_anywhere_leaves_no_champion_or_the_first(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beginning of a registry has one write more: the champion's file, without a champion."""

    class KilledError(BaseException):
        pass

    clock, swaps, seen = Clock(), [0], []
    registry = Registry.open(location, clock)
    publish(registry, tmp_path / "made")
    write = registry.root.swap
    for last in range(1, 8):
        for is_after in (False, True):
            swaps[0] = 0

            def killed(*arguments: Any, last: int = last, is_after: bool = is_after) -> bool:
                swaps[0] += 1
                if swaps[0] == last and not is_after:
                    raise KilledError
                result = write(*arguments)
                if swaps[0] == last:
                    raise KilledError
                return result

            monkeypatch.setattr(registry.root, "swap", killed)
            clock.advance(SECONDS)
            try:
                lease = registry.acquire("a run", SECONDS)
                registry.promote(1, token=lease.token, reason="")
            except KilledError:
                pass
            champion = registry.champion()
            seen.append(champion.version if champion else 0)
            assert registry.verify(1)
    assert seen == sorted(seen)
    assert set(seen) == {0, 1}
