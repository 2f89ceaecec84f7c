"""How a stage maps a function over its work items: in this process here, on a cluster elsewhere."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
State = TypeVar("State")

# What is counted, how many are done and how many there are; and how many rows, or another unit, are in those done.
# The first call of a phase comes before its work: speed is measured from there.
Progress = Callable[[str, int, int, int, str], None]


def counted(
    results: Iterable[Result], what: str, total: int, rows_of: Callable[[Result], int], progress: Progress | None
) -> Iterator[Result]:
    """The results, each told to `progress` with its rows as it comes."""
    num_rows = 0
    if progress:
        progress(what, 0, total, 0, "rows")
    for done, result in enumerate(results, start=1):
        num_rows += rows_of(result)
        if progress:
            progress(what, done, total, num_rows, "rows")
        yield result


class Executor(Protocol):
    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in the order of `items`, each as soon as it and those before it are done.

        `function` and the items must be picklable: a function of a module, or a `functools.partial` of one.
        """
        ...

    def map_with(
        self, make: Callable[[], State], function: Callable[[State, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """The same of `function(state, item)`, where each worker makes a state once, with its first item, and keeps it.

        For what is slow to load, such as a model. The state never leaves its worker, which does one item at a time.
        """
        ...


class InProcessExecutor:
    """In the calling process, on some threads: Arrow and numpy leave the interpreter free while they compute."""

    def __init__(self, num_threads: int = 1) -> None:
        self.num_threads = num_threads

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """As above; no more items are under way than there are threads."""
        if self.num_threads == 1:
            yield from map(function, items)
            return
        waiting = iter(items)
        with ThreadPoolExecutor(self.num_threads) as pool:
            running = deque(pool.submit(function, item) for item in islice(waiting, self.num_threads))
            try:
                while running:
                    result = running.popleft().result()
                    running.extend(pool.submit(function, item) for item in islice(waiting, 1))
                    yield result
            finally:
                for future in running:
                    future.cancel()

    def map_with(
        self, make: Callable[[], State], function: Callable[[State, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """As above, in the calling thread: one state, which can use threads of its own, as a model does."""
        made: list[State] = []
        for item in items:
            if not made:
                made.append(make())
            yield function(made[0], item)
