"""The tables of `chatsmith bench infer`."""

import math
from dataclasses import dataclass
from typing import Any

from chatsmith.runtime.logs import Reporter


@dataclass(frozen=True)
class Row:
    """The speed of one batch with weights of one type."""

    batch: int
    dtype: str
    tokens_per_second: float
    bound_tokens_per_second: float
    milliseconds_per_step: float
    decoder: str
    """What single tokens went through: see `Backend.name`."""

    @property
    def share(self) -> float:
        """Of the bound that the memory's speed sets."""
        return self.tokens_per_second / self.bound_tokens_per_second


def show_rows(rows: list[Row], read: float, reporter: Reporter) -> None:
    """Decoding by type of the weights and batch, beside the bound."""
    best = {row.dtype: row.tokens_per_second for row in rows if row.batch == 1}
    table = [
        [
            row.dtype,
            str(row.batch),
            f"{row.tokens_per_second:,.0f}",
            f"{row.bound_tokens_per_second:,.0f}",
            f"{row.share:.0%}",
            f"{row.tokens_per_second / best.get(row.dtype, math.nan):.1f}",
            row.decoder,
        ]
        for row in rows
    ]
    reporter.line(f"Memory is read at {read / 1e9:.1f} GB/s.")
    columns = ["weights", "batch", "tokens/s", "bound", "of it", "times batch 1", "decoded by"]
    reporter.table("Decoding", columns, table)


def show_load(load: dict[str, Any], reporter: Reporter) -> None:
    """Waiting times."""
    steady, random = load["steady"], load["random"]
    columns = ["between tokens", "median", "p99"]
    rows = [
        [name, f"{1000 * steady[key]['p50']:.0f} ms", f"{1000 * steady[key]['p99']:.0f} ms"]
        for name, key in (("undisturbed", "without"), ("beside a long prompt", "with"))
    ]
    reporter.table(
        f"{steady['streams']} streams, then a prompt of {steady['long_prompt']} tokens", columns, rows
    )
    reporter.line(f"The long prompt adds {steady['added_token_times']:.1f} token times to the others' p99.")
    rows = [
        [name, *(f"{1000 * random[key][p]:,.0f} ms" for p in ("p50", "p99"))]
        for name, key in (("first token", "first_token"), ("between tokens", "between_tokens"))
    ]
    reporter.table(
        f"{random['requests']} requests at random, {random['per_second']:.2f} a second",
        ["time to", "median", "p99"],
        rows,
    )


def show_prefix(found: dict[str, float], reporter: Reporter) -> None:
    """What a cached beginning saves."""
    reporter.line(
        f"First token of {found['prompt_tokens']:.0f}: {1000 * found['cold_seconds']:,.0f} ms; "
        f"with {found['shared_tokens']:.0f} of them cached {1000 * found['warm_seconds']:,.0f} ms "
        f"({found['ratio']:.0%})."
    )


def show_plain(rows: list[dict[str, float]], reporter: Reporter) -> None:
    """Beside the plain decoder, in each type that it computed in."""
    types = [name.removeprefix("plain_") for name in rows[0] if name.startswith("plain_")]
    columns = ["batch", "prompts", "engine, tokens/s"]
    for name in types:
        columns += [f"plain, {name}", "times"]
    table = [
        [f"{row['batch']:.0f}", f"{row['prompts']:.0f}", f"{row['tokens_per_second']:,.0f}"] for row in rows
    ]
    for cells, row in zip(table, rows, strict=True):
        for name in types:
            cells += [f"{row[f'plain_{name}']:,.0f}", f"{row[f'times_{name}']:.1f}"]
    reporter.table("Depth 6, 384 channels, 8,192 ids, after a prompt of 256", columns, table)


def show_bits(found: dict[str, float], reporter: Reporter) -> None:
    """What smaller weights cost."""
    rows = [[name, f"{bits:.4f}", f"{bits / found['own'] - 1:+.2%}"] for name, bits in found.items()]
    reporter.table("What smaller weights cost", ["weights", "bits per byte", "worse by"], rows)
