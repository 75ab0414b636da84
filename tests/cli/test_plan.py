"""`chatsmith plan`: it refuses what later stages would, and says how it knows what it foresees."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chatsmith.cli import main as cli
from chatsmith.cli import recipe as recipes
from chatsmith.cli.plan import Clock, _about, within_budget
from chatsmith.report.estimate import find_device
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, RunDirectory, write_recipe

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
    assert memory["resident_bytes"] > memory["floor_bytes"] + memory["peak_bytes"]


def test_people_are_told_how_the_time_is_known(plan):
    _, timed, _ = plan(*TINY)
    assert "by rows of this shape timed now" in timed and "55%" not in timed
    assert (
        "fits: " in timed
        and " MB of " in timed
        and " resident, with the program" in timed
        and "assumed" not in timed
    )
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


EIGHT = ("--gpu", "h100", "--count", "8", "--price-per-gpu-hour", "3", "--json")


def test_the_plan_of_a_recipe_is_that_of_its_whole_pipeline(plan):
    code, out, _ = plan("speedrun", *EIGHT)
    facts = json.loads(out)
    assert code == 0 and facts["parameters"] == 560_988_160 and facts["tokens"] == 11_219_763_200
    assert facts["hours"] <= 4.15 and facts["dollars"] <= 100
    assert facts["hours"] == pytest.approx(sum(facts["hours_by_stage"].values()))
    assert facts["hours_by_stage"].keys() == {"pretrain", "mid", "sft", "rl", "tokenizer", "evaluate"}
    assert 24e9 < facts["download_bytes"] < 30e9 < facts["disk_bytes"]
    assert not facts["is_measured"] and "nanochat" in facts["rule"] and "d24" in facts["expected"]["advice"]


@pytest.mark.parametrize(
    ("asked", "depth"),
    [
        (("--budget-usd", "100"), 24),
        (("--budget-usd", "200"), 28),
        (("--hours", "0.5"), 16),
        (("--params", "900000000"), 20),
    ],
)
def test_a_budget_or_a_size_chooses_the_depth(plan, asked, depth):
    facts = json.loads(plan(*asked, *EIGHT)[1])
    assert facts["depth"] == depth
    if asked[0] == "--budget-usd":
        assert facts["dollars"] <= float(asked[1])


def test_a_budget_on_a_small_card_stays_within_its_memory(plan):
    facts = json.loads(plan("--hours", "100000", "--gpu", "t4", "--json")[1])
    assert facts["memory"]["fits"] and facts["memory"]["peak_bytes"] <= 16e9


def test_depths_and_gpus_are_compared_in_a_table_and_a_picture(plan, tmp_path):
    rows = json.loads(plan("--table", "depths", *EIGHT)[1])
    assert [row["depth"] for row in rows] == list(range(4, 34, 2))
    assert [row["hours"] for row in rows] == sorted(row["hours"] for row in rows)
    code, out, _ = plan("speedrun", "--table", "gpus", "--count", "8", "--plot", str(tmp_path / "hours.png"))
    assert code == 0 and "NVIDIA H100 SXM" in out and (tmp_path / "hours.png").read_bytes()[1:4] == b"PNG"
    assert "plot" in plan("--plot", str(tmp_path / "x.png"))[2]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("speedrum",), "did you mean speedrun?"),
        (("speedrun", "--hours", "3"), "only one of them"),
        (("--budget-usd", "3"), "needs a price"),
        (("--hours", "0.0001", "--gpu", "t4"), "too few"),
        (("--table", "gpus", "--plot", "x.docx"), "x.docx"),
    ],
)
def test_what_cannot_be_planned_is_one_line(plan, argv, message):
    code, _, error = plan(*argv)
    assert code == 2 and message in error and error.count("\n") == 1


def test_hours_for_one_gpu_become_a_depth_and_minutes_that_are_kept(tmp_path):
    recipe, clock = recipes.named_recipe("gpu"), Clock(find_device("4090"), 1)
    found = within_budget(recipe, {}, 1, clock)
    assert (found["pretrain"]["depth"], found["pretrain"]["minutes"]) == (14, 360)
    longer = within_budget(recipe, {"budget": {"hours": 24}}, 1, clock)
    assert longer["pretrain"]["depth"] > 14
    assert within_budget(recipe, {"pretrain": {"depth": 8}}, 1, clock)["pretrain"]["depth"] == 8
    run = RunDirectory(tmp_path)
    kept = {"budget": {"hours": 8}, "pretrain": {"depth": 10}}
    write_recipe(run.recipe, replace(recipe, sections=kept))
    assert within_budget(recipe, {}, 1, clock, run)["pretrain"]["depth"] == 10, "a begun run keeps its depth"
    for wrong in ({"hours": 0}, {"hours": "x"}, {"days": 3}):
        with pytest.raises(UserError, match="takes hours"):
            within_budget(recipe, {"budget": wrong}, 1, clock)


LARGE = {"context_length": 2048, "head_dim": 128, "vocab_size": 32_768}


@pytest.mark.parametrize(
    ("depth", "expected"),
    [("6", {"context_length": 512, "head_dim": 64, "vocab_size": 8192}), ("12", LARGE), ("20", LARGE)],
)
def test_from_depth_12_on_the_dial_says_more(capsys, depth, expected):
    """The same on every device; a flag wins."""
    for gpu in ("h100", "4090"):
        assert cli.main(["plan", depth, "--gpu", gpu, "--json"], {}) == 0
        shape = json.loads(capsys.readouterr().out)["plan"]["model"]
        assert {name: shape[name] for name in expected} == expected
        assert (
            shape["windows"].count(0) < len(shape["windows"]) if depth != "6" else not any(shape["windows"])
        )
    assert (
        cli.main(["plan", depth, "--gpu", "h100", "--json", "--head-dim", "32", "--window-pattern", "L"], {})
        == 0
    )
    shape = json.loads(capsys.readouterr().out)["plan"]["model"]
    assert shape["head_dim"] == 32 and not any(shape["windows"])


def test_a_recipe_of_a_deep_model_gets_its_vocabulary_too_and_says_so_in_the_run():
    recipe = Recipe("deep", "", ("tokenizer", "pretrain"), {"pretrain": {"depth": 12}})
    for given, expected in (({}, 32_768), ({"tokenizer": {"vocab_size": 600}}, 600)):
        configs, written = recipes.configure(recipe, RunDirectory(Path("runs/deep")), given, {})
        assert written.sections["tokenizer"]["vocab_size"] == configs["tokenizer"].vocab_size == expected
        assert written.sections["pretrain"]["window_pattern"] == "SSSL"
    for name in ("speedrun", "d26", "d32"):  # October's models, as they were published
        assert recipes.named_recipe(name).sections["pretrain"]["window_pattern"] == "L"


def test_the_disk_counts_the_weights_that_are_kept_along_the_way(plan):
    without, with_steps = (
        json.loads(plan("speedrun", *EIGHT, *more)[1]) for more in ((), ("--keep-every", "2000"))
    )
    assert without["checkpoints"] == 0 < with_steps["checkpoints"] == with_steps["plan"]["steps"] // 2000
    weights = 4 * with_steps["parameters"] * with_steps["checkpoints"]
    assert with_steps["disk_bytes"] - without["disk_bytes"] == pytest.approx(weights)
    said = plan("2", "--keep-every", "100")[1]
    assert "checkpoints kept along the way" in said and "0.0 GB" not in said and "downloaded" not in said
