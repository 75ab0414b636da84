"""Who may come in: how many requests and prompt tokens may wait, how many a key may have open, and when to come back.

An engine runs so many replies at once; more wait in its queue. This keeps that queue short enough to be worth waiting
in: what exceeds the limits is refused at once (429), with a number of seconds after which, at the speed of the last
minute, there will be room. Pure bookkeeping: no sockets, no tasks, and the clock is handed in.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from chatsmith.serve.errors import invalid, known

WINDOW_SECONDS = 60.0
"""The speed that Retry-After rests on is that of so long ago until now."""

MIN_RETRY, MAX_RETRY = 1, 60
"""Seconds; OpenAI's clients heed no more than a minute."""


@dataclass(frozen=True)
class Limits:
    """What may be open at once. 0 is no limit for `per_key`."""

    queue_requests: int = 256
    """Replies that may wait beyond those that run."""
    queue_tokens: int = 1_000_000
    """Prompt tokens of replies that have not begun."""
    per_key: int = 0
    """HTTP requests of one key."""


class _Recent:
    """What has happened lately, and how long as much more would take at that speed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._noted: deque[tuple[float, int]] = deque(maxlen=1024)

    def note(self, amount: int = 1) -> None:
        """It has happened, now."""
        self._noted.append((self._clock(), amount))

    def seconds_for(self, amount: int) -> float | None:
        """Seconds; None if nothing has happened within the window."""
        now = self._clock()
        while self._noted and self._noted[0][0] < now - WINDOW_SECONDS:
            self._noted.popleft()
        total = sum(amount for _, amount in self._noted)
        return amount * (now - self._noted[0][0]) / total if total else None


class Admission:
    """The open work of one model."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.capacity = 0
        """Replies that run at once, over all engines."""
        self.num_open = 0
        """Replies asked for and not over."""
        self.waiting_tokens = 0
        """Prompt tokens of replies that have not begun."""
        self.clock = clock
        self.ended = _Recent(clock)
        self.begun = _Recent(clock)
        self.opened_at: dict[Ticket, float] = {}
        self.open_by_key: Counter[str] = Counter()
        self.request_seconds: deque[float] = deque(maxlen=64)

    def admit(self, key: str, num_replies: int, num_tokens: int) -> "Ticket":
        """Let a request in. Raises ApiError: 429 if it has to come back later, 400 if it can never come in."""
        limits = self.limits
        most = self.capacity + limits.queue_requests
        if num_replies > most:
            raise invalid(f"{num_replies} replies at once; this server takes at most {most}", "n")
        open_requests = self.open_by_key[key]
        if limits.per_key and open_requests >= limits.per_key:
            times = self.request_seconds
            later = self._retry_after(sum(times) / len(times) / open_requests if times else None)
            raise known("too_many_requests_per_key", retry_after=later, count=open_requests)
        excess = self.num_open + num_replies - most
        if excess > 0:
            later = self._retry_after(self.ended.seconds_for(excess))
            waiting = f"{max(0, self.num_open - self.capacity)} replies wait"
            raise known("queue_full", retry_after=later, waiting=waiting)
        # A prompt that alone is longer than the limit may come in when nothing else waits.
        excess = self.waiting_tokens + num_tokens - limits.queue_tokens
        if excess > 0 and self.waiting_tokens:
            later = self._retry_after(self.begun.seconds_for(min(excess, self.waiting_tokens)))
            waiting = f"{self.waiting_tokens} prompt tokens wait to be read"
            raise known("queue_full", retry_after=later, waiting=waiting)
        return Ticket(self, key, num_replies, num_tokens)

    def _retry_after(self, seconds: float | None) -> int:
        if seconds is None:  # nothing has ended yet: what has taken this long may take as long again
            now = self.clock()
            seconds = now - min(self.opened_at.values(), default=now)
        return min(max(math.ceil(seconds), MIN_RETRY), MAX_RETRY)


class Ticket:
    """One HTTP request that was let in. Close it whatever happens: that gives back what it still holds."""

    def __init__(self, admission: Admission, key: str, num_replies: int, num_tokens: int) -> None:
        assert num_replies > 0
        self.key = key
        self._admission = admission
        self._waiting = self._running = num_replies
        self._waiting_tokens = num_tokens
        self._is_closed = False
        admission.num_open += num_replies
        admission.waiting_tokens += num_tokens
        admission.open_by_key[key] += 1
        admission.opened_at[self] = admission.clock()

    def begin(self) -> None:
        """One reply has its first token, so its share of the prompts was read."""
        assert self._waiting > 0
        share = self._waiting_tokens // self._waiting
        self._waiting -= 1
        self._waiting_tokens -= share
        self._admission.waiting_tokens -= share
        self._admission.begun.note(share)

    def end(self) -> None:
        """One reply is over."""
        assert self._running > 0
        self._running -= 1
        self._admission.num_open -= 1
        self._admission.ended.note()

    def close(self) -> None:
        """The request is over; closing twice does no harm."""
        if self._is_closed:
            return
        self._is_closed = True
        admission = self._admission
        admission.waiting_tokens -= self._waiting_tokens  # given up, not read
        for _ in range(self._running):
            self.end()
        admission.request_seconds.append(admission.clock() - admission.opened_at.pop(self))
        admission.open_by_key[self.key] -= 1
        if not admission.open_by_key[self.key]:
            del admission.open_by_key[self.key]
