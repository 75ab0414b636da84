"""A run as it goes on: what the training page shows, read a little further each time someone looks.

Only reads, and only what is new: the end of metrics.jsonl, and those of the small files that changed. No torch, no
lock, nothing in the process that trains. A run that was copied here from elsewhere is read alike.
"""

import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

from chatsmith.report.run_facts import PIPELINE, Facts, is_number, is_run, parse_records, read_run
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory

MAX_ROWS = 1500
"""Steps of a stage that are sent at first; of more, every so many: they could not be told apart on a page."""
SPARKS, MAX_TEXTS = 60, 100
LOG_BYTES, LOG_LINES = 8_000, 60
PACED = 20
"""Steps whose pace foretells the end."""
SIGN_OF_LIFE, PATIENCE, BETWEEN_STAGES = 10.0, 5, 60.0
"""A run whose lock no process here holds counts as running for so many seconds, and the time of so many steps, after
its last record (it may be a copy that is kept up to date, or lie on a disk shared with the machine that trains); longer
after the end of a stage, since the next one may have to start its processes."""
STALLED_SECONDS, STALLED_STEPS = 120.0, 20
"""No step for so long and for as long as so many steps took: an alarm."""
FEWEST = 50
"""Steps that say what is usual."""
JUMP = 6.0
"""Standard deviations above the mean of the steps before: the loss jumped."""
SLOW = 0.7
"""Of the usual pace: throughput has fallen."""
PLATEAU = 0.25
"""Share of a stage's steps; a loss that is not lower at their end than at their beginning has reached a plateau."""
LEAST_FREE = 2e9
"""Bytes; or three times the newest training state."""
ALARMS = {
    "not_finite": "The loss was not finite in a step of late.",
    "loss": "The loss jumped to {now:.3f}, from {usual:.3f}.",
    "plateau": "Plateau: the loss has not fallen for {steps:,} steps.",
    "slow": "Throughput has fallen to {share:.0%} of what it was.",
    "stalled": "No step for {minutes:.0f} minutes; one takes {seconds:.1f} s.",
    "disk": "The disk is filling: {gigabytes:.3g} GB are free.",
}
REASONS = {
    "not_finite": "the loss was not finite",
    "asked": "it was asked to stop; its state is saved",
    "unknown": "nothing says why: its process ended without a word (it was killed, or the machine went down)",
}
MASK = "•••"

_TAIL = 64
_SECRET = re.compile(r"(api)?key|token|secret|password|credentials?|authorization|webhook|notify")
_SECRET_TEXT = re.compile(
    r"\b(?:hf_|sk-|ghp_)[\w-]{8,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)|(?<=[Bb]earer )\S+"
    r"|(?i:(?<=key=)|(?<=token=)|(?<=password=)|(?<=secret=))[^&\s]+"
)
_PATH = re.compile(r"(?<![\w:/.…])/(?:[^/\s'\"]+/)+([^/\s'\"]+/[^/\s'\"]+)")


class RunWatcher:
    """The run at `path`. `price_per_hour` is what its machines cost together, in dollars."""

    def __init__(self, path: Path, price_per_hour: float = 0.0, name: str = "") -> None:
        self.run = RunDirectory(path)
        self.name = name or path.absolute().name
        self.price_per_hour = price_per_hour
        self.bytes_read = 0
        """Of metrics.jsonl and the log, since the beginning."""
        self.records: list[Facts] = []
        """The numbers of metrics.jsonl, in the order they were written."""
        self._epoch = time.time_ns()  # no other process begins with the same
        self._steps: dict[str, list[Facts]] = {}
        self._texts: list[Facts] = []
        self._file: tuple[int, int] | None = None
        self._offset, self._tail = 0, b""
        self._signature: Any = None
        self._details: Facts = {}
        self._log: list[str] = []
        self._log_signature: Any = None

    def refresh(self) -> None:
        """Read what is new. Raises UserError if there is no run any more."""
        if not is_run(self.run):
            raise UserError(f"there is no run at {self.run.path}")
        self._read_records()
        signature = self._stat_files()
        if signature != self._signature:
            self._details, self._signature = self._read_details(), signature
        logs = [(path.stat().st_mtime_ns, path) for path in _listed(self.run.path) if path.suffix == ".log"]
        if logs and max(logs) != self._log_signature:
            self._log, self._log_signature = self._log_tail(max(logs)[1]), max(logs)

    def facts(self, since: str = "", version: str = "") -> Facts:
        """The run for the page: its state, the records after the cursor `since`, and the rest unless the page already
        has this `version` of it."""
        epoch, _, index = since.partition(".")
        start = int(index) if epoch == str(self._epoch) and index.isdigit() else 0
        newest = "-".join(f"{hash(one) & 0xFFFFFFFF:x}" for one in (self._signature, self._log_signature))
        known_details, _, known_log = version.partition("-")
        return {
            "name": self.name,
            "state": self.state(),
            "cursor": f"{self._epoch}.{len(self.records)}",
            "starts_anew": start == 0,
            "rows": self.records[start:] if start else thinned(self.records, MAX_ROWS),
            "bytes_read": self.bytes_read,
            "version": newest,
            "details": None if newest.startswith(f"{known_details}-") else self._details,
            "log": None if newest.endswith(f"-{known_log}") else self._log,
        }

    def summary(self) -> Facts:
        """A line in the list of runs."""
        stages = [stage for stage in self._steps if stage != "rl"]
        own = [row["loss"] for row in self._steps[stages[-1]] if row["loss"] is not None] if stages else []
        scores = [one for by_name in self._details["scores"].values() for one in by_name.items()]
        return {
            "name": self.name,
            "state": self.state(),
            "loss": own[-1] if own else None,
            "bpb": next((row["bpb"] for row in reversed(self.records) if row.get("bpb")), None),
            "scores": {name: one["value"] for name, one in scores if not re.search("[:,]", name)},
            "started": self.records[0].get("time") if self.records else None,
            "spark": own[:: max(1, len(own) // SPARKS)],
        }

    # ---- reading ----

    def _read_records(self) -> None:
        """Go on in metrics.jsonl; from its beginning where it has been replaced, as it is when a run resumes."""
        text, identity, is_same = b"", None, self._file is None
        if self.run.metrics.exists():
            with self.run.metrics.open("rb") as file:
                found = os.fstat(file.fileno())
                identity = found.st_dev, found.st_ino
                file.seek(self._offset - len(self._tail))
                # A file that was written over in place may be longer than before.
                is_same = identity == self._file and file.read(len(self._tail)) == self._tail
                file.seek(self._offset if is_same else 0)
                text = file.read()
        if not is_same:
            self._epoch += 1
            self._file, self._offset, self._tail = identity, 0, b""
            self.records, self._steps, self._texts = [], {}, []
        whole = text[: text.rfind(b"\n") + 1]  # the last line may still be being written
        self.bytes_read += len(text)
        self._offset += len(whole)
        self._tail = (self._tail + whole)[-_TAIL:]
        for row in parse_records(whole)[0]:
            if texts := {key: row[key] for key in ("shown", "sample", "samples") if row.get(key)}:
                self._texts.append({"stage": row["stage"], "step": row["step"], **texts})
            record = {key: value for key, value in row.items() if _is_plain(key, value)}
            self.records.append(record)
            if "loss" in record:
                self._steps.setdefault(record["stage"], []).append(record)

    def _stat_files(self) -> tuple[Any, ...]:
        """What changes when any of the small files does."""
        run, names = self.run, ("done.json", "settings.toml", "state", "steps")
        files = [run.recipe, run.data / "manifest.json", run.path / "report.html"]
        files += [run.stage(stage) / name for stage in PIPELINE for name in names]
        files += [path for path in _listed(run.evals) if path.suffix == ".json"]
        stats = [(str(path), path.stat()) for path in files if path.exists()]
        return len(self._texts), *((name, one.st_mtime_ns, one.st_size, one.st_ino) for name, one in stats)

    def _read_details(self) -> Facts:
        """Everything but the records, fit to be shown to whoever may see the page."""
        missing: list[str] = []
        by_stage: dict[str, list[Facts]] = {}
        for row in self.records:
            by_stage.setdefault(row["stage"], []).append(row)
        found = read_run(self.run, by_stage, missing, self.price_per_hour)
        found["expected"] = found.pop("recipe").sections.get("expected", {})
        found |= {"missing": missing, "texts": self._texts[-MAX_TEXTS:]}
        found["checkpoints"] = {
            name: [path.name for path in _listed(self.run.stage(name) / "steps")] for name in found["stages"]
        }
        found["has_report"] = (self.run.path / "report.html").is_file()
        return presentable(found, self.run.path)

    def _log_tail(self, path: Path) -> list[str]:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read()
        self.bytes_read += len(text)
        # A progress bar overwrites its line: what stands after the last return is what was seen.
        lines = (line.rstrip("\r").rsplit("\r")[-1] for line in text.decode("utf-8", "replace").split("\n"))
        plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in lines if line.strip()]
        return presentable(plain[-LOG_LINES:], self.run.path)

    # ---- what it means ----

    def state(self) -> Facts:
        """How the run stands: `kind` is running, done, stopped or empty; at which stage and step, with the seconds (and
        dollars an hour) it took and has to come, the state that was saved last, alarms, and why it stopped."""
        now, details, rows = time.time(), self._details, self.records
        done = {name: one for name, one in details["done"].items() if one}
        stages = {name: name in done or words.startswith("done") for name, words in details["stages"].items()}
        last = rows[-1] if rows else {}
        ended = max((one["finished_at"] for one in done.values()), default=0.0)
        is_in_stage = last.get("time", 0.0) > done.get(last.get("stage"), {}).get("finished_at", 0.0)
        stage = last["stage"] if is_in_stage else next((name for name in stages if not stages[name]), None)
        steps = self._steps.get(stage or "", [])
        pace = seconds_per_step(steps)
        states = details["states"].get(stage) or {}
        saved = {key: value for key, value in states.items() if _is_plain(key, value)}
        newest = {**saved, **(steps[-1] if steps else {})}
        step, total = newest.get("step", 0), newest.get("steps")
        spent = details["time"] or {"seconds": 0.0, "stages": {}}
        known = spent["stages"].get(stage, {}).get("seconds", 0.0)
        latest = max(ended, last.get("time", 0.0))
        patience = BETWEEN_STAGES if latest == ended else max(SIGN_OF_LIFE, PATIENCE * (pace or 0.0))
        is_held = is_locked(self.run.path / ".lock")
        if is_held or (stage and now - latest < patience):
            kind = "running"
        else:
            kind = "stopped" if stage else "done" if done else "empty"
        found = self._alarms(steps, pace, now) if kind in ("running", "stopped") else {}
        if kind == "stopped":
            found = {name: figures for name, figures in found.items() if name in ("loss", "disk")}
        reason = self._reason(steps, saved) if kind == "stopped" else None
        return {
            "kind": kind,
            "stage": stage,
            "step": step,
            "steps": total,
            "is_done": stages,
            "seconds": spent["seconds"] + max(0.0, newest.get("seconds", 0.0) - known),
            "seconds_left": (total - step) * pace if kind == "running" and total and pace else None,
            "price_per_hour": self.price_per_hour,
            "last_at": latest or None,
            "now": now,
            "saved": {key: saved.get(key) for key in ("step", "saved_at")} if saved else None,
            "alarms": {
                name: ALARMS[name if figures else "not_finite"].format(**figures)
                for name, figures in found.items()
            },
            "alarm_figures": found,
            "reason": REASONS.get(reason, reason) if reason else None,
            "reason_kind": reason if reason in REASONS else None,
            "command": f"chatsmith run {self._typed()}",
        }

    def _typed(self) -> str:
        """The run as one would type it here, no more of its path than that takes."""
        path = self.run.path.absolute()
        is_near = path.is_relative_to(Path.cwd()) and len(path.relative_to(Path.cwd()).parts) < 3
        return os.path.relpath(path) if is_near else f"…/{path.parent.name}/{path.name}"

    def _reason(self, steps: Sequence[Facts], saved: Facts) -> str:
        """Why it stopped, as far as anything says: one of REASONS, or the program's own words."""
        said = [line for line in self._log[-5:] if line.startswith("chatsmith:")]
        if said:
            return said[-1].removeprefix("chatsmith:").strip()
        if steps and steps[-1]["loss"] is None:
            return "not_finite"
        if steps and saved.get("step") == steps[-1]["step"]:
            return "asked"
        return "unknown"

    def _alarms(self, steps: Sequence[Facts], pace: float | None, now: float) -> dict[str, Facts]:
        """What needs a look, by kind: the figures that ALARMS puts into words; none where the loss was not finite."""
        found: dict[str, Facts] = {}
        losses = [row["loss"] for row in steps[-FEWEST - 5 :]]
        before, recent = losses[:-5], losses[-5:]
        if None in before + recent:
            found["loss"] = {}
        elif len(before) == FEWEST:
            usual, lately = fmean(before), median(recent)
            if lately > usual + JUMP * max(pstdev(before), 0.01 * abs(usual)):
                found["loss"] = {"now": lately, "usual": usual}
        rows = steps[-int(PLATEAU * len(steps)) :]
        part = [row["loss"] for row in rows[:: max(1, len(rows) // (6 * FEWEST))] if row["loss"] is not None]
        third = len(part) // 3
        if third >= FEWEST and rows[0]["stage"] != "rl" and fmean(part[-third:]) >= fmean(part[:third]):
            found["plateau"] = {"steps": len(rows)}
        earlier = seconds_per_step(steps[-2 * PACED - 1 : -PACED])
        if pace and earlier and len(steps) > FEWEST and earlier < SLOW * pace:
            found["slow"] = {"share": earlier / pace}
        silent = now - steps[-1].get("time", now) if steps else 0.0
        if pace and silent > max(STALLED_SECONDS, STALLED_STEPS * pace):
            found["stalled"] = {"minutes": silent / 60, "seconds": pace}
        free = shutil.disk_usage(self.run.path).free
        states = _listed(self.run.state(steps[-1]["stage"])) if steps else []
        size = sum(path.stat().st_size for path in _listed(states[-1])) if states else 0
        if free < max(LEAST_FREE, 3 * size):
            found["disk"] = {"gigabytes": free / 1e9}
        return found


class WatchedRuns:
    """The runs at `paths`, each a run or a folder of runs, by name, the newest first. Runs that begin later in such a
    folder are found by `refresh`. Raises UserError where there is none."""

    def __init__(self, paths: Sequence[Path], price_per_hour: float = 0.0) -> None:
        self._paths = paths
        self._price_per_hour = price_per_hour
        self.by_name: dict[str, RunWatcher] = {}
        self.refresh()
        if not self.by_name:
            raise UserError(f"there is no run at {paths[0]}, and none in it; `chatsmith run` makes one")

    def refresh(self) -> None:
        """Look for runs that have come or gone."""
        known = {watcher.run.path: watcher for watcher in self.by_name.values()}
        inside = [[path] if is_run(RunDirectory(path)) else _listed(path) for path in self._paths]
        paths = [one for found in inside for one in found if is_run(RunDirectory(one))]
        self.by_name = {}
        for path in sorted(dict.fromkeys(paths), key=lambda path: -path.stat().st_mtime):
            name = path.absolute().name
            name = name if name not in self.by_name else "-".join(path.absolute().parts[-2:])
            self.by_name[name] = known.get(path) or RunWatcher(path, self._price_per_hour, name)


def seconds_per_step(rows: Sequence[Facts]) -> float | None:
    """The pace by the clock over the last rows of one session, what comes between the steps included."""
    last = [row for row in rows[-PACED - 1 :] if "time" in row and "seconds" in row]
    gaps = [after["time"] - before["time"] for before, after in pairwise(last)]
    # Between two sessions far more time passes by the clock than a step takes.
    breaks = [index for index, gap in enumerate(gaps, 1) if gap > 60 + 20 * median(gaps)]
    last = last[breaks[-1] if breaks else 0 :]
    if len(last) > 1 and last[-1]["step"] > last[0]["step"]:
        return (last[-1]["time"] - last[0]["time"]) / (last[-1]["step"] - last[0]["step"])
    return last[0]["seconds"] / last[0]["step"] if last else None


def thinned(records: Sequence[Facts], most: int) -> list[Facts]:
    """The records with every so many of a stage's steps where there are more than `most`. Evaluations all stay, and
    so do the last step and those whose loss is not finite."""
    counts = {row["stage"]: 0 for row in records}
    for row in records:
        counts[row["stage"]] += 1
    return [
        row
        for index, row in enumerate(records)
        if row.get("loss") is None
        or index % -(-counts[row["stage"]] // most) == 0
        or index == len(records) - 1
    ]


def _is_plain(key: str, value: Any) -> bool:
    return is_number(value) or key == "stage" or (key == "loss" and value is None)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def is_locked(path: Path, locks: Path = Path("/proc/locks")) -> bool:
    """Whether a process of this machine holds the lock file, which has its number. It is looked up, not tried: trying
    could get in the way of a command that starts at this moment. Where the system has no list of locks, it is whether
    that process lives."""
    try:
        owner = path.read_text().strip()
        if locks.is_file():
            # 1: FLOCK ADVISORY WRITE 1234 08:01:5678 0 EOF
            lines = (line.split() for line in locks.read_text().splitlines())
            return any(line[1] == "FLOCK" and line[4] == owner for line in lines)
        os.kill(int(owner), 0)
        return True
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False


def presentable(value: Any, run: Path, key: str = "") -> Any:
    """`value` for other people's eyes: secrets masked, and paths outside the run cut to their last two parts."""
    if isinstance(value, Mapping):
        return {name: presentable(one, run, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [presentable(one, run, key) for one in value]
    if not isinstance(value, str):
        return value
    if value and any(map(_SECRET.fullmatch, re.split(r"[_.-]", key.lower()))):
        return MASK
    text = _SECRET_TEXT.sub(MASK, value).replace(str(run.absolute()), run.absolute().name)
    return _PATH.sub(r"…/\1", text)
