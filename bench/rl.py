"""How fast rollouts are generated, all together and one question at a time, side by side.

    python bench/rl.py RUN [--samples 8] [--json]

Three ways take turns, so that a busy machine slows them all: our engine with everything in one batch; our engine with
one question at a time, which gives the very same replies; and a naive decoder with one question at a time, as a first
implementation has it (nanochat's is of this kind), which writes as many tokens for each reply of a question as the
longest one has, taking the most likely and calling no tool: less than a real rollout asks of it. Nothing is written.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable

from naive_decoder import decode_naively

from chatsmith.backends import choose_backend
from chatsmith.bundle import Bundle, load_bundle
from chatsmith.cli.config import Compute, Natural, Output, Positive, Run
from chatsmith.cli.settings import from_flags
from chatsmith.data.problems import Problem
from chatsmith.engine.engine import Engine
from chatsmith.rl.rollouts import Group, RolloutWorker, seeds_of
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import detect_runtime, settled
from chatsmith.runtime.run_directory import resolve_bundle
from chatsmith.tasks.rewards import Judge
from chatsmith.tools.calculator import calculator_tool
from chatsmith.worlds.kindergarten.exam import rl_problem_set


class Config(Compute, Output, Run):
    """Measure the speed of rollouts of a run's fine-tuned model, or of a bundle."""

    prompts: Positive = 32
    """Problems; as many as a step of `rl` takes."""
    samples: Positive = 8
    """Replies to each."""
    max_tokens: Positive = 64
    """Longest reply."""
    rounds: Positive = 3
    """How often each way is timed; the median counts."""
    seed: Natural = 1
    """Decides problems and replies."""


def main(config: Config) -> None:
    """Measure, and print a table or one JSON object."""

    reporter = Reporter(json=config.json)
    runtime = detect_runtime(config.device, config.dtype)
    sft = config.run / "sft"
    bundle = load_bundle(resolve_bundle(sft if sft.is_dir() else config.run), device=runtime.device)
    bundle.model.compute_dtype = runtime.compute_dtype
    reporter.stage("Rollout speed", f"{bundle.path}, {runtime.describe()}")
    problem_set = rl_problem_set(config.seed)
    problems = [problem_set.train(place) for place in range(config.prompts)]
    max_running = min(512, config.prompts * config.samples)
    engine = Engine(
        bundle.model,
        bundle.tokenizer,
        backend=choose_backend(bundle.model),
        tool=calculator_tool,
        max_running=max_running,
        tokens_per_step=2048,
    )
    roller = RolloutWorker(engine, bundle.tokenizer, Judge(), reporter, max_tokens=config.max_tokens)
    with settled():
        figures = measure(config, bundle, engine, roller, problems)
    rows = [
        ["all in one batch", f"{figures['together_tokens_per_second']:,.0f}", ""],
        *(
            [label, f"{figures[f'{name}_tokens_per_second']:,.0f}", f"{figures[f'times_{name}']:.2f}"]
            for name, label in LABELS.items()
        ),
    ]
    reporter.table(
        f"{config.prompts} problems, {config.samples} replies each",
        ["way", "tokens per second", "one batch is faster by"],
        rows,
    )
    reporter.line(
        f"For {config.samples} replies to each, {figures['computed_per_token']:.2f} tokens are computed a token of the "
        "replies, prompts included: where replies agree, they are one"
    )
    reporter.result(figures)


LABELS = {"one_by_one": "one question at a time", "plain": "one question at a time, naive decoder"}


def measure(
    config: Config, bundle: Bundle, engine: Engine, roller: RolloutWorker, problems: list[Problem]
) -> dict[str, float]:
    """Figures of `config.rounds` turns of all ways, after one of each that warms up."""

    seeds = seeds_of(config.seed, 0, range(len(problems)))

    def together() -> list[Group]:
        return roller.write(problems, config.samples, seeds)

    def one_by_one() -> None:
        for problem, seed in zip(problems, seeds, strict=True):
            roller.write([problem], config.samples, [seed])

    computed = engine.num_computed
    groups = together()
    computed = engine.num_computed - computed
    ways = {"together": together, "one_by_one": one_by_one, "plain": _plain(bundle, groups)}
    durations: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(config.rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            durations[name].append(time.perf_counter() - started)
    tokens = sum(len(one.ids) for group in groups for one in group.completions)
    speeds = {name: tokens / statistics.median(times[1:]) for name, times in durations.items()}
    return {
        **{f"{name}_tokens_per_second": speed for name, speed in speeds.items()},
        **{f"times_{name}": speeds["together"] / speeds[name] for name in LABELS},
        "prompts": config.prompts,
        "samples": config.samples,
        "reply_tokens": tokens / (config.prompts * config.samples),
        "computed_per_token": computed / tokens,
    }


def _plain(bundle: Bundle, groups: list[Group]) -> Callable[[], None]:
    """Decode as many tokens as the groups' replies have, one question after the other, without the engine."""

    # Weights in the type that is computed in, as the engine keeps them: a cast at every product would not be fair.
    model = copy.deepcopy(bundle.model).to(dtype=bundle.model.compute_dtype)
    work = [
        ([one.prompt_ids for one in group.completions], max(len(one.ids) for one in group.completions))
        for group in groups
    ]

    def decode() -> None:
        for prompts, num_new in work:
            decode_naively(model, prompts, num_new, samples=True)

    return decode


if __name__ == "__main__":
    main(Config(**from_flags(Config, sys.argv[1:], "python bench/rl.py")))
