"""The table of docs/scaling.md says what `plan` computes: which model trains on which card, and how."""

from pathlib import Path

import torch

from chatsmith.report.estimate import fit_within
from chatsmith.train.memory import Way
from chatsmith.train.plan import make_plan, model_shape

DEPTHS, CARDS = (12, 16, 20, 24, 32), (8, 12, 16, 24, 48, 80, 141)
HEADING = "| GPUs | d12 | d16 | d20 | d24 | d32 |"


def table() -> list[str]:
    """A line for each card: rows at once, and what is done to fit; 0.5 million tokens a step."""
    lines = [HEADING, "| --- |" + " --- |" * len(DEPTHS)]
    for count, cards in ((1, CARDS), (8, CARDS[4:])):
        for memory in cards:
            cells = [f"{count}×{memory} GB"]
            for depth in DEPTHS:
                shape = model_shape(depth, 32_768, sequence_length=2048, head_dim=128, window_pattern="SSSL")
                plan = make_plan(shape, 10**10, batch_tokens=2**19, world_size=count)
                way = Way(torch.bfloat16, on_gpu=True, is_compiled=True, world_size=count)
                plan, facts, _ = fit_within(plan, way, memory * 1e9)
                how = f"{facts['micro_batch']} rows" + f", {facts['tier']}" * (facts["tier"] != "plain")
                cells.append(how if facts["fits"] else "no")
                assert plan.tokens_per_step == 2**19
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_the_documented_table_is_what_plan_computes():
    documented = Path(__file__).parents[2].joinpath("docs/scaling.md").read_text("utf-8")
    assert "\n".join(table()) in documented
