"""Samples of public data sets in the format of their files, made up, and what a plain reading of the files says.

`write_X` writes the files of a data set into a folder; `parse_X` reads them again, joined: per row a dict of its
columns and the place of its split.
"""

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]


class Sample(NamedTuple):
    """`overrides` make the rows fall into splits that `parse` can tell."""

    write: Callable[[Path, random.Random], None]
    parse: Callable[[Path], list[Row]]
    overrides: tuple[str, ...] = ()


def _lines(path: Path, lines: list[str], encoding: str = "utf-8") -> None:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))


def _split_in_order(rows: list[Row], validation_fraction: float, test_fraction: float) -> list[Row]:
    test_from = len(rows) - round(len(rows) * test_fraction)
    validation_from = test_from - round(len(rows) * validation_fraction)
    return [row | {"split": (place >= validation_from) + (place >= test_from)} for place, row in enumerate(rows)]


# --- MovieLens-1M

GENRES = ["Action", "Children's", "Comedy", "Film-Noir", "Sci-Fi"]
TITLES = [
    "Toy Story (1995)",
    'Léon, or "The Professional" (1994)',
    "M*A*S*H: the film (1970)",
    "Misérables, Les (1995)",
]


def write_movielens(folder: Path, chance: random.Random) -> None:
    zips = ["48067", "02460", "55455-1"]
    users = [
        f"{user}::{chance.choice('FM')}::{chance.choice([1, 18, 25])}::{chance.randrange(21)}::{chance.choice(zips)}"
        for user in range(1, 41)
    ]
    movies = [
        f"{movie}::{chance.choice(TITLES)}::{'|'.join(chance.sample(GENRES, chance.randint(1, 3)))}"
        for movie in range(1, 61)
    ]
    ratings = []
    for user in range(1, 41):
        for movie in chance.sample(range(1, 61), 10):
            time = chance.randrange(960_000_000, 980_000_000)
            ratings.append(f"{user}::{movie}::{chance.randint(1, 5)}::{time}")
    _lines(folder / "users.dat", users)
    _lines(folder / "movies.dat", movies, "latin-1")
    _lines(folder / "ratings.dat", ratings)


def parse_movielens(folder: Path) -> list[Row]:
    def read(name: str, columns: str) -> list[Row]:
        lines = (folder / name).read_text("latin-1").splitlines()
        return [dict(zip(columns.split(), line.split("::"), strict=True)) for line in lines]

    users = {row["user_id"]: row for row in read("users.dat", "user_id gender age_group occupation zip_code")}
    movies = {row["movie_id"]: row for row in read("movies.dat", "movie_id title genres")}
    rows = []
    for row in read("ratings.dat", "user_id movie_id rating timestamp"):
        split = (int(row["timestamp"]) >= 975628800) + (int(row["timestamp"]) >= 978307200)
        rows.append(users[row["user_id"]] | movies[row["movie_id"]] | row | {"split": split})
    return rows


# --- Criteo

CRITEO_COLUMNS = ["label", *(f"I{number}" for number in range(1, 14)), *(f"C{number}" for number in range(1, 27))]


def write_criteo(folder: Path, chance: random.Random) -> None:
    hashes = {name: [f"{chance.getrandbits(32):08x}" for _ in range(12)] for name in CRITEO_COLUMNS[14:]}
    lines = []
    for _ in range(300):
        numbers = ["" if chance.random() < 0.2 else str(int(chance.lognormvariate(2, 2)) - 3) for _ in range(13)]
        texts = ["" if chance.random() < 0.1 else chance.choice(values) for values in hashes.values()]
        lines.append("\t".join([str(int(chance.random() < 0.3)), *numbers, *texts]))
    _lines(folder / "train.txt", lines)


def parse_criteo(folder: Path) -> list[Row]:
    lines = (folder / "train.txt").read_text().split("\n")[:-1]
    rows = [{name: text or None for name, text in zip(CRITEO_COLUMNS, line.split("\t"), strict=True)} for line in lines]
    return _split_in_order(rows, 0.0714, 0.1429)


# --- Ali-CCP

COMMON_FIELDS = ["101", "121", "122", "124", "125", "126", "127", "128", "129"]
COMMON_LISTS = ["109_14", "110_14", "127_14", "150_14"]
ITEM_FIELDS = ["205", "206", "207", "216", "301"]
ITEM_LISTS = ["210", "508", "509", "702", "853", "900"]


def write_ali_ccp(folder: Path, chance: random.Random) -> None:
    def packed(fields: list[str], lists: list[str]) -> str:
        elements = [(field, chance.randrange(20)) for field in fields if chance.random() < 0.9]
        elements += [(field, chance.randrange(20)) for field in lists for _ in range(chance.randrange(4))]
        weights = ["1.0", "2.3979", "0.6931"]
        texts = [f"{field}\x02{field}{number}\x03{chance.choice(weights)}" for field, number in elements]
        chance.shuffle(texts)
        return f"{len(texts)},{chr(1).join(texts)}"

    visits = [f"{chance.getrandbits(64):016x}" for _ in range(60)]
    lines = []
    for number in range(1, 401):
        click = chance.random() < 0.4
        purchase = click and chance.random() < 0.4
        # One purchase has no click, as in the real data.
        labels = "0,1" if number == 123 else f"{int(click)},{int(purchase)}"
        lines.append(f"{number},{labels},{chance.choice(visits)},{packed(ITEM_FIELDS, ITEM_LISTS)}")
    _lines(folder / "sample_skeleton_train.csv", lines)
    common = [f"{visit},{packed(COMMON_FIELDS, COMMON_LISTS)}" for visit in visits]
    _lines(folder / "common_features_train.csv", common)


def parse_ali_ccp(folder: Path) -> list[Row]:
    def unpack(features: str, fields: list[str], lists: list[str]) -> Row:
        row: Row = {name: None for field in fields for name in (field, f"{field}_weight")}
        row |= {name: [] for field in lists for name in (field, f"{field}_weight")}
        for element in filter(None, features.split("\x01")):
            field, _, rest = element.partition("\x02")
            id_, _, weight = rest.partition("\x03")
            if field in lists:
                row[field].append(id_)
                row[f"{field}_weight"].append(float(weight))
            else:
                row[field], row[f"{field}_weight"] = id_, float(weight)
        return row

    common = {}
    for line in (folder / "common_features_train.csv").read_text().splitlines():
        visit, _, features = line.split(",")
        common[visit] = unpack(features, COMMON_FIELDS, COMMON_LISTS)
    rows = []
    for line in (folder / "sample_skeleton_train.csv").read_text().splitlines():
        _, click, purchase, visit, _, features = line.split(",")
        own = {"click": click, "purchase": purchase, "common": visit}
        rows.append(own | common[visit] | unpack(features, ITEM_FIELDS, ITEM_LISTS))
    rows = _split_in_order(rows, 0.1, 0.2)
    return [row for row in rows if (row["click"], row["purchase"]) != ("0", "1")]


# --- KuaiRand-Pure

RANGES = ["user_active_degree", *(f"{name}_range" for name in ("follow_user_num", "fans_user_num", "friend_user_num"))]
USER_COLUMNS = [
    *RANGES, "is_lowactive_period", "is_live_streamer", "is_video_author", "register_days_range", "follow_user_num",
    "fans_user_num", "friend_user_num", "register_days", *(f"onehot_feat{number}" for number in range(18)),
]  # fmt: skip
VIDEO_COLUMNS = [
    "author_id", "video_type", "upload_type", "visible_status", "music_id", "music_type", "tag", "video_duration",
    "server_width", "server_height",
]  # fmt: skip


def write_kuairand(folder: Path, chance: random.Random) -> None:
    def value(column: str) -> str:
        if chance.random() < 0.1:
            return ""
        if column == "tag":
            return ",".join(str(chance.randrange(8)) for _ in range(chance.randint(1, 3)))
        if column in RANGES or column == "register_days_range":
            return chance.choice(["(0,10]", "[10,100)", "500+"])
        is_number = column.endswith(("_num", "_days", "_duration", "_width", "_height"))
        return f"{chance.randrange(1, 9000)}" if is_number else str(chance.randrange(5))

    def table(name: str, key: str, columns: list[str], keys: range) -> None:
        with open(folder / name, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([key, *columns])
            writer.writerows([number, *map(value, columns)] for number in keys)

    table("user_features_pure.csv", "user_id", USER_COLUMNS, range(30))
    table("video_features_basic_pure.csv", "video_id", VIDEO_COLUMNS, range(40))
    rows = [
        {
            "user_id": chance.randrange(32), "video_id": chance.randrange(42), "date": 20220425 + place // 50,
            "hourmin": chance.randrange(24) * 100, "time_ms": 1_650_844_800_000 + place,
            "tab": chance.randrange(5), "freshness_days": None if chance.random() < 0.1 else chance.randrange(-3, 400),
            "is_click": int(chance.random() < 0.4), "long_view": int(chance.random() < 0.3),
            "is_like": int(chance.random() < 0.2),
        }
        for place in range(300)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "interactions_0425_0430.parquet")
    histories = [[chance.randrange(45) for _ in range(chance.randrange(60))] for _ in range(25)]
    pq.write_table(pa.table({"user_id": list(range(25)), "watch_seq": histories}), folder / "user_sequences.parquet")


def parse_kuairand(folder: Path) -> list[Row]:
    def read(name: str, key: str) -> dict[str, Row]:
        with open(folder / name, newline="") as file:
            return {row[key]: {column: text or None for column, text in row.items()} for row in csv.DictReader(file)}

    users, videos = read("user_features_pure.csv", "user_id"), read("video_features_basic_pure.csv", "video_id")
    histories = {str(row["user_id"]): row for row in pq.read_table(folder / "user_sequences.parquet").to_pylist()}
    rows = []
    for row in pq.read_table(folder / "interactions_0425_0430.parquet").to_pylist():
        user, video = str(row["user_id"]), str(row["video_id"])
        split = (row["date"] >= 20220429) + (row["date"] >= 20220430)
        history = {"watch_seq": histories.get(user, {}).get("watch_seq")}
        rows.append(users.get(user, {}) | videos.get(video, {}) | history | row | {"split": split})
    return rows


SAMPLES = {
    "movielens": Sample(write_movielens, parse_movielens),
    "criteo": Sample(write_criteo, parse_criteo),
    "ali_ccp": Sample(
        write_ali_ccp,
        parse_ali_ccp,
        ("preprocess.split={kind: order, validation_fraction: 0.1, test_fraction: 0.2}",),
    ),
    "kuairand": Sample(write_kuairand, parse_kuairand),
}
