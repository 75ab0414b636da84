"""`chatsmith doctor`: whether this machine is ready for training, and for a recipe: before it costs anything. And
`chatsmith bench train` and `bench infer`: how fast it is.

Nothing is trained, and nothing but listings is downloaded. `chatsmith run` makes the same checks when it starts, and
says what is amiss; it goes on all the same, for estimates may be wrong where a person knows better. What measures the
speed stands in bench/, next to the package: it comes with the source, and is no part of a wheel.
"""

import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from chatsmith.cli.config import BenchInferConfig, BenchTrainConfig, ServeConfig
from chatsmith.cli.config import DoctorConfig as Config
from chatsmith.cli.plan import Pipeline, pipeline_of, within_budget
from chatsmith.cli.recipe import configure, find_recipe, read_overrides
from chatsmith.data.mixture import Entry
from chatsmith.ingest import hub
from chatsmith.runtime.console import Reporter, format_bytes
from chatsmith.runtime.device import can_compile, detect_runtime, free_memory
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, RunDirectory
from chatsmith.tasks.sources import check_source
from chatsmith.train.memory import Way, find_fit

BENCHMARKS = Path(__file__).parents[2] / "bench"
TOKENS_PER_BYTE = {".parquet": 0.52, ".zst": 0.6, ".gz": 0.6}
"""Tokens in a byte of a file: compressed shards of web text have 2.5 characters a byte, and a token has 4.8 (nanochat's
figures for fineweb-edu)."""
TOKENS_PER_CHARACTER = 1 / 4.8
MOST_EPOCHS = 4
"""Up to so many passes, repeated text is nearly as good as new (Muennighoff et al. 2023, arXiv:2305.16264)."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    advice: str = ""
    """What to do, where it is not ok."""


def main(config: Config) -> None:
    """Show all checks, as a table or as JSON. Raises UserError where the recipe itself is wrong."""
    reporter = Reporter(json=config.json)
    found = [*machine_checks()]
    if config.recipe:
        recipe, run = find_recipe(config)
        overrides = within_budget(
            recipe, read_overrides(config), config.processes or processes_for({}), run=run
        )
        configs, recipe = configure(recipe, run, overrides, os.environ)
        found += recipe_checks(recipe, configs, run, config.processes or processes_for(configs))
    found.append(_port(ServeConfig.port))
    reporter.result([asdict(check) for check in found])
    rows = [["✓" if one.ok else "✗", one.name, one.detail, "" if one.ok else one.advice] for one in found]
    reporter.table("", ["", "check", "what was found", "what to do"], rows)


def warn(
    recipe: Recipe, configs: Mapping[str, Any], run: RunDirectory, processes: int, reporter: Reporter
) -> None:
    """One line for everything that is amiss."""
    for check in (*machine_checks(), *recipe_checks(recipe, configs, run, processes)):
        if not check.ok:
            reporter.notice(f"✗ {check.name}: {check.detail}. {check.advice}")


def processes_for(configs: Mapping[str, Any]) -> int:
    """As many processes as there are GPUs; one where there is none, or one was chosen."""
    chosen = {getattr(config, "device", "auto") for config in configs.values()}
    return max(1, torch.cuda.device_count()) if chosen <= {"auto", "cuda"} else 1


def machine_checks() -> Iterator[Check]:
    """What does not depend on the recipe."""
    runtime, count = detect_runtime(), torch.cuda.device_count()
    yield Check("devices", True, (f"{count} x " if count > 1 else "") + runtime.describe())
    if shutil.which("nvidia-smi"):
        version = torch.version.cuda or "none"
        yield Check(
            "driver",
            runtime.device.type == "cuda",
            f"torch {torch.__version__}, built for CUDA {version}, sees {count} GPUs",
            "install a torch with CUDA (pytorch.org), or a driver as new as that CUDA",
        )
    is_native = runtime.compute_dtype == torch.bfloat16
    yield Check(
        "dtype",
        is_native or runtime.device.type != "cuda",
        "bf16" if is_native else "fp32: this hardware does not multiply bf16",
        "expect half the speed or less: GPUs since Ampere (2020) have bf16",
    )
    yield Check(
        "compiler",
        can_compile(runtime.device) and (runtime.device.type != "cuda" or shutil.which("gcc") is not None),
        "compiled training" if can_compile(runtime.device) else "training runs eager, a third slower",
        "install gcc and g++",
    )


def recipe_checks(
    recipe: Recipe, configs: Mapping[str, Any], run: RunDirectory, processes: int
) -> Iterator[Check]:
    """What the recipe needs. The network is only asked for the listings of data on a hub."""
    pipeline = pipeline_of(recipe, configs, processes) if "pretrain" in configs else None
    if pipeline and not run.done_facts("pretrain"):
        yield _disk(pipeline, run.path)
        yield _memory(pipeline, configs, processes)
    tokens, lacking = 0.0, ""
    try:
        tokens = sum(_tokens_in(path) for path in getattr(configs.get("data"), "data", ()))
        for config in configs.values():
            for name in ("validation", "conversations", "validation_conversations"):
                for path in getattr(config, name, ()):
                    _tokens_in(path)
            for entry in getattr(config, "mixture", ()):
                check_source(Entry.parse(entry).source)
    except UserError as error:
        lacking = str(error)
    yield Check("data", not lacking, lacking or "all there", "check the name, the network and HF_TOKEN")
    # What else is in a mixture is not counted here.
    if pipeline and tokens and not lacking and not pipeline.minutes and not configs["pretrain"].mixture:
        epochs = pipeline.plan.tokens / tokens
        yield Check(
            "tokens",
            epochs <= MOST_EPOCHS,
            f"about {tokens:,.0f} tokens of text for a budget of {pipeline.plan.tokens:,}"
            + (f": {epochs:.1f} epochs" if epochs > 1 else ""),
            "name more data: text that is seen so often teaches little",
        )
    if processes > 1:
        yield _port(0)


def _disk(pipeline: Pipeline, path: Path) -> Check:
    place = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    free = shutil.disk_usage(place).free
    detail = f"{format_bytes(free)} free in {place}, about {format_bytes(pipeline.disk_bytes)} needed"
    return Check(
        "disk",
        free > pipeline.disk_bytes,
        detail,
        "free space, or choose another place with --run and HF_HOME",
    )


def _memory(pipeline: Pipeline, configs: Mapping[str, Any], processes: int) -> Check:
    plan, runtime = pipeline.plan, detect_runtime(configs["pretrain"].device, configs["pretrain"].dtype)
    on_gpu, most = runtime.device.type == "cuda", processes if configs["pretrain"].shard != "optimizer" else 1
    way = Way(runtime.compute_dtype, on_gpu, world_size=plan.world_size, most_shards=most)
    free, sharing = free_memory(runtime.device), 1 if on_gpu else processes
    needed = sharing * find_fit(plan.model, 1, 1, way, free / sharing).needed
    return Check(
        "memory",
        free > needed,
        f"{format_bytes(free)} free, at least {format_bytes(needed)} needed for the model and one row",
        "choose a smaller depth, or a GPU with more memory: `chatsmith plan` compares them",
    )


def _tokens_in(path: Path) -> float:
    """About how many tokens of text there are under a name; 0 where nobody can say. Raises UserError if it is not
    there, or the hub does not answer."""
    if hub.is_source(path):
        sizes = [(Path(file.path), file.bytes) for file in hub.find_shards(path).files]
    elif str(path) == "kindergarten":
        return 0.0
    elif not path.expanduser().exists():
        raise UserError(f"{path} does not exist")
    else:
        files = [path] if path.is_file() else [one for one in path.expanduser().rglob("*") if one.is_file()]
        sizes = [(file, file.stat().st_size) for file in files]
    return sum(size * TOKENS_PER_BYTE.get(file.suffix, TOKENS_PER_CHARACTER) for file, size in sizes)


def _port(number: int) -> Check:
    name = f"port {number}" if number else "ports"
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", number))
        except OSError as error:
            advice = "serve on another one: chatsmith serve --port 8001" if number else "allow local sockets"
            return Check(name, False, f"not free ({error.strerror})", advice)
    return Check(name, True, "free")


def bench(config: BenchInferConfig | BenchTrainConfig) -> None:
    """Run the benchmark of these settings. Raises UserError where the source is not at hand."""
    name = "infer" if isinstance(config, BenchInferConfig) else "train"
    if not (BENCHMARKS / f"{name}.py").is_file():
        raise UserError(
            f"the benchmarks come with the source: {BENCHMARKS} is not there; install chatsmith from its repository "
            "with `make install`"
        )
    sys.path.insert(0, str(BENCHMARKS))
    import_module(name).main(config)
