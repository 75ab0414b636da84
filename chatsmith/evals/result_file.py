"""The file of one suite's results, `<run>/evals/<stage>-<suite>.json`: written whole, found again by its key.

The key says what was measured, and on what. It knows nothing of what the results mean.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatsmith.runtime.atomic import write_text


@dataclass(frozen=True)
class SuiteResult:
    """What one suite found out about one bundle."""

    suite: str
    """`base` or `exam`."""
    result: dict[str, Any]
    """What a program reads: exactly what `evaluate --json` prints under the suite's name."""
    seconds: float
    """How long it took."""
    baseline: dict[str, Any] | None = None
    """The result of a method that has learnt nothing, in the same form, for comparison."""
    transcript: tuple[dict[str, Any], ...] = ()
    """Every single reply, for people who want to see why."""


def suite_key(**parts: Any) -> str:
    """SHA-256 of what a result depends on: JSON values by name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


def write_result(path: Path, key: str, result: SuiteResult, model: str) -> None:
    """Write the file, atomically. `model` is the fingerprint of what was measured."""
    content = {
        "suite": result.suite,
        "key": key,
        "model": model,
        "seconds": round(result.seconds, 2),
        "result": result.result,
        "baseline": result.baseline,
        "transcript": result.transcript,
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_result(path: Path, key: str) -> SuiteResult | None:
    """The result in the file at `path`, or None if there is none, it is damaged, or its key is another."""
    try:
        content = json.loads(path.read_bytes())
        if content["key"] != key:
            return None
        return SuiteResult(
            suite=content["suite"],
            result=content["result"],
            seconds=content["seconds"],
            baseline=content["baseline"],
            transcript=tuple(content["transcript"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
