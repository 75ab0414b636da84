"""Messages between API server and engine: what goes in comes out, whole, however the bytes are cut."""

import asyncio
import socket

from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.engine.request import Constraint, EngineStats, SamplingParams, TokenLogprob
from chatsmith.serve.ipc import (
    Cancel,
    Channel,
    Command,
    CountCached,
    EngineSettings,
    Job,
    Output,
    Report,
    Step,
    Stop,
    Submit,
    encode,
    read_report,
)
from chatsmith.text.chat import Part

IDS = st.tuples(st.integers(0, 2**31), st.integers(0, 9))
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 5),
    logit_bias=st.dictionaries(st.integers(0, 99), st.floats(-100, 100)),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    max_tokens=st.none() | st.integers(0, 9),
    stop=st.lists(st.text(min_size=1), max_size=2).map(tuple),
    stop_ids=st.lists(st.integers(0, 9), max_size=2).map(tuple),
    ignore_end=st.booleans(),
    logprobs=st.none() | st.integers(0, 20),
)
JOBS = st.builds(
    Job,
    prompt_ids=IDS,
    sampling=SAMPLINGS,
    n=st.integers(1, 4),
    score_from=st.none() | st.just(0),
    constraint=st.none() | st.just(Constraint("regex", "a+")),
)
LOGPROBS = st.builds(
    TokenLogprob,
    logprob=st.floats(max_value=0, allow_nan=False),
    top=st.lists(st.tuples(st.integers(0, 9), st.floats(max_value=0, allow_nan=False)), max_size=2).map(
        tuple
    ),
)
MANY_LOGPROBS = st.none() | st.lists(st.none() | LOGPROBS, max_size=3).map(tuple)
OUTPUTS = st.builds(
    Output,
    job=st.integers(0, 9),
    index=st.integers(0, 9),
    ids=IDS,
    parts=st.lists(st.builds(Part, st.sampled_from(["text", "python", "output"]), st.text()), max_size=2).map(
        tuple
    ),
    logprobs=MANY_LOGPROBS,
    cached_tokens=st.integers(0, 9),
    finish_reason=st.sampled_from([None, "stop", "length"]),
    prompt_logprobs=MANY_LOGPROBS,
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(Submit, st.integers(0, 9), JOBS),
    st.builds(Cancel, st.integers(0, 9)),
    st.builds(CountCached, st.integers(0, 9), IDS),
    st.just(EngineSettings("a", kv_tokens=5, quantize="int8")),
    st.just(Stop()),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(COMMANDS, min_size=1, max_size=4), st.integers(1, 99))
def test_commands_are_whole_however_they_are_cut(commands: list[Command], size: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(theirs)
        data = b"".join(map(encode, commands))
        received: list[Command] = []
        for start in range(0, len(data), size):
            ours.sendall(data[start : start + size])
            received += channel.receive(wait=False)
        assert received == commands
        assert channel.receive(wait=False) == []


@settings(deadline=None, max_examples=50)
@given(st.lists(OUTPUTS, max_size=3))
def test_outputs_survive_the_journey(outputs: list[Output]) -> None:
    sent = Step(outputs, EngineStats(1, 2, 3, 4, 5, 6))

    async def journey() -> Report:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        with theirs:
            Channel(theirs).send(sent)
        try:
            return await read_report(reader)
        finally:
            writer.close()

    assert asyncio.run(journey()) == sent
