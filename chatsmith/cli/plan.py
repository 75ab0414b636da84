"""`chatsmith plan`: what a recipe, or a model of a given depth, is, what it will cost, and how it will be trained.

Nothing is kept: the numbers come from the pure functions that training uses, and the time from a few rows of that very
shape that are trained on here; of models too large for that in a second or so, from this machine's measured matrix peak
and the share of it that training was measured to reach. For GPUs that are not here the time is computed from counted
operations and bytes (`report/estimate.py`). A budget in dollars or hours, or a size, chooses the depth.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from chatsmith.cli.config import PlanConfig as Config
from chatsmith.cli.config import Shape
from chatsmith.cli.recipe import Sections, configure, named_recipe
from chatsmith.cli.training import shape_of
from chatsmith.model.config import model_cost
from chatsmith.report import estimate
from chatsmith.report.plots import save_curve
from chatsmith.runtime.console import Reporter, counted, format_bytes, format_seconds
from chatsmith.runtime.device import DTYPES, Runtime, can_compile, detect_runtime, gemm_peak
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import BUNDLE_STAGES, Recipe, RunDirectory, read_recipe
from chatsmith.train.memory import Way
from chatsmith.train.plan import Plan, dial, make_plan, nanochat_share
from chatsmith.train.step import COMPILING_PAYS_SECONDS

EXPECTED_SHARE_OF_PEAK = 0.55
"""What `chatsmith bench train` reaches at depth 6 (docs/lab-log.md, "Throughput"); small models on CPU, which are timed
instead, reach 11 to 21 %."""

LARGE = {"vocab_size": 32_768, "sequence_length": 2048, "head_dim": 128, "window_pattern": "SSSL"}
"""What a model that a budget on GPUs chooses is like, where no flag says otherwise: nanochat's present one."""
DEPTHS = range(2, 62, 2)
PUBLISHED_ON = 8 * estimate.DEVICES["h100"].flops["bf16"] * estimate.DEVICES["h100"].efficiency["bf16"]
"""Products a second of the machine for which recipes give the minutes that others needed."""


# ---- what is planned ----


@dataclass(frozen=True)
class Pipeline:
    """A recipe, or pretraining alone: the plan of its pretraining, and what its other stages take."""

    name: str
    plan: Plan
    minutes: float = 0.0
    """Of pretraining, where the budget is in minutes."""
    others: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """What other stages take, by name: so many tokens, minutes, or minutes on eight H100, as others published."""
    sources: tuple[str, ...] = ()
    """Names of everything that is read."""
    bundles: int = 1
    """Stages that leave a model."""
    checkpoints: int = 0
    """Models that are kept along the way."""
    expected: Mapping[str, Any] = field(default_factory=dict)
    """What others published of it."""

    @property
    def download_bytes(self) -> float:
        """What comes over the network."""
        return estimate.download_bytes(self.sources)

    @property
    def disk_bytes(self) -> float:
        """What is downloaded, and what the run writes."""
        plan, models = self.plan, self.bundles + self.checkpoints
        return self.download_bytes + estimate.kept_bytes(
            plan.cost, plan.tokens, plan.model.vocab_size, models
        )


def of_depth(config: Config, depth: int, world_size: int) -> Pipeline:
    """Pretraining of a model of this depth."""
    shape = shape_of(replace(config, depth=depth), config.vocab_size or dial(depth).vocab_size)
    tokens = config.tokens or int(config.ratio * model_cost(shape).scaling_parameters)
    batch = config.batch_tokens or None
    plan = make_plan(shape, tokens, batch_tokens=batch, world_size=world_size, from_scratch=True)
    checkpoints = plan.steps // config.keep_every if config.keep_every else 0
    return Pipeline(f"depth {depth}", plan, checkpoints=checkpoints)


def of_recipe(config: Config, world_size: int, clock: "Clock") -> Pipeline:
    """The pipeline of the recipe `config.what`. Raises UserError if there is none, or it does not pretrain."""
    recipe = named_recipe(config.what)
    run = RunDirectory(Path("runs") / recipe.name)
    given = {"pretrain": {"keep_every": config.keep_every}} if config.keep_every else {}
    configs, recipe = configure(recipe, run, within_budget(recipe, given, world_size, clock), os.environ)
    if "pretrain" not in configs:
        raise UserError(f"the recipe {recipe.name} does not pretrain a model: there is nothing to plan")
    return pipeline_of(recipe, configs, world_size, clock)


def pipeline_of(
    recipe: Recipe, configs: Mapping[str, Any], world_size: int, clock: "Clock | None" = None
) -> Pipeline:
    """What a recipe with these settings takes. Without a `clock`, a budget in minutes is that of the usual ratio."""
    pretrain = configs["pretrain"]
    usual = dial(pretrain.depth).vocab_size
    shape = shape_of(pretrain, getattr(configs.get("tokenizer"), "vocab_size", usual))

    def plan_of(tokens: int) -> Plan:
        return make_plan(
            shape,
            tokens,
            batch_tokens=pretrain.batch_tokens or None,
            rows_per_microbatch=pretrain.rows_per_microbatch or None,
            world_size=world_size,
            rate_scale=pretrain.rate_scale,
            from_scratch=True,
        )

    plan = plan_of(pretrain.tokens or int(pretrain.ratio * model_cost(shape).scaling_parameters))
    if pretrain.minutes and clock:
        plan = plan_of(max(1, int(60 * pretrain.minutes * plan.tokens / clock.seconds(plan))))
    expected = recipe.sections.get("expected", {})
    others: dict[str, tuple[str, float]] = {}
    checkpoints = 0
    for stage, one in configs.items():
        minutes, tokens = getattr(one, "minutes", 0), expected.get(f"{stage}_tokens", 0)
        if stage == "pretrain":
            tokens = plan.tokens
        elif minutes:
            others[stage] = ("minutes", minutes)
        elif f"{stage}_minutes" in expected:
            others[stage] = ("minutes on eight H100", expected[f"{stage}_minutes"])
        elif tokens:
            others[stage] = ("tokens", tokens)
        # Of epochs, and of budgets in minutes, the steps are not known before they are measured.
        steps = tokens / plan.tokens_per_step if stage != "rl" else one.steps * one.updates
        if every := getattr(one, "keep_every", 0):
            checkpoints += int(steps / every)
    sources = [
        *map(str, getattr(configs.get("data"), "data", ())),
        *(entry for config in configs.values() for entry in getattr(config, "mixture", ())),
        *(["benchmarks"] if getattr(configs.get("evaluate"), "download", False) else []),
    ]
    bundles = len(set(BUNDLE_STAGES) & set(configs))
    return Pipeline(
        recipe.name, plan, pretrain.minutes, others, tuple(sources), bundles, checkpoints, expected
    )


def within_budget(
    recipe: Recipe,
    overrides: Sections,
    world_size: int,
    clock: "Clock | None" = None,
    run: RunDirectory | None = None,
) -> Sections:
    """`overrides`, and what follows from the recipe's [budget], if it has one: the depth of the best model for the
    hours, and the minutes of the stages. A `run` that was begun with the same budget keeps its depth.

    Raises UserError for a budget that is none.
    """
    budget = {**recipe.sections.get("budget", {}), **overrides.get("budget", {})}
    if not budget:
        return overrides
    hours = budget.get("hours", 0)
    if set(budget) != {"hours"} or not isinstance(hours, int | float) or not hours > 0:
        raise UserError("[budget] takes hours, more than 0: --set budget.hours=8")
    kept = read_recipe(run.recipe).sections if run and run.recipe.is_file() else {}
    given = {**recipe.sections.get("pretrain", {}), **overrides.get("pretrain", {})}
    if "depth" in given:
        depth = given["depth"]
    elif kept.get("budget") == budget and "depth" in kept.get("pretrain", {}):
        depth = kept["pretrain"]["depth"]
    else:
        shape = {one.name: given[one.name] for one in fields(Shape) if one.name in given}
        tokenizer = {**recipe.sections.get("tokenizer", {}), **overrides.get("tokenizer", {})}
        asked = Config(hours=hours, vocab_size=tokenizer.get("vocab_size"), **shape)
        depth = chosen(asked, world_size, clock or clock_here(world_size), 0.0).plan.model.num_layers
    minutes = {"pretrain": estimate.PRETRAINING_SHARE, "sft": 0.6 * (1 - estimate.PRETRAINING_SHARE)}
    found: dict[str, dict[str, Any]] = {"budget": budget, "pretrain": {"depth": depth}}
    for stage, share in minutes.items():
        found[stage] = {"minutes": round(60 * hours * share, 2), **found.get(stage, {})}
    return {stage: {**found.get(stage, {}), **overrides.get(stage, {})} for stage in {*found, *overrides}}


def chosen(config: Config, world_size: int, clock: "Clock", price: float) -> Pipeline:
    """The deepest model that the budget pays for, or the one whose size is nearest to what was asked for."""
    pipelines = {depth: of_depth(config, depth, world_size) for depth in DEPTHS}
    if config.params:
        depth = min(DEPTHS, key=lambda one: abs(pipelines[one].plan.cost.parameters - config.params))
        return pipelines[depth]
    hours = config.hours or config.budget_usd / price
    best = None
    for pipeline in pipelines.values():
        _, memory, _ = clock.fitted(pipeline.plan)
        if not memory["fits"] or clock.seconds(pipeline.plan) > 3600 * hours * estimate.PRETRAINING_SHARE:
            break
        best = pipeline
    if best is None:
        raise UserError(
            f"{hours * 60:.0f} minutes are too few for a model of depth {DEPTHS[0]} there; give more",
            setting="hours" if config.hours else "budget_usd",
        )
    rest = clock.seconds(best.plan) * (1 / estimate.PRETRAINING_SHARE - 1) / 60
    return replace(best, others={"all other stages": ("minutes", rest)})


# ---- how long it takes ----


class Clock:
    """How long training takes on `count` GPUs of the table: computed, not measured."""

    def __init__(self, device: estimate.Device, count: int, fp8: bool = False) -> None:
        self.device, self.count, self.fp8 = device, count, fp8
        if fp8 and "fp8" not in device.flops:
            raise UserError(f"{device.title} has no fp8", setting="fp8")
        self.dtype = "bf16" if "bf16" in device.flops else "fp16"
        way = Way(DTYPES[self.dtype], on_gpu=True, is_compiled=True, world_size=count)
        self.fitted = cache(lambda plan: estimate.fit_within(plan, way, device.memory))
        """The plan in the microbatches that fit, its memory as numbers, and in words."""

    @cached_property
    def products_per_second(self) -> float:
        """Of all devices, at what they reach of their data sheet."""
        return self.count * self.device.flops[self.dtype] * self.device.efficiency[self.dtype]

    def step(self, plan: Plan) -> estimate.StepTime:
        """A step of pretraining, by cause."""
        fitted, memory, _ = self.fitted(plan)
        again, is_cut = float("blocks" in memory["tier"]), "fully" in memory["tier"]
        return estimate.step_of(fitted, self.device, self.dtype, again, fp8=self.fp8, is_cut=is_cut)

    def seconds(self, plan: Plan) -> float:
        """All steps of a plan."""
        return plan.steps * self.step(plan).seconds

    def facts(self, plan: Plan) -> dict[str, Any]:
        """What a program may want to know."""
        speed = plan.tokens / self.seconds(plan)
        peak = self.device.flops[self.dtype] * self.count
        return {
            "tokens_per_second": speed,
            "mfu": speed * plan.cost.training_flops_per_token / peak,
            "seconds_of_a_step": vars(self.step(plan)),
            "memory": self.fitted(plan)[1],
            "is_measured": False,
        }

    def rows(self, plan: Plan) -> list[list[str]]:
        """What a person may want to know."""
        facts, name = self.facts(plan), f"{self.count} x {self.device.title}"
        kind = self.dtype + " and fp8" * self.fp8
        return [
            ["on", f"{name}, {kind}; computed from the data sheet, not measured"],
            ["speed", f"{facts['tokens_per_second']:,.0f} tokens/s, MFU {facts['mfu']:.0%}"],
            ["memory", self.fitted(plan)[2]],
        ]


class MeasuredClock(Clock):
    """How long training takes here: timed where that takes a second or so, else estimated. That several processes share
    the work without loss is taken for granted."""

    def __init__(self, runtime: Runtime, count: int) -> None:
        self.runtime, self.count = runtime, count
        self._foreseen = cache(lambda plan: estimate.foreseen_step_seconds(plan, runtime, self._peak))
        self.fitted = cache(lambda plan: estimate.fit_here(plan, runtime, self._compiles(plan)))

    @cached_property
    def _peak(self) -> float:
        return gemm_peak(self.runtime, self.runtime.compute_dtype, seconds=0.5)

    @cached_property
    def products_per_second(self) -> float:
        """Of all processes, at the share of the peak that training reaches."""
        return self.count * self._peak * EXPECTED_SHARE_OF_PEAK

    def seconds(self, plan: Plan) -> float:
        """All steps of a plan."""
        of_step = self._foreseen(plan)
        return self._at_peak(plan) / EXPECTED_SHARE_OF_PEAK if of_step is None else plan.steps * of_step

    def _compiles(self, plan: Plan) -> bool:
        return self.seconds(plan) > COMPILING_PAYS_SECONDS and can_compile(self.runtime.device)

    def _at_peak(self, plan: Plan) -> float:
        return plan.tokens * plan.cost.training_flops_per_token / (self._peak * plan.world_size)

    def facts(self, plan: Plan) -> dict[str, Any]:
        """What a program may want to know."""
        seconds, is_timed = self.seconds(plan), self._foreseen(plan) is not None
        memory = self.fitted(plan)[1]
        return {
            "seconds": seconds,
            "is_timed": is_timed,
            "share_of_peak": self._at_peak(plan) / seconds,
            "memory": memory,
            "memory_bytes": {
                part: memory[part] for part in ("weights", "gradients", "optimizer", "activations")
            },
            "is_measured": is_timed,
        }

    def rows(self, plan: Plan) -> list[list[str]]:
        """What a person may want to know."""
        facts = self.facts(plan)
        seconds, share = facts["seconds"], facts["share_of_peak"]
        words = f"about {_about(seconds)} on {self.runtime.describe()}, "
        if facts["is_timed"]:
            words += f"by rows of this shape timed now, at {share:.0%} of its matrix peak"
            if self._compiles(plan):
                words += "; compiling saves up to a third"
        else:
            words += f"an estimate: at {share:.0%} of its matrix peak, as depth 6 was measured"
        if plan.world_size > 1:
            words += f"; that {plan.world_size} processes are {plan.world_size} times as fast is assumed"
        return [["memory", self.fitted(plan)[2]], ["time", words]]


def clock_here(count: int) -> Clock:
    """For the GPUs that are here: by their data sheet if it is known, else measured."""
    runtime = detect_runtime()
    device = estimate.device_here(runtime.device)
    return Clock(device, count) if device else MeasuredClock(runtime, count)


# ---- what it costs ----


def facts_of(pipeline: Pipeline, clock: Clock, price: float) -> dict[str, Any]:
    """What a program may want to know of a pipeline; `price` is that of an hour of all GPUs, in dollars."""
    plan = pipeline.plan
    seconds = clock.seconds(plan)
    units = {
        "tokens": seconds / plan.tokens,
        "minutes on eight H100": 60 * PUBLISHED_ON / clock.products_per_second,
        "minutes": 60,
    }
    others = {stage: amount * units[unit] / 3600 for stage, (unit, amount) in pipeline.others.items()}
    by_stage = {"pretrain": pipeline.minutes / 60 or seconds / 3600, **others}
    hours = sum(by_stage.values())
    return {
        "name": pipeline.name,
        "depth": plan.model.num_layers,
        "parameters": plan.cost.parameters,
        "tokens": plan.tokens,
        "hours": hours,
        "hours_by_stage": by_stage,
        "dollars": hours * price,
        "disk_bytes": pipeline.disk_bytes,
        "download_bytes": pipeline.download_bytes,
        "checkpoints": pipeline.checkpoints,
        "rule": rule_of(plan),
        "expected": dict(pipeline.expected),
        **clock.facts(plan),
    }


def rule_of(plan: Plan) -> str:
    """Whose rules for learning rates, momentum and weight decay a plan follows."""
    share = nanochat_share(plan.tokens_per_step)
    if share == 0:
        return "tuned here, at 4,096 tokens a step"
    untried = "which no training here has tried"
    if share == 1:
        return f"nanochat's, published for steps from 2^19 tokens on, {untried}"
    return f"between ours (up to 2^17 tokens a step) and nanochat's (from 2^19 on), {untried}"


# ---- the command ----


def main(config: Config) -> None:
    """Print the plan, or a table of plans, for people or as JSON."""
    reporter = Reporter(json=config.json)
    if config.what.isdigit():
        config = replace(config, depth=int(config.what), what="")
    is_here = config.gpu == "this"
    if not is_here and config.what and named_recipe(config.what).sections.get("pretrain", {}).get("fp8"):
        config = replace(config, fp8=True)
    count = config.world_size if is_here else config.count
    if is_here:
        clock = MeasuredClock(detect_runtime(config.device), count)
    else:
        clock = Clock(estimate.find_device(config.gpu), count, config.fp8)
    price = count * (config.price_per_gpu_hour or (0.0 if is_here else clock.device.dollars_per_hour))
    if not is_here and (config.budget_usd or config.hours or config.params or config.table == "depths"):
        unset = [key for key in LARGE if getattr(config, key) == getattr(Config, key)]
        config = replace(config, **{key: LARGE[key] for key in unset})
    if config.budget_usd and not price:
        raise UserError("a budget in dollars needs a price: name a gpu, or price_per_gpu_hour", setting="gpu")
    if config.table != "none":
        show_table(config, count, clock, price, reporter)
        return
    if config.budget_usd or config.hours or config.params:
        pipeline = chosen(config, count, clock, price)
    else:
        pipeline = asked_for(config, count, clock)
    facts, plan = facts_of(pipeline, clock, price), pipeline.plan
    reporter.result(facts | {"plan": asdict(plan), "cost": asdict(plan.cost)})
    reporter.table(
        "The plan", ["what", "how much"], [*_rows(plan), *clock.rows(plan), *_cost_rows(facts, price)]
    )


def asked_for(config: Config, count: int, clock: Clock) -> Pipeline:
    """The recipe, or the model of the depth, that is named."""
    return of_recipe(config, count, clock) if config.what else of_depth(config, config.depth, count)


def show_table(config: Config, count: int, clock: Clock, price: float, reporter: Reporter) -> None:
    """Depths on the same GPUs, or the same model on all GPUs of the table."""
    if config.table == "depths":
        pipelines = [of_depth(config, depth, count) for depth in range(4, 34, 2)]
        found = [facts_of(pipeline, clock, price) for pipeline in pipelines]
    else:
        found, count = [], config.count
        for device in estimate.DEVICES.values():
            clock = Clock(device, count, config.fp8 and "fp8" in device.flops)
            pipeline = asked_for(config, count, clock)
            each = count * (config.price_per_gpu_hour or device.dollars_per_hour)
            found.append(facts_of(pipeline, clock, each) | {"name": device.title})
    if config.plot:
        places = [one["depth"] for one in found] if config.table == "depths" else range(len(found))
        points = [(place, one["hours"]) for place, one in zip(places, found, strict=True)]
        save_curve(config.plot, f"hours, by {config.table}", config.table, points)
    reporter.result(found)
    rows = [
        [one["name"], *(f"{one[key] / size:,.{digits}f}" for key, size, digits in COLUMNS)] for one in found
    ]
    reporter.table("", ["", "M parameters", "B tokens", "hours", "dollars"], rows)


COLUMNS = (("parameters", 1e6, 0), ("tokens", 1e9, 2), ("hours", 1, 1), ("dollars", 1, 0))


def _rows(plan: Plan) -> list[list[str]]:
    shape, cost, rates = plan.model, plan.cost, plan.rates
    flops = plan.tokens * cost.training_flops_per_token
    return [
        ["model", f"{counted(shape.num_layers, 'layer')}, {shape.model_dim} channels, "
         f"{counted(shape.num_heads, 'head')} of {shape.head_dim}"],
        ["its text", f"rows of {shape.context_length:,} tokens, a vocabulary of {shape.vocab_size:,}; "
         f"{counted(sum(map(bool, shape.windows)), 'layer')} with a window"],
        ["parameters", f"{cost.parameters:,}: {cost.matrices:,} in blocks, {cost.head:,} in the head, "
         f"{cost.tables:,} in embedding tables"],
        ["token budget", f"{plan.tokens:,} tokens: {counted(plan.steps, 'step')} of {plan.tokens_per_step:,}"],
        ["a step", f"{plan.world_size} x {plan.accumulation} x {plan.rows_per_microbatch} rows "
         f"of {plan.sequence_length}"],
        ["learning rates", f"matrices {rates.matrix:.3g}, head {rates.head:.3g}, embeddings {rates.embedding:.3g}, "
         f"weight decay {rates.weight_decay:.2g}"],
        ["their rule", rule_of(plan)],
        ["arithmetic", f"{cost.training_flops_per_token / 1e6:,.0f} MFLOP a token, {flops:.2e} in all"],
    ]  # fmt: skip


def _cost_rows(facts: Mapping[str, Any], price: float) -> list[list[str]]:
    by_stage: Mapping[str, float] = facts["hours_by_stage"]
    rows: list[list[str]] = []
    if price or len(by_stage) > 1:
        dollars = f", ${facts['dollars']:,.0f} at ${price:.2f} an hour" if price else ""
        stages = ", ".join(f"{stage} {format_seconds(3600 * hours)}" for stage, hours in by_stage.items())
        rows.append(["in all", f"{facts['hours']:.1f} h{dollars} ({stages})"])
    disk = format_bytes(facts["disk_bytes"])
    if facts["download_bytes"]:
        disk += f", {format_bytes(facts['download_bytes'])} of it downloaded"
    if facts["checkpoints"]:
        disk += f", with {counted(facts['checkpoints'], 'checkpoint')} kept along the way"
    rows.append(["disk", disk])
    expected = facts["expected"]
    rows += [[title, expected[key]] for key, title in EXPECTED.items() if key in expected]
    return rows


EXPECTED = {
    "cost": "published cost",
    "scores": "published scores",
    "source": "published by",
    "advice": "better buy",
}


def _about(seconds: float) -> str:
    """A duration in one unit, to two digits or so: an estimate is not good to the minute."""
    for size, unit, most in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds / size < most:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 86_400:,.0f} days"
