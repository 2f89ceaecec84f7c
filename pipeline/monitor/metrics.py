"""What `gatehouse monitor` exports: every metric with its meaning and its labels.

Times are exported as such, in seconds since 1970, and not as ages: an age would stand still where the exporter does.
"""

from typing import NamedTuple

PREFIX = "gatehouse_"


class Metric(NamedTuple):
    meaning: str
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """A value of a metric, with a value for each of its labels."""

    metric: str
    value: float
    labels: tuple[str, ...] = ()


# Gauges all of them: versions are removed from a registry, and a resumed training goes back to its checkpoint.
# `run` is "workspace" or, for the newest slot of `retrain`, "slot".
METRICS: dict[str, Metric] = {
    "training_step": Metric("The step of the last record of the training.", ("run",)),
    "training_planned_steps": Metric("The steps that the training has at most.", ("run",)),
    "training_samples": Metric("The samples that were trained on by the last record.", ("run",)),
    "training_epoch": Metric("The epoch of the last record, from 0.", ("run",)),
    "training_loss": Metric("The mean loss of a task in the last record of a split.", ("run", "split", "task")),
    "training_samples_per_second": Metric("The speed between the last two records of the training split.", ("run",)),
    "training_record_timestamp_seconds": Metric("When metrics.jsonl was last written.", ("run",)),
    "training_finished": Metric("1 if the training came to its end, 0 if it is at work or was stopped.", ("run",)),
    "retrain_stage_complete": Metric("1 if a stage of the newest slot is complete.", ("stage",)),
    "retrain_period_seconds": Metric("The time between two slots."),
    "retrain_next_slot_timestamp_seconds": Metric("The oldest slot that is not done: it is due from then on."),
    "champion_version": Metric("The number of the version in use."),
    "champion_promoted_timestamp_seconds": Metric("Since when the champion is in use."),
    "champion_slot_timestamp_seconds": Metric("The slot of the champion: it has seen no row from that time on."),
    "champion_main_metric": Metric("The main metric of a task in the champion's report.", ("task", "metric")),
    "champion_calibration": Metric("Predictions over labels of a task in the champion's report.", ("task",)),
    "lease_held": Metric("1 while a run holds the lease of the registry."),
    "lease_expires_timestamp_seconds": Metric("When the lease runs out if it is not renewed."),
    "versions": Metric("The versions in the registry, by what the gate decided on them.", ("decision",)),
    "refusals": Metric("The versions in the registry that a rule of the gate refused.", ("rule",)),
    "refusals_in_a_row": Metric("The decisions since the last one that promoted, of the versions in the registry."),
    "last_decision_promoted": Metric("1 if the gate's last decision promoted, 0 if it refused."),
    "last_decision_timestamp_seconds": Metric("When the version of the gate's last decision was published."),
    "scrape_error": Metric("1 if a source could not be read in full: what it says is missing then.", ("source",)),
}
