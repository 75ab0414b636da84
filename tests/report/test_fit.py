"""The tables of docs/scaling.md say what `plan` computes: which model trains on which card, how, how fast, and at what
price."""

import json
from pathlib import Path

import pytest
import torch

from chatsmith.cli import main as cli
from chatsmith.report.estimate import DEVICES, fit_within
from chatsmith.runtime.console import counted
from chatsmith.train.memory import Way
from chatsmith.train.plan import make_plan, model_shape

DEPTHS, CARDS = (12, 16, 20, 24, 32, 40, 48), (8, 12, 16, 24, 48, 80, 141)
MEMORY_HEADING = "| GPUs | d12 | d16 | d20 | d24 | d32 | d40 | d48 |"

SPEED_HEADING = (
    "| on | depth | tokens/s | MFU | products | attention | elementwise, loss | weights, host | exchange | update "
    "| dollars per billion tokens |"
)
CAUSES = ("matmuls", "attention", "elementwise loss", "weights host", "communication", "optimizer")
RUNS = (
    ("3090", 1, 12),
    ("4090", 1, 12),
    ("4090", 1, 20),
    ("l40s", 1, 20),
    ("h100", 1, 20),
    ("h100", 8, 20),
    ("h100", 64, 20),
    ("h100", 1024, 20),
    ("h100", 8, 32),
    ("h100", 64, 32),
    ("h100", 1024, 32),
)


@pytest.fixture(scope="module")
def documented() -> str:
    return Path(__file__).parents[2].joinpath("docs/scaling.md").read_text("utf-8")


def memory_table() -> list[str]:
    """A line for each card: rows at once, and what is done to fit; 0.5 million tokens a step, or a row for each."""
    lines = [MEMORY_HEADING, "| --- |" + " --- |" * len(DEPTHS)]
    for count, cards in ((1, CARDS), (8, CARDS[4:]), (64, CARDS[5:]), (1024, CARDS[5:])):
        for memory in cards:
            cells = [f"{count:,}×{memory} GB"]
            for depth in DEPTHS:
                shape = model_shape(depth, 32_768, sequence_length=2048, head_dim=128, window_pattern="SSSL")
                batch_tokens = max(2**19, 2048 * count)
                plan = make_plan(shape, 10**10, batch_tokens=batch_tokens, world_size=count)
                way = Way(torch.bfloat16, on_gpu=True, is_compiled=True, world_size=count)
                plan, facts, _ = fit_within(plan, way, memory * 1e9)
                how = counted(facts["micro_batch"], "row") + f", {facts['tier']}" * (facts["tier"] != "plain")
                cells.append(how if facts["fits"] else "no")
                assert plan.tokens_per_step == batch_tokens
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def speed_table(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """A line for each run: where a step's time goes, and what a billion tokens cost at the usual price."""
    lines = [SPEED_HEADING, "|" + " --- |" * 11]
    for gpu, count, depth in RUNS:
        assert cli.main(["plan", str(depth), "--gpu", gpu, "--count", str(count), "--json"], {}) == 0
        facts = json.loads(capsys.readouterr().out)
        causes, speed, device = facts["seconds_of_a_step"], facts["tokens_per_second"], DEVICES[gpu]
        shares = [sum(causes[name] for name in kind.split()) / sum(causes.values()) for kind in CAUSES]
        dollars = count * device.dollars_per_hour / 3600 / speed * 1e9
        cells = [
            f"{count:,}×{device.title.removeprefix('NVIDIA ')}",
            f"d{depth}",
            f"{speed:,.0f}",
            f"{facts['mfu']:.0%}",
        ]
        cells += [f"{share:.0%}" for share in shares] + [f"{dollars:,.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_which_model_trains_on_which_card_is_documented_as_planned(documented):
    assert "\n".join(memory_table()) in documented


def test_speed_and_price_are_documented_as_planned(documented, capsys):
    assert "\n".join(speed_table(capsys)) in documented
