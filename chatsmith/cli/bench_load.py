"""Waiting times of an engine under load, without a server: for `chatsmith bench infer`."""

import random
import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, Sampling
from chatsmith.runtime.logs import Reporter


def steady_streams(
    engine: Engine, num_ids: int, reporter: Reporter, *, streams: int = 8, long_prompt: int = 400
) -> dict[str, Any]:
    """Seconds between tokens of streams that decode, undisturbed and while a long prompt is read beside them.

    `added_token_times` is how many undisturbed medians the long prompt adds to their 99th percentile.
    """
    source = random.Random(1)
    room = engine.config.context_length - 32
    handles = {
        engine.submit(
            Request(_ids(source, 16, num_ids), Sampling(max_tokens=room, ignore_end=True, seed=index))
        )
        for index in range(streams)
    }
    while {event.handle for event in engine.step()} != handles:
        pass  # until all prompts are read
    without = [_timed_step(engine) for _ in range(60)]
    long = engine.submit(Request(_ids(source, long_prompt, num_ids), Sampling(max_tokens=1, ignore_end=True)))
    during: list[float] = []
    with reporter.progress("load, a long prompt", long_prompt, "tokens") as bar:
        for _ in range(2 * long_prompt):
            started = time.perf_counter()
            events = engine.step()
            during.append(time.perf_counter() - started)
            bar.advance(long_prompt // 16)
            if any(event.handle == long for event in events):
                break
    for handle in handles:
        engine.cancel(handle)
    median, calm, disturbed = statistics.median(without), percentiles(without), percentiles(during)
    return {
        "streams": streams,
        "long_prompt": long_prompt,
        "without": calm,
        "with": disturbed,
        "added_token_times": (disturbed["p99"] - calm["p99"]) / median,
    }


def random_load(
    engine: Engine, num_ids: int, reporter: Reporter, *, requests: int = 24, share_of_capacity: float = 0.5
) -> dict[str, Any]:
    """Poisson arrivals of prompts of 16 to 512 tokens that want 16 to 256 more, at a share of what the engine can do.

    What it can do is measured first, by the same requests submitted all at once.
    """
    source = random.Random(2)
    wanted = [
        Request(
            _ids(source, source.randint(16, 512), num_ids),
            Sampling(max_tokens=source.randint(16, 256), ignore_end=True, seed=index),
        )
        for index in range(requests)
    ]
    with reporter.progress("load, all at once", requests, "requests") as bar:
        started = time.perf_counter()
        engine.generate(wanted, on_finish=lambda *_: bar.advance())
        capacity = requests / (time.perf_counter() - started)
    engine.weights_changed()  # forgets the prompts
    per_second = share_of_capacity * capacity
    arrivals = deque[tuple[float, Request]]()
    moment = 0.0
    for request in wanted:
        moment += source.expovariate(per_second)
        arrivals.append((moment, request))
    first, between = _serve(engine, arrivals, reporter)
    return {
        "requests": requests,
        "per_second": per_second,
        "capacity_per_second": capacity,
        "first_token": percentiles(first),
        "between_tokens": percentiles(between),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The median and the 99th percentile, by the nearest rank."""
    ordered = sorted(values)
    return {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }


def _serve(
    engine: Engine, arrivals: deque[tuple[float, Request]], reporter: Reporter
) -> tuple[list[float], list[float]]:
    """Submit each request at its moment; seconds to first tokens, and between tokens."""
    first: list[float] = []
    between: list[float] = []
    arrived: dict[int, float] = {}
    latest: dict[int, float] = {}
    began = time.perf_counter()
    with reporter.progress("load, one by one", len(arrivals), "requests") as bar:
        while arrivals or not engine.is_idle:
            now = time.perf_counter() - began
            while arrivals and arrivals[0][0] <= now:
                moment, request = arrivals.popleft()
                arrived[engine.submit(request)] = moment
            if engine.is_idle:
                time.sleep(max(0.0, arrivals[0][0] - now))
                continue
            events = engine.step()
            now = time.perf_counter() - began
            for event in events:
                if event.handle in latest:
                    between.append(now - latest[event.handle])
                else:
                    first.append(now - arrived[event.handle])
                latest[event.handle] = now
                bar.advance(int(event.completion is not None))
    return first, between


def _timed_step(engine: Engine) -> float:
    started = time.perf_counter()
    engine.step()
    return time.perf_counter() - started


def _ids(source: random.Random, count: int, num_ids: int) -> tuple[int, ...]:
    return tuple(source.randrange(num_ids) for _ in range(count))
