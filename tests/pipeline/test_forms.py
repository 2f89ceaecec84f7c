"""A JSON file of a form is read whole, or its error says what is wrong and what to do."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.errors import ArtifactError
from pipeline.forms import read_form


class Inner(BaseModel):
    count: int


class Outer(BaseModel):
    inner: Inner


def test_a_file_of_the_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "form.json"
    path.write_text('{"inner": {"count": 3}}')
    assert read_form(path, Outer, "mend it") == Outer(inner=Inner(count=3))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "Expecting value"),
        (b'{"inner": {"count": 3}', "Expecting ',' delimiter"),
        (b"\xff\xfe{", "decode"),
        (b"[" * 100_000, "recursion"),
        (b"[]", "the whole: input should be a valid dictionary"),
        (b'{"inner": {"count": "three"}}', "inner.count: input should be a valid integer"),
        (b'{"inner": {}}', "inner.count: field required"),
    ],
)
def test_any_other_file_is_named_with_what_is_wrong_and_what_to_do(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "form.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_form(path, Outer, "mend it")
    assert caught.value.what.startswith(f"{path} cannot be read: ")
    assert said in caught.value.what
    assert caught.value.fix == "mend it"
