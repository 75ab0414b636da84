"""EleutherAI's lm-eval against our server, and its numbers against our own: they must agree to 1e-3.

    python bench/lm_eval/run.py RUN [--tolerance 1e-3] [--device cpu] [--dtype fp32]

starts `chatsmith serve` for a run or a bundle, lets `lm_eval` measure it over HTTP (multiple choice, rolling
log-likelihood, generation) on the tasks beside this file, and scores the very same ids with the engine in this process.
Needs `pip install "lm-eval[api]"`; no network. Exit code 1 if a number differs. In bf16 it depends on the batch how
numbers are rounded, and they differ in the second place; so it measures in fp32 unless told otherwise.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from chatsmith.backends import choose_backend
from chatsmith.bundle import Bundle, load_bundle
from chatsmith.cli.bench_serve import Config, started_server
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request, Sampling
from chatsmith.runtime.device import detect_runtime
from chatsmith.runtime.run_directory import resolve_bundle

ROOT = Path(__file__).parent.parent.parent
TASKS = ("chatsmith_choice", "chatsmith_rolling", "chatsmith_generate")


class Reference:
    """What the engine says of the same ids, without a server."""

    def __init__(self, run: Path, device: str, dtype: str) -> None:
        runtime = detect_runtime(device, dtype)
        self.bundle: Bundle = load_bundle(
            resolve_bundle(run), device=runtime.device, dtype=runtime.compute_dtype
        )
        self._engine = Engine(
            self.bundle.model, self.bundle.tokenizer, backend=choose_backend(self.bundle.model)
        )

    @property
    def context(self) -> int:
        """Tokens the model sees."""
        return self.bundle.config.context_length

    def encode(self, text: str) -> list[int]:
        """As POST /tokenize does."""
        return self.bundle.tokenizer.encode_with_special(text)

    def score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Log-likelihood of the continuation, and whether each of its ids is the likeliest."""
        ids = (context + continuation)[-self.context :]
        start = len(ids) - len(continuation)
        request = Request(tuple(ids), Sampling(max_tokens=0, logprobs=1), score_from=start)
        scored = self._answer(request).prompt_logprobs
        assert scored is not None and all(one is not None for one in scored)
        values = [one for one in scored if one is not None]
        return sum(one.logprob for one in values), all(one.logprob == one.top[0][1] for one in values)

    def rolling(self, text: str) -> float:
        """Log-likelihood of a whole text after `<|bos|>`, in windows that lm-eval itself cuts."""
        windows = get_rolling_token_windows(
            token_list=self.encode(text),
            prefix_token=self.bundle.tokenizer.bos_id,
            max_seq_len=self.context - 2,  # as lm-eval has it, which keeps a place free, twice
            context_len=1,
        )
        return sum(self.score(*make_disjoint_window(window))[0] for window in windows)

    def generate(self, prompt: str, stop: list[str], max_tokens: int) -> str:
        """The greedy reply."""
        sampling = Sampling(temperature=0, max_tokens=max_tokens, stop=tuple(stop))
        return self._answer(Request(tuple(self.encode(prompt)), sampling)).text

    def _answer(self, request: Request) -> Completion:
        [completion] = self._engine.generate([request])
        assert completion.error is None, completion.error
        return completion


def main() -> int:
    """Run, compare, and say how far apart the numbers are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="fp32")
    arguments = parser.parse_args()
    reference = Reference(arguments.run, arguments.device, arguments.dtype)
    with (
        tempfile.TemporaryDirectory() as folder,
        started_server(Config(arguments.run, device=arguments.device, dtype=arguments.dtype)) as (url, _),
    ):
        run_lm_eval(url, reference.context, Path(folder))
        samples = {task: read_samples(Path(folder), task) for task in TASKS}
    differences = compare(samples, reference)
    print(f"\n{'task':<22}{'numbers':>8}{'largest difference':>20}")
    for task, found in differences.items():
        print(f"{task:<22}{len(found):>8}{max(found):>20.2e}")
    worst = max(max(found) for found in differences.values())
    print("equal" if worst <= arguments.tolerance else f"NOT equal to {arguments.tolerance:g}")
    return int(worst > arguments.tolerance)


def run_lm_eval(url: str, context: int, folder: Path) -> None:
    """lm-eval's results, with every sample, into `folder`."""
    with urlopen(f"{url}/v1/models") as answer:
        name = json.load(answer)["data"][0]["id"]
    options = {
        "model": name,
        "base_url": f"{url}/v1/completions",
        "tokenizer_backend": "remote",
        "max_length": context,
        "num_concurrent": 2,
    }
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"),
        *("--model_args", ",".join(f"{key}={value}" for key, value in options.items())),
        *("--include_path", str(ROOT / "bench" / "lm_eval" / "tasks"), "--tasks", ",".join(TASKS)),
        *("--log_samples", "--output_path", str(folder)),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **offline})


def read_samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """The samples that lm-eval wrote for a task."""
    [file] = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def compare(samples: dict[str, list[dict[str, Any]]], reference: Reference) -> dict[str, list[float]]:
    """By task: how far each of lm-eval's numbers is from ours. A text or a yes that differs counts as 1."""
    choice: list[float] = []
    for sample in samples["chatsmith_choice"]:
        for pair, [[logprob, is_greedy]] in zip(_arguments(sample), sample["resps"], strict=True):
            context, both = reference.encode(pair[0]), reference.encode(pair[0] + pair[1])
            ours, greedy = reference.score(context, both[len(context) :])
            choice += [abs(ours - float(logprob)), float(str(greedy) != str(is_greedy))]
    rolling = [
        abs(reference.rolling(_arguments(sample)[0][0]) - float(sample["resps"][0][0]))
        for sample in samples["chatsmith_rolling"]
    ]
    generated = []
    for sample in samples["chatsmith_generate"]:
        prompt, options = _arguments(sample)[0]
        stop = [*options["until"], "<|assistant_end|>"]
        ours_text = reference.generate(prompt, stop, options["max_gen_toks"])
        generated.append(float(ours_text != sample["resps"][0][0]))
    return dict(zip(TASKS, (choice, rolling, generated), strict=True))


def _arguments(sample: dict[str, Any]) -> list[list[Any]]:
    """The arguments of a sample's requests: lm-eval writes them as `gen_args_0: {arg_0: …, arg_1: …}`."""
    return [list(request.values()) for request in sample["arguments"].values()]


if __name__ == "__main__":
    sys.exit(main())
