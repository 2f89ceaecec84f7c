"""The exporter: reads what runs have written whenever it is asked, each source by itself.

Nothing is written, locked or kept between two scrapes but the content of files that never change.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from threading import Lock, Thread

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.errors import GatehouseError
from pipeline.monitor import models, training
from pipeline.monitor.metrics import METRICS, PREFIX, Sample
from pipeline.run_config import RunConfig

# A storage that does not answer costs its own metrics alone: Prometheus waits for 10 s by default.
READ_SECONDS = 8.0
STILL_READING = f"no answer within {READ_SECONDS:g} s"

Read = Callable[[], Iterator[Sample]]
Say = Callable[[str], None]


def sources_of(config: RunConfig) -> dict[str, Read]:
    """What there is to read by the sections of a configuration."""
    sources: dict[str, Read] = {"training": partial(training.read_workspace, config)}
    if config.registry:
        sources["champion"] = partial(models.read_champion, config)
        sources["report"] = partial(models.read_report, config)
        sources["lease"] = partial(models.read_lease, config)
        sources["decisions"] = partial(models.read_decisions, config)
    if config.retrain:
        sources["slot"] = partial(training.read_slot, config)
        sources["schedule"] = partial(models.read_schedule, config)
    return sources


class Reading(Thread):
    """One source, read once; `problem` is what ended it early, or empty."""

    def __init__(self, read: Read) -> None:
        super().__init__(daemon=True)
        self.read = read
        self.samples: list[Sample] = []
        self.problem = ""

    def run(self) -> None:
        try:
            for sample in self.read():
                self.samples.append(sample)
        except GatehouseError as error:
            self.problem = str(error)
        except Exception as error:  # What is wrong with one source must not take the others.
            self.problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class Monitor(Collector):
    """Gives what each source says, and for each whether it could be read; `say` is told when that changes, and why."""

    def __init__(self, config: RunConfig, say: Say) -> None:
        self.sources = sources_of(config)
        self.say = say
        self.readings: dict[str, Reading] = {}
        self.problems: dict[str, str] = {}
        self.lock = Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Reads all sources anew."""
        families = {
            name: GaugeMetricFamily(PREFIX + name, metric.meaning, labels=metric.labels)
            for name, metric in METRICS.items()
        }
        with self.lock:
            samples = self._read()
        for sample in samples:
            families[sample.metric].add_metric(sample.labels, sample.value)
        yield from (family for family in families.values() if family.samples)

    def _read(self) -> list[Sample]:
        begun = {name: Reading(read) for name, read in self.sources.items() if not self._is_at_work(name)}
        self.readings |= begun
        for reading in begun.values():
            reading.start()
        deadline = time.monotonic() + READ_SECONDS
        samples: list[Sample] = []
        for name in self.sources:
            problem, found = self._wait(begun.get(name), deadline)
            samples += [*found, Sample("scrape_error", bool(problem), (name,))]
            if problem != self.problems.get(name, ""):
                self.say(f"{name}: {problem or 'can be read again'}")
                self.problems[name] = problem
        return samples

    @staticmethod
    def _wait(reading: Reading | None, deadline: float) -> tuple[str, list[Sample]]:
        """What is wrong, and what was read. One that hangs since an earlier scrape would tell what was true then."""
        if reading is None:
            return STILL_READING, []
        reading.join(max(deadline - time.monotonic(), 0))
        return (STILL_READING, []) if reading.is_alive() else (reading.problem, reading.samples)

    def _is_at_work(self, name: str) -> bool:
        return name in self.readings and self.readings[name].is_alive()
