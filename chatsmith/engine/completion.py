"""One reply in the making: the ids of a request, what they mean, calls of the tool, and the end.

It knows nothing of batches or of the model: the engine pushes ids, sampled or forced, and asks what came of
it.
"""

import math
from copy import copy

from chatsmith.backends.guided import Form
from chatsmith.engine.request import Completion, FinishReason, Request, TokenLogprob
from chatsmith.engine.sampler import Row
from chatsmith.engine.scheduler import Sequence
from chatsmith.text.chat import Part, ReplyText
from chatsmith.text.tokenizer import Tokenizer

END_TOKENS = ("<|assistant_end|>", "<|bos|>")
"""They end a reply: the first a turn of a chat, the second a document."""


class Reply:
    """A request, its sequence of tokens, and what they mean so far.

    Requests that differ in their seed alone share a reply until their seeds choose different ids: then it branches.
    """

    def __init__(
        self,
        handle: int,
        request: Request,
        sequence: Sequence,
        seed: int,
        tokenizer: Tokenizer,
        form: Form | None = None,
    ) -> None:
        self.seeds = {handle: seed}
        """By handle, those of the requests that this answers."""
        self.request = request
        self.sequence = sequence
        self.prompt_logprobs: dict[int, TokenLogprob] = {}
        """By index of the prompt; what `score_from` asks for, as far as it is computed."""
        self._form = form
        self.text = ReplyText(tokenizer, request.sampling.stop)
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self._tokenizer = tokenizer
        self._sampled: list[bool] = []
        self._logprobs: list[TokenLogprob | None] = []
        ends = () if request.sampling.ignore_end else map(tokenizer.special, END_TOKENS)
        self._end_ids = {*ends, *request.sampling.stop_ids}
        self._begun_call = _begun_call(request.prompt_ids, tokenizer)
        if self._begun_call is not None:
            self.text.go_on_in_call()

    def serves(self, request: Request) -> bool:
        """May `request` share this reply? Nothing is sampled yet, and it asks for the same."""
        may_share = self._form is None and not self._sampled and not self.finish_reason
        is_same_prompt = request.prompt_ids == self.request.prompt_ids
        return may_share and is_same_prompt and request.with_seed(None) == self.request.with_seed(None)

    def branch(self, handles: list[int], sequence: Sequence) -> "Reply":
        """Let these requests go their own way from here, as a reply of their own over `sequence`."""
        twin = copy(self)
        twin.seeds = {handle: self.seeds.pop(handle) for handle in handles}
        twin.sequence, twin.text = sequence, self.text.copy()
        twin._sampled, twin._logprobs = self._sampled.copy(), self._logprobs.copy()
        return twin

    @property
    def ids(self) -> list[int]:
        """Every id after the prompt."""
        return self.sequence.tokens[self.sequence.num_prompt :]

    def row(self) -> Row:
        """What the next token is to be sampled with."""
        sampling = self.request.sampling
        has_penalties = sampling.frequency_penalty or sampling.presence_penalty
        needs_history = has_penalties or sampling.repetition_penalty != 1
        return Row(
            sampling,
            tuple(self.seeds.values()),
            position=len(self.sequence.tokens),
            prompt_ids=self.request.prompt_ids,
            sampled_ids=self._sampled_ids() if needs_history else (),
            banned_ids=() if self._may_end() else tuple(self._end_ids),
            allowed=self._form.allowed() if self._form else None,
        )

    def push(self, id: int, logprob: TokenLogprob | None = None, *, sampled: bool = True) -> list[Part]:
        """Add the next id, and note if it ends the reply. Returns the parts of text that became certain."""
        assert self.finish_reason is None
        may_end = self._may_end()
        self.sequence.tokens.append(id)
        self._sampled.append(sampled)
        self._logprobs.append(logprob)
        if sampled and id in self._end_ids and may_end:
            return self.finish("stop")
        given = self.text.push(id, may_stop=may_end)
        if self._form is not None:
            self._form.push(id)
        if self.text.stopped:
            self.finish_reason = "stop"
        elif len(self.sequence.tokens) >= self.sequence.max_length:
            given += self.finish("length")
        return given

    def finish(self, reason: FinishReason, error: str | None = None) -> list[Part]:
        """End the reply. Returns the text that was still held back."""
        self.finish_reason, self.error = reason, error
        return self.text.finish()

    def end_scoring(self) -> list[Part]:
        """End a reply that only scores its prompt, all of which is computed."""
        is_broken = any(math.isnan(one.logprob) for one in self.prompt_logprobs.values())
        return self.fail() if is_broken else self.finish("length")

    def fail(self) -> list[Part]:
        """End the reply because no next id could be chosen."""
        reason = self._form.failure if self._form else None
        return self.finish("error", reason or "the model's logits are not finite numbers")

    def logprobs_of_last(self, count: int) -> tuple[TokenLogprob | None, ...] | None:
        """What was reported for the last `count` ids; None where it was not asked for."""
        if self.request.sampling.logprobs is None:
            return None
        return tuple(self._logprobs[len(self._logprobs) - count :])

    def closed_call(self) -> str | None:
        """The expression of a call of the tool that the last id closed, or None."""
        if self.finish_reason or self.sequence.tokens[-1] != self._tokenizer.special("<|python_end|>"):
            return None
        last = self.text.parts[-1] if self.text.parts else None
        if last is None or last.kind != "python":
            return None
        is_first = len(self.text.parts) == 1
        return (self._begun_call or "") + last.text if is_first else last.text

    def completion(self) -> Completion:
        """The whole answer. The reply must be finished."""
        assert self.finish_reason is not None
        request = self.request
        wants_logprobs = request.sampling.logprobs is not None
        return Completion(
            prompt_ids=request.prompt_ids,
            ids=tuple(self.ids),
            sampled=tuple(self._sampled),
            parts=tuple(self.text.parts),
            finish_reason=self.finish_reason,
            logprobs=tuple(self._logprobs) if wants_logprobs else None,
            prompt_logprobs=None if request.score_from is None else self._scored(request.score_from),
            cached_tokens=self.sequence.num_cached or 0,
            error=self.error,
        )

    def _scored(self, start: int) -> tuple[TokenLogprob | None, ...]:
        return tuple(self.prompt_logprobs.get(index) for index in range(start, len(self.request.prompt_ids)))

    def _may_end(self) -> bool:
        return len(self._sampled) >= self.request.sampling.min_tokens

    def _sampled_ids(self) -> list[int]:
        return [id for id, sampled in zip(self.ids, self._sampled, strict=True) if sampled]


def _begun_call(prompt_ids: tuple[int, ...], tokenizer: Tokenizer) -> str | None:
    """What a call of the tool holds so far that the prompt leaves open; None if it leaves none open."""
    for index in range(len(prompt_ids) - 1, -1, -1):
        if tokenizer.is_special(prompt_ids[index]):
            is_call = prompt_ids[index] == tokenizer.special("<|python_start|>")
            return tokenizer.decode(prompt_ids[index + 1 :]) if is_call else None
    return None
