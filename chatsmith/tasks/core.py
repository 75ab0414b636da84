"""CORE: 22 tasks for models that continue text (DCLM, Li et al. 2024, 2406.11794), as prompts in plain text.

Three kinds. *Multiple choice*: one query, several continuations. *Schema*: several contexts, one continuation.
*Language modeling*: one context, and one continuation that has to be the likeliest, token for token. Before the item
stand examples of the same task with their answers. Which examples, in which order the items are, and every space and
line break are part of the definition; they follow nanochat (MIT), whose results for GPT-2 are the reference.

It reads a folder with `core/eval_data/…`; every item of the 22 files is for the reported score, none to tune or train
on. It knows nothing of tokens, models or scores.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import read_items

Kind = Literal["multiple choice", "schema", "language modeling"]
Item = dict[str, Any]

CHOICE: Kind = "multiple choice"
SCHEMA: Kind = "schema"
CONTINUATION: Kind = "language modeling"

_ORDER_SEED = 1337
_EXAMPLES_SEED = 1234
_ANSWER = "\nAnswer: "

_FIELDS: dict[Kind, tuple[str, ...]] = {
    CHOICE: ("query", "choices", "gold"),
    SCHEMA: ("context_options", "continuation", "gold"),
    CONTINUATION: ("context", "continuation"),
}


@dataclass(frozen=True)
class CoreTask:
    """One of the 22."""

    name: str
    file: str
    """Within `core/eval_data`, without `.jsonl`."""
    kind: Kind
    shots: int
    """How many examples stand before each item."""
    chance: float
    """The accuracy that counts as 0 when scores are centred: guessing, or always giving the commonest answer."""
    delimiter: str = " "
    """What stands between a query or context and its continuation."""

    @property
    def path(self) -> str:
        """The file in the benchmarks' folder."""
        return f"core/eval_data/{self.file}.jsonl"

    @property
    def files(self) -> dict[str, str]:
        """The files by split: all items are for the reported score."""
        return {"test": self.path}


TASKS = (
    CoreTask("hellaswag_zeroshot", "language_understanding/hellaswag", CHOICE, 0, 0.25),
    CoreTask("jeopardy", "world_knowledge/jeopardy_all", CONTINUATION, 10, 0, _ANSWER),
    CoreTask("bigbench_qa_wikidata", "world_knowledge/bigbench_qa_wikidata", CONTINUATION, 10, 0),
    CoreTask("arc_easy", "world_knowledge/arc_easy", CHOICE, 10, 0.25, _ANSWER),
    CoreTask("arc_challenge", "world_knowledge/arc_challenge", CHOICE, 10, 0.25, _ANSWER),
    CoreTask("copa", "commonsense_reasoning/copa", CHOICE, 0, 0.5),
    CoreTask("commonsense_qa", "commonsense_reasoning/commonsense_qa", CHOICE, 10, 0.2),
    CoreTask("piqa", "commonsense_reasoning/piqa", CHOICE, 10, 0.5, _ANSWER),
    CoreTask("openbook_qa", "commonsense_reasoning/openbook_qa", CHOICE, 0, 0.25),
    CoreTask("lambada_openai", "language_understanding/lambada_openai", CONTINUATION, 0, 0),
    CoreTask("hellaswag", "language_understanding/hellaswag", CHOICE, 10, 0.25),
    CoreTask("winograd", "language_understanding/winograd_wsc", SCHEMA, 0, 0.5),
    CoreTask("winogrande", "language_understanding/winogrande", SCHEMA, 0, 0.5),
    CoreTask(
        "bigbench_dyck_languages", "symbolic_problem_solving/bigbench_dyck_languages", CONTINUATION, 10, 0
    ),
    CoreTask("agi_eval_lsat_ar", "symbolic_problem_solving/agi_eval_lsat_ar", CHOICE, 3, 0.2),
    CoreTask(
        "bigbench_cs_algorithms", "symbolic_problem_solving/bigbench_cs_algorithms", CONTINUATION, 10, 0
    ),
    CoreTask("bigbench_operators", "symbolic_problem_solving/bigbench_operators", CONTINUATION, 10, 0),
    CoreTask(
        "bigbench_repeat_copy_logic",
        "symbolic_problem_solving/bigbench_repeat_copy_logic",
        CONTINUATION,
        10,
        0,
    ),
    CoreTask("squad", "reading_comprehension/squad", CONTINUATION, 10, 0),
    CoreTask("coqa", "reading_comprehension/coqa", CONTINUATION, 0, 0),
    CoreTask("boolq", "reading_comprehension/boolq", CHOICE, 10, 0.62, _ANSWER),
    CoreTask(
        "bigbench_language_identification",
        "language_understanding/bigbench_language_identification",
        CHOICE,
        10,
        0.091,
    ),
)
"""The tasks, their examples, delimiters and baselines, as in DCLM's `heavy.yaml` and `eval_meta_data.csv`."""


def core_items(task: CoreTask, folder: Path) -> list[Item]:
    """The items of a task in the order of the definition. `folder` is that of the benchmarks.

    Raises UserError if the file is not there, or too short for the examples.
    """
    items = read_items(folder, task.path, _FIELDS[task.kind])
    if len(items) <= task.shots:
        raise UserError(f"{task.path} has {len(items)} items, and {task.name} needs {task.shots} as examples")
    random.Random(_ORDER_SEED).shuffle(items)
    return items


def example_indices(index: int, num_items: int, shots: int) -> list[int]:
    """Which items stand as examples before item `index`: drawn anew for each, never the item itself."""
    drawn = random.Random(_EXAMPLES_SEED + index).sample(range(num_items - 1), shots)
    return [other + (other >= index) for other in drawn]


def prompts(task: CoreTask, items: Sequence[Item], index: int) -> list[str]:
    """The texts by which item `index` is decided.

    Multiple choice and schema: the whole text with each choice, of which the likeliest is taken. Language
    modeling: two texts, the prompt without and with its continuation.
    """
    item = items[index]
    shown = ""
    for other in example_indices(index, len(items), task.shots):
        gold = 0 if task.kind == CONTINUATION else items[other]["gold"]
        shown += f"{_texts(task, items[other])[gold]}\n\n"
    texts = [f"{shown}{text}" for text in _texts(task, item)]
    if task.kind == CONTINUATION:
        # A space at the end of a prompt would be a token of its own; it belongs to the first word of what follows.
        return [f"{shown}{item['context'].strip()}{task.delimiter}".strip(), *texts]
    return texts


def _texts(task: CoreTask, item: Item) -> list[str]:
    """The item with each of its choices."""
    match task.kind:
        case "multiple choice":
            return [f"{item['query']}{task.delimiter}{choice}" for choice in item["choices"]]
        case "schema":
            return [f"{context}{task.delimiter}{item['continuation']}" for context in item["context_options"]]
        case "language modeling":
            return [f"{item['context'].strip()}{task.delimiter}{item['continuation']}"]
