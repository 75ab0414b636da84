"""The queue's limits and Retry-After: nothing leaks, and the promised seconds follow from the speed."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatsmith.serve.admission import MAX_RETRY, MIN_RETRY, Admission, Limits, Ticket
from chatsmith.serve.errors import ApiError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def refused(admission: Admission, key: str = "a", replies: int = 1, tokens: int = 1) -> ApiError:
    with pytest.raises(ApiError) as caught:
        admission.admit(key, replies, tokens)
    return caught.value


def make(capacity: int = 2, **limits: int) -> tuple[Admission, Clock]:
    clock = Clock()
    admission = Admission(Limits(**limits), clock)
    admission.capacity = capacity
    return admission, clock


def test_more_than_may_wait_is_refused_until_something_ends() -> None:
    admission, _ = make(capacity=2, queue_requests=1)
    first, *_ = [admission.admit("a", 1, 10) for _ in range(3)]
    error = refused(admission)
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "queue_full")
    assert error.retry_after is not None and MIN_RETRY <= error.retry_after <= MAX_RETRY
    first.close()
    admission.admit("a", 1, 10)


def test_more_replies_than_could_ever_be_taken_is_a_mistake_and_not_a_matter_of_time() -> None:
    admission, _ = make(capacity=2, queue_requests=1)
    error = refused(admission, replies=4)
    assert (error.status, error.param) == (400, "n")


def test_waiting_prompt_tokens_are_bounded_but_one_long_prompt_may_come_in() -> None:
    admission, _ = make(queue_tokens=100, queue_requests=9)
    long = admission.admit("a", 1, 1000)
    assert refused(admission, tokens=1).code == "queue_full"
    long.begin()  # it has been read
    admission.admit("a", 1, 60)
    refused(admission, tokens=60)
    admission.admit("a", 1, 40)


def test_a_key_may_have_so_many_requests_open() -> None:
    admission, _ = make(per_key=2, queue_requests=9)
    one = admission.admit("a", 1, 1)
    admission.admit("a", 3, 1)
    assert refused(admission).code == "too_many_requests_per_key"
    admission.admit("b", 1, 1)
    one.close()
    admission.admit("a", 1, 1)


def test_retry_after_follows_from_how_fast_replies_end() -> None:
    """Two replies end every three seconds; with four too many in the queue, room comes after six."""
    admission, clock = make(capacity=4, queue_requests=100)
    for _ in range(20):
        for ticket in [admission.admit("a", 1, 1), admission.admit("a", 1, 1)]:
            ticket.close()
        clock.now += 3
    for _ in range(104):
        admission.admit("a", 1, 1)
    assert refused(admission, replies=4).retry_after == pytest.approx(6, abs=1)


def test_retry_after_before_anything_ended_is_the_age_of_the_oldest() -> None:
    admission, clock = make(capacity=1, queue_requests=0)
    admission.admit("a", 1, 1)
    clock.now += 7
    assert refused(admission).retry_after == 7
    clock.now += 1000
    assert refused(admission).retry_after == MAX_RETRY


class AdmissionMachine(RuleBasedStateMachine):
    """Requests come, begin, end and leave in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.admission = Admission(Limits(queue_requests=3, queue_tokens=50, per_key=3), self.clock)
        self.admission.capacity = 2
        self.open: list[tuple[Ticket, int, int]] = []  # with replies not begun, and not ended

    @rule(key=st.sampled_from("ab"), replies=st.integers(1, 4), tokens=st.integers(1, 60))
    def come(self, key: str, replies: int, tokens: int) -> None:
        try:
            self.open.append((self.admission.admit(key, replies, tokens), replies, replies))
        except ApiError as error:
            assert error.status == 429
            assert error.retry_after is not None and MIN_RETRY <= error.retry_after <= MAX_RETRY

    @precondition(lambda self: self.open)
    @rule(place=st.integers(0, 99), seconds=st.floats(0, 90))
    def go_on(self, place: int, seconds: float) -> None:
        place %= len(self.open)
        self.clock.now += seconds
        ticket, waiting, running = self.open[place]
        if waiting:
            ticket.begin()
            self.open[place] = (ticket, waiting - 1, running)
        elif running:
            ticket.end()
            self.open[place] = (ticket, waiting, running - 1)

    @precondition(lambda self: self.open)
    @rule(place=st.integers(0, 99))
    def leave(self, place: int) -> None:
        ticket, _, _ = self.open.pop(place % len(self.open))
        ticket.close()
        ticket.close()

    @invariant()
    def what_is_open_adds_up(self) -> None:
        assert self.admission.num_open == sum(running for _, _, running in self.open) <= 5
        assert self.admission.waiting_tokens >= 0
        for key in "ab":
            assert (
                self.admission.open_by_key[key] == sum(ticket.key == key for ticket, _, _ in self.open) <= 3
            )
        if not any(waiting for _, waiting, _ in self.open):
            assert self.admission.waiting_tokens == 0


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
