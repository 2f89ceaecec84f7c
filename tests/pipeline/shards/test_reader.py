"""Shards on disk: written, checked, damaged, and read back in the sample order on several ranks."""

import copy
import errno
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import build
from pipeline.errors import ArtifactError, StorageError
from pipeline.preprocess.config import Compression
from pipeline.schema import Schema
from pipeline.shards.assignment import SampleOrder, epoch_blocks, lane_pieces, window_order
from pipeline.shards.manifest import (
    INDEX_NAME,
    DatasetIndex,
    LabelStatistics,
    ShardEntry,
    check_schema,
    id_type,
    read_index,
    shard_schema,
    verify_shards,
    write_index,
)
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import write_shard

TABLE_ROWS = {"user": 10_000, "tags": 2**31 + 1}
DATASETS: tuple[tuple[int, ...], ...] = ((1,), (9,), (3, 1, 2), (40, 7, 120, 1), (64, 64), (100, 100, 100))
COMPRESSED_BATCH = 8
# By the rows of their shards: the folder and the entries of the index.
Datasets = dict[tuple[int, ...], tuple[Path, list[ShardEntry]]]


def make_schema(**task: Any) -> Schema:
    section = {
        "features": [
            {"name": "user", "kind": "categorical"},
            {"name": "tags", "kind": "multi_valued"},
            {"name": "age", "kind": "numeric"},
        ],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "click", **task},
            {"name": "like", "kind": "binary", "label": "like", "space": "click"},
        ],
    }
    return build(Schema, section, "the tests")


def make_table(first: int, rows: int) -> pa.Table:
    """Rows whose every column follows from their key."""
    keys = range(first, first + rows)
    schema = shard_schema(make_schema(), TABLE_ROWS, {"row": pa.int64()})
    columns = [
        pa.array(keys, pa.int32()),
        pa.array([[2**31 - key] * (key % 3) for key in keys], pa.list_(pa.int64())),
        pa.array([[key / 2] for key in keys], pa.list_(pa.float32(), 1)),
        pa.array([[float(key % 2), None] for key in keys], pa.list_(pa.float32(), 2)),
        pa.array(keys, pa.int64()),
    ]
    return pa.table(columns, schema=schema)


def write_dataset(folder: Path, shard_rows: tuple[int, ...], compression: Compression = "none") -> list[ShardEntry]:
    """Shards whose keys count through all rows of the split."""
    firsts = np.cumsum((0, *shard_rows))
    return [
        write_shard(folder / f"train-{place:05d}.arrow", make_table(int(first), rows), "train", compression)
        for place, (first, rows) in enumerate(zip(firsts, shard_rows, strict=False))
    ]


def write_whole_dataset(folder: Path) -> DatasetIndex:
    schema = make_schema()
    statistics = LabelStatistics(rows=1, mean=0.5, deviation=0.5)
    index = DatasetIndex(
        schema_fingerprint=schema.fingerprint(),
        data_schema=schema,
        vocabulary_version="v",
        table_rows=TABLE_ROWS,
        label_statistics={"click": statistics, "like": statistics},
        time_range=("2025-01-01", "2025-01-02"),
        shards=tuple(write_dataset(folder, (30, 12))),
    )
    write_index(folder, index)
    return index


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Datasets:
    written = {}
    for shard_rows in DATASETS:
        folder = tmp_path_factory.mktemp("dataset")
        written[shard_rows] = (folder, write_dataset(folder, shard_rows))
    return written


@pytest.fixture(scope="module")
def small_batches() -> Iterator[None]:
    """Compressed shards have several record batches."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.shards.writer.ROWS_PER_COMPRESSED_BATCH", COMPRESSED_BATCH)
        yield


@pytest.fixture(scope="module")
def compressed_datasets(small_batches: None, tmp_path_factory: pytest.TempPathFactory) -> Datasets:
    written = {}
    for shard_rows in DATASETS:
        folder = tmp_path_factory.mktemp("compressed")
        written[shard_rows] = (folder, write_dataset(folder, shard_rows, "zstd"))
    return written


# Lanes that 1, 2 and 4 ranks can share; windows of 1 to 60 rows.
orders = st.builds(
    SampleOrder,
    shard_rows=st.sampled_from(DATASETS),
    num_lanes=st.sampled_from([4, 8, 12]),
    rows_per_lane=st.integers(1, 9),
    block_rows=st.integers(1, 12),
    window_blocks=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    shuffle=st.booleans(),
)
epochs = st.integers(0, 3)


def keys_of(table: pa.Table) -> list[int]:
    keys: list[int] = table["key_row"].to_pylist()
    return keys


def read_keys(
    datasets: Datasets, order: SampleOrder, epoch: int, rank: int = 0, num_ranks: int = 1, first_step: int = 0
) -> list[list[int]]:
    """The keys of each batch of a rank."""
    reader = ShardReader(*datasets[order.shard_rows], order, rank, num_ranks)
    return [keys_of(table) for table in reader.batches(epoch, first_step)]


# --- the order of rows


@settings(max_examples=60)
@given(orders, epochs)
def test_every_row_is_seen_once_per_epoch_whatever_the_number_of_ranks(
    datasets: Datasets, order: SampleOrder, epoch: int
) -> None:
    for num_ranks in (1, 2, 4):
        batches = [b for rank in range(num_ranks) for b in read_keys(datasets, order, epoch, rank, num_ranks)]
        assert sorted(key for batch in batches for key in batch) == list(range(order.num_rows))


@settings(max_examples=60)
@given(orders, epochs)
def test_a_global_batch_has_the_same_rows_in_the_same_order_on_any_number_of_ranks(
    datasets: Datasets, order: SampleOrder, epoch: int
) -> None:
    alone = read_keys(datasets, order, epoch)
    assert len(alone) == order.num_steps
    for num_ranks in (2, 4):
        ranks = [read_keys(datasets, order, epoch, rank, num_ranks) for rank in range(num_ranks)]
        # `strict`: every rank takes the same number of steps.
        together = [[key for batch in step for key in batch] for step in zip(*ranks, strict=True)]
        assert together == alone


@settings(max_examples=60)
@given(orders, epochs, st.sampled_from([1, 2, 4]), st.data())
def test_resuming_at_any_step_gives_exactly_the_rest(
    datasets: Datasets, order: SampleOrder, epoch: int, num_ranks: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, num_ranks - 1))
    first_step = data.draw(st.integers(0, order.num_steps))
    whole = read_keys(datasets, order, epoch, rank, num_ranks)
    assert read_keys(datasets, order, epoch, rank, num_ranks, first_step) == whole[first_step:]


def test_resuming_in_the_middle_of_a_window_gives_exactly_the_rest(datasets: Datasets) -> None:
    # Steps of 3 rows in windows of 20 rows.
    order = SampleOrder((100, 100, 100), 4, 3, 5, 4, seed=5)
    whole = read_keys(datasets, order, 1)
    assert whole != sorted(whole)
    assert read_keys(datasets, order, 1, first_step=4) == whole[4:]


@settings(max_examples=40)
@given(orders, epochs)
def test_the_rows_on_disk_come_in_the_order_of_the_assignment(
    datasets: Datasets, order: SampleOrder, epoch: int
) -> None:
    first_keys = np.cumsum((0, *order.shard_rows))
    lanes = []
    for lane in range(order.num_lanes):
        dealt = [
            int(first_keys[piece.shard]) + piece.first_row + row
            for piece in lane_pieces(order, epoch_blocks(order, epoch), lane)
            for row in range(piece.rows)
        ]
        windows = [dealt[first : first + order.window_rows] for first in range(0, len(dealt), order.window_rows)]
        lanes.append(
            [rows[i] for w, rows in enumerate(windows) for i in window_order(order, epoch, lane, w, len(rows))]
        )
    steps = [slice(step * order.rows_per_lane, (step + 1) * order.rows_per_lane) for step in range(order.num_steps)]
    expected = [[key for lane in lanes for key in lane[step]] for step in steps]
    assert read_keys(datasets, order, epoch) == expected


@settings(max_examples=40)
@given(orders, epochs)
def test_a_batch_has_at_most_its_rows_and_every_column_follows_its_key(
    datasets: Datasets, order: SampleOrder, epoch: int
) -> None:
    reader = ShardReader(*datasets[order.shard_rows], order)
    assert reader.rows_per_batch == order.num_lanes * order.rows_per_lane
    whole = make_table(0, order.num_rows)
    for table in reader.batches(epoch):
        assert table.num_rows <= reader.rows_per_batch
        assert table.equals(whole.take(pa.array(keys_of(table), pa.int64())))


def test_more_lanes_than_rows_leave_some_ranks_with_empty_batches(datasets: Datasets) -> None:
    order = SampleOrder((3, 1, 2), 8, 2, 2, 2, seed=0)
    ranks = [read_keys(datasets, order, 0, rank, 4) for rank in range(4)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[2], [2], [2], [0]]
    reader = ShardReader(*datasets[order.shard_rows], order, 3, 4)
    (empty,) = reader.batches(0)
    assert empty.schema == make_table(0, 1).schema


def test_lanes_that_end_early_give_short_batches_at_the_end(datasets: Datasets) -> None:
    # 9 rows in 4 lanes of 3, 2, 2 and 2: the third step finds a row in the first lane only.
    order = SampleOrder((9,), 4, 1, 2, 2, seed=0)
    ranks = [read_keys(datasets, order, 0, rank, 2) for rank in range(2)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[2, 2, 1], [2, 2, 0]]


def test_a_split_without_shards_has_no_batches(tmp_path: Path) -> None:
    reader = ShardReader(tmp_path, [], SampleOrder((), 4, 2, 3, 2, seed=0))
    assert list(reader.batches(0)) == []


def test_two_readings_of_one_reader_are_the_same(datasets: Datasets) -> None:
    """As in validation, which reads its split after every epoch; also after one that was left."""
    order = SampleOrder((40, 7, 120, 1), 4, 5, 6, 2, seed=1)
    reader = ShardReader(*datasets[order.shard_rows], order)
    next(reader.batches(0))
    first, second = ([keys_of(table) for table in reader.batches(0)] for _ in range(2))
    assert first == second


# --- compressed shards


@settings(max_examples=60)
@given(orders, epochs, st.integers(0, 3))
def test_compressed_shards_give_the_batches_of_plain_ones(
    datasets: Datasets, compressed_datasets: Datasets, order: SampleOrder, epoch: int, first_step: int
) -> None:
    plain, compressed = (ShardReader(*one[order.shard_rows], order, 1, 2) for one in (datasets, compressed_datasets))
    pairs = zip(plain.batches(epoch, first_step), compressed.batches(epoch, first_step), strict=True)
    assert all(ours.equals(theirs) for ours, theirs in pairs)


def test_a_compressed_shard_is_smaller_the_same_bytes_each_time_and_never_whole_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.shards.writer.ROWS_PER_COMPRESSED_BATCH", 256)
    table = make_table(0, 64 * 256)
    first, second = (write_shard(tmp_path / name, table, "train", "zstd") for name in ("a.arrow", "b.arrow"))
    plain = write_shard(tmp_path / "c.arrow", table, "train")
    assert (first.sha256, first.bytes) == (second.sha256, second.bytes)
    assert first.bytes < plain.bytes / 2

    order = SampleOrder((table.num_rows,), 4, 32, 64, 4, seed=0)
    before, most, unpacked = pa.total_allocated_bytes(), [0], []
    reader = ShardReader(tmp_path, [first], order)
    shard = reader._shards[0]

    class Watched:
        """Unpacks record batches and notes which, and how much memory there is then."""

        def __init__(self, real: Any) -> None:
            self.real = real

        def get_batch(self, number: int) -> pa.RecordBatch:
            batch = self.real.get_batch(number)
            unpacked.append(number)
            most[0] = max(most[0], pa.total_allocated_bytes() - before)
            return batch

    shard._reader = Watched(shard._reader)
    assert sorted(key for batch in reader.batches(0) for key in keys_of(batch)) == list(range(table.num_rows))
    # A block of 64 rows lies in one record batch, unless two lanes share it.
    assert len(unpacked) <= table.num_rows // 64 + 4
    # Four windows of 256 rows, and the record batches that one of them is made of.
    assert most[0] < table.nbytes / 2


# --- shards


def test_a_shard_is_the_same_bytes_each_time_and_holds_what_was_written(tmp_path: Path) -> None:
    table = make_table(5, 50)
    first = write_shard(tmp_path / "a.arrow", table, "test")
    second = write_shard(tmp_path / "b.arrow", pa.concat_tables([table.slice(0, 20), table.slice(20)]), "test")
    assert (first.rows, first.split, first.path) == (50, "test", "a.arrow")
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()
    assert first.sha256 == second.sha256
    assert first.bytes == (tmp_path / "a.arrow").stat().st_size
    with pa.ipc.open_file(tmp_path / "a.arrow") as reader:
        assert reader.read_all().equals(table)


def test_a_shard_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_shard(tmp_path / "a.arrow", make_table(0, 3), "train")
    assert list(tmp_path.iterdir()) == []


def test_ids_are_32_bits_wide_up_to_the_largest_table_that_fits() -> None:
    assert id_type(2**31) == pa.int32()
    assert id_type(2**31 + 1) == pa.int64()
    schema = shard_schema(make_schema(), TABLE_ROWS, {"user": pa.string()})
    assert schema.names == ["sparse_user", "sparse_tags", "dense", "labels", "key_user"]
    assert [schema.field(0).type, schema.field(1).type] == [pa.int32(), pa.list_(pa.int64())]


@pytest.fixture
def written(tmp_path: Path) -> DatasetIndex:
    return write_whole_dataset(tmp_path)


def open_shards(folder: Path, shards: tuple[ShardEntry, ...]) -> ShardReader:
    return ShardReader(folder, shards, SampleOrder(tuple(s.rows for s in shards), 1, 4, 4, 2, seed=0))


def test_untouched_shards_pass_their_check(tmp_path: Path, written: DatasetIndex) -> None:
    verify_shards(tmp_path, list(written.shards))
    assert sum(table.num_rows for table in open_shards(tmp_path, written.shards).batches(0)) == 42


def test_a_missing_shard_is_named(tmp_path: Path, written: DatasetIndex) -> None:
    (tmp_path / written.shards[1].path).unlink()
    for check in (lambda: verify_shards(tmp_path, list(written.shards)), lambda: open_shards(tmp_path, written.shards)):
        with pytest.raises(ArtifactError, match=written.shards[1].path):
            check()


def test_the_reader_names_a_shard_with_another_number_of_rows(tmp_path: Path, written: DatasetIndex) -> None:
    shards = (written.shards[0], written.shards[1].model_copy(update={"rows": 13}))
    with pytest.raises(ArtifactError, match=f"{written.shards[1].path} has 12 rows, expected 13"):
        open_shards(tmp_path, shards)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("sparse_user", "the column sparse_user: int64, where train-00000.arrow has sparse_user: int32"),
        ("key_extra", "the column key_extra: int64, where train-00000.arrow has none"),
    ],
)
def test_a_shard_with_other_columns_than_the_first_one_is_named(
    tmp_path: Path, written: DatasetIndex, column: str, said: str
) -> None:
    columns = {name: make_table(0, 12)[name] for name in make_table(0, 12).column_names}
    table = pa.table(columns | {column: pa.array([2**62] * 12)})
    shard = write_shard(tmp_path / "other.arrow", table, "train")
    with pytest.raises(ArtifactError) as caught:
        open_shards(tmp_path, (written.shards[0], shard))
    assert f"shard {tmp_path}/other.arrow has {said}. " in str(caught.value)


def test_a_shard_is_opened_though_the_storage_falters(
    tmp_path: Path, written: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = pa.memory_map, [OSError(errno.EIO, "i/o error"), OSError(errno.ESTALE, "stale handle")]

    def falter(path: str) -> Any:
        if failures:
            raise failures.pop()
        return real(path)

    monkeypatch.setattr("pipeline.files.FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr("pyarrow.memory_map", falter)
    assert sum(table.num_rows for table in open_shards(tmp_path, written.shards).batches(0)) == 42
    assert failures == []
    failures += [OSError(errno.EIO, "i/o error")] * 3
    with pytest.raises(StorageError, match=f"{written.shards[0].path} failed 3 times in a row: Input/output error"):
        open_shards(tmp_path, written.shards)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_damaged_shard_is_read_or_refused_and_never_crashes(tmp_path: Path, compression: Compression) -> None:
    """The reader trusts no byte of the file's own description, even where the check of its sha256 was skipped."""
    draw, shard = random.Random(1), write_shard(tmp_path / "train-0.arrow", make_table(0, 12), "train", compression)
    content, messages = (tmp_path / shard.path).read_bytes(), []
    places = range(0, len(content), 1 if compression == "none" else 4)
    flips = [(place, 1 << bit) for place in places for bit in draw.sample(range(8), 2)]
    for place, bit in flips:
        damaged = bytearray(content)
        damaged[place] ^= bit
        (tmp_path / shard.path).write_bytes(damaged)
        try:
            reader = open_shards(tmp_path, (shard,))
            if compression == "zstd":  # another one is read when it is opened
                reader._shards[0].slice(0, 12)
        except ArtifactError as error:
            messages.append(str(error))
    assert 100 < len(messages) < len(flips)
    assert all(shard.path in message and "\n" not in message for message in messages)


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("kept_fraction", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_shard_is_not_opened(tmp_path: Path, kept_fraction: float, compression: Compression) -> None:
    shard = write_shard(tmp_path / "train-0.arrow", make_table(0, 12), "train", compression)
    content = (tmp_path / shard.path).read_bytes()
    (tmp_path / shard.path).write_bytes(content[: int(kept_fraction * len(content))])
    with pytest.raises(ArtifactError, match=f"shard .*{shard.path} cannot be read: "):
        open_shards(tmp_path, (shard,))


# --- the index


def test_an_index_is_read_as_it_was_written(tmp_path: Path, written: DatasetIndex) -> None:
    assert read_index(tmp_path) == written
    assert written.num_rows("train") == 42
    assert written.of_split("test") == []


def test_a_folder_without_an_index_holds_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no complete dataset \(index.json is not there\). Run `preprocess`"):
        read_index(tmp_path)


def set_at(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(index: Any) -> None:
        for part in path[:-1]:
            index = index[part]
        index[path[-1]] = value

    return change


EDITS: list[tuple[str, tuple[str | int, ...], Any]] = [
    ("format_version", ("format_version",), 1),
    ("schema_fingerprint", ("schema_fingerprint",), "0" * 64),
    ("schema_fingerprint", ("data_schema", "features", 0, "name"), "usr"),
    ("schema_fingerprint", ("data_schema", "tasks", 0, "label"), "clicked"),
    ("data_schema.features.0", ("data_schema", "features", 0, "kind"), "count"),
    ("data_schema", ("data_schema",), None),
    ("vocabulary_version", ("vocabulary_version",), 7),
    ("table_rows.user", ("table_rows", "user"), 0),
    ("table_rows.user", ("table_rows", "user"), "many"),
    ("table_rows", ("table_rows",), {"user": 10_000}),
    ("table_rows", ("table_rows", "item"), 5),
    ("label_statistics.click.rows", ("label_statistics", "click", "rows"), -1),
    ("label_statistics.click.mean", ("label_statistics", "click", "mean"), float("nan")),
    ("label_statistics.click.deviation", ("label_statistics", "click", "deviation"), float("inf")),
    ("label_statistics.click.deviation", ("label_statistics", "click", "deviation"), -0.5),
    ("label_statistics", ("label_statistics",), {}),
    ("time_range.1", ("time_range",), ["2025-01-01"]),
    ("shards", ("shards",), None),
    ("shards.0.split", ("shards", 0, "split"), "dev"),
    ("shards.1.rows", ("shards", 1, "rows"), -12),
    ("shards.1.rows", ("shards", 1, "rows"), 0),
    ("shards.1.rows", ("shards", 1, "rows"), 1.5),
    ("shards.1.bytes", ("shards", 1, "bytes"), 0),
    ("shards.1.sha256", ("shards", 1, "sha256"), "none"),
    ("shards.1.owner", ("shards", 1, "owner"), "me"),
    ("owner", ("owner",), "me"),
    ("vocabulary_version", ("vocabulary_version",), "0" * 64),
    ("table_rows", ("table_rows", "user"), 10_001),
    ("label_statistics", ("label_statistics", "click", "mean"), 0.25),
    ("shards", ("shards", 0, "split"), "test"),
    ("shards.1.path", ("shards", 1, "path"), "train-00000.arrow"),
    ("digests", ("digests",), None),
    ("time_range", ("digests", "time_range"), "0" * 64),
    *(
        ("shards.1.path", ("shards", 1, "path"), path)
        for path in (
            "../train-00000.arrow",
            "/etc/passwd",
            "a/b.arrow",
            "a\x00.arrow",
            "",
            ".",
            "..",
            ".hidden",
            "~",
            "..\\a.arrow",
            "a.arrow\n",
        )
    ),
]


@pytest.mark.parametrize(("field", "path", "value"), EDITS)
def test_an_edited_field_of_the_index_is_named(
    tmp_path: Path, written: DatasetIndex, field: str, path: tuple[str | int, ...], value: Any
) -> None:
    content = json.loads((tmp_path / INDEX_NAME).read_text())
    set_at(*path, value=value)(content)
    (tmp_path / INDEX_NAME).write_text(json.dumps(content))
    with pytest.raises(ArtifactError) as caught:
        read_index(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / INDEX_NAME}: field {field}")
    assert str(caught.value).endswith(". Run `preprocess` again.")


def test_a_missing_field_of_the_index_is_named(tmp_path: Path, written: DatasetIndex) -> None:
    whole = json.loads((tmp_path / INDEX_NAME).read_text())
    for field in sorted(whole.keys() - {"format_version"}):
        content = copy.deepcopy(whole)
        del content[field]
        (tmp_path / INDEX_NAME).write_text(json.dumps(content))
        with pytest.raises(ArtifactError, match=f"field {field}: Field required"):
            read_index(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000, b"1" * 5000, b'{"a": NaN}'],
    ids=["empty", "cut", "list", "null", "no text", "deep", "long number", "nan"],
)
def test_an_index_that_is_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / INDEX_NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match=INDEX_NAME):
        read_index(tmp_path)


def test_a_truncated_index_is_refused_wherever_it_is_cut(tmp_path: Path, written: DatasetIndex) -> None:
    content = (tmp_path / INDEX_NAME).read_bytes().rstrip()
    for length in range(0, len(content), 37):
        (tmp_path / INDEX_NAME).write_bytes(content[:length])
        with pytest.raises(ArtifactError, match="is not JSON"):
            read_index(tmp_path)


def test_a_dataset_of_another_schema_is_refused_with_the_difference(tmp_path: Path, written: DatasetIndex) -> None:
    check_schema(written, make_schema(), tmp_path)
    with pytest.raises(ArtifactError, match="made with another schema: task 'click': positive was None, is 'yes'"):
        check_schema(written, make_schema(positive="yes"), tmp_path)
