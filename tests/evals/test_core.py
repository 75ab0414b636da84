"""CORE: prompts, scored spans and decisions equal those of a plain implementation that takes one item at a time."""

import csv
import json
import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from chatsmith.bundle import Bundle
from chatsmith.evals.core import measure_core_task, questions_of
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.results import TaskResult, summary
from chatsmith.evals.scoring import Decision, EngineScorer, decide_all
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.tasks import core
from chatsmith.tasks.core import CoreTask, Item, core_items, example_indices, prompts
from chatsmith.text.tokenizer import Tokenizer

RUNTIME = Runtime(torch.device("cpu"), torch.float32)

CHOICES = CoreTask("choices", "choices", "multiple choice", 2, 0.25, "\nAnswer: ")
SCHEMA = CoreTask("schema", "schema", "schema", 1, 0.5)
WORDS = CoreTask("words", "words", "language modeling", 2, 0)
NOUNS = ("cat", "mat", "hat", "one", "two")


def made_items(task: CoreTask, count: int = 12) -> list[Item]:
    rng = random.Random(task.name)

    def words(count: int) -> str:
        return " ".join(rng.choice(NOUNS) for _ in range(count))

    match task.kind:
        case "multiple choice":
            return [
                {
                    "query": f"What is {words(2)}?",
                    "choices": [words(rng.randint(1, 3)) for _ in range(4)],
                    "gold": rng.randrange(4),
                }
                for _ in range(count)
            ]
        case "schema":
            return [
                {
                    "context_options": [f"{words(3)} and {noun}" for noun in NOUNS[:2]],
                    "continuation": f"is {words(2)}",
                    "gold": rng.randrange(2),
                }
                for _ in range(count)
            ]
        case "language modeling":
            return [{"context": f" {words(4)}\n", "continuation": words(1)} for _ in range(count)]


def plain_decision(
    model: GPT, tokenizer: Tokenizer, task: CoreTask, items: list[Item], index: int
) -> Decision:
    """The definition, straightforwardly: one item, its choices in a padded batch, all logits (after nanochat)."""
    others = [number for number in range(len(items)) if number != index]
    examples = [items[number] for number in random.Random(1234 + index).sample(others, task.shots)]
    item = items[index]
    shown = ""
    for example in examples:
        if task.kind == "multiple choice":
            shown += example["query"] + task.delimiter + example["choices"][example["gold"]] + "\n\n"
        elif task.kind == "schema":
            shown += example["context_options"][example["gold"]] + task.delimiter + example["continuation"]
            shown += "\n\n"
        else:
            shown += example["context"].strip() + task.delimiter + example["continuation"] + "\n\n"
    if task.kind == "multiple choice":
        texts = [shown + item["query"] + task.delimiter + choice for choice in item["choices"]]
    elif task.kind == "schema":
        texts = [
            shown + context + task.delimiter + item["continuation"] for context in item["context_options"]
        ]
    else:
        asked = shown + item["context"].strip() + task.delimiter
        texts = [asked.strip(), asked + item["continuation"]]
    rows = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
    if task.kind == "multiple choice":
        start = 0
        while start < min(map(len, rows)) and len({row[start] for row in rows}) == 1:
            start += 1
        spans = [(row, start) for row in rows]
    elif task.kind == "schema":
        same = 0
        while len({row[-1 - same] for row in rows}) == 1:
            same += 1
        spans = [(row, len(row) - same) for row in rows]
    else:
        assert rows[1][: len(rows[0])] == rows[0]
        spans = [(rows[1], len(rows[0]))]
    longest = model.config.context_length
    spans = [(row[-longest:], start - max(0, len(row) - longest)) for row, start in spans]
    width = max(len(row) for row, _ in spans)
    inputs = torch.tensor([row + [tokenizer.bos_id] * (width - len(row)) for row, _ in spans])
    with torch.no_grad():
        logits = model.logits(model(inputs))
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), inputs[:, 1:], reduction="none")
    means = [losses[n, start - 1 : len(row) - 1].mean().item() for n, (row, start) in enumerate(spans)]
    if task.kind == "language modeling":
        row, start = spans[0]
        guesses = logits[0].argmax(dim=-1)[start - 1 : len(row) - 1].tolist()
        return Decision(guesses == row[start:], tuple(means))
    return Decision(means.index(min(means)) == item["gold"], tuple(means))


def margin(decision: Decision) -> float:
    """How far the best choice is ahead of the next, in nats a token; infinite without a choice."""
    ordered = sorted(loss for loss in decision.losses if not math.isnan(loss))
    return ordered[1] - ordered[0] if len(ordered) > 1 else math.inf


def decide_items(
    scorer: EngineScorer, task: CoreTask, items: list[Item], indices: range, reporter: Reporter
) -> list[Decision]:
    golds = [items[index].get("gold") for index in indices]
    with reporter.progress("", None, "") as bar:
        return decide_all(scorer, task.kind, questions_of(scorer, task, items, indices), golds, bar)


@pytest.fixture
def scorer(model: GPT, tokenizer: Tokenizer) -> EngineScorer:
    bundle = Bundle(model, tokenizer, model.config, {}, {}, Path("nowhere"))
    return EngineScorer(bundle, max_running=3, tokens_per_step=24)


@pytest.mark.parametrize("task", [CHOICES, SCHEMA, WORDS], ids=lambda task: task.kind)
def test_decisions_and_losses_are_those_of_the_plain_way(
    task: CoreTask, scorer: EngineScorer, model: GPT, tokenizer: Tokenizer, reporter: Reporter
):
    """Some items are longer than the context of 64 tokens, and lose their beginning."""
    items = made_items(task)
    found = decide_items(scorer, task, items, range(len(items)), reporter)
    expected = [plain_decision(model, tokenizer, task, items, index) for index in range(len(items))]
    for mine, plain in zip(found, expected, strict=True):
        assert mine.losses == pytest.approx(plain.losses, rel=1e-4)
        assert mine.is_right == plain.is_right or margin(mine) < 1e-4


def test_a_word_that_is_right_token_for_token_counts(
    scorer: EngineScorer, model: GPT, tokenizer: Tokenizer, reporter: Reporter
):
    """The word that the model itself would write is right; the same with one more letter is not."""
    rng = random.Random(1)
    while True:
        context = " ".join(rng.choice(NOUNS) for _ in range(rng.randint(2, 12)))
        ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(context)]])
        with torch.no_grad():
            guess = int(model.logits(model(ids)[0, -1]).argmax())
        word = tokenizer.decode([guess])
        if word[0] == " " and word[1:].isalpha() and tokenizer.encode(context + word)[-1] == guess:
            break
    items = [{"context": context, "continuation": word[1:] + more} for more in ("", "q")]
    task = CoreTask("w", "w", "language modeling", 0, 0)
    found = decide_items(scorer, task, items, range(2), reporter)
    assert [decision.is_right for decision in found] == [True, False]


def test_examples_are_those_that_the_definition_draws():
    """Spelt out as defined: drawn from a list of all other items. Ours draws from a range."""
    for index, total, shots in ((0, 11, 10), (7, 30, 10), (29, 30, 3), (500, 2000, 10), (3, 5, 0)):
        others = [number for number in range(total) if number != index]
        expected = random.Random(1234 + index).sample(others, shots)
        assert example_indices(index, total, shots) == expected


def test_prompts_have_every_space_and_line_break_of_the_definition():
    items = [
        {"query": "Q1", "choices": ["a", "b"], "gold": 1},
        {"query": "Q2\n", "choices": ["c", "d"], "gold": 0},
    ]
    task = CoreTask("t", "t", "multiple choice", 1, 0.5, "\nAnswer: ")
    assert prompts(task, items, 0) == ["Q2\n\nAnswer: c\n\nQ1\nAnswer: a", "Q2\n\nAnswer: c\n\nQ1\nAnswer: b"]
    items = [
        {"context_options": ["The cat", "The dog"], "continuation": "barked.", "gold": 1},
        {"context_options": ["He", "She"], "continuation": "ran.", "gold": 0},
    ]
    task = CoreTask("t", "t", "schema", 1, 0.5)
    assert prompts(task, items, 0) == ["He ran.\n\nThe cat barked.", "He ran.\n\nThe dog barked."]
    items = [{"context": " One and \n", "continuation": "two"}, {"context": "3 and", "continuation": "4"}]
    task = CoreTask("t", "t", "language modeling", 1, 0)
    assert prompts(task, items, 0) == ["3 and 4\n\nOne and", "3 and 4\n\nOne and two"]
    task = CoreTask("t", "t", "language modeling", 0, 0, "\nAnswer: ")
    assert prompts(task, items, 0) == ["One and\nAnswer:", "One and\nAnswer: two"]


def test_a_part_of_a_task_is_a_part_of_the_whole(
    scorer: EngineScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reporter: Reporter
):
    """With --max-examples, the items asked are decided as in the full measurement: same examples, same answers."""
    path = tmp_path / CHOICES.path
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in made_items(CHOICES)))

    def measured(max_examples: int | None) -> TaskResult:
        monkeypatch.setattr(Evaluation, "scorer", scorer)
        evaluation = Evaluation(Path(), "", RUNTIME, reporter, tmp_path, max_examples=max_examples)
        return measure_core_task(evaluation, CHOICES)

    whole, part = measured(None), measured(5)
    assert (whole.n, part.n) == (12, 5)
    assert part.points == whole.points[:5]
    assert part.ids == whole.ids[:5]


def test_the_score_is_the_mean_of_centered_accuracies_and_knows_its_uncertainty():
    sure = TaskResult("a", ("0", "1"), (1.0, 1.0), chance=0.5, seconds=1)
    unsure = TaskResult("b", tuple("0123"), (1.0, 0.0, 0.0, 0.0), chance=0.0, seconds=2)
    found = summary([sure, unsure])
    assert found["centered"] == pytest.approx((1.0 + 0.25) / 2)
    assert found["raw"] == pytest.approx((1.0 + 0.25) / 2)
    assert found["low"] < found["centered"] < found["high"]
    assert found["low"] >= 0.5, "the task that is always right does not vary"
    assert found["tasks"]["b"]["low"] > 0


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("model_name", "score"),
    [("gpt2", 0.113891), ("gpt2-medium", None), ("gpt2-large", None), ("gpt2-xl", 0.256525)],
)
def test_aggregation_gives_the_published_scores_of_gpt2(
    benchmarks: Path, model_name: str, score: float | None
):
    """From the accuracies of nanochat's own run of GPT-2, by our baselines: each task centered, and CORE."""
    rows = list(csv.reader((benchmarks / f"core/reference/openai-community-{model_name}.csv").open()))
    published = {name.strip(): (accuracy.strip(), float(centered)) for name, accuracy, centered in rows[1:]}
    _, core_score = published.pop("CORE")
    assert list(published) == [task.name for task in core.TASKS]
    results = []
    for task in core.TASKS:
        accuracy, centered = published[task.name]
        result = TaskResult(task.name, ("all",), (float(accuracy),), task.chance, 0.0)
        assert result.centered == pytest.approx(centered, abs=3e-6)
        results.append(result)
    assert summary(results)["centered"] == pytest.approx(core_score, abs=2e-6)
    assert score is None or core_score == pytest.approx(score)


@pytest.mark.shared_data
def test_the_22_tasks_are_those_of_the_bundle(benchmarks: Path):
    """Files, kinds, examples, delimiters and baselines, as the bundle's own description has them."""
    text = (benchmarks / "core" / "core.yaml").read_text()
    baselines = {row[0]: row[5] for row in csv.reader((benchmarks / "core" / "eval_meta_data.csv").open())}
    described = []
    for block in text.split("\n-\n")[1:]:
        entry = dict(line.strip().split(": ", 1) for line in block.strip().splitlines())
        kind = entry["icl_task_type"].replace("_", " ")
        delimiter = entry.get("continuation_delimiter", '" "').strip('"').replace("\\n", "\n")
        shots = int(entry["num_fewshot"].strip("[]"))
        chance = float(baselines[entry["label"]]) / 100
        file = entry["dataset_uri"].removesuffix(".jsonl")
        described.append((entry["label"], file, kind, shots, pytest.approx(chance), delimiter))
    ours = [(t.name, t.file, t.kind, t.shots, t.chance, t.delimiter) for t in core.TASKS]
    assert ours == described


@pytest.mark.shared_data
def test_real_items_are_decided_as_in_the_plain_way(
    long_model: GPT, tokenizer: Tokenizer, benchmarks: Path, reporter: Reporter
):
    """Two items of each of the 22 tasks, by a model whose context holds some of them."""
    model = long_model
    scorer = EngineScorer(Bundle(model, tokenizer, model.config, {}, {}, Path("nowhere")))
    for task in core.TASKS:
        items = core_items(task, benchmarks)
        found = decide_items(scorer, task, items, range(2), reporter)
        for index, mine in enumerate(found):
            plain = plain_decision(model, tokenizer, task, items, index)
            assert mine.losses == pytest.approx(plain.losses, rel=1e-4, nan_ok=True), task.name
            assert mine.is_right == plain.is_right or margin(mine) < 1e-4, task.name
