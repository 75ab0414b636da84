"""CORE: 22 tasks for models that continue text (DCLM, Li et al. 2024, 2406.11794), as prompts in plain text.

Three kinds. *Multiple choice*: one query, several continuations. *Schema*: several contexts, one continuation.
*Language modeling*: one context, and one continuation that has to be the likeliest, token for token. Before the item
stand examples of the same task with their answers. Which examples, in which order the items are, and every space and
line break are part of the definition; they follow nanochat (MIT), whose results for GPT-2 are the reference.

It reads a folder with `core/eval_data/…`; every item of the 22 files is for the reported score, none to tune or train
on. It knows nothing of tokens, models or scores.
"""

import random
import tomllib
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


_TABLE = tomllib.loads(Path(__file__).with_name("core.toml").read_text(encoding="utf-8"))
TASKS = tuple(CoreTask(name, **entry) for name, entry in _TABLE.items())
"""The 22."""


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
