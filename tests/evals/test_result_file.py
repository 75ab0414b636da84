"""Results are found again for exactly what they were measured on, and never half of them."""

from pathlib import Path

import pytest

from chatsmith.evals.results import SuiteResult, TaskResult, read_result, result_key, write_result

RESULT = SuiteResult(
    "exam", {"overall": 0.5, "n": 2}, 1.5, {"overall": 0.0, "n": 2}, ({"reply": "é"},), "key", "model"
)


def test_a_result_comes_back_for_its_key_and_for_no_other(tmp_path: Path) -> None:
    path = tmp_path / "evals" / "sft-exam.json"
    write_result(path, RESULT)
    assert read_result(SuiteResult, path, "key") == RESULT
    assert read_result(SuiteResult, path, "another key") is None


@pytest.mark.parametrize("content", [None, b"", b'{"key": "key"', b"[]", b'{"key": "key"}', b"\xff"])
def test_a_damaged_or_missing_file_is_measured_again(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "sft-exam.json"
    if content is not None:
        path.write_bytes(content)
    assert read_result(SuiteResult, path, "key") is None


def test_every_part_of_a_key_counts() -> None:
    keys = {
        result_key(model="a", split="b"),
        result_key(model="b", split="b"),
        result_key(model="a", split="c"),
    }
    assert len(keys) == 3
    assert result_key(model="a", split="b") == result_key(split="b", model="a")


def test_results_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """As written by the first version with these files: every key, in its order."""
    (tmp_path / "sft-exam.json").write_text(
        '{"suite": "exam", "key": "k", "model": "m", "seconds": 1.25, "result": {"overall": 0.5, "n": 2}, '
        '"baseline": null, "transcript": [{"id": "1", "correct": true}]}'
    )
    (tmp_path / "piqa.json").write_text(
        '{"task": "piqa", "key": "k", "seconds": 1.5, "chance": 0.5, "notes": ["a subset"], "group": "g", '
        '"figures": {"pass@10": 1.0}, "model": "m", "file": "f", "ids": ["0", "1"], "points": [1.0, 0.0], '
        '"transcript": []}'
    )
    exam = read_result(SuiteResult, tmp_path / "sft-exam.json")
    assert exam == SuiteResult(
        "exam", {"overall": 0.5, "n": 2}, 1.25, None, ({"id": "1", "correct": True},), "k", "m"
    )
    task = read_result(TaskResult, tmp_path / "piqa.json", "k")
    assert task == TaskResult(
        "piqa",
        ("0", "1"),
        (1.0, 0.0),
        0.5,
        1.5,
        notes=("a subset",),
        group="g",
        figures={"pass@10": 1.0},
        key="k",
        model="m",
        file="f",
    )
