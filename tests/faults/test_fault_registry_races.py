"""Processes and threads that want the same of a registry at once: its lease, the next number."""

import socket
import threading
from pathlib import Path

import pytest
from disturbed_registries import Process, place_for_registry
from small_registry import SECONDS, Clock, small_lineage, write_files

from pipeline import storage
from pipeline.errors import LockedError
from pipeline.registry.registry import Registry

NUM_RACES = 20
LOCKED_EXIT_CODE = 75

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


@pytest.fixture(params=["disk", "store"])
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return place_for_registry(request, tmp_path, monkeypatch)


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
