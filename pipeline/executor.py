"""How a stage maps a function over its work items: in this process here, on a cluster elsewhere."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# What is counted, how many are done, how many there are.
Progress = Callable[[str, int, int], None]


class Executor(Protocol):
    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in the order of `items`, each as soon as it and those before it are done.

        `function` and the items must be picklable: a function of a module, or a `functools.partial` of one.
        """
        ...


class InProcessExecutor:
    """One item after the other, in the calling process."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(function, items)
