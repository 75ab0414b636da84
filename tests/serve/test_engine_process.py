"""The engine's process: what must not wait goes at once, the rest together, and nothing is lost or out of order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatsmith.engine.engine import Engine
from chatsmith.engine.request import SamplingParams
from chatsmith.runtime.errors import UserError
from chatsmith.serve import engine_process
from chatsmith.serve.engine_process import EngineLoop
from chatsmith.serve.ipc import Command, EngineSettings, Job, Output, Report, Step, Stop, Submit
from chatsmith.text.tokenizer import Tokenizer


class ApiServer:
    """Stands in for the channel: asks for jobs at given steps, and stops the loop once all are over."""

    def __init__(self, jobs: dict[int, Job]) -> None:
        self.sent: list[tuple[int, list[Output]]] = []
        """Outputs, with the number of the step they were sent after."""
        self._jobs = jobs
        self._step = 0

    def receive(self, *, wait: bool) -> list[Command]:
        if wait and not self._jobs:
            return [Stop()]
        self._step += 1
        due = [step for step in self._jobs if step <= self._step or (wait and step == min(self._jobs))]
        return [Submit(step, self._jobs.pop(step)) for step in due]

    def send(self, report: Report) -> None:
        assert isinstance(report, Step)
        if report.outputs:
            self.sent.append((self._step, report.outputs))


def job(tokenizer: Tokenizer, max_tokens: int, n: int = 1) -> Job:
    ids = (tokenizer.bos_id, *tokenizer.encode("the cat"))
    return Job(ids, SamplingParams(seed=1, max_tokens=max_tokens, ignore_end=True), n)


def test_a_pool_smaller_than_a_context_is_refused(bundle: Path) -> None:
    with pytest.raises(UserError, match=r"--kv-tokens 95 is too small.* takes \d+ tokens"):
        engine_process.load(EngineSettings(str(bundle), device="cpu", threads=1, kv_tokens=95))


def tokens(sent: list[tuple[int, list[Output]]], number: int, index: int = 0) -> Iterator[tuple[int, int]]:
    """(step at which it was sent, id) of every token of a reply."""
    for step, outputs in sent:
        for output in outputs:
            if (output.job, output.index) == (number, index):
                yield from ((step, id) for id in output.ids)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever may wait does, and an idle engine does not look around."""
    monkeypatch.setattr(engine_process, "SEND_SECONDS", 1e12)
    monkeypatch.setattr(engine_process, "LINGER_SECONDS", 0.0)


@pytest.mark.usefixtures("patient")
def test_a_first_token_and_an_end_go_at_once_and_the_rest_waits(engine: Engine, tokenizer: Tokenizer) -> None:
    api_server: Any = ApiServer({1: job(tokenizer, 12), 5: job(tokenizer, 4)})
    EngineLoop(api_server, engine).run()
    first, second = list(tokens(api_server.sent, 1)), list(tokens(api_server.sent, 5))
    # One token a step from the first on; what lies between waits for the end of its own reply.
    assert [step for step, _ in first] == [1] + 11 * [12]
    assert [step for step, _ in second] == [5] + 3 * [8]


@pytest.mark.usefixtures("patient")
def test_nothing_is_lost_or_out_of_order(engine: Engine, tokenizer: Tokenizer) -> None:
    jobs = {1: job(tokenizer, 9, n=3), 2: job(tokenizer, 30), 20: job(tokenizer, 2, n=2)}
    expected = {number: engine.generate(one.requests()) for number, one in jobs.items()}
    api_server: Any = ApiServer(jobs)
    EngineLoop(api_server, engine).run()
    for number, completions in expected.items():
        for index, completion in enumerate(completions):
            found = tuple(id for _, id in tokens(api_server.sent, number, index))
            assert found == completion.ids
    assert engine.is_idle


def test_a_slow_step_is_sent_at_once(
    engine: Engine, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "SEND_SECONDS", 0.0)
    api_server: Any = ApiServer({1: job(tokenizer, 6)})
    EngineLoop(api_server, engine).run()
    assert [step for step, _ in tokens(api_server.sent, 1)] == [1, 2, 3, 4, 5, 6]
