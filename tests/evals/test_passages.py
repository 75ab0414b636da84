"""Which ids are scored, at token boundaries chosen by hand; and what decides."""

import math

import pytest

from chatsmith.evals.scoring import (
    Passage,
    PassageScore,
    common_prefix,
    common_suffix,
    decide,
    make_question,
)
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer

LONG = 1000


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """A vocabulary with whole words, so that boundaries lie where they do in large ones."""
    return train_tokenizer(
        ["The answer is yes. The answer is no. Yes, no: 12 cats, 13 cats. " * 50], vocab_size=400
    )


def ids(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    return [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]


def scored(tokenizer: Tokenizer, passage: Passage) -> str:
    return tokenizer.decode(passage.ids[passage.start :])


def test_a_leading_space_belongs_to_the_word_that_is_scored(words: Tokenizer):
    texts = ids(words, "The answer is yes", "The answer is no")
    question = make_question("multiple choice", texts, LONG)
    assert [scored(words, passage) for passage in question] == [" yes", " no"]


def test_what_choices_have_in_common_at_their_beginning_is_not_scored(words: Tokenizer):
    texts = ids(words, "It is The answer", "It is The cats")
    question = make_question("multiple choice", texts, LONG)
    assert [scored(words, passage) for passage in question] == [" answer", " cats"]
    same_first_digit = make_question("multiple choice", [[1, 5, 7, 8], [1, 5, 7, 9], [1, 5, 7, 8, 8]], LONG)
    assert [passage.start for passage in same_first_digit] == [3, 3, 3]


def test_boundaries_are_between_ids_not_characters():
    """Two words that begin with the same letters may have no id in common: then all of them is scored."""
    assert common_prefix([[1, 20, 21], [1, 22]]) == 1
    question = make_question("multiple choice", [[1, 20, 21], [1, 22]], LONG)
    assert [passage.ids[passage.start :] for passage in question] == [(20, 21), (22,)]


def test_a_choice_that_begins_another_has_nothing_of_its_own(words: Tokenizer):
    """As defined: its mean is not a number, and Python's minimum takes the first choice then."""
    question = make_question("multiple choice", [[1, 5], [1, 5, 6]], LONG)
    assert [len(passage.ids) - passage.start for passage in question] == [0, 1]
    nothing, something = PassageScore((), True), PassageScore((-1.0,), True)
    assert math.isnan(nothing.loss)
    for order in ([nothing, something], [something, nothing]):
        assert decide("multiple choice", order, 0).is_right
        assert not decide("multiple choice", order, 1).is_right


def test_in_a_schema_the_common_end_is_scored(words: Tokenizer):
    texts = ids(words, "The cats answer yes.", "The answer is no yes.")
    question = make_question("schema", texts, LONG)
    assert [scored(words, passage) for passage in question] == [" yes."] * 2
    assert common_suffix([[1, 2, 3], [3, 2, 3]]) == 2
    assert common_suffix([[1, 2], [3, 1, 2]]) == 2


def test_the_continuation_begins_where_the_prompt_ends_as_ids(words: Tokenizer):
    (passage,) = make_question("language modeling", ids(words, "The answer is", "The answer is no."), LONG)
    assert scored(words, passage) == " no."
    # A prompt whose last id changes with what follows: from there on.
    (passage,) = make_question("language modeling", [[1, 5, 6], [1, 5, 7, 8]], LONG)
    assert passage.start == 2


def test_a_passage_longer_than_the_context_loses_its_beginning():
    question = make_question("multiple choice", [[1, 2, 3, 4, 5], [1, 2, 3, 6]], 3)
    assert question == (Passage((3, 4, 5), 1), Passage((2, 3, 6), 2))
    # What is scored does not fit either: the first id left has nothing before it that could predict it.
    (passage,) = make_question("language modeling", [[1], [1, 2, 3, 4, 5]], 3)
    assert passage == Passage((3, 4, 5), 1)


def test_the_lowest_mean_loss_decides_not_the_lowest_sum():
    long, short = PassageScore((-1.0, -1.0, -1.0), False), PassageScore((-2.0,), False)
    decision = decide("multiple choice", [long, short], 0)
    assert decision.is_right
    assert decision.losses == (1.0, 2.0)


def test_of_equal_losses_the_first_is_taken():
    same = PassageScore((-1.0,), False)
    assert decide("schema", [same, same], 0).is_right
    assert not decide("schema", [same, same], 1).is_right


def test_language_modeling_needs_every_id_to_be_the_likeliest():
    assert decide("language modeling", [PassageScore((-0.1, -0.2), True)], None).is_right
    assert not decide("language modeling", [PassageScore((-0.1, -0.2), False)], None).is_right
    assert not decide("language modeling", [PassageScore((), True)], None).is_right, "nothing was continued"
