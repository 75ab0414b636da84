"""lm-eval's `--model hf` on an exported folder, against our own evaluation of the bundle on the same items.

    python bench/lm_eval/hf.py RUN [--eval-data FOLDER] [--max-examples 100] [--out FOLDER]

exports the model for transformers, writes tasks of CORE and the lettered questions of the chat suite as task files for
lm-eval (the texts that our evaluation scores, and what decides an item: the least nats a token, or every token the
likeliest), and lets it measure them. Needs `pip install "lm-eval[hf]"` and the extra `hf`; no network. Exit code 1 if a
score differs by more than one item in a hundred: rounding may decide what is close.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from chatsmith.bundle import load_bundle
from chatsmith.evals import chat
from chatsmith.evals.core import questions_of
from chatsmith.evals.exam import choose_problems
from chatsmith.evals.scoring import EngineScorer, Question, Scored, decide
from chatsmith.export.writers import write_transformers
from chatsmith.runtime.run_directory import resolve_bundle
from chatsmith.tasks.benchmark_files import default_folder
from chatsmith.tasks.core import TASKS, Kind, core_items
from chatsmith.text.tokenizer import SPECIAL_TOKENS, Tokenizer

CORE = ("hellaswag_zeroshot", "copa", "openbook_qa", "lambada_openai")
CHAT = ("arc_easy", "arc_challenge", "mmlu")

TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {file}}}
test_split: train
output_type: multiple_choice
doc_to_text: context
doc_to_choice: endings
doc_to_target: gold
target_delimiter: ""
process_results: !function decide.points
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
DECIDE = '''def points(doc, results):
    """As chatsmith.evals.scoring.decide says: likelihoods are sums, and `tokens` of each ending are known."""
    if doc["gold"] < 0:
        return {"acc": float(results[0][1])}
    losses = [-total / tokens for (total, _), tokens in zip(results, doc["tokens"])]
    return {"acc": float(losses.index(min(losses)) == doc["gold"])}
'''


def main() -> int:
    """Measure both ways, and say how far apart the scores are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--eval-data", type=Path, default=default_folder())
    parser.add_argument("--max-examples", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    bundle = load_bundle(resolve_bundle(arguments.run))
    scorer = EngineScorer(bundle)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        (folder / "model").mkdir(parents=True)
        write_transformers(bundle, folder / "model")
        (folder / "decide.py").write_text(DECIDE)
        ours = {}
        for name, kind, questions, golds in tasks(scorer, arguments.eval_data, arguments.max_examples):
            written, points = [], []
            for index, question, scores in scorer.score(questions):
                if item := as_item((index, question, scores), kind, golds[index], bundle.tokenizer):
                    written.append(json.dumps(item) + "\n")
                    points.append(float(decide(kind, scores, golds[index]).is_right))
            (folder / f"{name}.jsonl").write_text("".join(written))
            (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=folder / f"{name}.jsonl"))
            ours[name] = points
        theirs = lm_eval(folder, list(ours))
    print(f"\n{'task':<26}{'items':>6}{'chatsmith':>11}{'lm-eval':>9}")
    for name, points in ours.items():
        print(f"{name:<26}{len(points):>6}{sum(points) / len(points):>11.4f}{theirs[name]:>9.4f}")
    return int(any(abs(sum(points) / len(points) - theirs[name]) > 0.01 for name, points in ours.items()))


def tasks(
    scorer: EngineScorer, folder: Path, most: int
) -> Iterator[tuple[str, Kind, list[Question], list[int | None]]]:
    """Name, kind, questions and right choices of every task."""
    for task in (task for task in TASKS if task.name in CORE):
        items = core_items(task, folder)
        indices = range(len(items))[:most]
        golds = [items[index].get("gold") for index in indices]
        yield f"core_{task.name}", task.kind, list(questions_of(scorer, task, items, indices)), golds
    for task in (task for task in chat.TASKS if task.name in CHAT and not task.max_tokens):
        asked = choose_problems(task.load("test", folder), most)
        passages = [chat.letter_passages(one, scorer._tokenizer, scorer.context_length) for one in asked]
        yield f"chat_{task.name}", "multiple choice", passages, [one.gold for one in asked]


def as_item(scored: Scored, kind: Kind, gold: int | None, tokenizer: Tokenizer) -> dict | None:
    """An item of a task file; None where its texts, split there, are not these ids again."""
    _, question, _ = scored
    contexts = {text_of(one.ids[: one.start], tokenizer) for one in question}
    endings = [text_of(one.ids[one.start :], tokenizer) for one in question]
    tokens = [len(one.ids) - one.start for one in question]
    context = contexts.pop()
    again = [tuple(tokenizer.encode_with_special(context + ending)) for ending in endings]
    split = len(tokenizer.encode_with_special(context)) == question[0].start and context == context.rstrip()
    if contexts or not split or not all(tokens) or again != [one.ids for one in question]:
        return None
    gold = -1 if kind == "language modeling" else gold
    return {"context": context, "endings": endings, "tokens": tokens, "gold": gold}


def text_of(ids: tuple[int, ...], tokenizer: Tokenizer) -> str:
    """The text of ids, special tokens by their names."""
    names = {tokenizer.special(name): name for name in SPECIAL_TOKENS}
    runs = groupby(ids, names.get)
    return "".join(name * len(list(run)) if name else tokenizer.decode(run) for name, run in runs)


def lm_eval(folder: Path, names: list[str]) -> dict[str, float]:
    """The scores that lm-eval finds."""
    command = [*(sys.executable, "-m", "lm_eval", "run", "--model", "hf"), "--batch_size", "16"]
    command += ["--model_args", f"pretrained={folder / 'model'},dtype=float32,trust_remote_code=True"]
    command += ["--device", "cpu", "--include_path", str(folder), "--tasks", ",".join(names)]
    command += ["--output_path", str(folder / "results")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    subprocess.run(command, check=True, env={**os.environ, **offline})
    [file] = (folder / "results").rglob("results_*.json")
    results = json.loads(file.read_text())["results"]
    return {name: results[name]["acc,none"] for name in names}


if __name__ == "__main__":
    sys.exit(main())
