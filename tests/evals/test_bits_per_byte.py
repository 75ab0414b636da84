"""Bits per byte: the definition, written out token by token, gives the same, and counts are of real text."""

import math

import pytest
import torch

from chatsmith.data.batch import Batch
from chatsmith.evals.bits_per_byte import score_text
from chatsmith.model.gpt import GPT
from chatsmith.runtime.logs import Reporter
from chatsmith.text.tokenizer import Tokenizer


def test_score_is_that_of_each_token_by_itself(model: GPT, tokenizer: Tokenizer, reporter: Reporter) -> None:
    texts = ["a cat and a hat", "mát"]
    rows = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
    width = max(map(len, rows)) - 1
    inputs = torch.tensor([(row[:-1] + [tokenizer.bos_id] * width)[:width] for row in rows])
    targets = torch.tensor([(row[1:] + [-1] * width)[:width] for row in rows])

    nats = 0.0
    for row in rows:
        for end in range(1, len(row)):
            prefix = torch.tensor([row[:end]])
            with torch.no_grad():
                log_shares = model.logits(model(prefix)[0, -1]).log_softmax(-1)
            nats -= log_shares[row[end]].item()
    num_bytes = sum(len(text.encode()) for text in texts)

    batches = [Batch(inputs[:1], targets[:1]), Batch(inputs[1:], targets[1:])]
    score = score_text(model, batches, tokenizer.token_byte_lengths, reporter=reporter)
    assert score.bytes == num_bytes
    assert score.tokens == sum(len(row) - 1 for row in rows)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_special_tokens_count_on_neither_side(model: GPT, tokenizer: Tokenizer, reporter: Reporter) -> None:
    ids = [tokenizer.bos_id, *tokenizer.encode("a cat")]
    plain = Batch(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
    ended = Batch(torch.tensor([ids]), torch.tensor([[*ids[1:], tokenizer.bos_id]]))
    lengths = tokenizer.token_byte_lengths
    scores = [score_text(model, [batch], lengths, reporter=reporter) for batch in (plain, ended)]
    assert scores[0].to_json() == pytest.approx(scores[1].to_json())


def test_no_text_is_not_a_number(model: GPT, tokenizer: Tokenizer, reporter: Reporter) -> None:
    score = score_text(model, [], tokenizer.token_byte_lengths, reporter=reporter)
    assert math.isnan(score.bits_per_byte)
    assert (score.bytes, score.tokens) == (0, 0)
