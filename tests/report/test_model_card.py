"""The model card: everything given is in it, and scores can be put in later without touching the rest."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from chatsmith.report.model_card import model_card, with_scores
from chatsmith.serve.models import bundle_card


def card(scores: dict[str, str] | None = None) -> str:
    return model_card(
        "kindergarten (sft)",
        "A small model of a small world.",
        data={"training text": "kindergarten, seed 1"},
        recipe={"depth": "4", "stage": "sft"},
        scores=scores or {},
        cost={"time": "9.5 minutes on 2 cores"},
    )


def test_every_given_figure_stands_in_its_section() -> None:
    text = card({"exam": "91.0 %"})
    data, recipe, scores, cost = (text.index(f"## {name}") for name in ("Data", "Recipe", "Scores", "Cost"))
    assert data < text.index("| training text | kindergarten, seed 1 |") < recipe
    assert recipe < text.index("| depth | 4 |") < scores
    assert scores < text.index("| exam | 91.0 % |") < cost
    assert cost < text.index("| time | 9.5 minutes on 2 cores |") < text.index("## Use")


def test_suggestions_stand_in_the_front_matter_where_the_server_finds_them(tmp_path: Path) -> None:
    asked = ["Who are you?", 'Say "yes": or no', "Straße – 道"]
    text = model_card("m", "A model.", data={}, recipe={}, scores={}, cost={}, suggestions=asked)
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    served = SimpleNamespace(loaded=SimpleNamespace(info=SimpleNamespace(path=tmp_path)))
    found = bundle_card(cast(Any, served))
    assert found["suggestions"] == asked
    assert found["card"].startswith("# m\n")
    (tmp_path / "README.md").unlink()
    assert bundle_card(cast(Any, served)) == {"card": "", "suggestions": []}


def test_scores_put_in_later_give_the_card_that_had_them_from_the_start() -> None:
    scores = {"exam": "91.0 % (89.1 to 92.6)", "bits per byte": "0.812"}
    assert with_scores(card(), scores) == card(scores)
    assert with_scores(card({"exam": "1 %"}), scores) == card(scores)


def test_a_card_written_by_someone_else_gains_a_section_and_loses_nothing() -> None:
    assert (
        with_scores("# Mine\n\nText.\n", {"exam": "1 %"})
        == "# Mine\n\nText.\n\n## Scores\n\n| | |\n|-|-|\n| exam | 1 % |\n"
    )


def test_a_value_cannot_break_the_table() -> None:
    assert "| a\\|b | c d |" in with_scores("", {"a|b": "c\nd"})
