"""A reply as it streams: from ids to the parts of a message, up to a stop string."""

from copy import copy

from chatsmith.text.chat import Part, PartKind, StreamDecoder
from chatsmith.text.tokenizer import Tokenizer


class ReplyText:
    """Ids to parts of a message, one id at a time: never half a character, never part of a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self.parts: list[Part] = []
        """All that was given out so far, as `parse_reply` would read the ids."""
        self.stopped = False
        """Did a stop string appear? Then nothing more is given out."""
        self._stop = stop
        self._kind: PartKind = "text"
        self._is_dropped = False  # within an output that no call asked for
        self._held = ""
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._kind_after: dict[int, PartKind] = {
            tokenizer.special("<|python_start|>"): "python",
            tokenizer.special("<|python_end|>"): "text",
            tokenizer.special("<|output_start|>"): "output",
            tokenizer.special("<|output_end|>"): "text",
        }

    def copy(self) -> "ReplyText":
        """One that was given the same, and goes on by itself."""
        twin = copy(self)
        twin.parts, twin._decoder = self.parts.copy(), self._decoder.copy()
        return twin

    def go_on_in_call(self) -> None:
        """The prompt ends within a call of the tool: what comes first is the rest of it."""
        self._kind = "python"
        self.parts.append(Part("python", ""))

    def push(self, id: int, *, may_stop: bool = True) -> list[Part]:
        """What becomes certain with this id. With `may_stop` false, stop strings are let through."""
        if self.stopped:
            return []
        if id not in self._kind_after:
            return self._give(self._search(self._decoder.push(id), may_stop))
        given = self.finish(may_stop=may_stop)
        if self.stopped:
            return given
        self._kind = self._kind_after[id]
        self._is_dropped = self._kind == "output" and not self._follows_call()
        if self._kind != "text" and not self._is_dropped:
            self.parts.append(Part(self._kind, ""))
            given.append(self.parts[-1])
        return given

    def finish(self, *, may_stop: bool = True) -> list[Part]:
        """What was held back: the reply, or this part of it, is over."""
        if self.stopped:
            return []
        text = self._search(self._decoder.flush(), may_stop) + self._held
        self._held = ""
        return self._give(text)

    def _search(self, text: str, may_stop: bool) -> str:
        """The part of held and new text that is no beginning of a stop string, or stands before one."""
        if self._kind != "text" or not self._stop:
            return text
        text = self._held + text
        self._held = ""
        if not may_stop:
            return text
        found = [text.index(stop) for stop in self._stop if stop in text]
        if found:
            self.stopped = True
            return text[: min(found)]
        longest = max(overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - longest :]
        return text[: len(text) - longest]

    def _give(self, text: str) -> list[Part]:
        if not text or self._is_dropped:
            return []
        if self.parts and self.parts[-1].kind == self._kind:
            self.parts[-1] = Part(self._kind, self.parts[-1].text + text)
        else:
            self.parts.append(Part(self._kind, text))
        return [Part(self._kind, text)]

    def _follows_call(self) -> bool:
        return bool(self.parts) and self.parts[-1].kind == "python"


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` could be the beginning of `mark`; not all of it."""
    possible = range(min(len(text), len(mark) - 1), 0, -1)
    return next((length for length in possible if text.endswith(mark[:length])), 0)
