"""Messages between front and worker: what goes in comes out, whole, however the bytes are cut."""

import json
import socket

from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.engine.request import Constraint, Sampling, TokenLogprob
from chatsmith.serve.protocol import Channel, Job, Output, encode
from chatsmith.text.chat import Part

IDS = st.tuples(st.integers(0, 2**31), st.integers(0, 9))
SAMPLINGS = st.builds(
    Sampling,
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
    constraint=st.none() | st.just(Constraint.regex("a+")),
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


@settings(deadline=None)
@given(JOBS)
def test_a_job_survives_the_journey(job: Job) -> None:
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


@settings(deadline=None)
@given(OUTPUTS)
def test_an_output_survives_the_journey(output: Output) -> None:
    assert Output.from_json(json.loads(json.dumps(output.to_json()))) == output


@settings(deadline=None, max_examples=25)
@given(st.lists(st.dictionaries(st.text(), st.integers()), min_size=1, max_size=5), st.integers(1, 7))
def test_messages_are_whole_however_they_are_cut(messages: list[dict[str, int]], size: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(theirs)
        data = b"".join(map(encode, messages))
        received = []
        for start in range(0, len(data), size):
            ours.sendall(data[start : start + size])
            received += channel.receive(wait=False)
        assert received == messages
        assert channel.receive(wait=False) == []
