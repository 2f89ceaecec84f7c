"""Shards that were cut, damaged, lost, added, copied or renamed, and an index that was edited: all before step 1."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tampered import DATA_EXIT_CODE, gatehouse, new_draw, one_line, tensors_of

from pipeline.errors import ArtifactError
from pipeline.evaluate.run import evaluate
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import INDEX_NAME, ShardEntry, read_index, unlisted_shards, write_index
from pipeline.train.run import train
from pipeline.train.telemetry import read_history

NUM_FLIPS = 20
SIZES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "all but ten bytes": lambda content: content[:-10],
    "one byte too many": lambda content: content + b"x",
}


def read_by_training(config: RunConfig) -> list[ShardEntry]:
    index = read_index(config.dataset_dir)
    return [*index.of_split("train"), *index.of_split("validation")]


def refusal(config: RunConfig) -> str:
    """The message with which training refuses a dataset before its first step."""
    with pytest.raises(ArtifactError) as caught:
        train(config)
    assert caught.value.exit_code == DATA_EXIT_CODE
    assert read_history(config.workspace_dir) == []
    assert not list(config.checkpoints_dir.glob("*"))
    return str(caught.value)


# --- truncated


@pytest.mark.parametrize("change", SIZES.values(), ids=SIZES)
def test_a_shard_of_another_size_is_named_with_both_sizes_before_the_first_step(
    make_config: Any, change: Callable[[bytes], bytes]
) -> None:
    config, draw = make_config(), new_draw()
    shard = draw.choice(read_by_training(config))
    path = config.dataset_dir / shard.path
    changed = change(path.read_bytes())
    path.write_bytes(changed)
    assert refusal(config) == (
        f"shard {path} has {len(changed)} bytes, expected {shard.bytes}. Restore the file or run `preprocess` again."
    )


def test_a_truncated_shard_ends_the_command_in_one_line(make_config: Any) -> None:
    config = make_config()
    shard = read_by_training(config)[0]
    path = config.dataset_dir / shard.path
    path.write_bytes(path.read_bytes()[:-10])
    done = gatehouse("train", config)
    assert done.returncode == DATA_EXIT_CODE
    assert f"shard {path} has {shard.bytes - 10} bytes, expected {shard.bytes}" in one_line(done.stderr)


# --- flipped


def test_every_flipped_bit_is_found_before_the_first_step(make_config: Any) -> None:
    config, draw = make_config(), new_draw()
    for shard in draw.choices(read_by_training(config), k=NUM_FLIPS):
        path = config.dataset_dir / shard.path
        whole = path.read_bytes()
        place, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        assert f"shard {path} is damaged: sha256 " in refusal(config), (shard.path, place, bit)
        path.write_bytes(whole)


# --- missing, extra, copied, renamed


def test_a_missing_shard_is_named(make_config: Any) -> None:
    config, draw = make_config(), new_draw()
    path = config.dataset_dir / draw.choice(read_by_training(config)).path
    path.unlink()
    assert refusal(config) == f"shard {path} is not there. Restore the file or run `preprocess` again."


def test_a_renamed_shard_is_named_with_its_new_name(make_config: Any) -> None:
    config, draw = make_config(), new_draw()
    path = config.dataset_dir / draw.choice(read_by_training(config)).path
    path.rename(path.with_name("backup.arrow"))
    assert refusal(config) == (
        f"shard {path} is not there, but backup.arrow has its content. "
        f"Rename backup.arrow to {path.name}, or run `preprocess` again."
    )


def test_a_shard_that_was_copied_over_another_is_named(make_config: Any) -> None:
    config, draw = make_config(), new_draw()
    source, target = draw.sample(read_by_training(config), 2)
    shutil.copy(config.dataset_dir / source.path, config.dataset_dir / target.path)
    assert refusal(config).startswith(f"shard {config.dataset_dir / target.path} ")


def test_a_shard_that_the_index_lists_twice_is_refused(make_config: Any) -> None:
    """Its rows would be trained twice."""
    config = make_config()
    index = read_index(config.dataset_dir)
    twice = (*index.shards, index.shards[0])
    write_index(config.dataset_dir, index.model_copy(update={"shards": twice}))
    name = index.shards[0].path
    assert f"field shards.{len(index.shards)}.path: '{name}' is shards.0 already" in refusal(config)


def test_an_extra_shard_is_told_and_changes_nothing(make_config: Any) -> None:
    clean, disturbed = make_config("clean"), make_config("disturbed")
    folder = disturbed.dataset_dir
    index = read_index(folder)
    assert unlisted_shards(folder, index) == []
    shutil.copy(folder / index.shards[0].path, folder / "train-99999.arrow")
    assert unlisted_shards(folder, index) == [
        f"shard {folder}/train-99999.arrow is not in index.json and is ignored; remove it, or run `preprocess` again"
    ]
    assert tensors_of(train(disturbed)) == tensors_of(train(clean))
    assert evaluate(disturbed)["tasks"] == evaluate(clean)["tasks"]


# --- an edited index


@pytest.fixture(scope="module")
def index_dir(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the index of the small log."""
    folder = tmp_path_factory.mktemp("index")
    shutil.copy(dataset / INDEX_NAME, folder / INDEX_NAME)
    return folder


@pytest.fixture(scope="module")
def written(index_dir: Path) -> Any:
    read_index(index_dir)
    return json.loads((index_dir / INDEX_NAME).read_bytes())


Place = tuple[str | int, ...]


def places_of(value: Any, place: Place = ()) -> list[Place]:
    """The places of all values in a JSON document, the nested ones included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([place] if place else []), *(found for key, item in inner for found in places_of(item, (*place, key)))]


def value_at(content: Any, place: Place) -> Any:
    for key in place:
        content = content[key]
    return content


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**65) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=300)
@given(st.data())
def test_any_edit_of_any_field_is_refused_with_its_name(index_dir: Path, written: Any, data: st.DataObject) -> None:
    """Values of another type, values that make no sense, and those that only another file could prove wrong."""
    place = data.draw(st.sampled_from(places_of(written)))
    edited = copy.deepcopy(written)
    parent, value = value_at(edited, place[:-1]), value_at(written, place)
    kind = data.draw(st.sampled_from(["replace", "remove", "nudge"]))
    if kind == "remove":
        del parent[place[-1]]
    else:
        parent[place[-1]] = nudged(value) if kind == "nudge" else data.draw(json_values)
    assume(json.dumps(edited) != json.dumps(written))
    message = refused(index_dir, edited)
    top = str(place[0] if place[0] != "digests" or len(place) == 1 else place[1])
    named = message.split(": ")[1].removeprefix("field ").split(".")[0]
    # A schema that is another one, but a schema, is told by its fingerprint; a lost digest by the field that it is of.
    others = {"data_schema": {"schema_fingerprint"}, "digests": written["digests"].keys()}
    assert named == top or named in others.get(top, ()), message


def nudged(value: Any) -> Any:
    """Another value of the same kind, as somebody would write who knows the format."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value[::-1]
    return list(value)[1:] if isinstance(value, list) else dict(list(value.items())[1:])


def refused(folder: Path, content: Any) -> str:
    changed = folder.parent / "edited"
    changed.mkdir(exist_ok=True)
    (changed / INDEX_NAME).write_text(json.dumps(content))
    with pytest.raises(ArtifactError) as caught:
        read_index(changed)
    assert caught.value.exit_code == DATA_EXIT_CODE
    return str(caught.value).removeprefix(str(changed))
