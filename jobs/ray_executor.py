"""Runs a stage's work items as Ray tasks or on Ray actors: on this machine, or on a cluster that is already there."""

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self

from pipeline.errors import GatehouseError, SetupError
from pipeline.executor import Item, Result, State

OBJECT_STORE_BYTES = 200 << 20
# Items that wait on the cluster per CPU, so that a worker need not wait for the next one.
TASKS_PER_CPU = 2
# Tasks under way, and results that wait behind a slow one, per CPU.
RESULTS_PER_CPU = 6
CONNECT_SECONDS = 10
# As often is an item given to a worker anew when it dies, as Ray does with tasks.
MAX_RETRIES = 3
_NOTHING = object()


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


class _Worker:
    """An actor with a state, made with the first item."""

    def __init__(self, make: Callable[[], Any], function: Callable[[Any, Any], Any]) -> None:
        self.make = make
        self.function = function
        self.made: list[Any] = []

    def call(self, item: Any) -> Any:
        if not self.made:
            self.made.append(self.make())
        return self.function(self.made[0], item)


class _Pool:
    """Actors that are started as items need them, each with at most `TASKS_PER_CPU` items."""

    def __init__(self, start: Callable[[], Any], max_workers: int) -> None:
        self.start = start
        self.max_workers = max_workers
        self.workers: list[Any] = []
        self._free: deque[Any] = deque()
        self._worker_of: dict[Any, Any] = {}

    def has_room(self) -> bool:
        return bool(self._free) or len(self.workers) < self.max_workers

    def submit(self, item: Any) -> Any:
        """Gives an item to a worker and returns the reference to its result; there must be room."""
        if len(self.workers) < self.max_workers:
            self.workers.append(self.start())
            self._free.extendleft([self.workers[-1]] * TASKS_PER_CPU)
        worker = self._free.popleft()
        reference = worker.call.remote(item)
        self._worker_of[reference] = worker
        return reference

    def is_busy_with(self, reference: Any) -> bool:
        return reference in self._worker_of

    def wait(self) -> None:
        """Until an item is done, well or not, if any is under way."""
        import ray

        if self._worker_of:
            done, _ = ray.wait(list(self._worker_of), fetch_local=False)
            self._free.extend(self._worker_of.pop(reference) for reference in done)


class RayExecutor:
    """A context manager; inside it, `map` gives every item to a Ray task, and `map_with` to one of a few Ray actors.

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
        """The results in the order of `items`; a bounded number of tasks is in flight, or done and behind a slow one.

        Raises:
            GatehouseError: the one that a task raised, as it was; a SetupError when a worker was lost for good.
        """
        import ray

        task = ray.remote(num_cpus=1)(_call)
        # Put once: the function may hold whole tables.
        shared = ray.put(function)
        num_cpus = self._count_cpus()
        waiting = iter(items)
        results: deque[Any] = deque()
        running: list[Any] = []
        try:
            while True:
                room = min(TASKS_PER_CPU * num_cpus - len(running), RESULTS_PER_CPU * num_cpus - len(results))
                started = [task.remote(shared, item) for item in islice(waiting, room)]
                results += started
                running += started
                if not results:
                    return
                if running:
                    timeout = None if results[0] in running else 0
                    _, running = ray.wait(running, timeout=timeout, fetch_local=False)
                if results[0] not in running:
                    yield _result_of(results.popleft())
        finally:
            for reference in running:
                ray.cancel(reference)

    def map_with(
        self, make: Callable[[], State], function: Callable[[State, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """The results in the order of `items`, of an actor per GPU of the cluster or, without any, per CPU.

        An actor that dies is started anew with a new state, and its items are tried again.

        Raises:
            GatehouseError: the one that a worker raised, as it was; a SetupError when an item's worker died each time.
        """
        import ray

        num_gpus = int(ray.cluster_resources().get("GPU", 0))
        actor = ray.remote(num_cpus=1, num_gpus=1 if num_gpus else 0, max_restarts=-1, max_task_retries=MAX_RETRIES)(
            _Worker
        )
        pool = _Pool(partial(actor.remote, ray.put(make), ray.put(function)), num_gpus or self._count_cpus())
        waiting = iter(items)
        results: deque[Any] = deque()
        try:
            while True:
                # A slow item holds up no more results than these.
                while pool.has_room() and len(results) < 2 * TASKS_PER_CPU * pool.max_workers:
                    item = next(waiting, _NOTHING)
                    if item is _NOTHING:
                        break
                    results.append(pool.submit(item))
                if not results:
                    return
                pool.wait()
                while results and not pool.is_busy_with(results[0]):
                    yield _result_of(results.popleft())
        finally:
            for worker in pool.workers:
                ray.kill(worker)

    def _count_cpus(self) -> int:
        import ray

        return int(ray.cluster_resources().get("CPU", 1)) if self._address else self._num_cpus


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
        ray.exceptions.RayActorError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
    ) as error:
        raise SetupError(
            f"a worker process ended in the middle of its work, again and again: {type(error).__name__}",
            "give it more memory: fewer cluster.num_cpus, or less at a time: preprocess.rows_per_partition, "
            "evaluate.batch_size",
        ) from error
