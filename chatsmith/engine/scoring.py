"""Scoring prompts: how likely the model finds the ids of a prompt, as its chunks are computed.

Logits are made for the scored tokens alone, some rows at a time: all logits of one long prompt would take more
memory than its keys and values (2,048 tokens of a vocabulary of 32,768 are 256 MiB in float32).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from chatsmith.engine.completion import Reply
from chatsmith.engine.sampler import token_logprobs
from chatsmith.engine.scheduler import Chunk
from chatsmith.model.gpt import GPT

ROWS_AT_ONCE = 256


def score_prompts(model: GPT, hidden: Tensor, computed: Sequence[tuple[Chunk, Reply]]) -> None:
    """Note the log-probabilities of the prompt ids that the hidden states (N, C) of these chunks predict.

    The chunks lie in `hidden` one after another.
    """
    wanted: list[tuple[int, Reply, int]] = []  # row of hidden, reply, index of the predicted id in its prompt
    first_row = 0
    for chunk, reply in computed:
        needed_from = chunk.sequence.needed_from
        if needed_from is not None:
            last = len(reply.request.prompt_ids) - 1
            start, end = max(chunk.start, needed_from), min(chunk.end, last)
            wanted += [(first_row + place - chunk.start, reply, place + 1) for place in range(start, end)]
            if chunk.end >= last:
                chunk.sequence.needed_from = None  # if pre-empted from now on, the cache may serve
        first_row += chunk.length
    for begin in range(0, len(wanted), ROWS_AT_ONCE):
        _score(model, hidden, wanted[begin : begin + ROWS_AT_ONCE])


def _score(model: GPT, hidden: Tensor, wanted: Sequence[tuple[int, Reply, int]]) -> None:
    rows = torch.tensor([row for row, _, _ in wanted], device=hidden.device)
    ids = torch.tensor([reply.request.prompt_ids[index] for _, reply, index in wanted], device=hidden.device)
    num_top = [reply.request.sampling.logprobs or 0 for _, reply, _ in wanted]
    found = token_logprobs(model.logits(hidden[rows]), ids, list(range(len(wanted))), num_top)
    for (_, reply, index), logprob in zip(wanted, found, strict=True):
        reply.prompt_logprobs[index] = logprob
