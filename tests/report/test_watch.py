"""What the training page reads of a run: no byte twice, nothing of torch, and what the figures mean in words."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatsmith.report import watch
from chatsmith.report.watch import MASK, RunWatcher, WatchedRuns, presentable, seconds_per_step, thinned
from chatsmith.runtime.errors import UserError

ROOT = Path(__file__).parents[2]


def line(step: int, **values: Any) -> bytes:
    row = {
        "stage": "pretrain",
        "step": step,
        "time": 1000.0 + step,
        "loss": 3.0,
        "seconds": float(step),
        **values,
    }
    return json.dumps(row).encode() + b"\n"


def new_run(folder: Path, *lines: bytes) -> RunWatcher:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text('name = "mine"\nstages = ["pretrain", "sft"]\n')
    (folder / "metrics.jsonl").write_bytes(b"".join(lines))
    watcher = RunWatcher(folder)
    watcher.refresh()
    return watcher


class Page:
    """What the page keeps: rows it has, and where it goes on."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.cursor = self.version = ""

    def ask(self, watcher: RunWatcher) -> dict[str, Any]:
        watcher.refresh()
        found = json.loads(json.dumps(watcher.facts(self.cursor, self.version), allow_nan=False))
        self.rows = found["rows"] if found["starts_anew"] else self.rows + found["rows"]
        self.cursor, self.version = found["cursor"], found["version"]
        return found


@given(cuts=st.lists(st.integers(0, 2000), max_size=8), count=st.integers(1, 12), data=st.data())
def test_a_file_read_in_pieces_is_the_file_read_whole(tmp_path_factory, cuts, count, data):
    text = b"".join(
        line(step, loss=data.draw(st.sampled_from([1.5, None]))) if step % 5 else b"{damaged\n"
        for step in range(count)
    )
    run = tmp_path_factory.mktemp("run")
    watcher, page = new_run(run), Page()
    at = 0
    for cut in [*sorted(min(cut, len(text)) for cut in cuts), len(text)]:
        with (run / "metrics.jsonl").open("ab") as file:
            file.write(text[at:cut])
        at = cut
        page.ask(watcher)
    assert page.rows == watcher.records == new_run(run, text).records


def test_only_what_is_new_is_read(tmp_path):
    watcher = new_run(tmp_path, *map(line, range(500)))
    size = (tmp_path / "metrics.jsonl").stat().st_size
    assert watcher.bytes_read == size
    page = Page()
    assert page.ask(watcher)["details"]
    for _ in range(5):
        assert page.ask(watcher)["details"] is None
    assert watcher.bytes_read == size
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line(500))
    assert [row["step"] for row in page.ask(watcher)["rows"]] == [500]
    assert watcher.bytes_read == size + len(line(500))


@pytest.mark.parametrize("way", ["replaced", "in place", "shorter", "gone and back"])
def test_a_file_that_was_written_anew_is_read_anew(tmp_path, way):
    watcher, page = new_run(tmp_path, *map(line, range(20))), Page()
    page.ask(watcher)
    path, new = (
        tmp_path / "metrics.jsonl",
        b"".join(line(step, loss=2.0) for step in range(10 if way == "shorter" else 30)),
    )
    if way == "replaced":  # as a run that resumes does
        (tmp_path / "other").write_bytes(new)
        os.replace(tmp_path / "other", path)
    elif way == "gone and back":
        path.unlink()
        page.ask(watcher)
        assert page.rows == []
    path.write_bytes(new)
    assert page.ask(watcher)["starts_anew"]
    assert {row["loss"] for row in page.rows} == {2.0} and page.rows == watcher.records


def test_another_server_process_continues_no_cursor_of_the_one_before(tmp_path):
    page = Page()
    page.ask(new_run(tmp_path, *map(line, range(20))))
    page.ask(new_run(tmp_path, *(line(step, loss=2.0) for step in range(30))))
    assert {row["loss"] for row in page.rows} == {2.0} and len(page.rows) == 30


def test_long_runs_are_thinned_and_evaluations_stay():
    rows = [json.loads(line(step)) for step in range(5000)]
    rows[1234]["loss"] = None
    rows.insert(2000, {"stage": "pretrain", "step": 1999, "bpb": 1.0})
    few = thinned(rows, 1000)
    assert len(few) < 1100 and rows[1234] in few and rows[2000] in few and few[-1] == rows[-1]
    assert thinned(rows[:500], 1000) == rows[:500]


def test_it_needs_no_torch_and_is_cheap(tmp_path, capsys):
    program = "import sys, chatsmith.report.watch, chatsmith.cli.serve; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
    watcher, page = new_run(tmp_path, *map(line, range(20_000))), Page()
    page.ask(watcher)
    began, polls = time.process_time(), 100
    for poll in range(polls):
        with (tmp_path / "metrics.jsonl").open("ab") as file:
            file.write(line(20_000 + poll))
        page.ask(watcher)
    cost = (time.process_time() - began) / polls
    with capsys.disabled():
        print(
            f"\n20,000 steps: {1000 * cost:.2f} ms of a core a look; one each 2 s is {cost / 2:.2%} of a core"
        )


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", '{"facts": 5}', '{"facts": {"step": "x", "seconds": []}}']
)
def test_damaged_files_are_named_and_the_rest_is_shown(tiny_run, tmp_path, content):
    names = [
        "recipe.toml",
        "data/manifest.json",
        "pretrain/done.json",
        "evals/rl.json",
        "sft/state/000001/state.json",
    ]
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "sft" / "done.json").unlink()
    for name in [*names, next(run.glob("evals/rl-exam*.json")).relative_to(run)]:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(content)
    odd = [
        {"stage": 5, "step": 1},
        {"stage": "sft", "step": "x"},
        {"stage": "sft", "step": 99, "loss": "x", "time": []},
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in odd)
    watcher = RunWatcher(run)
    watcher.refresh()
    found = json.loads(json.dumps([watcher.facts(), watcher.summary()], allow_nan=False))
    assert len(found[0]["details"]["missing"]) >= 3


# ---- how it stands ----


HOLD = """
import sys, time
from chatsmith.runtime.run_directory import RunDirectory
with RunDirectory(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_is_running_while_its_lock_is_held_and_stopped_when_its_process_was_killed(tmp_path):
    watcher = new_run(tmp_path, *map(line, range(1, 21)))
    assert watcher.state()["kind"] == "stopped"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert watcher.state()["kind"] == "running"
    finally:
        holder.kill()
        holder.wait()
    state = watcher.state()
    assert (state["kind"], state["stage"], state["step"]) == ("stopped", "pretrain", 20)
    assert "without a word" in state["reason"]


def test_a_copy_of_a_run_elsewhere_counts_as_running_while_records_come(tmp_path):
    now = time.time()
    watcher = new_run(tmp_path, *(line(step, time=now - 3 * (20 - step), steps=100) for step in range(1, 21)))
    state = watcher.state()
    assert state["kind"] == "running" and state["steps"] == 100
    assert state["seconds_left"] == pytest.approx(80 * 3, rel=0.01)


def test_why_it_stopped(tmp_path):
    watcher = new_run(tmp_path / "a", *map(line, range(1, 20)), line(20, loss=None))
    assert watcher.state()["reason"] == "the loss was not finite"
    assert watcher.state()["reason_kind"] == "not_finite"
    (tmp_path / "a" / "run.log").write_text(
        "pretrain 3 %\rpretrain 4 %\nchatsmith: the disk is full; free space\n"
    )
    watcher.refresh()
    assert watcher.state()["reason"] == "the disk is full; free space"
    assert watcher.state()["reason_kind"] is None
    state = tmp_path / "b" / "pretrain" / "state" / "000001" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"facts": {"step": 20, "steps": 50, "seconds": 90.0}}))
    stopped = new_run(tmp_path / "b", *map(line, range(1, 21))).state()
    assert "asked to stop" in stopped["reason"] and stopped["saved"]["step"] == 20 and stopped["steps"] == 50
    assert stopped["seconds"] == 90.0


def test_a_finished_run_and_one_with_only_a_recipe(tiny_copy, tmp_path):
    watcher = RunWatcher(tiny_copy, 3.0)
    watcher.refresh()
    state = watcher.state()
    assert state["kind"] == "done" and all(state["is_done"].values()) and state["alarms"] == {}
    found = watcher.facts()
    assert {"pretrain", "sft", "rl"} == {row["stage"] for row in found["rows"]}
    assert found["details"]["texts"][0]["shown"][0]["prompt"] and found["details"]["samples"]
    assert watcher.summary()["spark"] and watcher.summary()["scores"]["exam"] is not None
    empty = new_run(tmp_path / "new")
    assert empty.state()["kind"] == "stopped" and empty.state()["stage"] == "pretrain"
    assert empty.summary()["loss"] is None


def healthy(count: int, **last: Any) -> list[bytes]:
    now, chance = time.time(), random.Random(1)
    rows = [
        {
            "loss": 5 - 3 * step / count + chance.gauss(0, 0.05),
            "time": now - (count - step),
            "steps": 2 * count,
        }
        for step in range(1, count + 1)
    ]
    for row in rows[-5:]:
        row |= last
    return [line(step, **row) for step, row in enumerate(rows, 1)]


@pytest.mark.parametrize(
    ("what", "lines"),
    [
        (None, lambda: healthy(400)),
        ("loss", lambda: healthy(400, loss=4.5)),
        ("loss", lambda: healthy(400, loss=None)),
        (
            "plateau",
            lambda: [line(n, time=time.time() - 900 + n, loss=2.0 + 0.001 * (n % 2)) for n in range(1, 900)],
        ),
        (
            "slow",
            lambda: [line(n, time=time.time() - 4 * (300 - n) + min(0, n - 279) * -3) for n in range(1, 300)],
        ),
    ],
)
def test_alarms(tmp_path, what, lines):
    watcher = new_run(tmp_path, *lines())
    state = watcher.state()
    assert set(state["alarms"]) - {"disk"} == ({what} if what else set())
    assert state["alarm_figures"].keys() == state["alarms"].keys(), "a page may put them in its own words"


def test_an_alarm_for_silence_and_for_a_disk_that_fills(tmp_path, monkeypatch):
    watcher = new_run(tmp_path, *(line(step, time=time.time() - 500 + step) for step in range(1, 100)))
    monkeypatch.setattr(watch, "is_locked", lambda path: True)
    monkeypatch.setattr(watch.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1e9}))
    state = watcher.state()
    assert state["alarms"]["disk"] == "The disk is filling: 1 GB are free."
    assert state["alarms"]["stalled"].startswith("No step for 7 minutes; one takes 1.0 s.")
    assert state["alarm_figures"]["stalled"]["seconds"] == pytest.approx(1.0, abs=0.1)


def test_the_pace_is_that_of_one_session():
    rows = [json.loads(line(step, time=1000.0 + 2 * step)) for step in range(1, 50)]
    assert seconds_per_step(rows) == pytest.approx(2.0)
    later = [json.loads(line(step, time=90_000.0 + 3 * step)) for step in range(50, 55)]
    assert seconds_per_step(rows + later) == pytest.approx(3.0)
    assert seconds_per_step([]) is None


def test_runs_of_a_folder_come_and_go(tmp_path):
    with pytest.raises(UserError, match="there is no run"):
        WatchedRuns([tmp_path])
    new_run(tmp_path / "a", line(1))
    runs = WatchedRuns([tmp_path])
    first = runs.by_name["a"]
    new_run(tmp_path / "b", line(1))
    runs.refresh()
    assert set(runs.by_name) == {"a", "b"} and runs.by_name["a"] is first
    (tmp_path / "a").rename(tmp_path / "c")
    runs.refresh()
    assert set(runs.by_name) == {"b", "c"}


def test_secrets_are_masked_and_paths_shortened(tmp_path):
    run = tmp_path / "mine"
    shown = presentable(
        {
            "api_key": ("alice=sk-1",),
            "hub_token": "abc",
            "tokens": 5,
            "tokenizer": "bpe",
            "data": [str(run / "data" / "x"), "/home/someone/private/books/a.txt", "hub:owner/name", "a/b/c"],
            "note": "at https://me:pass@example.org/x?key=12345678 with Bearer abcdef and hf_abcdefghijkl",
        },
        run,
    )
    assert shown["api_key"] == [MASK] and shown["hub_token"] == MASK
    assert shown["tokens"] == 5 and shown["tokenizer"] == "bpe"
    assert shown["data"] == ["mine/data/x", "…/books/a.txt", "hub:owner/name", "a/b/c"]
    for secret in ("pass@", "12345678", "abcdef", "hf_"):
        assert secret not in shown["note"]
    assert str(tmp_path) not in json.dumps(new_run(run, line(1)).facts())
