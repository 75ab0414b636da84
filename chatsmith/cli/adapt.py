"""`chatsmith adapt`: a model trained further on a folder of documents, and what it learned of them.

Reads the folder; holds documents out; writes passages, questions and an examination to `<run>/adapt`; then runs the
stages data, pretrain (with text against forgetting mixed in) and sft, and measures before and after. What is done is
skipped when the command is repeated: an edited `<run>/adapt/pairs.jsonl` is what is trained on.
"""

import json
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from chatsmith.adapt import questions
from chatsmith.adapt.evidence import ADAPTED, BASE, Material, measure, show
from chatsmith.adapt.passages import Documents, Passage, read_documents
from chatsmith.adapt.writer import written_pairs
from chatsmith.bundle import bundle_fingerprint, load_bundle
from chatsmith.cli.config import AdaptConfig as Config
from chatsmith.cli.config import RunConfig, SftConfig
from chatsmith.cli.report import write_report
from chatsmith.cli.run import run_recipe
from chatsmith.cli.settings import expanded
from chatsmith.data.dataset import DataManifest, content_digest, load_manifest
from chatsmith.runtime import atomic
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import detect_runtime
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, RunDirectory, resolve_bundle, write_recipe
from chatsmith.tasks.benchmark_files import default_folder
from chatsmith.tasks.sources import Surroundings, open_source
from chatsmith.text.chat import conversation_to_json

HELD_OUT = 5
"""One document in so many is held out, by a hash of its name."""
LEAK_WORDS = 13
"""Held-out passages that share so many words in a row with the others are not measured on (Brown et al. 2020)."""
EXAM_ITEMS = {"training": 200, "held_out": 100, "general": 100}
GENERAL_CHARACTERS = 200_000
REPLAY_SHARE = 0.5
"""Of the tokens in continued pretraining."""
MOST_REPLAY_BYTES = 500_000_000
"""Read of what the model's run learned from."""
LONGEST_REPLAYED = 8_000
"""Characters of one document."""
REPLAYED_CONVERSATIONS = 2_000
TEXT_EPOCHS = 4
"""Repeated so often, text teaches nearly as much as new text would (Muennighoff et al. 2023)."""
TEXT_RATE_SCALE = 0.15
"""Against 0.5 it forgets a third as much and learns three quarters (docs/lab-log.md, "Adapting to a manual")."""
LORA_RATE_SCALE = 3.0
"""Times the rates that suit all weights: two small matrices learned most at 2 to 4 times as much (docs/lab-log.md)."""
PAIR_EPOCHS = 4
PAIRS_SHOWN = 6
EXPECTED_GAINS = [
    ["11,736", "9.4M", "12", "3.27 → 3.77", "8 of 45, before 0"],
    ["11,886", "2.4M", "less than 1", "3.97 → 3.74", "0 of 37, before 0"],
    ["67,606", "9.4M", "7", "2.47 → 2.22", "9 of 86, before 0"],
    ["162,708", "9.4M", "4", "3.27 → 2.83", "44 of 200, before 0"],
    ["217,035", "9.4M", "4", "2.72 → 2.45", "28 of 200, before 0"],
    ["234,977", "2.4M", "less than 1", "3.00 → 2.40", "2 of 114, before 0"],
]
"""By size of the text (docs/lab-log.md, "Size of text against gain", "Facts from documents", "A whole folder")."""


@dataclass(frozen=True)
class Replay:
    """What is mixed in against forgetting."""

    documents: tuple[str, ...] = ()
    """As sources of mixtures, as …"""
    conversations: tuple[str, ...] = ()
    manifest: DataManifest | None = None
    """Has the validation text that forgetting is measured on."""


def main(config: Config) -> None:
    """Adapt, unless that is done. Raises UserError for what a person can put right."""
    reporter = Reporter(json=config.json)
    run = RunDirectory(config.run)
    if config.from_ is None:
        raise UserError("name the model to start from, a run or a bundle, with --from")
    if (config.writer or config.model) and not (config.model and re.match("https?://.", config.writer)):
        raise UserError("a writer needs both: --writer http://HOST:PORT/v1 --model NAME")
    base = resolve_bundle(expanded(config.from_))
    folder, evidence_file = run.path / "adapt", run.evals / "adapt.json"
    with reporter.progress("reading", None, "files") as bar:
        documents = read_documents(expanded(config.folder), bar.advance)
    with run.lock():
        _prepare(config, documents, base, folder, reporter)
        replay = _find_replay(config, base, folder, reporter)
        _write_general(replay, folder)
        pairs = _read_pairs(folder)
        if config.review:
            reporter.line(
                f"\nThe pairs are in {folder / 'pairs.jsonl'}, one a line: read, change or remove them, and repeat the "
                "command without --review."
            )
            return
        recipe = _recipe(folder, base, replay, bool(pairs), config.lora_rank, reporter)
        write_recipe(folder / "recipe.toml", recipe)
    wanted = RunConfig(
        data=(folder / "train.jsonl",),
        validation=(folder / "held_out.jsonl",),
        conversations=(folder / "pairs.jsonl",) if pairs else (),
        recipe=str(folder / "recipe.toml"),
        run=run.path,
        set=config.set,
    )
    with redirect_stdout(sys.stderr if config.json else sys.stdout):
        run_recipe(wanted, reporter)
    between = {"text alone": run.bundle("pretrain")} if pairs else {}
    models = {BASE: base, **between, ADAPTED: run.newest_bundle()}
    material = _material(folder, pairs)
    contents = [sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.jsonl"))]
    key = _key([{name: bundle_fingerprint(path) for name, path in models.items()}, contents])
    evidence = json.loads(evidence_file.read_bytes()) if evidence_file.is_file() else {}
    if evidence.get("key") != key:
        with run.lock():
            evidence = {"key": key, **measure(models, material, detect_runtime("auto", "auto"), reporter)}
            atomic.write_text(evidence_file, json.dumps(evidence, indent=1, ensure_ascii=False) + "\n")
    show(evidence, reporter)
    write_report(run.path, reporter)
    reporter.result({name: value for name, value in evidence.items() if name != "key"})
    quoted, folder_quoted = shlex.quote(str(run.path)), shlex.quote(str(config.folder))
    reporter.line(
        f"\nTry next:\n  chatsmith chat {quoted} --documents {folder_quoted}   ask it, with the passages it may "
        f"need\n  chatsmith serve {quoted}   the same model on a web page"
    )


def _prepare(config: Config, documents: Documents, base: Path, folder: Path, reporter: Reporter) -> None:
    """Write what is made of the documents, unless it is there. Raises UserError if it was made of other documents, by
    another writer, or for another model."""
    made_of = [questions.VERSION, bundle_fingerprint(base), [asdict(one) for one in documents.passages]]
    key = _key([*made_of, config.model] if config.writer else made_of)
    _show_documents(documents, reporter)
    about = folder / "about.json"
    if about.is_file():
        if json.loads(about.read_bytes())["key"] != key:
            raise UserError(
                f"the documents, the model or the writer are others than for {folder}, or this chatsmith makes other "
                "questions; choose another --run"
            )
        return
    held_out, training = _divided(documents)
    known = questions.sequences((one.text for one in training), LEAK_WORDS)
    measured = [one for one in held_out if not questions.sequences([one.text], LEAK_WORDS) & known]
    if not measured:
        raise UserError(
            "there is too little text: nothing is left to measure on; give at least two documents or passages that are "
            "not copies of each other"
        )
    pairs = questions.training_pairs(training)
    if config.writer:
        some = sorted(training, key=lambda one: content_digest(one.text))[: config.writer_calls]
        pairs += written_pairs(some, pairs, config.writer, config.model, folder / "written.json", reporter)
    names = list(documents.by_document())
    exams = {
        name: questions.exam_questions(passages, pairs, EXAM_ITEMS[name], names)
        for name, passages in (("training", training), ("held_out", measured))
    }
    _write(folder / "train.jsonl", _as_documents(training))
    _write(folder / "held_out.jsonl", _as_documents(measured))
    _write(folder / "pairs.jsonl", map(_as_conversation, pairs))
    for name, asked in exams.items():
        _write(folder / f"exam_{name}.jsonl", map(asdict, asked))
    facts = {
        "key": key,
        "held_out": sorted({one.document for one in held_out}),
        "left_out": documents.left_out,
        "duplicates": documents.num_duplicates,
    }
    atomic.write_text(about, json.dumps(facts, indent=1) + "\n")  # the last: all else is there
    dropped = len(held_out) - len(measured)
    reporter.line(
        f"Held out to measure on: {len(measured):,} passages of {len(facts['held_out']):,} documents"
        + (f" ({dropped:,} more stand in the others, too)" if dropped else "")
    )
    shown = pairs[:: -(-len(pairs) // PAIRS_SHOWN) or 1]
    rows = [[one.question, one.answer, one.passage] for one in shown]
    reporter.table(f"Some of {len(pairs):,} questions to train on", ["question", "answer", "from"], rows)
    reporter.line(
        f"The examination, in other forms: {len(exams['training']):,} questions about what is trained on, "
        f"{len(exams['held_out']):,} about what is held out"
    )
    size = sum(len(one.text) for one in training)
    columns = ["characters", "parameters", "passes over the pairs", "bits per byte of held-out pages",
               "questions answered"]  # fmt: skip
    reporter.table(
        f"What runs of ours gained (yours: {size:,} characters to train on)", columns, EXPECTED_GAINS
    )


def _divided(documents: Documents) -> tuple[list[Passage], list[Passage]]:
    """Held out and not: by document, or by passage if there is but one. No document with most of the text is held
    out."""
    units = documents.by_document()
    if len(units) == 1:
        units = {f"{number}": [one] for number, one in enumerate(documents.passages)}
    sizes = {name: sum(len(one.text) for one in passages) for name, passages in units.items()}
    hashes = {name: sha256(name.encode("utf-8", "surrogateescape")).digest() for name in units}
    order = sorted(units, key=hashes.__getitem__)
    small = [name for name in order if 3 * sizes[name] <= sum(sizes.values())] or order[:1]
    chosen = {name for name in small if hashes[name][0] % HELD_OUT == 0} or {small[0]}
    if len(chosen) == len(units):
        chosen = {small[0]} if len(units) > 1 else set()
    held_out = [one for name in units if name in chosen for one in units[name]]
    return held_out, [one for name in units if name not in chosen for one in units[name]]


def _show_documents(documents: Documents, reporter: Reporter) -> None:
    passages = documents.passages
    size = sum(len(one.text) for one in passages)
    reporter.line(
        f"{len(documents.by_document()):,} documents, {len(passages):,} passages, {size:,} characters; "
        f"{documents.num_duplicates:,} passages that stand there twice are left out"
    )
    languages = ", ".join(f"{name} ({count:,})" for name, count in documents.languages().most_common(5))
    reporter.line(f"Languages of the documents, as far as a program can tell: {languages or 'none'}")
    for name, reason in documents.left_out:
        reporter.notice(f"left out: {name} {reason}")
    if documents.personal:
        found = ", ".join(f"{count:,} × {kind}" for kind, count in documents.personal.items())
        reporter.notice(f"the documents may hold personal data, which the model may repeat: {found}")


def _find_replay(config: Config, base: Path, folder: Path, reporter: Reporter) -> Replay:
    """What `--replay` names, or what the run of the model learned from."""
    if config.replay == ("none",):
        return Replay()
    if not config.replay:
        try:
            manifest = load_manifest(RunDirectory(base.parent.parent).data)
        except UserError:
            reporter.notice(
                "what the model learned from is not at hand, so it may forget some of it; --replay names other text to "
                "mix in"
            )
            return Replay()
        reporter.line(f"Mixed in against forgetting: a sample of what {base.parent.parent} learned from")
        return _sampled(manifest, folder)
    around = Surroundings(lambda: load_manifest(Path()), default_folder(), frozenset(), reporter.notice)
    names = [
        name if name.startswith("hub:") or not Path(name).exists() else str(Path(name).resolve())
        for name in config.replay
    ]
    opened = {name: open_source(name, around) for name in names}
    texts = tuple(name for name, source in opened.items() if source.manifest)
    talks = tuple(name for name, source in opened.items() if source.read)
    make = opened[texts[0]].manifest if texts else None
    return Replay(texts, talks, make() if make else None)


def _sampled(manifest: DataManifest, folder: Path) -> Replay:
    """A part of all that a run learned from, chosen by content, and written once."""
    documents, talks = folder / "replay.jsonl", folder / "replay_conversations.jsonl"
    if not documents.is_file():
        split = manifest.documents
        here = [file for file in split.train if file.path.is_file()]
        here = here[:: -(-sum(file.bytes for file in here) // MOST_REPLAY_BYTES) or 1]
        wanted = TEXT_EPOCHS * (folder / "train.jsonl").stat().st_size + GENERAL_CHARACTERS
        texts = replace(manifest, documents=replace(split, train=tuple(here))).read_documents("train")
        share = wanted / max(1, sum(file.characters for file in here))
        pieces = (
            one.text[at : at + LONGEST_REPLAYED]
            for one in texts
            for at in range(0, len(one.text), LONGEST_REPLAYED)
        )
        said = list(map(conversation_to_json, manifest.read_conversations("train")))
        of_talks = REPLAYED_CONVERSATIONS / max(1, len(said))
        _write(talks, (one for one in said if _is_chosen(json.dumps(one), of_talks)))
        _write(documents, ({"text": one} for one in pieces if _is_chosen(one, share)))
    named = [(str(file.resolve()),) if file.stat().st_size else () for file in (documents, talks)]
    return Replay(named[0], named[1], manifest)


def _is_chosen(text: str, share: float) -> bool:
    return content_digest(text) < share * 2**64


def _write_general(replay: Replay, folder: Path) -> None:
    """Text that is neither of the documents nor trained on, and questions about it."""
    kept, size = list[dict[str, Any]](), 0
    for document in replay.manifest.read_documents("validation") if replay.manifest else ():
        if size > GENERAL_CHARACTERS:
            break
        kept.append({"text": document.text[:GENERAL_CHARACTERS]})
        size += len(document.text)
    passages = [Passage(f"{number}", "", one["text"]) for number, one in enumerate(kept)]
    asked = questions.exam_questions(passages, (), EXAM_ITEMS["general"])
    for name, records in (("general", kept), ("exam_general", map(asdict, asked))):
        file = folder / f"{name}.jsonl"
        if kept:
            _write(file, records)
        else:
            file.unlink(missing_ok=True)


def _recipe(
    folder: Path, base: Path, replay: Replay, has_pairs: bool, lora_rank: int, reporter: Reporter
) -> Recipe:
    tokenizer = load_bundle(base, device="cpu").tokenizer
    tokens = sum(1 + len(tokenizer.encode(line["text"])) for line in _lines(folder / "train.jsonl"))
    share = REPLAY_SHARE if replay.documents else 0.0
    budget = round(tokens * TEXT_EPOCHS / (1 - share))
    exam = sum(1 for _ in _lines(folder / "exam_training.jsonl"))
    reporter.line(
        f"Training: {tokens:,} tokens of your documents {TEXT_EPOCHS} times, {share:.0%} of it other text; then the "
        f"questions {PAIR_EPOCHS} times"
    )
    # McNemar's test needs six answers that changed, all for the better.
    if exam < 60:
        least = f"fewer than 6 of {exam} more" if exam >= 6 else "any"
        reporter.notice(
            f"this is little text: a gain of {least} right answers could not be told from luck, and a model learns "
            "more of its wording than of its facts"
        )
    if not has_pairs:
        reporter.notice("no questions could be made of the documents, so only their text is trained on")

    def mixed(own: str, sources: Sequence[str]) -> list[str]:
        weight = REPLAY_SHARE / max(1, len(sources))
        return [own, *(f"{source} weight={weight:g}" for source in sources)]

    start = str(base.resolve())
    lora, faster = ({"lora_rank": lora_rank}, LORA_RATE_SCALE) if lora_rank else ({}, 1.0)
    sections: dict[str, dict[str, Any]] = {
        "pretrain": {
            "from": start,
            "tokens": budget,
            "mixture": mixed(f"documents epochs={TEXT_EPOCHS}", replay.documents),
            "rate_scale": TEXT_RATE_SCALE * faster,
            **lora,
        },
        "sft": {
            "mixture": mixed("conversations", replay.conversations),
            "epochs": float(PAIR_EPOCHS),
            "rate_scale": SftConfig.rate_scale * faster,
            **lora,
        },
    }
    stages = ("data", "pretrain", "sft") if has_pairs else ("data", "pretrain")
    return Recipe("adapt", "A model trained further on documents.", stages, sections)


def _material(folder: Path, pairs: Sequence[questions.Question]) -> Material:
    texts = {name: folder / f"{name}.jsonl" for name in ("held_out", "general")}
    exams = {
        name: [questions.Question(**one) for one in _lines(file)]
        for name in EXAM_ITEMS
        if (file := folder / f"exam_{name}.jsonl").is_file()
    }
    return Material(
        {name: file for name, file in texts.items() if file.is_file()},
        # The pairs may have been changed by hand.
        {name: questions.without_leaks(asked, pairs) for name, asked in exams.items()},
        pairs,
    )


# ---- files ----


def _as_documents(passages: Iterable[Passage]) -> list[dict[str, Any]]:
    """A document each, with its headings where they change."""
    texts: dict[str, list[str]] = {}
    headings: dict[str, str] = {}
    for one in passages:
        parts = texts.setdefault(one.document, [])
        if one.heading and headings.get(one.document) != one.heading:
            parts.append(f"# {one.heading}")
        headings[one.document] = one.heading
        parts.append(one.text)
    return [{"text": "\n\n".join(parts), "document": name} for name, parts in texts.items()]


def _as_conversation(pair: questions.Question) -> dict[str, Any]:
    said = [{"role": "user", "content": pair.question}, {"role": "assistant", "content": pair.answer}]
    return {"messages": said, "passage": pair.passage, "form": pair.form}


def _read_pairs(folder: Path) -> list[questions.Question]:
    try:
        return [
            questions.Question(asked["content"], said["content"], one["passage"], one["form"])
            for one in _lines(folder / "pairs.jsonl")
            for asked, said in [one["messages"]]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'pairs.jsonl'} is damaged: {type(error).__name__}: {error}") from None


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _write(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines, unless they stand there already."""
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        atomic.write_text(file, text)


def _key(content: Any) -> str:
    return sha256(json.dumps(content, default=str).encode()).hexdigest()
