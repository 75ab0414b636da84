"""What ends a completion, and what does not yet."""

from chatsmith.engine.completion import CompletionBuilder
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.engine.scheduler import Sequence
from chatsmith.text.tokenizer import Tokenizer


def builder(tokenizer: Tokenizer, sampling: SamplingParams, max_length: int = 50) -> CompletionBuilder:
    return CompletionBuilder({0: 0}, Request((1, 2), sampling), Sequence([1, 2], max_length), tokenizer, None)


def test_the_end_of_the_turn_and_stop_ids_end_a_reply_but_not_before_min_tokens(tokenizer: Tokenizer) -> None:
    end = tokenizer.special("<|assistant_end|>")
    one = builder(tokenizer, SamplingParams())
    one.push(end)
    assert one.finish_reason == "stop"
    assert one.completion().ids == (end,)
    patient = builder(tokenizer, SamplingParams(min_tokens=1, stop_ids=(65,)))
    assert set(patient.row().banned_ids) == {end, tokenizer.bos_id, 65}
    patient.push(70)
    assert patient.row().banned_ids == ()
    patient.push(65)
    assert patient.finish_reason == "stop"
    assert patient.completion().text == tokenizer.decode([70]), "a stop id gives no text"
    assert builder(tokenizer, SamplingParams(ignore_end=True, min_tokens=1)).row().banned_ids == ()


def test_stop_strings_do_not_count_before_min_tokens(tokenizer: Tokenizer) -> None:
    one = builder(tokenizer, SamplingParams(stop=("a",), min_tokens=2))
    for char in "aaba":
        assert one.finish_reason is None
        one.push(tokenizer.encode(char)[0])
    assert one.finish_reason == "stop"
    assert one.completion().text == "aab"


def test_the_last_token_that_fits_ends_the_reply_by_length(tokenizer: Tokenizer) -> None:
    one = builder(tokenizer, SamplingParams(stop=("xyz",)), max_length=4)
    one.push(tokenizer.encode("a")[0])
    one.push(tokenizer.encode("x")[0])
    assert one.finish_reason == "length"
    assert one.completion().text == "ax", "held back text is flushed"
