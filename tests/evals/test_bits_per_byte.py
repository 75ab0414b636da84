"""Bits per byte: the definition, written out token by token, gives the same, and counts are of real text."""

import io
import math

import pytest
import torch

from chatsmith.data.batch import Batch
from chatsmith.evals.bits_per_byte import score_text
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.logs import Reporter
from chatsmith.text.bpe import train_tokenizer


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(stream=io.StringIO())


def test_score_is_that_of_each_token_by_itself(reporter: Reporter) -> None:
    tokenizer = train_tokenizer(["a cat, a mat and a hat. " * 5], vocab_size=300)
    model = GPT(GPTConfig(tokenizer.vocab_size, context_length=16, num_layers=1, num_heads=2, head_dim=8))
    model.init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(2))
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


def test_special_tokens_count_on_neither_side(reporter: Reporter) -> None:
    tokenizer = train_tokenizer(["a cat"], vocab_size=290)
    model = GPT(GPTConfig(tokenizer.vocab_size, context_length=8, num_layers=1, num_heads=2, head_dim=8))
    model.init_weights(torch.Generator().manual_seed(1))
    ids = [tokenizer.bos_id, *tokenizer.encode("a cat")]
    plain = Batch(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
    ended = Batch(torch.tensor([ids]), torch.tensor([[*ids[1:], tokenizer.bos_id]]))
    scores = [score_text(model, [b], tokenizer.token_byte_lengths, reporter=reporter) for b in (plain, ended)]
    assert scores[0].to_json() == pytest.approx(scores[1].to_json())


def test_no_text_is_not_a_number(reporter: Reporter) -> None:
    model = GPT(GPTConfig(300, context_length=8, num_layers=1, num_heads=2, head_dim=8))
    score = score_text(model, [], torch.zeros(300).numpy(), reporter=reporter)
    assert math.isnan(score.bits_per_byte)
    assert (score.bytes, score.tokens) == (0, 0)
