"""`chatsmith plan`: it refuses what later stages would, and says how it knows what it foresees."""

import json

import pytest

from chatsmith.cli import main as cli
from chatsmith.cli.plan import _about

TINY = ("2", "--width", "32", "--head-dim", "16", "--vocab-size", "300", "--sequence-length", "32")


@pytest.fixture
def plan(capsys):
    """Runs the command on the CPU; returns its exit code, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["plan", *argv, "--device", "cpu"], {})
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--vocab-size", "10"), "vocab_size is 10; it must be at least 285"),
        (("--batch-tokens", "-1"), "batch_tokens is -1; it must be at least 0"),
        (("--batch-tokens", "100"), "batch_tokens is 100, less than one row of 512 tokens"),
        (("--world-size", "0"), "world_size is 0"),
    ],
)
def test_what_no_training_could_follow_is_refused(plan, argv, message):
    code, out, error = plan("6", *argv)
    assert (code, out) == (2, "")
    assert message in error and error.startswith("chatsmith: ") and error.count("\n") == 1


def test_a_small_model_s_time_is_that_of_its_own_rows_and_not_of_a_large_model_s_share(plan):
    code, out, _ = plan(*TINY, "--batch-tokens", "256", "--tokens", "25600", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["is_timed"]
    assert facts["plan"]["steps"] == 100 and facts["plan"]["rows_per_microbatch"] == 8
    assert facts["share_of_peak"] < 0.3, "products this small cannot come near to the peak"
    assert facts["memory_bytes"].keys() == {"weights", "gradients", "optimizer", "activations"}
    assert all(facts["memory_bytes"].values())
    memory = facts["memory"]
    assert memory["fits"] and memory["micro_batch"] == 8 and memory["tier"] == "plain"
    assert memory["weights"] < memory["peak_bytes"] < memory["free_bytes"] and memory["floor_bytes"] > 10**8


def test_people_are_told_how_the_time_is_known(plan):
    _, timed, _ = plan(*TINY)
    assert "by rows of this shape timed now" in timed and "55%" not in timed
    assert "fits: " in timed and " MB of " in timed and "come on top" in timed and "assumed" not in timed
    _, estimated, _ = plan("40", "--world-size", "8")
    assert "an estimate: at 55% of its matrix peak" in estimated
    assert "that 8 processes are 8 times as fast is assumed" in estimated


def test_a_gpu_that_is_not_here_is_told_whether_it_fits_and_why_not(plan):
    large = ("--vocab-size", "32768", "--sequence-length", "2048", "--head-dim", "128", "--gpu")
    code, fits, _ = plan("24", *large, "4090")
    assert (
        code == 0
        and "fits: " in fits
        and "GB of 24.0 GB at most (weights" in fits
        and "recomputing blocks" in fits
    )
    _, out, _ = plan("24", *large, "4090", "--json")
    facts = json.loads(out)
    assert facts["memory"]["fits"] and facts["memory"]["peak_bytes"] <= 24e9
    assert facts["memory"]["micro_batch"] == facts["plan"]["rows_per_microbatch"]
    _, no, _ = plan("24", *large, "4070")
    assert "does not fit, because a step needs" in no and "12.0 GB are there" in no
    _, several, _ = plan("32", *large, "l40s")
    assert "fits" in several


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (90, "90 s"), (150, "2 min"), (7100, "118 min"), (7900, "2 h"), (1e6, "12 days")],
)
def test_a_foreseen_duration_has_one_unit(seconds, text):
    assert _about(seconds) == text
