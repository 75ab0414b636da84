"""Bits per byte: the definition, written out token by token, gives the same, and counts are of real text."""

import math
from typing import Any

import pytest
import torch

from chatsmith.data.packing import Batch
from chatsmith.evals import bpb
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.text.tokenizer import Tokenizer


def score_text(model: GPT, batches: list[Batch], lengths: Any, reporter: Reporter) -> dict[str, Any]:
    return bpb.text_score(bpb.score_text(model, batches, lengths, reporter=reporter), len(lengths))


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
    score = score_text(model, batches, tokenizer.token_byte_lengths, reporter)
    assert score["bytes"] == num_bytes
    assert score["tokens"] == sum(len(row) - 1 for row in rows)
    assert score["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_special_tokens_count_on_neither_side(model: GPT, tokenizer: Tokenizer, reporter: Reporter) -> None:
    ids = [tokenizer.bos_id, *tokenizer.encode("a cat")]
    plain = Batch(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
    ended = Batch(torch.tensor([ids]), torch.tensor([[*ids[1:], tokenizer.bos_id]]))
    lengths = tokenizer.token_byte_lengths
    scores = [score_text(model, [batch], lengths, reporter) for batch in (plain, ended)]
    assert (scores[0]["bytes"], scores[0]["tokens"]) == (scores[1]["bytes"], scores[1]["tokens"])
    assert scores[0]["bits_per_byte"] == pytest.approx(scores[1]["bits_per_byte"])


def test_the_interval_holds_the_figure_and_shrinks_with_more_text(
    model: GPT, tokenizer: Tokenizer, reporter: Reporter
) -> None:
    texts = ["a cat and a hat", "what is one and two?", "a mat", "two cats, one mat", "what?", "one hat"]
    batches = []
    for text in texts * 4:
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
        batches.append(Batch(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]])))
    few, many = (
        score_text(model, part, tokenizer.token_byte_lengths, reporter) for part in (batches[:6], batches)
    )
    for found in (few, many):
        assert found["low"] < found["bits_per_byte"] < found["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]
    alone = score_text(model, batches[:1], tokenizer.token_byte_lengths, reporter)
    assert alone["low"] is alone["high"] is None, "one part says nothing of how parts vary"


def test_no_text_is_not_a_number(model: GPT, tokenizer: Tokenizer, reporter: Reporter) -> None:
    score = score_text(model, [], tokenizer.token_byte_lengths, reporter)
    assert math.isnan(score["bits_per_byte"])
    assert (score["bytes"], score["tokens"]) == (0, 0)


def test_a_model_that_knows_nothing_scores_chance(
    model: GPT, tokenizer: Tokenizer, reporter: Reporter
) -> None:
    zero = GPT(model.config)
    zero.load_state_dict({name: weight * 0 for name, weight in model.state_dict().items()})
    ids = [tokenizer.bos_id, *tokenizer.encode("what is one and two? a cat")]
    batch = Batch(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
    score = score_text(zero, [batch], tokenizer.token_byte_lengths, reporter)
    assert score["bits_per_byte"] == pytest.approx(score["chance"])
    assert score["chance"] == score["chance"]
