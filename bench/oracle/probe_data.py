"""What there is to learn from: the kindergarten's texts and exams, and rows of packed tokens in their order.

In this process, through `locations`. Called as `probe_data.py RECIPE RESULT`.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import locations
import numpy as np

SEEDS = (1, 2)
ITEMS = 1_000
ROW_SEEDS = (1, 2, 3)
BATCHES = 200
SHARES = ((0, 1), (0, 2), (1, 2))
"""(rank, world size)"""

Result = dict[str, Any]


class PlainCache:
    """What rows are packed from, in memory: documents' ids, in windows. It is complete from the beginning."""

    is_complete = True

    def __init__(self, windows: list[list[list[int]]], bos_id: int) -> None:
        self.bos_id = bos_id
        self.ids = np.concatenate([np.array(ids, dtype=np.uint16) for window in windows for ids in window])
        ends = np.cumsum([len(ids) for window in windows for ids in window])
        self._offsets = np.concatenate([[0], ends]).astype(np.int64)
        self._firsts = np.cumsum([0, *map(len, windows)])
        self.num_windows, self.num_documents, self.num_ids = len(windows), len(ends), len(self.ids)

    def window_offsets(self, window: int) -> np.ndarray:
        return self._offsets[self._firsts[window] : self._firsts[window + 1] + 1]

    def wait_for_window(self, window: int) -> bool:
        return window < self.num_windows

    def wait_until_complete(self) -> None:
        pass


def main() -> None:
    """Write all hashes."""
    locations.check_tree()
    result: Result = {}
    for seed in SEEDS:
        result |= world(seed)
    result |= exams() | practice()
    first = locations.make_world(SEEDS[0], ITEMS, ITEMS)
    documents, conversations = list(first.documents("train")), list(first.conversations("train"))
    tokenizer = locations.make_tokenizer(documents, 700)
    result["tokenizer"] = hashed([tokenizer.to_json()])
    result |= rows_of_text(documents, tokenizer) | rows_of_conversations(conversations, tokenizer)
    Path(sys.argv[2]).write_text(json.dumps(result, indent=1))


def world(seed: int) -> Result:
    """The first texts of a kindergarten, a hash for each hundred."""
    made = locations.make_world(seed, ITEMS, ITEMS)
    to_json = locations.find("conversation_to_json")
    result: Result = {}
    for split in ("train", "validation"):
        talks = (json.dumps(to_json(one), sort_keys=True) for one in made.conversations(split))
        result[f"seed {seed} {split} documents"] = in_hundreds(made.documents(split))
        result[f"seed {seed} {split} conversations"] = in_hundreds(talks)
    return result


def exams() -> Result:
    """Fingerprints of the exam and of development, as the project takes them and from the items themselves."""
    made = locations.make_world(1, 1, 1)
    result: Result = {}
    for split in ("exam", "development"):
        result[f"{split} fingerprint"] = locations.find("exam_fingerprint")(split)
        result[f"{split} problems"] = in_hundreds(map(problem_text, made.problems(split)))
    return result


def practice() -> Result:
    """The problems of reinforcement learning: those of training, and those held out."""
    find_problem, find_problems = locations.find("practice_problem"), locations.find("practice_problems")
    result: Result = {}
    for seed in SEEDS:
        drawn = (find_problem(seed, place) for place in range(ITEMS))
        result[f"practice seed {seed}"] = in_hundreds(map(problem_text, drawn))
    for split in ("development", "test"):
        result[f"practice {split}"] = in_hundreds(map(problem_text, find_problems(split)))
    return result


def rows_of_text(documents: list[str], tokenizer: Any) -> Result:
    """Training rows for seeds and shares of the work, and validation rows."""
    ids = [tokenizer.encode(text) for text in documents]
    cache = PlainCache([ids[first : first + 180] for first in range(0, len(ids), 180)], tokenizer.bos_id)
    result: Result = {"encoded": hashed([cache.ids.tobytes()])}
    for length, rows_per_batch in ((128, 4), (50, 3)):
        for seed in ROW_SEEDS:
            rows = locations.training_rows(cache, length, seed)
            for rank, size in SHARES:
                batches = rows.batches(rows_per_batch, 0, rank, size)
                result[f"training rows T={length} seed={seed} rank={rank}/{size}"] = in_batches(batches)
            result[f"training rows T={length} seed={seed} from row 77"] = in_batches(rows.batches(2, 77))
            result[f"training rows T={length} seed={seed} figures"] = [rows.rows_per_epoch, rows.utilisation]
        whole = locations.validation_rows(cache, length)
        for rank, size in SHARES:
            batches = whole.batches(rows_per_batch, rank=rank, world_size=size)
            result[f"validation rows T={length} rank={rank}/{size}"] = in_batches(batches)
    return result


def rows_of_conversations(conversations: list[Any], tokenizer: Any) -> Result:
    """How conversations are rendered, and their rows for seeds and shares of the work."""
    render = locations.find("render")
    rendered = [render(one, tokenizer) for one in conversations]
    result: Result = {"rendered": in_hundreds(f"{list(one.ids)} {list(one.mask)}" for one in rendered)}
    for length in (256, 60):
        for seed in ROW_SEEDS:
            rows = locations.conversation_rows(rendered, length, seed, tokenizer)
            for rank, size in SHARES:
                batches = rows.batches(3, 0, rank, size)
                result[f"conversation rows T={length} seed={seed} rank={rank}/{size}"] = in_batches(batches)
            figures = [rows.rows_per_epoch, rows.num_conversations, rows.cut, rows.skipped]
            result[f"conversation rows T={length} seed={seed} figures"] = figures
    return result


def problem_text(problem: Any) -> str:
    """A problem with its rule."""
    return json.dumps(locations.find("problem_to_json")(problem), sort_keys=True)


def in_hundreds(texts: Iterable[str]) -> list[Any]:
    """How many there are of the first ITEMS, and a hash of each hundred of them."""
    found = list(islice(texts, ITEMS))
    return [len(found), *(hashed(found[first : first + 100]) for first in range(0, len(found), 100))]


def in_batches(batches: Iterable[Any]) -> list[Any]:
    """How many there are of the first BATCHES, and a hash of each twenty of them."""
    found = [
        b"".join(
            f"{ids.dtype} {tuple(ids.shape)} ".encode() + ids.numpy().tobytes()
            for ids in (one.inputs, one.targets)
        )
        for one in islice(batches, BATCHES)
    ]
    return [len(found), *(hashed(found[first : first + 20]) for first in range(0, len(found), 20))]


def hashed(items: Iterable[str | bytes]) -> str:
    """One hash of all."""
    total = hashlib.sha256()
    for item in items:
        content = item.encode() if isinstance(item, str) else item
        total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()[:16]


if __name__ == "__main__":
    main()
