"""Scoring passages with the engine: sorted by length, packed into large steps, common beginnings computed once.

The choices of a question begin alike, so they are submitted one after another: the first is computed, the others find
its beginning in the prefix cache. Logits are only made for the ids that are scored. It decides nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from chatsmith.backends import choose_backend
from chatsmith.bundle import Bundle
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request, Sampling
from chatsmith.evals.passages import Passage, PassageScore, Question
from chatsmith.runtime.errors import UserError

WINDOW = 256
"""Questions that are sorted by length together; all of a task would take gigabytes as lists of ids."""

MAX_RUNNING = 48
TOKENS_PER_STEP = 4096
"""Prompts in work at once, and tokens computed at once: enough for large matrix products."""

_SCORING = Sampling(max_tokens=0, logprobs=1)
_NOTHING = PassageScore((), is_likeliest=True)


class EngineScorer:
    """A `Scorer` over a bundle."""

    def __init__(
        self, bundle: Bundle, *, max_running: int = MAX_RUNNING, tokens_per_step: int = TOKENS_PER_STEP
    ) -> None:
        self._tokenizer = bundle.tokenizer
        self._max_running = max_running
        self._engine = Engine(
            bundle.model,
            bundle.tokenizer,
            backend=choose_backend(bundle.model),
            max_running=max_running,
            tokens_per_step=tokens_per_step,
        )

    @property
    def context_length(self) -> int:
        """The model's context."""
        return self._engine.config.context_length

    @property
    def bos_id(self) -> int:
        """`<|bos|>`."""
        return self._tokenizer.bos_id

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of ordinary texts."""
        return self._tokenizer.encode_batch(texts)

    def score(
        self, questions: Iterable[Question], on_scored: Callable[[int], None] = lambda _: None
    ) -> list[list[PassageScore]]:
        """The scores of every passage, in order. Raises UserError if the model's numbers are not finite."""
        found: dict[tuple[int, int], PassageScore] = {}
        sizes: list[int] = []
        open_passages: dict[int, int] = {}
        places: dict[int, tuple[int, int]] = {}

        def note(question: int, passage: int, score: PassageScore) -> None:
            found[question, passage] = score
            open_passages[question] -= 1
            if open_passages[question] == 0:
                on_scored(question)

        waiting = _by_length(questions, sizes)
        exhausted = False
        try:
            while not exhausted or not self._engine.is_idle:
                # Enough in the queue for the scheduler to find something for every step.
                while not exhausted and self._engine.num_waiting < 2 * self._max_running:
                    taken = next(waiting, None)
                    if taken is None:
                        exhausted = True
                        break
                    index, question = taken
                    open_passages[index] = len(question)
                    for number, passage in enumerate(question):
                        if passage.start == len(passage.ids):
                            note(index, number, _NOTHING)
                        else:
                            places[self._submit(passage)] = (index, number)
                for event in self._engine.step():
                    if event.completion is not None:
                        note(*places.pop(event.handle), _passage_score(event.completion))
        finally:
            for handle in places:
                self._engine.cancel(handle)
        return [[found[index, number] for number in range(size)] for index, size in enumerate(sizes)]

    def _submit(self, passage: Passage) -> int:
        return self._engine.submit(Request(passage.ids, _SCORING, score_from=passage.start))


def _by_length(questions: Iterable[Question], sizes: list[int]) -> Iterator[tuple[int, Question]]:
    """The questions with their indices, the longest first within each window. Notes in `sizes` their passages."""
    numbered = iter(enumerate(questions))
    while window := list(islice(numbered, WINDOW)):
        sizes += [len(question) for _, question in window]
        yield from sorted(window, key=lambda one: -max(len(passage.ids) for passage in one[1]))


def _passage_score(completion: Completion) -> PassageScore:
    if completion.finish_reason == "error":
        raise UserError(f"the model cannot be scored: {completion.error}")
    assert completion.prompt_logprobs is not None
    scored = completion.prompt_ids[len(completion.prompt_ids) - len(completion.prompt_logprobs) :]
    logprobs, is_likeliest = [], True
    for id, one in zip(scored, completion.prompt_logprobs, strict=True):
        assert one is not None, "a passage is scored from its second id on"
        logprobs.append(one.logprob)
        is_likeliest = is_likeliest and one.top[0][0] == id
    return PassageScore(tuple(logprobs), is_likeliest)
