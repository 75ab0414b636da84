"""Whether a plan fits into a memory, and how: as numbers and in words, also for devices that are not here."""

from dataclasses import replace
from typing import Any

from chatsmith.runtime.device import Runtime, free_memory, resident_bytes
from chatsmith.train.memory import SHARE_OF_FREE_MEMORY, Fit, Way, find_fit, most_at_once
from chatsmith.train.plan import Plan


def fit_here(plan: Plan, runtime: Runtime, is_compiled: bool) -> tuple[Plan, dict[str, Any], str]:
    """As `fit_within` what is free on this device now. On a CPU, "floor_bytes" is what the process holds besides."""
    on_gpu = runtime.device.type == "cuda"
    way = Way(runtime.compute_dtype, on_gpu, is_compiled, world_size=plan.world_size)
    share = 1.0 if on_gpu else SHARE_OF_FREE_MEMORY / plan.world_size
    plan, facts, words = fit_within(plan, way, share * free_memory(runtime.device))
    if on_gpu:
        return plan, facts, words
    floor = resident_bytes()
    return (
        plan,
        facts | {"floor_bytes": floor},
        f"{words}; {format_bytes(floor)} come on top, which any process holds",
    )


def fit_within(plan: Plan, way: Way, room: float) -> tuple[Plan, dict[str, Any], str]:
    """The plan in the microbatches in which training would do it within `room` bytes a device; bytes by what they are
    for, whether and how they fit; and the same in words."""
    rows = plan.rows_per_microbatch * plan.accumulation
    most = most_at_once(plan.model) if way.on_gpu else plan.rows_per_microbatch
    fit = find_fit(plan.model, rows, most, way, room)
    parts = {name: size for name, size in fit.memory.items() if name not in ("batch", "peak")}
    facts = parts | {
        "peak_bytes": fit.memory["peak"],
        "free_bytes": int(room),
        "fits": fit.fits,
        "micro_batch": fit.rows,
        "tier": fit.tier,
    }
    plan = replace(plan, rows_per_microbatch=fit.rows, accumulation=rows // fit.rows)
    return plan, facts, _in_words(plan, fit, room)


def _in_words(plan: Plan, fit: Fit, room: float) -> str:
    if fit.fits:
        named = ((name, size) for name, size in fit.memory.items() if size and name not in ("batch", "peak"))
        parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in named)
        peak = f"{format_bytes(fit.memory['peak'])} of {format_bytes(room)} at most"
        return f"fits: {peak} ({parts}), {fit.tier}, {fit.rows} rows at once"
    state = sum(fit.memory[name] for name in ("weights", "gradients", "optimizer"))
    words = (
        f"does not fit, because a step needs {format_bytes(fit.memory['peak'])} at least, {format_bytes(state)} of it "
        f"for weights, gradients and the optimizer, and {format_bytes(room)} are there"
    )
    if fit.way.on_gpu and fit.way.world_size == 1:
        for count in (2, 4, 8):
            several = replace(fit.way, world_size=count, bf16_tables=False)
            if find_fit(plan.model, max(1, plan.rows_per_step // count), 1, several, room).fits:
                return f"{words}; {count} such GPUs would share the optimizer, and it would fit"
    return words


def format_bytes(size: float) -> str:
    """Bytes in the unit that people would choose."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"
