"""A tiny real model and tokenizer for evaluations, and a reporter that writes into a string."""

import io
import json
import os
from pathlib import Path

import pytest
import torch

from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.tasks.core import TASKS
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["a cat, a mat and a hat; what is one and two? " * 5], vocab_size=300)


def random_model(tokenizer: Tokenizer, context_length: int) -> GPT:
    """Every weight is random: the zeros of a fresh model would make it say the same to everything."""
    model = GPT(GPTConfig(tokenizer.vocab_size, context_length, num_layers=2, num_heads=2, head_dim=8))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tokenizer, context_length=64)


@pytest.fixture(scope="session")
def long_model(tokenizer: Tokenizer) -> GPT:
    """One that real prompts fit into."""
    return random_model(tokenizer, context_length=1024)


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def reporter(output: io.StringIO) -> Reporter:
    return Reporter(stream=output)


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """The folder of the benchmarks' files, in the project's shared data."""
    root = os.environ.get("CHATSMITH_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data"
    folder = Path(root) / "eval"
    if not folder.is_dir():
        pytest.skip(
            f"needs the shared data: {folder} is not there (CHATSMITH_SHARED_DATA names another place)"
        )
    return folder


@pytest.fixture(scope="session")
def small_benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file of the benchmarks' layout, with a dozen short items in each."""
    folder = tmp_path_factory.mktemp("benchmarks")
    nouns = ("cat", "mat", "hat", "dog", "cow", "pig", "hen", "fox", "ant", "bee", "elk", "owl")

    def write(path: str, items: list[dict]) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("".join(json.dumps(item) + "\n" for item in items))

    for task in TASKS:
        items = []
        for index, noun in enumerate(nouns):
            other = nouns[(index + 1) % len(nouns)]
            match task.kind:
                case "multiple choice":
                    items.append({"query": f"A {noun} is", "choices": [noun, other], "gold": index % 2})
                case "schema":
                    options = [f"A {noun}", f"A {other}"]
                    items.append({"context_options": options, "continuation": "is one", "gold": index % 2})
                case "language modeling":
                    items.append({"context": f"A {noun} and a", "continuation": noun})
        write(task.path, items)
    choices = {"text": ["yes", "no", "hat"], "label": ["A", "B", "C"]}
    for level in ("easy", "challenge"):
        for split in ("train", "validation", "test"):
            items = [
                {"id": f"{split}{n}", "question": f"Is a {noun} a cat?", "choices": choices, "answerKey": "B"}
                for n, noun in enumerate(nouns)
            ]
            write(f"arc/{level}-{split}.jsonl", items)
    for split in ("dev", "validation", "test"):
        items = [
            {"subject": "pets", "question": f"{noun}?", "choices": ["one", "two"], "answer": n % 2}
            for n, noun in enumerate(nouns)
        ]
        write(f"mmlu/{split}.jsonl", items)
    for split in ("train", "test"):
        count = 60 if split == "train" else 5
        items = [{"question": f"{split} {n}?", "answer": f"It is {n}.\n#### {n}"} for n in range(count)]
        write(f"gsm8k/{split}.jsonl", items)
    prompt = "def double(n):\n    # twice n\n"
    problem = {
        "task_id": "HumanEval/0",
        "prompt": prompt,
        "entry_point": "double",
        "canonical_solution": "    return 2 * n\n",
        "test": "def check(f):\n    assert f(2) == 4\n",
    }
    write("humaneval/HumanEval.jsonl", [problem])
    (folder / "words").mkdir()
    letters = "aeioubcdfg"
    words = [f"{a}{b}{c}{d}" for a in letters for b in letters for c in letters for d in "str"]
    (folder / "words" / "words_alpha.txt").write_text("\n".join(words))
    return folder


@pytest.fixture(scope="session")
def gpt2(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a tokenizer of its own whose beginning of a text is `<|endoftext|>`, as in GPT-2's."""
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(1)
    config = transformers.GPT2Config(vocab_size=320, n_positions=48, n_embd=16, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    (folder / "raw.json").write_text(tokenizer.to_json())
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "raw.json"), bos_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)
    (folder / "raw.json").unlink()
    return folder
