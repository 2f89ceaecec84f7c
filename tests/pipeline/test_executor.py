"""The executor of this process: a state is made once, when there is an item for it, and items are taken as needed."""

import threading
from collections.abc import Iterator

from pipeline.executor import InProcessExecutor


def test_a_state_is_made_once_and_every_item_is_done_with_it_in_the_calling_thread() -> None:
    made: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    def add(state: list[int], item: int) -> tuple[int, int]:
        state.append(item)
        return sum(state), threading.get_ident()

    results = list(InProcessExecutor(num_threads=4).map_with(make, add, range(5)))
    assert results == [(total, threading.get_ident()) for total in (0, 1, 3, 6, 10)]
    assert len(made) == 1


def test_no_state_is_made_without_an_item() -> None:
    def make() -> int:
        raise AssertionError("nothing needs it")

    assert list(InProcessExecutor().map_with(make, max, [])) == []


def test_an_item_is_taken_when_the_result_before_it_was() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(3):
            taken.append(item)
            yield item

    results = InProcessExecutor(num_threads=4).map_with(int, max, items())
    assert next(results) == 0
    assert taken == [0]
