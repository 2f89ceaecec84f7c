"""What is fitted on the training rows, from the staged parts: the vocabularies, normalizations and boundaries."""

from functools import partial
from pathlib import Path
from typing import Any

from pipeline.executor import Executor
from pipeline.preprocess.earlier import Earlier
from pipeline.preprocess.features.distinct import Merged, merge_range, plan_ranges, write_vocabulary
from pipeline.preprocess.features.vocabulary import Vocabulary
from pipeline.preprocess.profiles.profile import ValueProfile
from pipeline.preprocess.profiles.survey import Survey
from pipeline.preprocess.stage import text_tables
from pipeline.preprocess.transform import FittedTransform, load_encodings
from pipeline.schema import Schema
from pipeline.shards.vocabularies import vocabulary_path


def fit(
    schema: Schema,
    survey: Survey,
    earlier: Earlier | None,
    staging: Path,
    dataset_dir: Path,
    num_parts: int,
    executor: Executor,
) -> tuple[FittedTransform, dict[str, dict[str, Any]]]:
    """The transform that the training rows make, and what to tell of each table with a vocabulary."""
    open_tables = schema.vocabulary_owners()
    ranges = plan_ranges({table: survey.num_distinct[table] for table in open_tables})
    min_counts = {table: owner.min_count for table, owner in open_tables.items()}
    known = {
        table: encoding
        for table, encoding in (earlier.fitted.encodings if earlier else {}).items()
        if isinstance(encoding, Vocabulary)
    }
    merge = partial(merge_range, staging, num_parts, text_tables(schema), min_counts, known)
    merged: dict[str, list[Merged]] = {table: [] for table in open_tables}
    for one in executor.map(merge, ranges):
        merged[one.range.table].append(one)
    told: dict[str, dict[str, Any]] = {}
    for table, owner in open_tables.items():
        before, path = known.get(table), vocabulary_path(dataset_dir, table)
        refused = write_vocabulary(staging, merged[table], owner.max_size, before, path)
        profile = ValueProfile()
        for one in merged[table]:
            profile = profile.merge(one.profile)
        told[table] = {
            **profile.describe(),
            "kept_values": Vocabulary.load(path).num_values,
            "earlier_values": before.num_values if before else 0,
            "refused_values": refused,
        }
    # Other numbers would mean something else to a model that was trained with the earlier ones.
    if earlier:
        normalizations, boundaries = earlier.fitted.normalizations, earlier.fitted.boundaries
    else:
        normalizations = {f.name: survey.numbers[f.name].moments.normalization() for f in schema.numeric_features}
        boundaries = {
            feature.name: feature.boundaries or survey.samples[feature.name].boundaries(feature.num_buckets or 0)
            for feature in schema.bucketed_features
        }
    fitted = FittedTransform(schema, load_encodings(dataset_dir, schema), normalizations, boundaries)
    fitted.save_numbers(dataset_dir)
    return fitted, told
