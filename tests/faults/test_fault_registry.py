"""Kills between the writes of a registry, races for its lease, damage: the champion is the old or the new one."""

import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3_store import ACCESS_KEY, SECRET_KEY, Store
from small_registry import SECONDS, Clock, promote, publish, small_lineage, write_files
from tampered import new_draw

from pipeline import storage
from pipeline.errors import ArtifactError, LockedError
from pipeline.registry.registry import Registry

ROOT = Path(__file__).parents[2]
NUM_RACES = 20
LOCKED_EXIT_CODE = 75
KILLED_EXIT_CODE = 9

# A process that does one thing again and again, each time in a child of its own that ends, without any clean-up, before
# another one of its writes; until one child ends by itself. Between two of them it waits to be told to go on.
KILLED = """
import os, sys
from datetime import timedelta
from pathlib import Path
from pipeline import storage
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
    swap._connect(s3.endpoint(), os.environ["AWS_REGION"], s3.REQUEST_ATTEMPTS)
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

# Each takes the lease of the registry that it is told, when it is told to, and holds it until it is told to end.
CONTENDER = """
import sys
from pipeline.errors import LockedError
from pipeline.registry.registry import Registry
for line in sys.stdin:
    registry = Registry.open(line.strip())
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        lease = registry.acquire("retrain", 600)
        print(f"works {lease.token}", flush=True)
        sys.stdin.readline()
        registry.release(lease)
    except LockedError as error:
        print(f"{error.exit_code} {error}", flush=True)
        sys.stdin.readline()
"""


class Process:
    """A script of these, that is told lines and heard."""

    def __init__(self, script: str, *arguments: str) -> None:
        command = [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n{script}",
            *arguments,
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, line: str = "") -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture(params=["disk", "store"])
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "disk":
        return str(tmp_path / "registry")
    store: Store = request.getfixturevalue("store")
    lock, answer = threading.Lock(), store._moto

    def answer_alone(*arguments: Any) -> Any:
        """A store compares and writes at once; moto does so only if it is asked one thing at a time."""
        with lock:
            return answer(*arguments)

    monkeypatch.setattr(store, "_moto", answer_alone)
    return f"{request.getfixturevalue('bucket')}/models"


def champion_of(registry: Registry) -> int:
    champion = registry.champion()
    assert champion
    return champion.version


# --- kills


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


def test_two_publications_at_once_get_different_numbers(location: str, tmp_path: Path) -> None:
    registry = Registry.open(location)
    numbers: list[int] = []
    barrier = threading.Barrier(4)

    def work(text: str) -> None:
        files = write_files(tmp_path / text, text)
        own = Registry.open(location)
        barrier.wait()
        for _ in range(3):
            numbers.append(own.publish(files, small_lineage(run_id=text)))

    threads = [threading.Thread(target=work, args=(text,)) for text in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == registry.numbers() == list(range(1, 13))
    for number in numbers:
        run = registry.verify(number).lineage.run_id
        report = storage.read_bytes(registry.root.at(f"versions/{number:06d}/report.json"))
        assert report == f"report.json of {run}".encode()


# --- races


def test_of_two_processes_that_want_the_lease_one_gets_it_and_the_other_says_who_has_it(
    location: str, fault_seed: int
) -> None:
    runs = [Process(CONTENDER) for _ in range(2)]
    for race in range(NUM_RACES):
        for run in runs:
            run.tell(storage.join(location, str(race)))
        assert [run.hear() for run in runs] == ["ready", "ready"]
        for run in runs:
            run.tell()
        heard = [run.hear() for run in runs]
        assert heard.count("works 1") == 1, heard
        winner, lost = runs[heard.index("works 1")], heard[1 - heard.index("works 1")]
        assert lost.startswith(f"{LOCKED_EXIT_CODE} ")
        assert f"is locked by host {socket.gethostname()}, pid {winner.process.pid}, run retrain, since 20" in lost
        for run in runs:
            run.tell()
    for run in runs:
        run.end()


def test_of_two_processes_that_find_a_lease_run_out_one_steals_it(location: str) -> None:
    clock, wins = Clock(), []
    for race in range(10):
        registries = [Registry.open(storage.join(location, str(race)), clock) for _ in range(2)]
        first = registries[0].acquire("killed", SECONDS)
        clock.advance(SECONDS)
        barrier, tokens = threading.Barrier(2), list[int]()

        def steal(registry: Registry, barrier: threading.Barrier = barrier, tokens: list[int] = tokens) -> None:
            barrier.wait()
            try:
                tokens.append(registry.acquire("thief", SECONDS).token)
            except LockedError:
                tokens.append(0)

        threads = [threading.Thread(target=steal, args=(registry,)) for registry in registries]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wins.append(sorted(tokens) == [0, first.token + 1])
    assert wins == [True] * 10


# --- damage


@pytest.fixture
def promoted(location: str, tmp_path: Path) -> Registry:
    """A registry whose second version is the champion, after the first."""
    registry = Registry.open(location)
    for text in "12":
        publish(registry, tmp_path / "made", text)
    promote(registry, 1, 2)
    return registry


def overwrite(registry: Registry, name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(content)
    storage.upload(tmp_path / "damaged", registry.root.at(name))


def damages(content: bytes, draw: random.Random) -> list[bytes]:
    """A file cut, emptied, filled with something else, and with flipped bits."""
    flipped = []
    for place in draw.sample(range(len(content)), 20):
        one = bytearray(content)
        one[place] ^= 1 << draw.randrange(8)
        flipped.append(bytes(one))
    others = [b"[" * 100_000, b"null", b"[]", b"{}", b'{"champion": null, "token": 0}', b"\xff\xfe", b"\0" * 100]
    return [b"", content[:-10], content[: len(content) // 2], *others, *flipped]


def test_a_champion_that_cannot_be_read_stops_everything_and_is_not_replaced(
    promoted: Registry, tmp_path: Path
) -> None:
    content = storage.read_bytes(promoted.root.at("champion.json"))
    token = promoted.promotions().token
    expected = json.loads(content)
    for damaged in damages(content, new_draw()):
        overwrite(promoted, "champion.json", damaged, tmp_path)
        actions: list[Callable[[], object]] = [
            promoted.champion,
            lambda: promoted.acquire("a run", SECONDS),
            lambda: promoted.promote(1, token=token, reason=""),
            lambda: promoted.rollback(token=token, reason=""),
            lambda: promoted.retain(1, token=token),
        ]
        try:
            is_same = json.loads(damaged) == expected
        except (ValueError, RecursionError):
            is_same = False
        if is_same:
            continue  # A flipped bit in the white space is no damage.
        for action in actions:
            with pytest.raises(ArtifactError, match=r"champion\.json") as caught:
                action()
            assert len(str(caught.value).splitlines()) == 1
            assert "nothing replaces it unasked" in str(caught.value)
        assert storage.read_bytes(promoted.root.at("champion.json")) == damaged
        assert promoted.numbers() == [1, 2]


def test_a_champion_that_is_gone_is_no_registry_without_one(promoted: Registry) -> None:
    token = promoted.promotions().token
    storage.remove(promoted.root.at("champion.json"))
    for action in (
        promoted.champion,
        lambda: promoted.acquire("a run", SECONDS),
        lambda: promoted.promote(1, token=token, reason=""),
    ):
        with pytest.raises(ArtifactError, match=r"champion\.json is gone, and lease\.json is there\. Restore it"):
            action()
    assert not storage.exists(promoted.root.at("champion.json"))


@pytest.mark.parametrize("name", ["report.json", "checkpoint/.metadata", "manifest.json"])
def test_a_damaged_version_is_neither_promoted_nor_rolled_back_to_nor_fetched(
    promoted: Registry, tmp_path: Path, name: str
) -> None:
    content = storage.read_bytes(promoted.root.at(f"versions/000001/{name}"))
    lease = promoted.acquire("a run", SECONDS)
    for damaged in (b"", content[:-3], content + b" more", content[:8] + bytes([content[8] ^ 4]) + content[9:]):
        overwrite(promoted, f"versions/000001/{name}", damaged, tmp_path)
        for action in (
            lambda: promoted.verify(1),
            lambda: promoted.fetch(1, tmp_path / "fetched"),
            lambda: promoted.promote(1, token=lease.token, reason=""),
            lambda: promoted.rollback(token=lease.token, reason=""),
        ):
            with pytest.raises(ArtifactError, match=rf"versions/000001/{name}") as caught:
                action()
            assert len(str(caught.value).splitlines()) == 1
        assert champion_of(promoted) == 2
    overwrite(promoted, f"versions/000001/{name}", content, tmp_path)
    assert promoted.rollback(token=lease.token, reason="").version == 1


def test_numbers_that_cannot_be_read_stop_a_publication(promoted: Registry, tmp_path: Path) -> None:
    for damaged in (
        b"",
        b'{"last": 0}',
        storage.read_bytes(promoted.root.at("numbers.json")).replace(b'": 2', b'": 0'),
    ):
        overwrite(promoted, "numbers.json", damaged, tmp_path)
        with pytest.raises(ArtifactError, match=r"numbers\.json.* Restore it, or remove it: it is made anew"):
            publish(promoted, tmp_path / "made")
    storage.remove(promoted.root.at("numbers.json"))
    assert publish(promoted, tmp_path / "made") == 3


# --- secrets


def test_no_file_of_a_registry_holds_a_secret(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "canary-5e1f0c"
    for name in ("AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN", "DATABASE_PASSWORD"):
        monkeypatch.setenv(name, canary)
    for location in (bucket, str(tmp_path / "registry")):
        registry = Registry.open(location)
        for text in "123":
            publish(registry, tmp_path / "made", text)
        promote(registry, 1, 2)
        with registry.held("a run", SECONDS) as lease:
            registry.rollback(token=lease.token, reason="worse")
            registry.retain(1, token=lease.token)
            held = [storage.read_bytes(storage.join(location, file.name)) for file in storage.list_files(location)]
        assert held
        for content in held:
            assert not [secret for secret in (ACCESS_KEY, SECRET_KEY, canary) if secret.encode() in content]
