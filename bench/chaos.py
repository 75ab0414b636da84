"""Kill training at any moment, go on, and hold what comes out against a run that nobody killed.

    python bench/chaos.py --trials 100 [--processes 2] [--json]

A tiny run is made once without a kill, with a copy of its folder before each stage. A trial takes such a copy, runs the
stage, and kills it one to three times with SIGKILL: at a random time, before a random file operation inside the run, or
its tokenizing process alone; then it lets the stage finish. Among the trials are the whole pipeline (`run`) and
pretraining for some seconds, whose number of steps the clock decides. A trial is equal if every bundle, evaluation,
token and loss is, bit for bit, and each step stands once in the metrics; of training by the clock, if it ended with
each step once. It also counts temporary files and training states that stay, and tracebacks.

Processes are forked from this one, which has imported everything: a start takes no time, so there can be many.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: threads do not survive a fork

from chatsmith.cli import main as cli
from chatsmith.cli import run as _everything  # noqa: F401
from chatsmith.cli.config import Natural, Output, Positive
from chatsmith.cli.settings import from_flags
from chatsmith.runtime.console import Reporter
from chatsmith.train import pretrain, step, trainer

for module in (pretrain, step, trainer):
    module.gemm_peak = lambda *_, **__: 1e12  # half a second of measuring says nothing here

RECIPE = """
name = "chaos"
stages = ["data", "tokenizer", "pretrain", "sft", "rl", "evaluate"]
[data]
data = ["kindergarten"]
kindergarten_documents = 200
kindergarten_conversations = 100
kindergarten_validation = 10
[tokenizer]
vocab_size = 400
sample_megabytes = 0.1
[pretrain]
depth = 1
width = 32
head_dim = 16
sequence_length = 64
tokens = 3072
batch_tokens = 256
evaluations = 3
evaluate_tokens = 256
save_minutes = 0.0005
dtype = "fp32"
compile = false
[sft]
tokens = 2048
batch_tokens = 256
evaluations = 2
evaluate_tokens = 256
save_minutes = 0.0005
dtype = "fp32"
compile = false
[rl]
steps = 4
prompts = 2
samples = 2
max_tokens = 8
updates = 2
blend = 0.6
replay = 2
form_weight = 0.1
evaluations = 2
development = 2
test = 2
save_minutes = 0.0005
dtype = "fp32"
[evaluate]
max_examples = 4
dtype = "fp32"
"""
STAGES = ("data", "tokenizer", "pretrain", "sft", "rl", "evaluate")
SHARED = ("pretrain", "sft", "rl", "evaluate", "minutes")  # what several processes do together
WEIGHTS = {"pretrain": 3, "sft": 3, "rl": 3, "evaluate": 1, "data": 1, "tokenizer": 1, "run": 2, "minutes": 1}
MINUTES = 0.05
CLOCK = ("modified", "second", "time", "finished", "memory", "share", "MFU", "sha256")
LONGEST_SECONDS, GRACE_SECONDS = 300, 20


class Config(Output):
    """Kill training at any moment and compare."""

    trials: Positive = 20
    """How many stages are run and killed."""
    processes: Positive = 1
    """Processes that train together."""
    seed: Natural = 1
    """Decides the stages and the moments."""
    within: Natural = 0
    """Minutes after which no further trial begins; 0 means no limit."""


@dataclass
class Counts:
    """What came of the trials."""

    trials: int = 0
    equal: int = 0
    leftovers: int = 0
    tracebacks: int = 0
    kills: int = 0
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kill:
    """When to kill, and whom."""

    kind: str
    """time, operation or worker."""
    at: float
    """Seconds, or the number of the operation."""
    rank: int


def main(config: Config) -> None:
    reporter = Reporter(json=config.json)
    chance, counts = random.Random(config.seed), Counts()
    with tempfile.TemporaryDirectory(prefix="chaos") as folder:
        root = Path(folder)
        (root / "recipe.toml").write_text(RECIPE)
        reporter.stage("Chaos", f"{config.trials} trials, {config.processes} processes, seed {config.seed}")
        seconds, operations = reference(root, config.processes)
        names = [name for name in WEIGHTS if name != "run" or config.processes == 1]
        kinds: dict[str, list[int]] = {name: [0, 0, 0] for name in names}
        begun = time.monotonic()
        for number in range(config.trials):
            if config.within and time.monotonic() - begun > 60 * config.within:
                break
            started = time.monotonic()
            (name,) = chance.choices(names, [WEIGHTS[name] for name in names])
            before, known = (counts.equal, counts.kills), len(counts.differences)
            try_once(root, name, number, chance, seconds[name], operations[name], config.processes, counts)
            found = (1, counts.equal - before[0], counts.kills - before[1])
            kinds[name] = [one + more for one, more in zip(kinds[name], found, strict=True)]
            reporter.line(
                f"{number + 1:4} {name:<10} {'equal' if found[1] else 'DIFFERS'}, {found[2]} kills, "
                f"{time.monotonic() - started:.1f} s"
            )
            for line in counts.differences[known:]:
                reporter.line(line)
    reporter.line(f"{(time.monotonic() - begun) / max(1, counts.trials):.1f} s a trial")
    rows = [[name, *map(str, figures)] for name, figures in kinds.items() if figures[0]]
    reporter.table("Trials", ["stage", "trials", "equal", "kills"], rows)
    names = ("trials", "equal", "leftovers", "tracebacks", "kills")
    print(json.dumps({name: getattr(counts, name) for name in names}))


def reference(root: Path, processes: int) -> tuple[dict[str, float], dict[str, int]]:
    """Make the run, with a copy before each stage in before-STAGE and the whole in after. Returns what each stage takes
    in seconds, and how many file operations."""
    run, seconds, operations = root / "after" / "run", {}, {}
    run.mkdir(parents=True)
    shutil.copy(root / "recipe.toml", run)
    for name in STAGES:
        shutil.copytree(run, root / f"before-{name}" / "run")
        started = time.monotonic()
        operations[name] = attempt(name, run, processes, root / "out")[2]
        seconds[name] = time.monotonic() - started
    shutil.copytree(root / "before-data", root / "before-run")
    shutil.copytree(root / "before-pretrain", root / "before-minutes")
    seconds |= {"run": sum(seconds.values()), "minutes": 60 * MINUTES}
    operations |= {"run": sum(operations.values()), "minutes": operations["pretrain"]}
    return seconds, operations


def try_once(
    root: Path,
    name: str,
    number: int,
    chance: random.Random,
    seconds: float,
    operations: int,
    processes: int,
    counts: Counts,
) -> None:
    """One trial."""
    run = root / f"trial-{number}" / "run"
    shutil.copytree(root / f"before-{name}" / "run", run)
    counts.trials += 1
    said, codes = "", []
    for _ in range(chance.randint(1, 3)):
        kind = chance.choices(
            ("time", "operation", "worker"), (4, 5, 1 if name in ("pretrain", "run") else 0)
        )[0]
        at = chance.randint(1, operations) if kind == "operation" else chance.uniform(0, seconds)
        count = processes if name in SHARED else 1
        kill = Kill(kind, at, chance.randrange(-1, count) if count > 1 else 0)  # -1: all of them
        code, text, _ = attempt(name, run, processes, root / "out", kill)
        said += text
        if code == 0:
            break
        counts.kills += 1
    else:
        for _ in range(2):  # a second time only if the first was not enough
            code, text, _ = attempt(name, run, processes, root / "out")
            said += text
            codes.append(code)
            if code == 0:
                break
    counts.tracebacks += "Traceback (most recent" in said
    left = [path for path in run.parent.rglob(".*") if path.name.endswith((".tmp", ".old"))]
    left += [path for path in run.glob("*/state") if (path.parent / "done.json").exists()]
    counts.leftovers += bool(left)
    found = (
        list(differences(run, root / "after" / "run", name))
        if code == 0
        else [f"ends with {codes}: {said[-300:]}"]
    )
    counts.equal += not found
    counts.differences += [
        f"trial {number + 1}, {name}: {one}" for one in (*found, *(f"left: {path}" for path in left))
    ]
    shutil.rmtree(run.parent)


# ---- processes ----


def attempt(
    name: str, run: Path, processes: int, out: Path, kill: Kill | None = None
) -> tuple[int, str, int]:
    """Run a stage, with a kill. Returns its exit code (-9 if killed), what it said, and how many file operations there
    were."""
    argv = {
        "data": ["data", "prepare", str(run)],
        "run": ["run", str(run.parent.parent / "recipe.toml"), "--run", str(run)],
        "minutes": ["pretrain", str(run), "--minutes", str(MINUTES), "--tokens", "0"],
        "evaluate": ["evaluate", str(run), "--suite", "base"],
    }.get(name, [name, str(run)])
    count = processes if name in SHARED else 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = [
        {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in range(count)
    ]
    reading, writing = os.pipe()
    with out.open("wb"):
        pids = [
            start(argv, places[rank] if count > 1 else {}, run, out, writing, kill, rank)
            for rank in range(count)
        ]
    os.close(writing)
    codes = wait(pids, run, kill)
    operations = b""
    while data := os.read(reading, 4096):
        operations += data
    os.close(reading)
    code = next((code for code in codes if code), 0)
    return code, out.read_text(errors="replace"), int(operations.split()[0]) if operations else 0


def start(
    argv: Sequence[str],
    place: dict[str, str],
    run: Path,
    out: Path,
    writing: int,
    kill: Kill | None,
    rank: int,
) -> int:
    """Fork a process for the command, which writes its number of file operations to `writing` as it ends."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        file = os.open(out, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(place | {"CHATSMITH_CACHE": str(run.parent / "cache")})  # tokens of its own
        counted = count_operations(
            run.parent, kill if kill and kill.kind == "operation" and kill.rank in (-1, rank) else None
        )
        code = cli.main(argv, os.environ)
        if rank == 0:
            os.write(writing, f"{counted[0]} ".encode())
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def count_operations(folder: Path, kill: Kill | None) -> list[int]:
    """Count file operations inside `folder` from now on; die before the one of `kill`."""
    counted, inside = [0], str(folder)
    events = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in events and inside in str(arguments[0]):
            counted[0] += 1
            if kill and counted[0] == kill.at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return counted


def wait(pids: Sequence[int], run: Path, kill: Kill | None) -> list[int]:
    """The exit codes of the processes; the kill, if it is by time, happens meanwhile."""
    codes: dict[int, int] = {}
    ended_at = 0.0
    started, is_due = time.monotonic(), kill is not None and kill.kind != "operation"
    while len(codes) < len(pids):
        for pid in set(pids) - codes.keys():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        waited = time.monotonic() - started
        if kill and is_due and waited >= kill.at:
            chosen = set(pids if kill.rank < 0 else [pids[kill.rank]]) - codes.keys()
            for pid in workers(run) if kill.kind == "worker" else chosen:
                os.kill(pid, signal.SIGKILL)
            is_due = False
        if codes and any(codes.values()):  # as torchrun and srun do, which end the others soon
            ended_at = ended_at or waited
        if waited > LONGEST_SECONDS or (ended_at and waited > ended_at + GRACE_SECONDS):
            for pid in set(pids) - codes.keys():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def workers(run: Path) -> Iterator[int]:
    """The tokenizing processes of the run."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"chatsmith.ingest.tokenizing" in words and any(str(run).encode() in word for word in words):
            yield int(path.parent.name)


# ---- what came out ----


def differences(run: Path, after: Path, name: str) -> Iterator[str]:
    """How the run differs from the one that nobody killed."""
    trained = ("pretrain", "sft", "rl") if name == "run" else ("pretrain",) if name == "minutes" else (name,)
    for stage in trained:
        if stage in ("pretrain", "sft", "rl"):
            steps = [line["step"] for line in records(run, stage) if "loss" in line]
            done = json.loads((run / stage / "done.json").read_text())["facts"]["steps"]
            if steps != list(range(1, done + 1)):
                yield f"{stage} has these steps in metrics.jsonl: {steps} of {done}"
    if name == "minutes":
        return
    for one in sorted(run.rglob("*")):
        place = one.relative_to(run)
        other = after / place
        if not one.is_file() or place.parts[0] not in (*STAGES, "tokens", "evals"):
            continue
        if one.name in ("README.md", "settings.toml", "job.json", "worker.log") or not other.exists():
            continue
        if one.name in ("done.json", "manifest.json", "rl.json") or place.parts[0] == "evals":
            found, expected = (without_clock(json.loads(path.read_text())) for path in (one, other))
            if found != expected:
                yield f"{place} differs: {found} instead of {expected}"
        elif one.read_bytes().replace(str(run).encode(), str(after).encode()) != other.read_bytes():
            yield f"{place} differs"
    for one in (run.parent / "cache").rglob("*.bin"):
        other = after.parent / one.relative_to(run.parent)
        if other.exists() and one.read_bytes() != other.read_bytes():
            yield f"{one.relative_to(run.parent)} differs"
    for stage in trained:
        if without_clock(records(run, stage)) != without_clock(records(after, stage)):
            yield f"the metrics of {stage} differ"


def records(run: Path, stage: str) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["stage"] == stage]


def without_clock(value: Any) -> Any:
    """Without what a clock measured, and hashes of that."""
    if isinstance(value, dict):
        kept = {name: one for name, one in value.items() if not any(word in name for word in CLOCK)}
        return {name: without_clock(one) for name, one in kept.items() if name != "hashes"}
    return [without_clock(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main(Config(**from_flags(Config, sys.argv[1:], "bench/chaos.py")))
