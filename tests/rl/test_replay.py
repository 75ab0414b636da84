"""What the model is held on: every text in its turn, nothing longer than the context."""

import pytest

from chatsmith.rl import rollouts
from chatsmith.rl.rollouts import ReplayTexts
from chatsmith.text.chat import Message, render
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer

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
) -> ReplayTexts:
    return ReplayTexts(conversations, documents, tokenizer, context_length=context, seed=seed)


def order(answers: list[str], tokenizer: Tokenizer, seed: int = 1, context: int = 99) -> ReplayTexts:
    return replay_of(conversations(answers), [], tokenizer, seed, context)


def test_every_conversation_comes_once_in_a_turn_and_the_seed_decides_when(tokenizer: Tokenizer) -> None:
    said = order(ANSWERS, tokenizer).texts(range(18))
    expected = [render(one, tokenizer).ids for one in conversations(ANSWERS)]
    assert said[:9] == said[9:] and sorted(said[:9]) == sorted(expected)
    assert said[:9] == order(ANSWERS, tokenizer).texts(range(9))
    assert said[:9] != order(ANSWERS, tokenizer, seed=2).texts(range(9))


def test_what_is_longer_than_the_context_is_cut(tokenizer: Tokenizer) -> None:
    [long] = conversations(["yes"], turns=3)
    [text] = replay_of([long], [], tokenizer, context=8).texts([0])
    assert text == render(long, tokenizer).ids[:8]


def test_documents_and_conversations_take_turns_and_either_will_do_alone(tokenizer: Tokenizer) -> None:
    documents = [f"document {number}" for number in range(3)]
    texts = replay_of(conversations(ANSWERS), documents, tokenizer).texts(range(6))
    assert all(text[0] == tokenizer.bos_id for text in texts)
    said = [tokenizer.decode(text[1:]) for text in texts]
    assert all("user_start" in text for text in said[::2]) and sorted(said[1::2]) == documents
    alone = replay_of([], documents, tokenizer).texts(range(3))
    assert sorted(tokenizer.decode(text[1:]) for text in alone) == documents


def test_of_many_conversations_each_is_as_likely_to_be_kept(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "MOST_TEXTS", 3)
    counts = dict.fromkeys(range(9), 0)
    for seed in range(600):
        for text in order(ANSWERS, tokenizer, seed).texts(range(3)):
            counts[int(tokenizer.decode(text)[-len("0<|assistant_end|>")])] += 1
    assert all(140 < count < 260 for count in counts.values()), counts
