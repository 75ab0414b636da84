"""How long training waits for a save, and how long the thread behind it writes.

    python bench/saves.py [DEPTH] [--json]

A model of DEPTH layers (12: 286 million parameters) and its optimizer's state are saved three times into a temporary
folder. "waits" is what the training loop waits for (`StateWriter.begin`), "written" what the thread takes; "copied" is
the time of a plain copy of the same bytes into memory that is there already, the least that waiting could be. In
brackets the processor seconds of the same, which other work on the machine leaves alone.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.states import StateWriter
from chatsmith.train.checkpoint import Progress, TrainingKey, save_training
from chatsmith.train.plan import make_plan, model_shape

SAVES = 3


def main() -> None:
    """Print a line for each save, or one JSON object."""
    depth = next((int(one) for one in sys.argv[1:] if one.isdigit()), 12)
    shape = model_shape(depth, 32_768, sequence_length=512, head_dim=128)
    model = GPT(shape)
    model.init_weights(torch.Generator().manual_seed(1))
    optimizer = Optimizer(model, make_plan(shape, 10**6).rates)
    for name, weight in optimizer.named.items():  # Adam's moments appear with the first update
        if name not in optimizer.muon.parameters:
            weight.grad = torch.zeros_like(weight)
    optimizer.adamw.step(0.0)
    optimizer.zero_grad()
    tensors = [*optimizer.named_state().values(), *optimizer.named_weights().values()]
    facts: dict[str, object] = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "bytes": sum(tensor.nbytes for tensor in tensors),
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        writer = StateWriter(Path(folder, "run", "state"), Runtime(torch.device("cpu"), torch.bfloat16))
        for step in range(1, SAVES + 1):
            started, worked = time.perf_counter(), time.thread_time()
            save_training(writer, optimizer, progress=Progress(step), key=TrainingKey("bench", SAVES, 1))
            one = {"waits": time.perf_counter() - started, "works": time.thread_time() - worked}
            writer.finish()
            found.append(one | {"written": time.perf_counter() - started})
            words = "save {}: waits {waits:.2f} s ({works:.2f}), written after {written:.1f} s"
            print(words.format(step, **found[-1]), file=sys.stderr)
    copies = [torch.zeros_like(tensor) for tensor in tensors]
    started, worked = time.perf_counter(), time.thread_time()
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor)
    taken, worked = time.perf_counter() - started, time.thread_time() - worked
    facts |= {"saves": found, "copied": taken, "copied_works": worked}
    print(f"{facts['bytes']:,} bytes; a plain copy takes {taken:.2f} s ({worked:.2f})", file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
