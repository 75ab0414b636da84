"""What of a benchmark may be trained on, tuned on and reported on: written down beside each task, and kept to.

Three names, everywhere: `train`, `development` (to tune on: settings, mixtures, when to stop), `test` (for the
reported score, and for nothing else). Development items are held out of a benchmark's training or validation part,
never out of its test part. Nothing here reads files.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from chatsmith.runtime.errors import UserError

Split = Literal["train", "development", "test"]


@dataclass(frozen=True)
class Splits:
    """Where each split of a task comes from, in words for people; None: the task has no such split."""

    test: str
    """What the reported score is measured on."""
    development: str | None = None
    """What may be tuned on."""
    train: str | None = None
    """What may be trained on."""

    def check(self, task: str, split: str) -> None:
        """Raise UserError if `task` has no part `split`."""
        there = [name for name in ("train", "development", "test") if getattr(self, name) is not None]
        if split not in there:
            raise UserError(f'{task} has no part "{split}"; it has {", ".join(there)}')


def is_held_out(text: str, one_in: int) -> bool:
    """Whether an item with this text belongs to the one in `one_in` that is kept from training, by a hash of the
    text: the answer is the same whatever file the item stands in, and wherever."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % one_in == 0
