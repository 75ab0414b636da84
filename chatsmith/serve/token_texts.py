"""How single tokens are shown: their text, their bytes, and the entries of log-probabilities.

A token may be a part of a character, so its text alone may not exist: it is shown with U+FFFD, its bytes say what it
is, and where a text has to tell tokens apart it is `bytes:\\xe2\\x98`, as OpenAI writes it. Special tokens are shown by
name and have no bytes.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from chatsmith.engine.request import TokenLogprob
from chatsmith.text.tokenizer import Tokenizer

UNLIKELY = -9999.0
"""What JSON says for minus infinity, as OpenAI does."""


class TokenTexts:
    """Shows the tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def text(self, id: int) -> str:
        """The token's text; U+FFFD where its bytes are no whole character."""
        return self._tokenizer.decode([id])

    def bytes(self, id: int) -> list[int] | None:
        """The token's bytes; None for a special token."""
        return None if self._tokenizer.is_special(id) else list(self._tokenizer.decode_bytes([id]))

    def key(self, id: int) -> str:
        """A text that no other token has."""
        raw = self._tokenizer.decode_bytes([id])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def chat_entries(
        self, ids: Sequence[int], logprobs: Iterable[TokenLogprob | None]
    ) -> list[dict[str, Any]]:
        """Entries of a chat's `logprobs.content`, with our `id`; ids that were not sampled have none."""
        return [
            {
                **self._entry(id, one.logprob),
                "top_logprobs": [self._entry(other, logprob) for other, logprob in one.top],
            }
            for id, one in zip(ids, logprobs, strict=True)
            if one is not None
        ]

    def top_by_key(self, id: int, logprob: TokenLogprob) -> dict[str, float]:
        """An entry of a text completion's `top_logprobs`: the likeliest tokens, and the chosen one."""
        top = {self.key(other): finite(value) for other, value in logprob.top}
        return {**top, self.key(id): finite(logprob.logprob)} if top else {}

    def _entry(self, id: int, logprob: float) -> dict[str, Any]:
        return {"token": self.text(id), "bytes": self.bytes(id), "logprob": finite(logprob), "id": id}


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else UNLIKELY
