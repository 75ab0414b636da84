"""POST /v1/completions: text continued as text, with several prompts, token ids, echo and log-probabilities.

The log-probabilities are the model's own, whatever the sampling: this is what evaluation harnesses read. With echo,
the prompt's come with the reply, the first as null, since nothing predicts it; a stream then waits for the whole.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from chatsmith.engine.request import RequestError, TokenLogprob
from chatsmith.serve.chunks import ChunkWriter
from chatsmith.serve.errors import invalid
from chatsmith.serve.generation import Generation
from chatsmith.serve.prompt import check_fits, text_prompts
from chatsmith.serve.protocol import Job, Output
from chatsmith.serve.request_log import RequestRecord
from chatsmith.serve.requests import COMPLETION_MAX_TOKENS, CompletionRequest
from chatsmith.serve.served_model import LoadedModel, ServedModel
from chatsmith.serve.streaming import DONE, KEEP_ALIVE, KEEP_ALIVE_SECONDS
from chatsmith.serve.token_texts import TokenTexts, finite
from chatsmith.serve.usage import Usage
from chatsmith.text.chat import StreamDecoder
from chatsmith.text.tokenizer import Tokenizer

LONG_PROMPT = 256
"""Scored prompt tokens; more are written out in a thread, so that no other request waits for it."""

COMPLETION_PARAMETERS: Mapping[str, str] = {"stop_ids": "stop_token_ids"}
"""What the engine's parameters are called in a completion request."""


def completion_jobs(request: CompletionRequest, model: LoadedModel) -> list[Job]:
    """What the engine has to do, a job a prompt. Raises ApiError (400)."""
    longest = COMPLETION_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    try:
        sampling = request.sampling(model.defaults, longest, request.logprobs)
    except RequestError as error:
        raise invalid(str(error), error.parameter, error.code) from error
    jobs: list[Job] = []
    for prompt in text_prompts(request, model.tokenizer, model.info.vocab_size):
        check_fits(prompt, model.info.context_length, "prompt", only_scored=longest == 0)
        score_from = 0 if request.echo and request.logprobs is not None else None
        if longest == 0 and score_from is None:
            score_from = len(prompt) - 1  # the engine has to have something to do
        jobs.append(Job(tuple(prompt), sampling, request.replies, score_from))
    return jobs


class CompletionReply:
    """The answer to one completion request, in the making."""

    def __init__(
        self,
        request: CompletionRequest,
        jobs: Sequence[Job],
        model: ServedModel,
        generation: Generation,
        record: RequestRecord,
    ) -> None:
        self._request = request
        self._jobs = jobs
        self._generation = generation
        self._usage = Usage(jobs, record)
        self._writer = ChunkWriter(
            f"cmpl-{uuid.uuid4().hex}",
            "text_completion",
            int(time.time()),
            model.name,
            model.loaded.info.fingerprint,
            request.stream_options,
            self._usage,
        )
        self.choices = [
            TextChoice(job.n * place + index, request, job, model.loaded)
            for place, job in enumerate(jobs)
            for index in range(job.n)
        ]

    @property
    def is_stream(self) -> bool:
        """Are events asked for?"""
        return bool(self._request.stream)

    def text(self) -> str:
        """What the replies say so far."""
        return "\n".join(choice.text for choice in self.choices)

    async def plain(self) -> dict[str, Any]:
        """The whole answer."""
        async with self._generation:
            async for batch in self._generation.batches():
                for number, output in batch:
                    await self._chunks(number, output)
        choices = [choice.to_json() for choice in self.choices]
        return {
            **self._writer.fields("text_completion"),
            "choices": choices,
            "usage": self._usage.to_json(),
        }

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events."""
        async with self._generation:
            async for batch in self._generation.batches(KEEP_ALIVE_SECONDS):
                chunks: list[bytes] = [] if batch else [KEEP_ALIVE]
                for number, output in batch:
                    chunks += map(self._writer.chunk, await self._chunks(number, output))
                if chunks:
                    yield b"".join(chunks)
        yield self._writer.end() + DONE

    async def _chunks(self, number: int, output: Output) -> list[dict[str, Any]]:
        self._usage.add(number, output)
        choice = self.choices[number]
        # A long prompt with twenty alternatives a token takes a tenth of a second to write out.
        is_long = output.prompt_logprobs is not None and len(output.prompt_logprobs) > LONG_PROMPT
        return await asyncio.to_thread(choice.chunks, output) if is_long else choice.chunks(output)


class _Logprobs:
    """The four parallel lists of a text completion's log-probabilities."""

    def __init__(self, texts: TokenTexts, offset: int = 0) -> None:
        self._texts = texts
        self.offset = offset
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._tops: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def add(self, id: int, logprob: TokenLogprob | None, text: str) -> None:
        """One token, and the text that it completes."""
        self._tokens.append(self._texts.key(id))
        self._logprobs.append(None if logprob is None else finite(logprob.logprob))
        self._tops.append(None if logprob is None else self._texts.top_by_key(id, logprob))
        self._offsets.append(self.offset)
        self.offset += len(text)

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": self._tokens,
            "token_logprobs": self._logprobs,
            "top_logprobs": self._tops,
            "text_offset": self._offsets,
        }


class TextChoice:
    """One of the replies, as text and as chunks."""

    def __init__(self, number: int, request: CompletionRequest, job: Job, model: LoadedModel) -> None:
        self.number = number
        self.text = ""
        self._job = job
        self._texts = model.texts
        self._tokenizer = model.tokenizer
        self._with_logprobs = request.logprobs is not None
        self._with_ids = bool(request.return_token_ids)
        self._echo = bool(request.echo)
        # A mark that the server put before the text is none of what the client sent.
        self._hidden = int(isinstance(request.prompts[0], str) and request.add_special_tokens is not False)
        self._waits = self._echo and self._with_logprobs
        self._held: list[Output] = []
        self._decoder = StreamDecoder(model.tokenizer)
        self._offset = 0
        self._logprobs = _Logprobs(self._texts)
        self._ids: list[int] = []
        self._has_begun = False
        self._finish_reason: str | None = None

    def chunks(self, output: Output) -> list[dict[str, Any]]:
        """What an output adds, as the choices of chunks."""
        if self._waits:  # the prompt's log-probabilities, which stand first, come last
            self._held.append(output)
            if output.finish_reason is None:
                return []
            output = _joined(self._held)
        text, logprobs = "", _Logprobs(self._texts, self._offset)
        if not self._has_begun:
            self._has_begun = True
            text = self._prompt(output, (logprobs, self._logprobs))
        text += "".join(part.text for part in output.parts if part.kind == "text")
        self._add_tokens(output, (logprobs, self._logprobs))
        self._offset = logprobs.offset
        self.text += text
        self._finish_reason = output.finish_reason
        if not (text or output.ids or self._finish_reason):
            return []
        return [self._choice(text, logprobs, list(output.ids))]

    def to_json(self) -> dict[str, Any]:
        """The choice of a plain answer."""
        return self._choice(self.text, self._logprobs, self._ids)

    def _choice(self, text: str, logprobs: _Logprobs, ids: list[int]) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": self.number,
            "text": text,
            "logprobs": logprobs.to_json() if self._with_logprobs else None,
            "finish_reason": self._finish_reason,
        }
        return choice | ({"token_ids": ids} if self._with_ids else {})

    def _prompt(self, output: Output, into: tuple[_Logprobs, ...]) -> str:
        """The echo of the prompt; its log-probabilities go `into` the lists."""
        if not self._echo:
            return ""
        pieces = _pieces(self._job.prompt_ids, self._tokenizer)
        pieces[: self._hidden] = [""] * self._hidden
        if self._with_logprobs and output.prompt_logprobs is not None:
            for id, logprob, piece in zip(self._job.prompt_ids, output.prompt_logprobs, pieces, strict=True):
                for one in into:
                    one.add(id, logprob, piece)
        return "".join(pieces)

    def _add_tokens(self, output: Output, into: tuple[_Logprobs, ...]) -> None:
        self._ids += output.ids
        for id, logprob in zip(output.ids, output.logprobs or (), strict=False):
            piece = "" if self._tokenizer.is_special(id) else self._decoder.push(id)
            for one in into:
                one.add(id, logprob, piece)


def _joined(outputs: Sequence[Output]) -> Output:
    """Outputs of one reply as if they had come at once."""
    last = outputs[-1]
    return Output(
        last.job,
        last.index,
        tuple(id for output in outputs for id in output.ids),
        tuple(part for output in outputs for part in output.parts),
        tuple(logprob for output in outputs for logprob in output.logprobs or ()),
        last.cached_tokens,
        last.finish_reason,
        last.error,
        last.prompt_logprobs,
    )


def _pieces(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text of ids, cut where each completes a character; special tokens by name."""
    decoder = StreamDecoder(tokenizer)
    pieces = [
        decoder.flush() + tokenizer.decode([id]) if tokenizer.is_special(id) else decoder.push(id)
        for id in ids
    ]
    if pieces:
        pieces[-1] += decoder.flush()
    return pieces
