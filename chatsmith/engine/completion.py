"""A completion in the making: the ids after a prompt, what they mean, calls of the tool, and the end.

It knows nothing of batches or of the model: the engine pushes ids, sampled or forced, and asks what came of it.
"""

import math
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from chatsmith.engine.backend import Guide
from chatsmith.engine.request import Completion, FinishReason, Request, TokenLogprob
from chatsmith.engine.sampler import Row
from chatsmith.engine.scheduler import Sequence
from chatsmith.text.chat import Part, ReplyText
from chatsmith.text.tokenizer import Tokenizer

END_TOKENS = ("<|assistant_end|>", "<|bos|>")
"""They end a completion: the first a turn of a chat, the second a document."""


class OpenCall(NamedTuple):
    """A call of the tool that a prompt leaves unfinished: half written, or without its whole output."""

    expression: str
    is_closed: bool
    output: tuple[int, ...] | None = None
    """The ids of the output so far; None where it has not begun."""


def find_open_call(prompt_ids: tuple[int, ...], tokenizer: Tokenizer) -> OpenCall | None:
    """The call that a prompt ends in, if it does: what was cut off there is to go on as it would have."""
    special = tokenizer.special
    backwards = (
        index for index in reversed(range(len(prompt_ids))) if tokenizer.is_special(prompt_ids[index])
    )
    marks = list(islice(backwards, 3))[::-1]
    names = [prompt_ids[index] for index in marks]
    if names[-1:] == [special("<|python_start|>")]:
        return OpenCall(tokenizer.decode(prompt_ids[marks[-1] + 1 :]), is_closed=False)
    call = [special("<|python_start|>"), special("<|python_end|>")]
    if names[-2:] == call and marks[-1] == len(prompt_ids) - 1:
        return OpenCall(tokenizer.decode(prompt_ids[marks[-2] + 1 : marks[-1]]), is_closed=True)
    if names == [*call, special("<|output_start|>")] and marks[2] == marks[1] + 1:
        expression = tokenizer.decode(prompt_ids[marks[0] + 1 : marks[1]])
        return OpenCall(expression, is_closed=True, output=prompt_ids[marks[2] + 1 :])
    return None


@dataclass(eq=False)
class CompletionBuilder:
    """A request, its sequence of tokens, and what they mean so far.

    Requests that differ in their seed alone share one until their seeds choose different ids: then it forks.
    """

    seeds: dict[int, int]
    """By handle, those of the requests that this answers."""
    request: Request
    sequence: Sequence
    _tokenizer: Tokenizer
    _guide: Guide | None
    prompt_logprobs: dict[int, TokenLogprob] = field(default_factory=dict)
    """By index of the prompt; what `score_from` asks for, as far as it is computed."""
    finish_reason: FinishReason | None = None
    error: str | None = None
    _sampled: list[bool] = field(default_factory=list)
    _logprobs: list[TokenLogprob | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        sampling, tokenizer = self.request.sampling, self._tokenizer
        self.text = ReplyText(tokenizer, sampling.stop)
        ends = () if sampling.ignore_end else map(tokenizer.special, END_TOKENS)
        self._end_ids = {*ends, *sampling.stop_ids}
        self._open_call = find_open_call(self.request.prompt_ids, tokenizer)
        if call := self._open_call:
            self.text.resume_call(
                "output" if call.output is not None else None if call.is_closed else "python"
            )

    def serves(self, request: Request) -> bool:
        """May `request` share this? Nothing is sampled yet, and it asks for the same."""
        may_share = self._guide is None and not self._sampled and not self.finish_reason
        is_same_prompt = request.prompt_ids == self.request.prompt_ids
        return may_share and is_same_prompt and request.with_seed(None) == self.request.with_seed(None)

    def fork(self, handles: list[int], sequence: Sequence) -> "CompletionBuilder":
        """Let these requests go their own way from here, over `sequence`."""
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
            allowed=self._guide.allowed() if self._guide else None,
        )

    def push(self, id: int, logprob: TokenLogprob | None = None, *, sampled: bool = True) -> list[Part]:
        """Add the next id, and note if it ends the completion. Returns the parts of text that became certain."""
        assert self.finish_reason is None
        may_end = self._may_end()
        self.sequence.tokens.append(id)
        self._sampled.append(sampled)
        self._logprobs.append(logprob)
        if sampled and id in self._end_ids and may_end:
            return self.finish("stop")
        given = self.text.push(id, may_stop=may_end)
        if self._guide is not None:
            self._guide.push(id)
        if self.text.stopped:
            self.finish_reason = "stop"
        elif len(self.sequence.tokens) >= self.sequence.max_length:
            given += self.finish("length")
        return given

    def finish(self, reason: FinishReason, error: str | None = None) -> list[Part]:
        """End the completion. Returns the text that was still held back."""
        self.finish_reason, self.error = reason, error
        return self.text.finish()

    def finish_scoring(self) -> list[Part]:
        """End a completion that only scores its prompt, all of which is computed."""
        is_broken = any(math.isnan(one.logprob) for one in self.prompt_logprobs.values())
        return self.fail() if is_broken else self.finish("length")

    def fail(self) -> list[Part]:
        """End the completion because no next id can be chosen."""
        reason = self._guide.failure if self._guide else None
        return self.finish("error", reason or "the model's logits are not finite numbers")

    def pending_call(self) -> str | None:
        """The expression of a call whose output comes next: the last id closed it, or the prompt ends in it."""
        call = self._open_call
        if self.finish_reason:
            return None
        if not self._sampled:
            return call.expression if call and call.is_closed and self._guide is None else None
        last = self.text.parts[-1] if self.text.parts else None
        is_closed = self.sequence.tokens[-1] == self._tokenizer.special("<|python_end|>")
        if not is_closed or last is None or last.kind != "python":
            return None
        goes_on = call is not None and not call.is_closed and len(self.text.parts) == 1
        return call.expression + last.text if call and goes_on else last.text

    def push_output(self, output: str) -> list[Part]:
        """Force in what the tool answered to the pending call; where the prompt holds a part of it, the rest."""
        special, encode = self._tokenizer.special, self._tokenizer.encode
        begun = self._open_call.output if self._open_call and not self._sampled else None
        ids = encode(output)
        if begun is None:
            ids = [special("<|output_start|>"), *ids]
        elif tuple(ids[: len(begun)]) == begun:
            ids = ids[len(begun) :]
        else:  # the same text may be cut into other tokens; what is no beginning of it is only closed
            text = self._tokenizer.decode(begun)
            ids = encode(output.removeprefix(text)) if output.startswith(text) else []
        parts: list[Part] = []
        for id in (*ids, special("<|output_end|>")):
            if self.finish_reason is None:  # a long output may fill the context
                parts += self.push(id, sampled=False)
        return parts

    def logprobs_of_last(self, count: int) -> tuple[TokenLogprob | None, ...] | None:
        """What was reported for the last `count` ids; None where it was not asked for."""
        if self.request.sampling.logprobs is None:
            return None
        return tuple(self._logprobs[len(self._logprobs) - count :])

    def completion(self) -> Completion:
        """The answer. The completion must be finished."""
        assert self.finish_reason is not None
        request, scored = self.request, None
        if request.score_from is not None:
            indices = range(request.score_from, len(request.prompt_ids))
            scored = tuple(self.prompt_logprobs.get(index) for index in indices)
        return Completion(
            prompt_ids=request.prompt_ids,
            ids=tuple(self.ids),
            sampled=tuple(self._sampled),
            parts=tuple(self.text.parts),
            finish_reason=self.finish_reason,
            logprobs=self.logprobs_of_last(len(self._logprobs)),
            prompt_logprobs=scored,
            cached_tokens=self.sequence.num_cached or 0,
            error=self.error,
        )

    def _may_end(self) -> bool:
        return len(self._sampled) >= self.request.sampling.min_tokens

    def _sampled_ids(self) -> list[int]:
        return [id for id, sampled in zip(self.ids, self._sampled, strict=True) if sampled]
