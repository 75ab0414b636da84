"""Which rows of a step made its loss bad."""

import heapq
import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from operator import itemgetter
from typing import Any

import torch

from chatsmith.model.gpt import GPT
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import gathered
from chatsmith.train.step import ComputeLoss, batch_pieces, uncompiled

MOST_NAMED, SHOWN_IDS = 3, 24
"""Rows that are named, and how many ids of each document in them."""


def hardest_rows(
    model: GPT,
    batches: Iterable[Any],
    compute_loss: ComputeLoss[Any],
    *,
    text_of: Callable[[list[int]], str],
    runtime: Runtime,
) -> list[str]:
    """The rows of a step (`batches`: of type Batch) with the highest losses over all processes: for each a line with
    its loss and with how its documents begin, as `text_of` says what ids mean."""
    found: list[tuple[float, list[int]]] = []
    for row in (row for batch in batches for row in batch_pieces(batch, len(batch.inputs), even_empty=True)):
        count = row.num_targets
        with torch.no_grad(), uncompiled():  # also where it is 0: processes may meet in a pass
            loss = compute_loss(model, row.to(runtime.device), 1 / max(count, 1)).item()
        if count:
            found.append((loss if math.isfinite(loss) else math.inf, row.inputs[0].tolist()))
    own = heapq.nlargest(MOST_NAMED, found, key=itemgetter(0))
    lines = gathered([(loss, _beginnings(ids, text_of)) for loss, ids in own], runtime)
    hardest = heapq.nlargest(MOST_NAMED, lines, key=itemgetter(0))
    return [f"a row with loss {loss:.3f}: {text}" for loss, text in hardest]


def _beginnings(ids: list[int], text_of: Callable[[list[int]], str]) -> str:
    starts = [index for index, id in enumerate(ids) if id == ids[0]]  # every row begins with <|bos|>
    texts = [
        text_of(ids[start + 1 : min(end, start + 1 + SHOWN_IDS)])
        for start, end in pairwise([*starts, len(ids)])
    ]
    return " … ".join(" ".join(text.split()) for text in texts if text)
