"""Ids become text as they stream: whole characters, whole parts, and never a piece of a stop string."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatsmith.text.chat import Part, ReplyText, parse_reply
from chatsmith.text.tokenizer import Tokenizer

MARKS = ("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>", "<|user_start|>")


def joined(parts: list[Part]) -> list[Part]:
    """Streamed pieces put together: neighbours of one kind, unless a new part was announced by an empty one."""
    result: list[Part] = []
    for part in parts:
        if result and result[-1].kind == part.kind and part.text:
            result[-1] = Part(part.kind, result[-1].text + part.text)
        else:
            result.append(part)
    return result


def stream(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[Part], ReplyText]:
    text = ReplyText(tokenizer, stop)
    given_out = [part for id in ids for part in text.push(id)]
    return given_out + text.finish(), text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=4), st.sampled_from(MARKS), st.integers(0, 255)), max_size=12))
@example([126, "<|user_start|>", 94])  # half a character, a mark, the other half
def test_streamed_parts_are_those_the_chat_format_reads(
    tokenizer: Tokenizer, pieces: list[str | int]
) -> None:
    """Including lone bytes, which are no character, and marks in places where they mean nothing."""
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, int):
            ids.append(piece)
        else:
            ids += [tokenizer.special(piece)] if piece in MARKS else tokenizer.encode(piece)
    given_out, text = stream(tokenizer, ids)
    assert tuple(text.parts) == parse_reply(ids, tokenizer).parts
    assert joined(given_out) == text.parts


@settings(max_examples=50, deadline=None)
@given(st.text("abcé", max_size=12), st.lists(st.text("abcé", min_size=1, max_size=3), max_size=3))
def test_a_stop_string_ends_the_text_wherever_tokens_cut_it(
    tokenizer: Tokenizer, words: str, stops: list[str]
) -> None:
    ids = [byte for char in words for byte in tokenizer.encode(char)]
    found = [words.index(stop) for stop in stops if stop in words]
    # Of two that overlap, the one that is complete first counts.
    ends = [words.index(stop) + len(stop) for stop in stops if stop in words]
    first = min(ends, default=None)
    given_out, text = stream(tokenizer, ids, tuple(stops))
    streamed = "".join(part.text for part in given_out)
    assert text.stopped == bool(found)
    assert streamed == "".join(part.text for part in text.parts)
    if first is None:
        assert streamed == words
    else:
        complete = [words[:first].index(stop) for stop in stops if stop in words[:first]]
        assert streamed == words[: min(complete)]


def test_only_what_could_become_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    text = ReplyText(tokenizer, ("stop",))
    pushed = [[part.text for part in text.push(id)] for char in "a st stx" for id in tokenizer.encode(char)]
    assert pushed == [["a"], [" "], [], [], ["st "], [], [], ["stx"]]


def test_held_text_is_flushed_at_the_end_and_before_a_call(tokenizer: Tokenizer) -> None:
    given_out, _ = stream(tokenizer, tokenizer.encode("a st"), ("stop",))
    assert "".join(part.text for part in given_out) == "a st"
    text = ReplyText(tokenizer, ("stop",))
    for id in tokenizer.encode("st"):
        text.push(id)
    assert text.push(tokenizer.special("<|python_start|>")) == [Part("text", "st"), Part("python", "")]


def test_half_a_character_before_a_mark_stops_nothing_that_may_not_stop_yet(tokenizer: Tokenizer) -> None:
    text = ReplyText(tokenizer, ("\ufffd",))
    for id in (tokenizer.encode("🦉")[0], tokenizer.special("<|python_start|>")):
        text.push(id, may_stop=False)
    assert not text.stopped and text.parts == [Part("text", "\ufffd"), Part("python", "")]


def test_a_stop_string_within_a_call_is_not_one(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.special("<|python_start|>"), *tokenizer.encode("1+1")]
    _, text = stream(tokenizer, ids, ("+",))
    assert not text.stopped
    assert text.parts == [Part("python", "1+1")]


def test_a_character_of_several_tokens_comes_out_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🦉é")
    assert len(ids) > 2
    given_out, _ = stream(tokenizer, ids)
    assert [part.text for part in given_out] == ["🦉", "é"]
