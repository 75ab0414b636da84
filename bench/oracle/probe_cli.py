"""What the command line says: help of all commands, and one line for each of many mistakes.

Each in a process of its own, as a person would call it. Called as `probe_cli.py RECIPE RESULT`, in an empty folder.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMANDS = (
    *(
        "data prepare",
        "data inspect",
        "tokenizer",
        "pretrain",
        "sft",
        "rl",
        "evaluate",
        "chat",
        "serve",
        "demo",
    ),
    *("run", "plan", "bench infer", "bench train", "bench serve", "bench evaluate", "bench rl"),
)
PLAIN = (
    [],
    ["help"],
    ["--version"],
    ["data"],
    ["bench"],
    ["help", "pretrain"],
    ["plan", "--depth", "4", "--json"],
)

# Mistakes, each as the words after `chatsmith`. Files that are named here are made by `make_files`.
MISTAKES: tuple[str, ...] = (
    # words
    *("pretrian", "prepare", "data prepar", "xyzzy", "--verbose", "bench nothing"),
    # flags
    *("pretrain --dept 4", "pretrain --depth x", "pretrain --depth", "pretrain one two", "pretrain --run x"),
    *("pretrain --compile=true", "pretrain --dtype fp16", "pretrain --depth=1.5", "data prepare --data"),
    # values
    *(
        "pretrain --depth 0",
        "pretrain --width -64",
        "pretrain --tokens 1000 --minutes 5",
        "pretrain --seed -1",
    ),
    *("pretrain --tokens 0 --minutes nan", "pretrain --rate-scale inf", "pretrain --save-minutes 0"),
    *("sft --epochs 0", "sft --validation-conversations x.jsonl", "sft --rate-scale 0", "rl --samples 1"),
    *("rl --clip-low 1", "rl --blend 0", "rl --test-problems x", "rl --prompts 0", "rl --kl -1"),
    *("data prepare --held-out 0.9", "data prepare --seed -1", "data prepare --kindergarten-documents 0"),
    *("tokenizer --vocab-size 5", "evaluate --max-examples 0", "evaluate --suite core --split development"),
    *("evaluate --compare one", "evaluate --mirror ftp://x", "serve --port 70000", "serve --replicas 0"),
    *("serve --cors-origins x", "serve --model x", "chat --temperature -1", "plan --depth 0"),
    # files and runs
    *(
        "pretrain nowhere",
        "sft nowhere",
        "rl nowhere",
        "evaluate nowhere",
        "chat nowhere",
        "serve nowhere --port 0",
    ),
    *("tokenizer nowhere", "data inspect nowhere", "pretrain file.txt", "chat file.txt", "chat empty"),
    *(
        "data prepare new --data missing.txt",
        "data prepare new --data nothing.md",
        "data prepare new --data odd.xyz",
    ),
    *(
        "data prepare new --data broken.jsonl",
        "data prepare new --data text.txt --conversations broken.jsonl",
    ),
    *(
        "data prepare new --data text.txt --conversations wrong.jsonl",
        "data prepare new --data broken.parquet",
    ),
    *("sft new --from empty", "rl new --problems broken.jsonl", "evaluate --text missing.txt new"),
    # recipes
    *(
        "run kindergarden",
        "run missing.toml",
        "run .",
        "run broken.toml",
        "run no_stages.toml",
        "run wrong.toml",
    ),
    *("run wrong_section.toml", "run tiny.toml --set depth=3", "run tiny.toml --set pretrain.dept=3"),
    *("run tiny.toml --set pretran.depth=3", "run tiny.toml --set pretrain.depth=three"),
    *(
        "run tiny.toml --set pretrain.depth=0",
        "run tiny.toml --run file.txt",
        "run tiny.toml --data missing.txt",
    ),
    "run textbook",
)
VARIABLES: tuple[tuple[str, str], ...] = (
    ("CHATSMITH_PRETRAIN_DEPHT", "4"),
    ("CHATSMITH_PRETRIAN_DEPTH", "4"),
    ("CHATSMITH_PRETRAIN_DEPTH", "four"),
    ("CHATSMITH_PRETRAIN_DEPTH", "0"),
)
MASKS = (
    (r"process \d+", "process N"),
    (r"127\.0\.0\.1:\d{5}", "127.0.0.1:PORT"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00|Z)?", "TIME"),
    (r'"(pid|seconds)": [\d.]+', r'"\1": N'),
    (r"\b\d+\.\d s\b", "N s"),
)


def main() -> None:
    """Run everything and write what was said."""
    make_files(Path(sys.argv[1]))
    result: dict[str, Any] = {}
    for command in COMMANDS:
        result[f"{command} --help"] = said([*command.split(), "--help"])
    for argv in PLAIN:
        result[f"chatsmith {' '.join(argv)}"] = said(argv)
    for mistake in MISTAKES:
        result[f"mistake: {mistake}"] = said(mistake.split())
    for name, value in VARIABLES:
        result[f"mistake: {name}={value}"] = said(["pretrain"], {name: value})
    result["files afterwards"] = sorted(str(path) for path in Path().rglob("*") if path.name != ".lock")
    Path(sys.argv[2]).write_text(json.dumps(result, indent=1))


def make_files(recipe: Path) -> None:
    """What the mistakes name."""
    files = {
        "file.txt": "a file",
        "text.txt": "A little text.\n\nAnd a little more.\n",
        "nothing.md": "",
        "odd.xyz": "odd",
        "broken.jsonl": '{"text": "one"}\n{"text": \n',
        "wrong.jsonl": '{"messages": [{"role": "king", "content": "hello"}]}\n',
        "broken.parquet": "no parquet",
        "broken.toml": "stages = [",
        "no_stages.toml": "",
        "wrong.toml": 'stages = ["data", "pretain"]\n',
        "wrong_section.toml": 'stages = ["data"]\n[pretrane]\ndepth = 3\n',
        "tiny.toml": recipe.read_text(),
    }
    for name, content in files.items():
        Path(name).write_text(content)
    Path("empty").mkdir()


def said(argv: list[str], variables: dict[str, str] | None = None) -> dict[str, Any]:
    """The exit code, stdout and stderr of a call, without what differs from machine to machine."""
    command = [sys.executable, "-m", "chatsmith", *argv]
    environment = {**os.environ, **(variables or {})}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
        )
    except subprocess.TimeoutExpired:
        return {"exit code": "it did not end within ten minutes"}
    return {"exit code": done.returncode, "stdout": masked(done.stdout), "stderr": masked(done.stderr)}


def masked(text: str) -> list[str]:
    """Lines, with the folder and the tree by name and without times."""
    for place, name in ((str(Path.cwd()), "<work>"), (os.environ["ORACLE_TREE"], "<tree>")):
        text = text.replace(place, name)
    for pattern, name in MASKS:
        text = re.sub(pattern, name, text)
    return [line.rstrip() for line in text.splitlines()]


if __name__ == "__main__":
    main()
