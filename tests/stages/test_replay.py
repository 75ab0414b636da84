"""What is learnt again: every text in its turn, of conversations the answers, nothing longer than the context."""

import pytest

from chatsmith.stages import replay
from chatsmith.stages.replay import Replay
from chatsmith.text.bpe import train_tokenizer
from chatsmith.text.chat import Message, render
from chatsmith.text.tokenizer import Tokenizer

ANSWERS = [f"answer {number}" for number in range(9)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([" ".join(ANSWERS)], vocab_size=300)


def conversations(answers: list[str], turns: int = 1) -> list[tuple[Message, ...]]:
    return [turns * (Message.of("user", "ask"), Message.of("assistant", answer)) for answer in answers]


def replay_of(
    conversations: list[tuple[Message, ...]],
    documents: list[str],
    tokenizer: Tokenizer,
    seed: int = 1,
    context: int = 99,
) -> Replay:
    return Replay(conversations, documents, tokenizer, context_length=context, weight=0.5, seed=seed)


def order(answers: list[str], tokenizer: Tokenizer, seed: int = 1, context: int = 99) -> Replay:
    return replay_of(conversations(answers), [], tokenizer, seed, context)


def test_every_conversation_comes_once_in_a_turn_and_the_seed_decides_when(tokenizer: Tokenizer) -> None:
    said = [tuple(row.ids) for row in order(ANSWERS, tokenizer).rows(range(18))]
    expected = [tuple(render(one, tokenizer).ids[1:]) for one in conversations(ANSWERS)]
    assert said[:9] == said[9:] and sorted(said[:9]) == sorted(expected)
    assert said[:9] == [tuple(row.ids) for row in order(ANSWERS, tokenizer).rows(range(9))]
    assert said[:9] != [tuple(row.ids) for row in order(ANSWERS, tokenizer, seed=2).rows(range(9))]


def test_only_answers_are_learnt_and_nobody_sampled_them(tokenizer: Tokenizer) -> None:
    [row] = order(["yes"], tokenizer).rows([0])
    learnt = [id for id, sampled in zip(row.ids, row.sampled, strict=True) if sampled]
    assert learnt == [*tokenizer.encode("yes"), tokenizer.special("<|assistant_end|>")]
    assert row.logprobs is None and row.advantage == 0.5


def test_a_conversation_longer_than_the_context_is_cut_after_an_answer_or_left_out(
    tokenizer: Tokenizer,
) -> None:
    short, long = conversations(["yes"])[0], conversations(["yes"], turns=3)[0]
    context = len(render(short, tokenizer).ids) + 3
    [row] = replay_of([long], [], tokenizer, context=context).rows([0])
    assert [*row.prompt_ids, *row.ids] == render(short, tokenizer).ids
    assert replay_of([long], [], tokenizer, context=3).rows([0]) == []


def test_documents_and_conversations_take_turns_and_either_will_do_alone(tokenizer: Tokenizer) -> None:
    documents = [f"document {number}" for number in range(3)]
    said = [
        tokenizer.decode(row.ids)
        for row in replay_of(conversations(ANSWERS), documents, tokenizer).rows(range(6))
    ]
    assert all("user_start" in text for text in said[::2]) and sorted(said[1::2]) == documents
    alone = replay_of([], documents, tokenizer).rows(range(3))
    assert sorted(tokenizer.decode(row.ids) for row in alone) == documents
    assert all(all(row.sampled) and list(row.prompt_ids) == [tokenizer.bos_id] for row in alone)
    [cut] = replay_of([], documents, tokenizer, context=4).rows([0])
    assert len(cut.prompt_ids) + len(cut.ids) == 5


def test_of_many_conversations_each_is_as_likely_to_be_kept(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MOST_KEPT", 3)
    counts = dict.fromkeys(range(9), 0)
    for seed in range(600):
        for row in order(ANSWERS, tokenizer, seed).rows(range(3)):
            counts[int(tokenizer.decode(row.ids)[-len("0<|assistant_end|>")])] += 1
    assert all(140 < count < 260 for count in counts.values()), counts
