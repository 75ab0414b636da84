"""Results in words: tables for a person, lines for a model card, figures for a run's record."""

from typing import Any

from chatsmith.evals.comparison import Comparison
from chatsmith.evals.leakage import WORDS, Overlap
from chatsmith.evals.result_file import SuiteResult
from chatsmith.evals.statistics import Score
from chatsmith.runtime.console import Reporter, format_seconds

MEANS = {"core": "CORE", "chat": "ChatCORE"}
"""What the mean centred accuracy over a suite's tasks is called."""


def show(result: SuiteResult, reporter: Reporter) -> None:
    """One suite, for people."""
    found, took = result.result, format_seconds(result.seconds)
    if result.suite == "base":
        reporter.line(f"Bits per byte: {_base_in_words(found)}, in {took}")
    elif result.suite == "exam":
        _show_exam(result, took, reporter)
    else:
        _show_tasks(result, took, reporter)


def show_comparison(a: str, b: str, lines: list[Comparison], reporter: Reporter) -> None:
    """Two models side by side."""
    rows = [
        [
            line.name,
            _figure(line, line.a),
            _figure(line, line.b),
            _signed(line, line.difference.difference),
            f"{_signed(line, line.difference.low)} to {_signed(line, line.difference.high)}",
            f"{line.difference.n:,}",
            f"{line.difference.p:.3g}",
            line.verdict,
        ]
        for line in lines
    ]
    columns = ["", "A", "B", "B - A", "95 % interval", "items", "p", "verdict"]
    reporter.table(f"A: {a}, B: {b}", columns, rows)
    reporter.line(
        "p: how often luck alone would make the difference as large; for tasks corrected for their number (Holm)"
    )


def show_leakage(overlaps: list[Overlap], characters: int, reporter: Reporter) -> None:
    """Test items that stand in the training text."""
    rows = [
        [
            one.name,
            f"{one.overlapping:,}",
            f"{one.items - one.too_short:,}",
            _percent(one.share),
            f"{one.too_short:,}",
        ]
        for one in overlaps
    ]
    columns = ["test set", "overlapping", "of items", "share", "too short to check"]
    title = f"Items that share {WORDS} words in a row with {characters:,} characters of training text"
    reporter.table(title, columns, rows)
    for one in overlaps:
        for example in one.examples:
            reporter.line(f"{one.name}: … {example} …")


def in_words(result: SuiteResult) -> list[tuple[str, str]]:
    """Lines of a model card: label and figure."""
    found = result.result
    if result.suite == "base":
        return [("bits per byte", _base_in_words(found))]
    if result.suite in MEANS:
        return [(MEANS[result.suite], _mean_in_words(found)), *_tasks_in_words(result)]
    lines = []
    for name, score in _scores(found):
        words = f"{_percent(score['accuracy'])} ({_interval(score)}; {score['n']:,} problems)"
        lines.append((f"kindergarten exam, {name}", words))
    if result.baseline:
        lines.append(("the same exam by the nearest training question", _percent(result.baseline["overall"])))
    return lines


def facts(results: list[SuiteResult]) -> dict[str, Any]:
    """Figures for the run's table of results."""
    found: dict[str, Any] = {}
    for result in results:
        if result.suite == "base":
            found["bits_per_byte"] = round(result.result["bits_per_byte"], 4)
        elif result.suite in MEANS:
            found[result.suite] = round(result.result["centered"], 4)
        else:
            score = _scores(result.result)[-1][1]
            found["exam"] = _percent(score["accuracy"])
            found["interval"] = _interval(score)
            if result.baseline:
                found["nearest_question"] = _percent(result.baseline["overall"])
    return {**found, "seconds": round(sum(result.seconds for result in results), 2)}


def _show_exam(result: SuiteResult, took: str, reporter: Reporter) -> None:
    rows = [
        [name, _percent(score["accuracy"]), _interval(score), f"{score['n']:,}"]
        for name, score in _scores(result.result)
    ]
    baseline = _scores(result.baseline) if result.baseline else []
    for row, (_, score) in zip(rows, baseline, strict=False):
        row.append(_percent(score["accuracy"]))
    columns = ["section", "right", "95 % interval", "problems", "nearest question"]
    reporter.table(f"Exam, in {took}", columns if baseline else columns[:-1], rows)


def _show_tasks(result: SuiteResult, took: str, reporter: Reporter) -> None:
    found, name = result.result, MEANS[result.suite]
    rows = [
        [
            task,
            _percent(score["accuracy"]),
            _interval(score),
            _percent(score["chance"]),
            f"{score['centered']:+.3f}",
            f"{score['n']:,}",
            format_seconds(score["seconds"]),
            _beyond_chance(score),
        ]
        for task, score in found["tasks"].items()
    ]
    columns = ["task", "right", "95 % interval", "chance", "centred", "items", "time", ""]
    reporter.table(f"{name}, in {took}", columns, rows)
    reporter.line(f"{name}: {_mean_in_words(found)}")
    notes: dict[str, list[str]] = {}
    for task, score in found["tasks"].items():
        for label in (f"pass@{k}" for k in (10, 100) if f"pass@{k}" in score):
            interval = _interval({"low": score[f"{label} low"], "high": score[f"{label} high"]})
            reporter.line(f"{task}, {label}: {_percent(score[label])} (95 % interval {interval})")
        for note in score.get("notes", ()):
            notes.setdefault(note, []).append(task)
    for note, tasks in notes.items():
        reporter.notice(f"{', '.join(tasks)}: {note}")


def _beyond_chance(score: dict[str, Any]) -> str:
    if score["low"] > score["chance"]:
        return "above chance"
    return "below chance" if score["high"] < score["chance"] else "as chance"


def _mean_in_words(found: dict[str, Any]) -> str:
    return (
        f"{found['centered']:.4f} (95 % interval {found['low']:.4f} to {found['high']:.4f}; "
        f"{len(found['tasks'])} tasks, {found['n']:,} items, {_percent(found['raw'])} right on average)"
    )


def _tasks_in_words(result: SuiteResult) -> list[tuple[str, str]]:
    lines = []
    for task, score in result.result["tasks"].items():
        words = f"{_percent(score['accuracy'])} ({_interval(score)}; chance {_percent(score['chance'])})"
        notes = "".join(f"; {note}" for note in score.get("notes", ()))
        lines.append((f"{MEANS[result.suite]}, {task}", words + notes))
    return lines


def _scores(exam: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each section and its score, and last the score overall."""
    overall = Score(round(exam["overall"] * exam["n"]), exam["n"])
    low, high = overall.interval
    return [
        *exam["sections"].items(),
        ("overall", {"accuracy": overall.accuracy, "n": overall.n, "low": low, "high": high}),
    ]


def _base_in_words(base: dict[str, Any]) -> str:
    text = f"{base['bytes']:,} bytes of validation text ({base['tokens']:,} tokens)"
    interval = f", 95 % interval {base['low']:.4f} to {base['high']:.4f}," if base.get("low") else ""
    return f"{base['bits_per_byte']:.4f}{interval} on {text}"


def _figure(line: Comparison, value: float) -> str:
    return _percent(value) if line.is_corrected else f"{value:.4f}"


def _signed(line: Comparison, value: float) -> str:
    return f"{100 * value:+.1f}" if line.is_corrected else f"{value:+.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(score: dict[str, Any]) -> str:
    return f"{100 * score['low']:.1f} to {100 * score['high']:.1f} %"
