"""Results in words: tables for a person, lines for a model card, figures for a run's record."""

from collections.abc import Mapping, Sequence
from typing import Any

from chatsmith.evals.comparison import Comparison
from chatsmith.evals.leakage import WORDS
from chatsmith.evals.results import SuiteResult
from chatsmith.runtime.console import Reporter, format_seconds

MEANS = {"core": "CORE", "chat": "ChatCORE"}
"""What the mean centered accuracy over a suite's tasks is called."""


def show(result: SuiteResult, reporter: Reporter, *, is_part: bool = False) -> None:
    """One suite, for people; `is_part`: some of its tasks, whose mean has no name."""
    found, took = result.result, format_seconds(result.seconds)
    if result.suite == "base":
        reporter.line(f"Bits per byte: {_base_in_words(found)}, in {took}")
        if result.train:
            reporter.line(f"On training text: {_base_in_words(result.train, 'training text')}")
        for one in (one for one in result.transcript if one.get("section") in ("continued", "answered")):
            reporter.line(f"  {one['prompt']} → {' '.join(one['reply'].split())}", "dim")
    elif result.suite in MEANS:
        _show_tasks(result, took, reporter, is_part)
    else:
        scores, others = _scores(found), _scores(result.baseline) if result.baseline else {}
        columns = ["section", "right", "95 % interval", "problems", *(["nearest question"] if others else [])]
        rows = [
            [name, _percent(score["accuracy"]), _interval(score), f"{score['n']:,}"]
            + ([_percent(others[name]["accuracy"])] if others else [])
            for name, score in scores.items()
        ]
        reporter.table(f"Exam, in {took}", columns, rows)


def numbers(result: SuiteResult) -> dict[str, float]:
    """The figures of a suite by name, for trackers."""
    found = result.result
    if result.suite == "base":
        train = {"bits_per_byte_train": result.train["bits_per_byte"]} if result.train else {}
        return {"bits_per_byte": found["bits_per_byte"], **train}
    mean = {MEANS[result.suite]: found["centered"]} if result.suite in MEANS else {}
    return mean | {f"{result.suite}/{name}": score["accuracy"] for name, score in _scores(found).items()}


def show_comparison(a: str, b: str, lines: Sequence[Comparison], reporter: Reporter) -> None:
    """Two models side by side."""
    rows = []
    for line in lines:
        # The accuracy of a task is shown in percent, means and bits per byte as they are.
        scale, form = (100, ".1f") if line.is_corrected else (1, ".4f")
        unit = " %" if line.is_corrected else ""
        difference, low, high = (
            f"{scale * value:+{form}}"
            for value in (line.difference.difference, line.difference.low, line.difference.high)
        )
        figures = (f"{scale * value:{form}}{unit}" for value in (line.a, line.b))
        items, p = f"{line.difference.n:,}", f"{line.difference.p:.3g}"
        rows.append([line.name, *figures, difference, f"{low} to {high}", items, p, line.verdict])
    columns = ["", "A", "B", "B - A", "95 % interval", "items", "p", "verdict"]
    reporter.table(f"A: {a}, B: {b}", columns, rows)
    reporter.line(
        "p: how often luck alone would make the difference as large; for tasks corrected for their number (Holm)"
    )


def show_leakage(found: Mapping[str, dict[str, Any]], characters: int, reporter: Reporter) -> None:
    """Test items that are found in the training text, by test set."""
    rows = []
    for name, one in found.items():
        numbers = (one["overlapping"], one["items"] - one["too_short"], one["too_short"])
        overlapping, checked, too_short = (f"{number:,}" for number in numbers)
        rows.append([name, overlapping, checked, _percent(one["share"]), too_short])
    columns = ["test set", "overlapping", "of items", "share", "too short to check"]
    title = f"Items that share {WORDS} words in a row with {characters:,} characters of training text"
    reporter.table(title, columns, rows)
    for name, one in found.items():
        for example in one["examples"]:
            reporter.line(f"{name}: … {example} …")


def in_words(result: SuiteResult) -> dict[str, str]:
    """Lines of a model card: label and figure."""
    if result.suite == "base":
        return {"bits per byte": _base_in_words(result.result)}
    mean = MEANS.get(result.suite)
    lines = {mean: _mean_in_words(result.result)} if mean else {}
    for name, score in _scores(result.result).items():
        more = f"chance {_percent(score['chance'])}" if mean else f"{score['n']:,} problems"
        words = f"{_percent(score['accuracy'])} ({_interval(score)}; {more})"
        lines[f"{mean or 'kindergarten exam'}, {name}"] = "; ".join([words, *score.get("notes", ())])
    if result.baseline:
        lines["the same exam by the nearest training question"] = _percent(result.baseline["overall"])
    return lines


def facts(results: Sequence[SuiteResult]) -> dict[str, Any]:
    """Figures for the run's table of results."""
    found: dict[str, Any] = {}
    for result in results:
        if result.suite == "base":
            found["bits_per_byte"] = round(result.result["bits_per_byte"], 4)
        elif result.suite in MEANS:
            found[result.suite] = round(result.result["centered"], 4)
        else:
            found |= {"exam": _percent(result.result["overall"]), "interval": _interval(result.result)}
            if result.baseline:
                found["nearest_question"] = _percent(result.baseline["overall"])
    return {**found, "seconds": round(sum(result.seconds for result in results), 2)}


def _show_tasks(result: SuiteResult, took: str, reporter: Reporter, is_part: bool) -> None:
    found, name = result.result, f"Part of {MEANS[result.suite]}" if is_part else MEANS[result.suite]
    rows = []
    tasks_of_note: dict[str, list[str]] = {}
    lines = []
    for task, score in found["tasks"].items():
        right, chance, centered = score["accuracy"], score["chance"], score["centered"]
        verdict = "as chance"
        if score["low"] > chance or score["high"] < chance:
            verdict = "above chance" if score["low"] > chance else "below chance"
        shares = _percent(right), _interval(score), _percent(chance)
        n, seconds = f"{score['n']:,}", format_seconds(score["seconds"])
        rows.append([task, *shares, f"{centered:+.3f}", n, seconds, verdict])
        for label in (f"pass@{k}" for k in (10, 100) if f"pass@{k}" in score):
            interval = _interval({"low": score[f"{label} low"], "high": score[f"{label} high"]})
            lines.append(f"{task}, {label}: {_percent(score[label])} (95 % interval {interval})")
        for note in score.get("notes", ()):
            tasks_of_note.setdefault(note, []).append(task)
    columns = ["task", "right", "95 % interval", "chance", "centered", "items", "time", ""]
    reporter.table(f"{name}, in {took}", columns, rows)
    if not is_part:
        reporter.line(f"{name}: {_mean_in_words(found)}")
    for line in lines:
        reporter.line(line)
    for note, tasks in tasks_of_note.items():
        reporter.notice(f"{', '.join(tasks)}: {note}")


def _mean_in_words(found: dict[str, Any]) -> str:
    return (
        f"{found['centered']:.4f} (95 % interval {found['low']:.4f} to {found['high']:.4f}; "
        f"{len(found['tasks'])} tasks, {found['n']:,} items, {_percent(found['raw'])} right on average)"
    )


def _scores(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The score of each task, or of each section of the exam and last of all of it."""
    if "tasks" in found:
        return found["tasks"]
    return {**found["sections"], "overall": {**found, "accuracy": found["overall"]}}


def _base_in_words(base: dict[str, Any], kind: str = "text") -> str:
    text = f"{base['bytes']:,} bytes of {kind} ({base['tokens']:,} tokens)"
    interval = f", 95 % interval {base['low']:.4f} to {base['high']:.4f}," if base.get("low") else ""
    return f"{base['bits_per_byte']:.4f}{interval} on {text}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(score: dict[str, Any]) -> str:
    return f"{100 * score['low']:.1f} to {100 * score['high']:.1f} %"
