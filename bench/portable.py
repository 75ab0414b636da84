"""What the portable architecture costs: bits per byte after as many tokens, and after as many seconds.

    python bench/portable.py [--text FILE.parquet] [--seeds 3] [--tokens 131072] [--longer 1.08]

Models of one depth and width learn the same batches of the kindergarten's documents, and of a parquet column if one is
named, by turns, a step each, so that other load on the machine meets all of them; processor seconds of this process are
counted, the first two steps of each left out. `default` is the recipe's architecture with its tables (value embeddings,
bigrams), `no tables` the same without them, which has as many parameters as `portable`. `longer` is portable again,
with so many times the tokens: for a comparison at equal seconds. Prints a line of JSON for each text and seed.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from chatsmith.backends import choose_loss
from chatsmith.data.packing import Batch, make_batch
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import bits_per_byte
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.device import detect_runtime
from chatsmith.text.tokenizer import train_tokenizer
from chatsmith.train.plan import make_plan, model_shape
from chatsmith.train.step import prepare, train_step, uncompiled
from chatsmith.worlds.kindergarten.texts import draw_document

ROW, STEP, VOCABULARY, VALIDATION = 256, 2048, 2048, 32_768
WARM_UP = 2


def main() -> None:
    """Train, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--longer", type=float, default=0)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(1, arguments.seeds + 1):
        for text in dict.fromkeys((None, arguments.text)):
            print(json.dumps(compare(arguments, text, seed)), flush=True)


def compare(arguments: argparse.Namespace, text: Path | None, seed: int) -> dict[str, Any]:
    """Bits per byte and seconds of each way."""
    texts = documents(text, seed)
    tokenizer = train_tokenizer(itertools.islice(documents(text, 0), 2000), VOCABULARY)
    most = int(arguments.tokens * max(1, arguments.longer)) + STEP + VALIDATION
    ids: list[int] = []
    while len(ids) <= most:
        ids += [tokenizer.bos_id, *tokenizer.encode(next(texts))]
    held_out, stream = np.array(ids[:VALIDATION]), np.array(ids[VALIDATION : most + 1])
    runtime = detect_runtime("cpu", "fp32")
    bare = {"value_embeddings": False}
    arms = {
        "default": ({"bigram_buckets": 5 * VOCABULARY}, 1.0),
        "no tables": (bare, 1.0),
        "portable": ({**bare, "architecture": "portable"}, 1.0),
        "longer": ({**bare, "architecture": "portable"}, arguments.longer),
    }
    runs = {}
    for name, (options, share) in arms.items():
        if not share:
            continue
        shape = model_shape(
            arguments.depth, tokenizer.vocab_size, sequence_length=ROW, width=arguments.width, **options
        )
        model = GPT(shape)
        model.init_weights(torch.Generator().manual_seed(seed))
        plan = make_plan(shape, int(arguments.tokens * share), batch_tokens=STEP, from_scratch=True)
        loss = prepare(model, runtime, arguments.compile, print, gradient_of=choose_loss(runtime, print))
        runs[name] = (
            model,
            plan,
            loss,
            Optimizer(model, plan.rates),
            batches(stream, plan.rows_per_microbatch),
        )
    seconds = dict.fromkeys(runs, 0.0)
    for step in range(max(plan.steps for _, plan, *_ in runs.values())):
        for name, (model, plan, loss, optimizer, rows) in runs.items():
            if step < plan.steps:
                started = time.process_time()
                train_step(
                    model, optimizer, itertools.islice(rows, plan.accumulation), plan, loss, runtime, step + 1
                )
                seconds[name] += (time.process_time() - started) * (step >= WARM_UP)
    lengths = torch.from_numpy(tokenizer.token_byte_lengths.copy())
    found = {}
    for name, (model, plan, *_) in runs.items():
        with uncompiled():
            bpb = bits_per_byte(
                model, itertools.islice(batches(held_out, 8), VALIDATION // ROW // 8 - 1), lengths
            )
        per_step = seconds[name] / max(1, plan.steps - WARM_UP)
        parameters = sum(one.numel() for one in model.parameters())
        found[name] = {
            "bpb": bpb,
            "seconds_per_step": per_step,
            "steps": plan.steps,
            "parameters": parameters,
        }
    return {"text": text.name if text else "kindergarten", "seed": seed, **found}


def documents(path: Path | None, seed: int) -> Iterator[str]:
    """Texts without end, in a seeded order."""
    rng = random.Random(seed)
    if path is None:
        while True:
            yield draw_document(rng)
    rows = pq.ParquetFile(path).read_row_group(0, columns=["text"]).column("text").to_pylist()
    rng.shuffle(rows)
    yield from itertools.cycle(rows)


def batches(ids: np.ndarray, rows: int) -> Iterator[Batch]:
    """Rows of ROW ids one after another; each id's target is the next."""
    size = rows * ROW
    for start in range(0, len(ids) - size, size):
        yield make_batch(
            ids[start : start + size].reshape(rows, ROW), ids[start + 1 : start + size + 1].reshape(rows, ROW)
        )


if __name__ == "__main__":
    main()
