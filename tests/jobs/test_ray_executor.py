"""The Ray executor: order, errors as they were raised, and a cluster that only this machine can reach."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.ray_executor import RESULTS_PER_CPU, RayExecutor
from pipeline.errors import DataError, SetupError

pytestmark = pytest.mark.ray

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# What /proc raises of a process, a thread or an open file that has ended meanwhile.
ENDED = (FileNotFoundError, ProcessLookupError)


def make_square() -> Callable[[int], int]:
    """A function that travels to the workers whole: they cannot import this module."""

    def square(number: int) -> int:
        if number == 13:
            raise DataError("number 13 is in the data", "remove it")
        if number == 14:
            raise ZeroDivisionError("a mistake of the program")
        return number * number

    return square


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    os.environ.pop(LOOPBACK, None)
    with RayExecutor(address=None, num_cpus=2) as started:
        assert os.environ[LOOPBACK] == "0"
        yield started


def test_results_come_in_the_order_of_the_items(executor: RayExecutor) -> None:
    assert list(executor.map(make_square(), range(11))) == [number * number for number in range(11)]
    assert list(executor.map(make_square(), [])) == []


def make_straggler(folder: Path, num_others: int) -> Callable[[int], int]:
    """Item 0 ends when `num_others` others are done, and the result is how many it has seen by then."""

    def work(item: int) -> int:
        if item:
            (folder / f"done-{item}").touch()
            return item
        deadline = time.monotonic() + 10
        while (seen := len(list(folder.glob("done-*")))) < num_others and time.monotonic() < deadline:
            time.sleep(0.01)
        return seen

    return work


def test_items_are_started_behind_a_slow_one_and_no_more_than_can_be_kept(
    executor: RayExecutor, tmp_path: Path
) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(30):
            taken.append(item)
            yield item

    most = RESULTS_PER_CPU * 2
    results = executor.map(make_straggler(tmp_path, most - 1), items())
    assert next(results) == most - 1
    assert len(taken) == most
    assert list(results) == list(range(1, 30))


def test_an_error_of_a_task_is_raised_as_it_was(executor: RayExecutor) -> None:
    results = executor.map(make_square(), [3, 13, 4, 5, 6, 7])
    assert next(results) == 9
    with pytest.raises(DataError) as caught:
        next(results)
    assert type(caught.value) is DataError
    assert (caught.value.what, caught.value.fix) == ("number 13 is in the data", "remove it")
    with pytest.raises(ZeroDivisionError):
        list(executor.map(make_square(), [14]))


def test_a_worker_that_keeps_dying_is_one_message(executor: RayExecutor) -> None:
    with pytest.raises(SetupError, match="a worker process ended in the middle of its work"):
        list(executor.map(os._exit, [1]))


def make_counter(folder: Path) -> tuple[Callable[[], list[int]], Callable[[list[int], int], tuple[int, int]]]:
    """A state that notes each time it is made, and counts the items it had; item 13 kills its worker the first time."""

    def make() -> list[int]:
        (folder / f"made-{os.getpid()}").touch()
        return []

    def count(state: list[int], item: int) -> tuple[int, int]:
        if item == 13 and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(1)
        if item == 14:
            raise DataError("number 14 is in the data", "remove it")
        if item == 15:
            os._exit(1)
        state.append(item)
        return item, len(state)

    return make, count


def test_a_state_is_made_once_per_worker_and_the_results_come_in_order(executor: RayExecutor, tmp_path: Path) -> None:
    results = list(executor.map_with(*make_counter(tmp_path), range(12)))
    assert [item for item, _ in results] == list(range(12))
    made = len(list(tmp_path.glob("made-*")))
    assert 1 <= made <= 2
    # A worker's count grows by one with each of its items.
    assert sum(count == 1 for _, count in results) == made
    assert list(executor.map_with(*make_counter(tmp_path), [])) == []


def test_a_worker_that_dies_is_replaced_and_its_items_are_done_again(executor: RayExecutor, tmp_path: Path) -> None:
    results = list(executor.map_with(*make_counter(tmp_path), [1, 2, 13, 3, 4, 5]))
    assert [item for item, _ in results] == [1, 2, 13, 3, 4, 5]
    assert (tmp_path / "died").exists()


def test_an_error_of_a_worker_with_a_state_is_raised_as_it_was(executor: RayExecutor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="number 14 is in the data"):
        list(executor.map_with(*make_counter(tmp_path), [1, 14, 2]))
    with pytest.raises(SetupError, match="a worker process ended in the middle of its work"):
        list(executor.map_with(*make_counter(tmp_path), [15]))


def test_no_more_items_are_taken_than_workers_can_hold(executor: RayExecutor, tmp_path: Path) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = executor.map_with(*make_counter(tmp_path), items())
    next(results)
    assert len(taken) <= 10
    results.close()  # type: ignore[attr-defined]


def descendants(process: int) -> list[int]:
    children: list[int] = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(*ENDED):
            children += map(int, file.read_text().split())
    return [process, *(found for child in children for found in descendants(child))]


def listening_addresses(processes: list[int]) -> set[str]:
    """The local IPv4 addresses, and IPv6 ones with the prefix 6:, as the kernel writes them."""
    sockets = set()
    for process in processes:
        with contextlib.suppress(*ENDED):
            for file in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(*ENDED):
                    sockets.add(os.readlink(file).removeprefix("socket:[").removesuffix("]"))
    lines = [("", line) for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    lines += [("6:", line) for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    rows = [(prefix, line.split()) for prefix, line in lines]
    return {prefix + row[1].split(":")[0] for prefix, row in rows if row[3] == "0A" and row[9] in sockets}


@pytest.mark.skipif(not Path("/proc/net/tcp6").exists(), reason="reads the sockets of Linux")
def test_every_port_of_the_cluster_is_on_loopback(executor: RayExecutor) -> None:
    list(executor.map(make_square(), range(4)))
    addresses = listening_addresses(descendants(os.getpid()))
    assert addresses
    # 127.0.0.1, ::1 and ::ffff:127.0.0.1
    loopback = {"0100007F", "6:" + "0" * 24 + "01000000", "6:" + "0" * 16 + "FFFF0000" + "0100007F"}
    assert addresses <= loopback


def test_a_cluster_that_is_not_there_is_one_message() -> None:
    with pytest.raises(SetupError, match=r"nothing answers at cluster\.address 127\.0\.0\.1:1"):
        RayExecutor("127.0.0.1:1", 1).__enter__()
