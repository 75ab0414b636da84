"""`chatsmith rl`: it learns what a reward asks for, resumes to the very same model, and fails in one clear line.

The tiny model cannot answer anything, so most tests pay it for saying a certain letter, which it can learn at once.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from chatsmith.bundle import load_bundle
from chatsmith.cli import main as cli
from chatsmith.engine import kv_cache
from chatsmith.report.gather import gather
from chatsmith.report.render import report
from chatsmith.rl.trainer import RLProgress, blended
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.runtime.states import saved_states
from chatsmith.tasks.reward_monitor import RewardMonitor
from chatsmith.train import memory
from tests.processes import CHATSMITH, Processes, well

SHARED_DATA = Path(os.environ.get("CHATSMITH_SHARED_DATA", "../shared/data")) / "eval"

REWARD = '''
"""A reward for the letter e; and what tests make it do by leaving a file beside it."""
import os, signal
from pathlib import Path

CALLS = [0]
TRAP = Path(__file__).with_name("trap")

def letters(problem, reply):
    CALLS[0] += 1
    if TRAP.exists() and CALLS[0] == int(TRAP.read_text().split()[1]):
        kind = TRAP.read_text().split()[0]
        TRAP.unlink()
        if kind == "kill":
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGINT)
    return reply.text.count("e") / 10

def nothing(problem, reply):
    return 0.0

def breaks_at_times(problem, reply):
    return reply.text.count("e") / (10 if problem.fields["number"] % 4 else 0)

def breaks(problem, reply):
    raise RuntimeError("no")
'''

QUICK = (
    "--steps",
    6,
    "--prompts",
    4,
    "--samples",
    4,
    "--max-tokens",
    12,
    "--show-every",
    3,
    "--development",
    4,
)


@pytest.fixture
def rl(capsys):
    """Runs the command; returns its exit code, stdout and stderr."""

    def run(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["rl", *map(str, argv)], {})
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A run with a fine-tuned model and nothing else."""
    shutil.copytree(tiny_run / "sft", tmp_path / "mine" / "sft")
    return tmp_path / "mine"


@pytest.fixture
def letters(tmp_path) -> tuple:
    """Settings: problems of one's own, and a reward for the letter e."""
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps({"prompt": f"Say {n}!", "number": n}) + "\n" for n in range(40)))
    (tmp_path / "reward.py").write_text(REWARD)
    # In fp32, so that rounding explains no difference between two ways of doing the same.
    return (
        *QUICK,
        "--dtype",
        "fp32",
        "--problems",
        problems,
        "--reward",
        f"{tmp_path / 'reward.py'}:letters",
    )


def refused(result: tuple[int, str, str], message: str) -> None:
    code, _, error = result
    assert code == 2, error
    assert message in error and error.startswith("chatsmith: ") and error.count("\n") == 1


def metrics_of(run: Path) -> list[dict]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == "rl"]


def steps_of(run: Path) -> list[dict]:
    return [line for line in metrics_of(run) if "loss" in line]


def weights_of(run: Path) -> bytes:
    return (run / "rl" / "bundle" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", -1], "steps is -1; it must be at least 0"),
        (["--samples", 1], "samples is 1; it must be at least 2"),
        (["--prompts", 0], "prompts is 0"),
        (["--max-tokens", 0], "max_tokens is 0"),
        (["--updates", 0], "updates is 0"),
        (["--minutes", "nan"], "minutes is nan"),
        (["--kl", -1], "kl is -1.0"),
        (["--clip-low", 1], "clip_low is 1.0"),
        (["--rate-scale", 0], "rate_scale is 0.0"),
        (["--blend", 0], "blend is 0.0"),
        (["--replay", -1], "replay is -1"),
        (["--replay-weight", 0], "replay_weight is 0.0"),
        (["--replay", 4], "manifest"),
        (["--save-minutes", 0], "save_minutes is 0.0"),
        (["--seed", -1], "seed is -1"),
        (["--from", "nowhere"], "nowhere"),
        (["--test-problems", "test.jsonl"], "give both"),
        (["--problems", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["--reward", "reward"], "takes a file and a function"),
        (["--task", "gsm8k", "--eval-data", "nowhere"], "nowhere/gsm8k/train.jsonl is not there"),
    ],
)
def test_impossible_settings_leave_the_run_as_it_was(run, rl, argv, message):
    before = {path for path in run.rglob("*") if path.is_file()}
    refused(rl(run, *argv), message)
    assert {path for path in run.rglob("*") if path.is_file() and path.name != ".lock"} == before


def test_a_run_without_a_fine_tuned_model_says_what_is_missing(tmp_path, rl):
    refused(rl(tmp_path / "new"), "new/sft does not exist")


def test_it_learns_what_the_reward_asks_for_and_writes_down_how_well(run, letters, rl):
    settings = (*letters, "--steps", 24, "--samples", 8, "--rate-scale", 1, "--evaluations", 2)
    code, out, _ = rl(run, *settings)
    assert code == 0
    steps = steps_of(run)
    rewards = [line["reward"] for line in steps]
    assert sum(rewards[-6:]) > 1.5 * sum(rewards[:6])
    assert len(steps) == 24 and all(line["largest_drift"] < 1e-3 for line in steps)
    told = (
        "reward_spread",
        "pass_at_8",
        "reply_tokens",
        "truncated",
        "entropy",
        "clipped",
        "rollout_share",
    )
    assert all(name in line for line in steps for name in told)
    assert 0 < steps[-1]["rollout_share"] < 1
    assert not any(
        "kl" in line for line in steps
    )  # no reference model was loaded that it could be measured from
    assert [line["step"] for line in metrics_of(run) if "dev_pass_at_1" in line] == [0, 12, 24]
    shown = [line["shown"] for line in steps if "shown" in line]
    assert len(shown) == 8 and {"prompt", "reply", "reward"} <= set(shown[0][0])
    assert "Some replies of step 4" in out and "Say" in out
    written = json.loads((run / "evals" / "rl.json").read_text())
    assert written["n"] > 0 and {"pass_at_1_before", "pass_at_1_after", "gain_interval"} <= set(written)
    assert load_bundle(run / "rl" / "bundle").provenance["stage"] == "rl"
    before = weights_of(run)
    code, out, _ = rl(run, *settings)
    assert code == 0 and "is up to date" in out and weights_of(run) == before


def test_rows_at_once_change_nothing_of_consequence(run, letters, rl):
    assert rl(run, *letters)[0] == 0
    settings = ("--rows-per-microbatch", 2, "--show-every", 0, "--give-up-after", 9)
    assert "up to date" in rl(run, *letters, *settings)[1]
    assert "up to date" not in rl(run, *letters, "--kl", 0.1)[1]


@pytest.mark.parametrize(
    ("kind", "updates", "replay"),
    [("stop", 1, 0), ("kill", 1, 4), ("stop", 2, 0)],
    ids=["Ctrl-C in rollouts", "killed in rollouts, with replay", "Ctrl-C with two updates a batch"],
)
def test_an_interrupted_run_goes_on_to_the_very_same_model(
    run, letters, rl, tmp_path, tiny_run, kind, updates, replay
):
    """The rollouts of a step that was not finished are written again. The 80th reply is judged in the third round:
    development problems take 20 at the beginning and 20 after the second, and rounds take 16."""
    shutil.copytree(tiny_run / "data", run / "data")
    settings = (*letters, "--updates", updates, "--save-minutes", 1e-9, "--replay", replay)
    whole = shutil.copytree(run, tmp_path / "whole")
    assert rl(whole, *settings)[0] == 0
    (tmp_path / "trap").write_text(f"{kind} 80")
    code, _, error = rl(run, *settings)
    assert code == 130 and not (run / "rl" / "bundle").exists()
    if kind == "stop":
        assert f"stopped after step {3 * updates}" in error
    code, out, _ = rl(run, *settings)
    assert code == 0 and "resuming after step" in out
    assert weights_of(run) == weights_of(whole)
    results = [json.loads((one / "evals" / "rl.json").read_text()) for one in (run, whole)]
    for result in results:
        facts = result.pop("facts")
        assert facts["best_step"] >= 0 and facts["rollout_tokens"] > 0
        assert 0 < facts["practice_seconds"] < facts["seconds"]
    assert results[0] == results[1]
    # The beginning, too, is recorded once.
    assert [line["step"] for line in metrics_of(run)] == [line["step"] for line in metrics_of(whole)]
    assert not (run / "rl" / "state").exists()


def test_a_resumed_run_computes_as_when_it_began_whatever_memory_is_free_now(
    run, letters, rl, tmp_path, monkeypatch
):
    """Pool and microbatches are chosen by free memory, and what is computed together decides the last digits."""
    settings = (*letters, "--save-minutes", 1e-9)
    for name, after in (("little", 10**9), ("much", 10**4)):
        began = shutil.copytree(run, tmp_path / name)
        free = {"little": 10**4, "much": 10**9}[name]
        for module in (kv_cache, memory):
            monkeypatch.setattr(module, "free_memory", lambda _, free=free: free)
        whole = shutil.copytree(began, tmp_path / f"whole {name}")
        code, said, _ = rl(whole, *settings)
        assert code == 0
        (tmp_path / "trap").write_text("stop 80")
        assert rl(began, *settings)[0] == 130
        chosen = saved_states(began / "rl" / "state")[-1].facts["chosen"]
        for module in (kv_cache, memory):
            monkeypatch.setattr(module, "free_memory", lambda _, free=after: free)
        code, resumed, _ = rl(began, *settings)
        assert code == 0 and weights_of(began) == weights_of(whole)
        pool = re.compile("key-value pool: .* contexts")
        assert pool.findall(resumed) == pool.findall(said)
        assert chosen["rows_per_microbatch"] == {"little": 1, "much": 16}[name]


def test_minutes_are_measured_once_and_then_kept_as_steps(run, letters, rl):
    settings = (*letters, "--steps", 0, "--minutes", 0.02, "--evaluations", 0)
    code, first, _ = rl(run, *settings)
    assert code == 0 and "Measuring how many steps fit into the time" in first
    before = weights_of(run)
    (run / "rl" / "done.json").unlink()
    code, second, _ = rl(run, *settings)
    assert code == 0 and "Measuring" not in second and weights_of(run) == before


def test_steps_bound_what_the_minutes_hold(run, letters, rl):
    assert rl(run, *letters, "--steps", 2, "--minutes", 0.5, "--evaluations", 0)[0] == 0
    assert [line["step"] for line in steps_of(run)] == [1, 2]


def test_less_is_forgotten_of_texts_that_the_model_is_held_on(run, letters, rl, tiny_run, tmp_path):
    """The texts are looked at either way; once with a weight of nearly nothing."""
    shutil.copytree(tiny_run / "data", run / "data")
    other = shutil.copytree(run, tmp_path / "other")
    more = (*letters, "--steps", 9, "--replay", 16, "--rate-scale", 1, "--evaluations", 0)
    assert rl(run, *more, "--replay-weight", 30)[0] == rl(other, *more, "--replay-weight", 1e-9)[0] == 0
    held, free = ([line["forgotten"] for line in steps_of(one)] for one in (run, other))
    assert all(line["kl"] >= 0 for line in steps_of(run)) and steps_of(run)[-1]["kl"] > 0
    assert held[0] == pytest.approx(0, abs=1e-6)  # nothing is forgotten before the first step
    assert 0 < sum(held[-3:]) < 0.5 * sum(free[-3:])


def test_texts_alone_move_nothing_where_replies_teach_nothing(run, letters, rl, tiny_run):
    shutil.copytree(tiny_run / "data", run / "data")
    settings = [str(word).replace(":letters", ":nothing") for word in letters]
    assert rl(run, *settings, "--steps", 3, "--replay", 8, "--rate-scale", 1)[0] == 0
    assert {(line["trained_tokens"], line["forgotten"]) for line in steps_of(run)} == {(0, 0)}


def test_without_any_reward_the_run_stops_and_keeps_the_model_it_had(run, letters, rl):
    settings = [str(word).replace(":letters", ":nothing") for word in letters]
    refused(rl(run, *settings, "--give-up-after", 3), "not one reply of the last 3 steps earned a reward")
    assert not (run / "rl" / "bundle").exists()
    assert len(steps_of(run)) == 2  # the third found the end


def test_a_reward_that_fails_now_and_then_is_shown_and_its_replies_teach_nothing(run, letters, rl):
    settings = [str(word).replace(":letters", ":breaks_at_times") for word in letters]
    code, out, _ = rl(run, *settings)
    assert code == 0
    assert "no reward for a reply, which is therefore not trained on: ZeroDivisionError" in out
    assert "The problem was problems.jsonl/" in out and "'Say " in out
    assert out.count("no reward for a reply") == 3 and "only counted" in out
    assert re.search(r"Before, on the development problems: .*, \d+ rewards? failed", out)
    assert {line["failed_rewards"] % 4 for line in steps_of(run)} == {0}
    assert any(line["failed_rewards"] for line in steps_of(run))


def test_a_reward_that_always_fails_ends_the_run(run, letters, rl):
    settings = [str(word).replace(":letters", ":breaks") for word in letters]
    code, out, error = rl(run, *settings)
    assert code == 2 and "pass@1 0.0" not in out
    assert "the reward failed for every development problem" in error and error.count("\n") == 1


def test_two_processes_on_one_run_are_kept_apart(run, letters, rl):
    with RunDirectory(run).lock():
        refused(rl(run, *letters), "is in use by process")


def test_the_best_weights_are_kept_and_of_equals_the_later(tiny_run):
    model = load_bundle(tiny_run / "sft" / "bundle").model
    progress = RLProgress(RewardMonitor(3, 64))
    for step, score in enumerate((0.2, 0.5, 0.5, 0.4)):
        with torch.no_grad():
            model.head.weight.fill_(float(step))
        progress.consider(model, score, step)
    other = RLProgress(RewardMonitor(3, 64))
    other.load_named_state(progress.named_state())
    assert (other.best_step, other.best_score) == (2, 0.5)
    assert other.best["head.weight"].unique().tolist() == [2.0]


@pytest.mark.slow
def test_a_blend_lies_between_the_beginning_and_the_best():
    start, best = ({"weight": torch.full((2,), value)} for value in (1.0, 3.0))
    assert blended(start, best, 0.25)["weight"].tolist() == [1.5, 1.5]
    assert blended(start, best, 1.0) is best


def test_two_processes_learn_what_one_does(run, letters, tmp_path, rl, subprocess_environment):
    """Each writes its share of the replies; the same problems, the same replies, nearly the same sums."""
    together = shutil.copytree(run, tmp_path / "together")
    settings = (*letters, "--steps", 3, "--rate-scale", 0.02)
    assert rl(run, *settings)[0] == 0
    argv = ("rl", together, *settings)
    first, second = well(Processes(CHATSMITH, *argv, world_size=2, environment=subprocess_environment).wait())
    assert "2 processes" in first.out and second.out == ""
    for alone, shared in zip(steps_of(run), steps_of(together), strict=True):
        for name in ("loss", "reward", "reward_spread", "reply_tokens", "entropy", "trained_tokens"):
            assert shared[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-5), (alone["step"], name)
    results = [json.loads((one / "evals" / "rl.json").read_text()) for one in (run, together)]
    assert results[0]["pass_at_1_after"] == results[1]["pass_at_1_after"]


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"the shared data is not in {SHARED_DATA}")
def test_gsm8k_goes_all_the_way(run, rl):
    """Form alone earns something here: the tiny model solves none of its problems."""
    settings = ("--task", "gsm8k", "--eval-data", SHARED_DATA, "--test", 8, "--form-weight", 0.1)
    code, _, error = rl(run, *QUICK, *settings, "--give-up-after", 99, "--max-tokens", 24)
    assert code == 0, error
    written = json.loads((run / "evals" / "rl.json").read_text())
    assert written["task"] == "gsm8k" and written["n"] == 8


def test_seconds_of_evaluations_add_up_and_older_states_have_none():
    one, other = RLProgress(RewardMonitor(3, 64)), RLProgress(RewardMonitor(3, 64))
    one.evaluation_seconds, other.evaluation_seconds = 2.0, 0.5
    state = one.named_state()
    other.load_named_state(state)
    assert other.evaluation_seconds == 2.5
    other.load_named_state(state | {"numbers": state["numbers"][:4]})
    assert other.evaluation_seconds == 2.5


GRADED = """
def shorter(problem, reply):
    return -float(len(reply.text)) / 10
"""


def test_row_12_a_graded_reward_is_reported_as_such_and_the_best_kept_by_it(run, letters, rl, tmp_path):
    """Of replies none of which is right: means before and after, their intervals, and no word of pass@1."""
    path = tmp_path / "graded.py"
    path.write_text(GRADED)
    problems = letters[letters.index("--problems") : letters.index("--problems") + 2]
    settings = (*problems, "--reward", f"{path}:shorter", "--steps", 6, "--prompts", 4, "--samples", 4)
    code, out, _ = rl(run, *settings, "--max-tokens", 12, "--rate-scale", 1, "--evaluations", 2)
    assert code == 0
    told = out[out.index("Before, on the development problems") :]
    assert "pass@1" not in told and "pass at 1" not in told and "% right" not in told
    assert "Before, on the development problems: mean reward -" in told
    assert re.search(
        r"best on the development problems after step \d+: mean reward -\S+, mean reward -\S+ before", told
    )
    assert re.search(r"Gain: [+-]\d+\.\d{3} of mean reward, with a 95 % interval from", told)
    written = json.loads((run / "evals" / "rl.json").read_text())
    assert {
        "reward_before",
        "reward_after",
        "reward_before_interval",
        "reward_gain_interval",
    } <= written.keys()
    assert written["reward_before"] < 0
    low, high = written["reward_before_interval"]
    assert low <= written["reward_before"] <= high
    scores = {line["step"]: line["dev_reward"] for line in metrics_of(run) if "dev_reward" in line}
    assert list(scores) == [0, 3, 6]
    assert scores[written["facts"]["best_step"]] == max(scores.values())
    page = report(gather(run)).markdown()
    assert (
        "mean reward" in page and "pass@1" not in page[page.index("Reinforcement learning, before") :][:900]
    )


def test_row_12_groups_without_difference_are_told():
    monitor = RewardMonitor(10, 16)
    metrics = {"failed_rewards": 0, "replies": 8, "nonzero_rewards": 1.0, "entropy": 1.0, "truncated": 0.0}
    metrics |= {"equal_groups": 0.95, "pass_at_1": 0.2, "reward": 0.2}
    notices = [monitor.check(metrics) for _ in range(4)]
    assert [len(one) for one in notices] == [0, 0, 1, 0]
    assert notices[2][0].startswith("in 95% of the groups all replies earn the same, so")
    progress = RLProgress(monitor)
    state = progress.named_state()
    progress.load_named_state(state | {"watch": state["watch"][:4]})  # of a chatsmith that did not count them
    assert monitor.check(metrics) == []
