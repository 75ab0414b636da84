"""Results are found again for exactly what they were measured on, and never half of them."""

from pathlib import Path

import pytest

from chatsmith.evals.result_file import SuiteResult, read_result, suite_key, write_result

RESULT = SuiteResult("exam", {"overall": 0.5, "n": 2}, 1.5, {"overall": 0.0, "n": 2}, ({"reply": "é"},))


def test_a_result_comes_back_for_its_key_and_for_no_other(tmp_path: Path) -> None:
    path = tmp_path / "evals" / "sft-exam.json"
    write_result(path, "key", RESULT, "model")
    assert read_result(path, "key") == RESULT
    assert read_result(path, "another key") is None


@pytest.mark.parametrize("content", [None, b"", b'{"key": "key"', b"[]", b'{"key": "key"}', b"\xff"])
def test_a_damaged_or_missing_file_is_measured_again(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "sft-exam.json"
    if content is not None:
        path.write_bytes(content)
    assert read_result(path, "key") is None


def test_every_part_of_a_key_counts() -> None:
    keys = {suite_key(model="a", split="b"), suite_key(model="b", split="b"), suite_key(model="a", split="c")}
    assert len(keys) == 3
    assert suite_key(model="a", split="b") == suite_key(split="b", model="a")
