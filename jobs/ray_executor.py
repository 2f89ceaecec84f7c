"""Runs a stage's work items as Ray tasks, one per item: on this machine, or on a cluster that is already there."""

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Self

from pipeline.errors import GatehouseError, SetupError
from pipeline.executor import Item, Result

OBJECT_STORE_BYTES = 200 << 20
# Items that wait on the cluster per CPU, so that a worker need not wait for the next one.
TASKS_PER_CPU = 2
CONNECT_SECONDS = 10


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


class RayExecutor:
    """A context manager; inside it, `map` gives every item to a Ray task.

    Without an address it starts a cluster of `num_cpus` workers that listens on loopback only, and ends it on exit.
    """

    def __init__(self, address: str | None, num_cpus: int) -> None:
        self._address = address
        self._num_cpus = num_cpus
        self._started = False

    def __enter__(self) -> Self:
        if self._address:
            _check_reachable(self._address)
        # Both are read when Ray is first imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self._address is None:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        import ray

        if ray.is_initialized():
            return self
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address is None:
            options |= {
                "address": "local",
                "num_cpus": self._num_cpus,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        else:
            options["address"] = self._address
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"cluster {self._address}" if self._address else "a cluster on this machine"
            reason = (str(error).splitlines() or [""])[0]
            raise SetupError(f"Ray cannot reach or start {where}: {reason}", "check cluster.address") from error
        self._started = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            import ray

            ray.shutdown()
            self._started = False

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in the order of `items`; a bounded number of tasks is in flight.

        Raises:
            GatehouseError: the one that a task raised, as it was; a SetupError when a worker was lost for good.
        """
        import ray

        task = ray.remote(num_cpus=1)(_call)
        # Put once: the function may hold whole tables.
        shared = ray.put(function)
        num_cpus = int(ray.cluster_resources().get("CPU", 1)) if self._address else self._num_cpus
        waiting = iter(items)
        in_flight = deque(task.remote(shared, item) for item in islice(waiting, TASKS_PER_CPU * num_cpus))
        try:
            while in_flight:
                result = _result_of(in_flight.popleft())
                in_flight.extend(task.remote(shared, item) for item in islice(waiting, 1))
                yield result
        finally:
            for reference in in_flight:
                ray.cancel(reference)


def _check_reachable(address: str) -> None:
    """Raises a SetupError at once where nothing listens; Ray itself tries for minutes, and says nothing."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise SetupError(
            f"nothing answers at cluster.address {address}: {error}", "start the cluster there, or correct the address"
        ) from error


def _result_of(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GatehouseError):
            raise error.cause from None
        raise
    except (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
    ) as error:
        raise SetupError(
            f"a worker process ended in the middle of its work, again and again: {type(error).__name__}",
            "give it more memory: fewer cluster.num_cpus, or a smaller preprocess.rows_per_partition",
        ) from error
