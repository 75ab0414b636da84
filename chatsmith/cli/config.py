"""Every command's settings: frozen dataclasses, with documented fields and declared bounds.

`--help` shows the docstring under each field; a field is also a key of recipes and an environment variable (see
`chatsmith.cli.settings`). What several commands share stands once, in a class that they inherit from: it is a group of
its own in their help. Importing this module loads nothing heavy, so help and mistakes are answered at once.
"""

import dataclasses
import ipaddress
import math
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from chatsmith.runtime.errors import UserError

KINDERGARTEN = Path("kindergarten")
"""The word that stands for the built-in world where paths of data are named."""
DEFAULT_RUN = Path("runs/kindergarten")

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@A-Z]+")
"""As browsers send it: a scheme and a host in lower case, perhaps a port, no path."""


# ---- bounds ----


@dataclass(frozen=True)
class Bound:
    """What a number must satisfy: at least `ge`, above `gt`, at most `le`, below `lt`. None is no bound."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    finite: bool = True
    """Refuse infinity (NaN is always refused)."""

    def holds(self, value: float) -> bool:
        """Whether `value` is within the bound."""
        return (
            not math.isnan(value)
            and (not self.finite or math.isfinite(value))
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        limits = {"at least": self.ge, "above": self.gt, "at most": self.le, "below": self.lt}
        return " and ".join(f"{word} {limit}" for word, limit in limits.items() if limit is not None)


NEW = {"new": True}
"""Of fields that are younger than the keys of finished stages (see `stage_key`)."""
WAYS = ("track", "save_minutes", "rows_per_microbatch", "shard", "keep_every", "core_every", "eval_data")
"""Settings of training that change how, and not what comes out."""

Positive = Annotated[int, Bound(ge=1)]
Natural = Annotated[int, Bound(ge=0)]
PositiveNumber = Annotated[float, Bound(gt=0)]
NaturalNumber = Annotated[float, Bound(ge=0)]
VocabSize = Annotated[int, Bound(ge=285)]  # 256 bytes and 29 special tokens (text/tokenizer.py)
Dtype = Literal["auto", "fp32", "bf16"]
Product = Literal["qkv", "out", "up", "down"]  # those of backends/lora.py, which imports torch
PRODUCTS: tuple[Product, ...] = ("qkv", "out", "up", "down")
Tracker = Literal["none", "wandb", "tensorboard", "trackio"]


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
@dataclass(frozen=True)
class Settings:
    """The settings of a command: a class that inherits from this one is a frozen dataclass, too. Making one checks it,
    and raises UserError."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ()
    """Fields that are written without a flag."""
    BUDGET: ClassVar[tuple[str, ...]] = ()
    """Fields that say the same thing in different ways: one of them takes the place of what a weaker place says."""
    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset()
    """Fields that do not change what a stage makes (see `stage_key`)."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self), include_extras=True)
        for name in (field.name for field in dataclasses.fields(self)):
            for value, bound in _bounded(getattr(self, name), hints[name]):
                is_huge = isinstance(value, int) and abs(value) >= 2**63
                refuse(is_huge, f"{name} is too large a number", name)
                kind = "" if math.isfinite(value) else "a finite number, "
                refuse(not bound.holds(value), f"{name} is {value}; it must be {kind}{bound}", name)
        self.check()

    def check(self) -> None:
        """What single bounds cannot say: raises UserError where settings do not fit together."""


def _bounded(value: Any, hint: Any) -> Iterator[tuple[Any, Bound]]:
    """Each number in `value` with each bound that its type declares."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return
    if origin is Annotated:
        yield from ((value, bound) for bound in arguments[1:] if isinstance(bound, Bound))
    elif origin in (typing.Union, types.UnionType):
        yield from (found for option in arguments for found in _bounded(value, option))
    elif origin is tuple:
        yield from (found for item in value for found in _bounded(item, arguments[0]))


def refuse(is_wrong: object, message: str, setting: str = "") -> None:
    """Raise UserError where settings do not fit together; `setting` is the one to change."""
    if is_wrong:
        raise UserError(message, setting=setting or ())


# ---- groups that commands share ----


class Run(Settings):
    """Where"""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("run",)

    run: Path = DEFAULT_RUN
    """The run directory."""


class Compute(Settings):
    """Hardware"""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Dtype = "auto"
    """What to compute in; auto: bf16 where the hardware supports it."""


class Output(Settings):
    """Output"""

    json: bool = False
    """Print one JSON object on stdout, and everything for people on stderr."""


class Shape(Settings):
    """The model"""

    depth: Positive = 6
    """Layers of the model: the one dial from which everything else follows."""
    width: Natural = 0
    """Channels of the model; 0 means 64 times the depth."""
    head_dim: Natural = 0
    """Channels of an attention head; 0 means 64, and 128 from depth 12 on."""
    sequence_length: Natural = 0
    """Tokens in a training row, and the model's context; 0 means 512, and 2,048 from depth 12 on."""
    bigram_buckets: Natural = 0
    """Rows of the hashed table of token pairs; 0 leaves it out."""
    window_pattern: str = ""
    """Attention windows, repeated over the layers: L the whole context, S a quarter of it; the last layer is always L.
    By default L, and from depth 12 on SSSL, but for portable models."""
    value_embeddings: bool = dataclasses.field(default=True, metadata=NEW)
    """Tables of the vocabulary's size that add to the attention values: better per token, and most of the
    parameters."""
    architecture: Literal["chatsmith", "portable"] = dataclasses.field(default="chatsmith", metadata=NEW)
    """portable: Qwen3's architecture, which transformers, llama.cpp and Ollama run; without smear, bigrams, softcap."""


class Sources(Settings):
    """Data"""

    data: tuple[Path, ...] = ()
    """Text to train on: files or folders of .parquet, .jsonl, .txt, .md and the like; hub:OWNER/NAME or, of its shards,
    hub:OWNER/NAME[0:240]; or the word kindergarten for the built-in world. Files called validation or test inside a
    folder are not trained on."""
    validation: tuple[Path, ...] = ()
    """Validation text. By default files called validation; without any, a share of the documents is held out."""
    conversations: tuple[Path, ...] = ()
    """Conversations for fine-tuning: .jsonl, .json or .parquet of messages, ShareGPT, Alpaca, prompt/completion, …"""
    validation_conversations: tuple[Path, ...] = ()
    """Validation conversations. By default as with `validation`."""
    text_column: str = "text"
    """The column (parquet) or field (JSON lines) that holds the text."""
    columns: tuple[str, ...] = ()
    """Conversations in columns of their own: question=user answer=assistant, in the order of the turns."""
    as_text: bool = False
    """Read files with other endings as plain text, too."""

    def check(self) -> None:
        for pair in self.columns:
            wanted = "a column is written NAME=ROLE, like question=user"
            refuse(not all(pair.partition("=")), f"{wanted}, not {pair!r}", "columns")


class Training(Compute, Run):
    """Training"""

    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset(
        {*WAYS, "on_bad_loss", "disk_wait", "on_save", "sample_prompts"}
    )

    minutes: NaturalNumber = 0.0
    """Token budget in minutes on this machine, from the start of the command; 0 means no limit by time."""
    rows_per_microbatch: Natural = 0
    """Rows in one forward pass; 0 means what fits into the memory."""
    rate_scale: PositiveNumber = 1.0
    """Multiplies all learning rates of the plan."""
    evaluations: Natural = 8
    """Number of evaluations during training."""
    seed: Natural = 1
    """Seed of the initial weights and of the order of the data."""
    save_minutes: Annotated[float, Bound(gt=0, finite=False)] = 5.0
    """Minutes between two checkpoints."""
    on_bad_loss: Literal["stop", "back"] = "stop"
    """Steps with a loss that is not finite, or far above the usual, are skipped. After three in a row: stop, or resume
    from the last checkpoint with half the learning rate."""
    disk_wait: Annotated[float, Bound(ge=0, finite=False)] = 0.0
    """Minutes to wait for free space when the disk is full; 0 stops at once. Nothing saved is lost either way."""
    on_save: str = ""
    """A shell command that runs after each checkpoint, in the background, with its folder in $CHATSMITH_STATE: to copy
    it elsewhere."""
    keep_every: Natural = 0
    """Keep the weights every so many steps as a bundle, STAGE/steps/N in the run, to chat with and evaluate as
    RUN/STAGE@N; 0 never."""
    sample_prompts: tuple[str, ...] = ()
    """What the model is asked at every evaluation; it answers in a few dozen tokens, always with the likeliest. The
    training page shows the answers token by token."""
    track: Tracker = "none"
    """Send the metrics to an experiment tracker as well as to metrics.jsonl."""


class TokenTraining(Training):
    """Training on tokens"""

    HOW: ClassVar[tuple[str, ...]] = ("compile",)
    BUDGET: ClassVar[tuple[str, ...]] = ("tokens", "minutes")
    # The content of the mixture is in the key.
    NOT_IN_KEY: ClassVar[frozenset[str]] = Training.NOT_IN_KEY | {"evaluations", "evaluate_tokens", "mixture"}

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """What to compute in; auto: bf16 where the hardware supports it, fp16 with a scaled loss on GPUs that lack it."""
    tokens: Natural = 0
    """Token budget (padding and prompts included); 0 means that another setting decides."""
    batch_tokens: Natural = 0
    """Tokens of one optimizer step; 0 means that the plan decides."""
    evaluate_tokens: Positive = 65_536
    """Validation tokens in one evaluation."""
    fp8: bool = dataclasses.field(default=False, metadata={"new": True})
    """Multiply in fp8 in the blocks: on GPUs since Ada and Hopper, with the extra chatsmith[fp8]."""
    compile: bool = True
    """Compile the model where that is possible."""
    shard: Literal["auto", "optimizer", "full"] = "auto"
    """What several processes share: the optimizer's state alone (ZeRO-2), or in full (FSDP) weights and gradients, too,
    which sends more; auto: in full where nothing else fits into memory."""
    core_every: Natural = 0
    """Measure CORE (ChatCORE in fine-tuning) every so many steps, on 500 items of each task; 0 never."""
    mixture: tuple[str, ...] = ()
    """What to learn from, each as SOURCE [epochs=N|weight=SHARE] [cap=ITEMS] [split=train|validation]. Sources:
    documents, conversations (the run's own), smoltalk, mmlu, arc_easy, arc_challenge, gsm8k, spelling, counting,
    identity:FILE.toml, hub:OWNER/NAME, files and folders."""
    eval_data: Path | None = None
    """The folder with the files of gsm8k, arc_easy, …; by default the cache, into which they are downloaded."""
    from_: Path | None = None
    """The bundle to start from; by default that of the stage before."""
    lora_rank: Natural = dataclasses.field(default=0, metadata=NEW)
    """LoRA: freeze the model and train matrices of this rank beside its own; 0 trains all weights. What is learned is
    merged into the bundle, and kept apart as STAGE/adapter for `serve --adapter`. A rate_scale 2 to 4 times as high
    suits it."""
    lora_products: tuple[Product, ...] = dataclasses.field(default=PRODUCTS, metadata=NEW)
    """Which matrices of each layer LoRA trains: of attention (qkv, out) and of the MLP (up, down)."""


class Inference(Compute, Run):
    """Inference"""

    quantize: Literal["none", "bf16", "int8"] = "none"
    """Quantize the linear layers: faster replies; int8 costs a little quality."""


# ---- the pipeline ----


class DataConfig(Sources, Run):
    """Read documents and conversations, and hold some out for validation."""

    # These enter the key where they are not the default: what was prepared before they existed stays.
    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset({"text_column", "columns", "as_text"})

    data: tuple[Path, ...] = (KINDERGARTEN,)
    """Text to train on: files or folders of .parquet, .jsonl, .txt, .md and the like; hub:OWNER/NAME or, of its shards,
    hub:OWNER/NAME[0:240]; or the word kindergarten for the built-in world. Files called validation or test inside a
    folder are not trained on."""
    held_out: Annotated[float, Bound(gt=0, le=0.5)] = 0.01
    """Share of the documents, and of the conversations, held out where no validation files are found."""
    seed: Natural = 1
    """Which kindergarten is generated."""
    kindergarten_documents: Positive = 40_000
    """Training documents generated for the kindergarten."""
    kindergarten_conversations: Positive = 40_000
    """Training conversations generated for the kindergarten."""
    kindergarten_validation: Positive = 500
    """Validation documents, and conversations, generated for the kindergarten."""

    def check(self) -> None:
        super().check()
        refuse(not self.data, "there is no text to train on; name files or folders", "data")


class InspectConfig(Run):
    """Look at documents and conversations, and at how they tokenize and pack."""

    data: tuple[Path, ...] = ()
    """Look at these files or folders, or the first shard of hub:OWNER/NAME, instead of the run's data; no run is
    needed."""
    text_column: str = "text"
    """The column (parquet) or field (JSON lines) that holds the text of this data."""
    as_text: bool = False
    """Read files of this data with other endings as plain text, too."""
    tokenizer: Path | None = None
    """A tokenizer.json, or its folder, to use instead of the run's."""
    documents: Natural = 3
    """How many documents to show."""
    sequence_length: Annotated[int, Bound(ge=2)] = 512
    """Tokens in a row, for the view of how documents pack."""


class DownloadConfig(Settings):
    """Download data sets or benchmarks, and do nothing else."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("names",)

    names: tuple[str, ...] = ()
    """hub:OWNER/NAME or hub:OWNER/NAME[0:240]; or benchmarks: core, arc, mmlu, gsm8k, humaneval, words, or all of them
    as `benchmarks`."""
    eval_data: Path | None = None
    """The folder of the benchmarks; by default the cache of downloads."""
    mirror: str = ""
    """A server with a copy of the benchmarks' folder, to download from instead of the original servers."""


class TokenCacheConfig(Output):
    """List the cached tokens that runs share, and remove those not used for long."""

    prune_days: Annotated[float, Bound(ge=0)] | None = None
    """Remove tokens that were not used for so many days; 0 removes all that are not in use."""


class TokenizerConfig(Run):
    """Train the tokenizer (BPE)."""

    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset({"document_characters"})  # it enters where it is not 0

    vocab_size: VocabSize = 8192
    """Vocabulary size at most: 256 bytes, 29 special tokens, and merges. A recipe whose model has 12 or more layers
    takes 32,768 if it names none."""
    sample_megabytes: Annotated[float, Bound(gt=0, finite=False)] = 16.0
    """Training text to learn from, sampled evenly from all of it, in millions of characters. Of a hub, only the first
    shards that hold so much are read."""
    split: Literal["chatsmith", "qwen2"] = dataclasses.field(default="chatsmith", metadata=NEW)
    """How text is cut before merging; qwen2: a way that llama.cpp and Ollama know, for portable models."""
    document_characters: Natural = 0
    """Learn from the first so many characters of each document, so that a few long ones do not outweigh many; 0 means
    all."""


class PretrainConfig(Shape, TokenTraining):
    """Train a language model from scratch on the documents, or another one further."""

    BUDGET: ClassVar[tuple[str, ...]] = ("tokens", "minutes", "ratio")
    # The content of the mixture, and of the bundle to start from, is in the key.
    NOT_IN_KEY: ClassVar[frozenset[str]] = TokenTraining.NOT_IN_KEY | {"from_"}

    from_: Path | None = None
    """A bundle to train further, with its tokenizer and shape, instead of a new model."""

    ratio: PositiveNumber = 10.0
    """Token budget in tokens per non-embedding parameter (Chinchilla ratio), where neither tokens nor minutes are
    given."""
    sample_prompts: tuple[str, ...] = dataclasses.field(default=(), metadata={"former": ("prompt",)})
    """Beginnings of texts that the model continues at every evaluation by a few dozen tokens, always the likeliest. The
    training page shows them token by token."""

    def check(self) -> None:
        super().check()
        if self.lora_rank and not self.from_:
            raise UserError("LoRA trains beside a model; name the one to start from", setting="from_")


class MidConfig(TokenTraining):
    """Mid-training: documents and conversations in one stream, before fine-tuning."""

    mixture: tuple[str, ...] = ("conversations", "documents weight=0.5")
    """What to learn from, each as SOURCE [epochs=N|weight=SHARE] [cap=ITEMS] [split=train|validation]. Sources:
    documents, conversations (the run's own), smoltalk, mmlu, arc_easy, arc_challenge, gsm8k, spelling, counting,
    identity:FILE.toml, hub:OWNER/NAME, files and folders."""
    loss: Literal["all", "assistant"] = "all"
    """What is learned of conversations: all of them, or what the assistant says. Of documents it is always all."""
    epochs: PositiveNumber = 1.0
    """Passes over the mixture, unless `tokens` or `minutes` are given."""


class SftConfig(TokenTraining):
    """Supervised fine-tuning on conversations."""

    BUDGET: ClassVar[tuple[str, ...]] = ("tokens", "minutes", "epochs")

    from_: Path | None = None
    """The bundle to start from; by default the run's pretrained model."""
    conversations: tuple[Path, ...] = ()
    """Files of conversations to train on; by default those that `data prepare` found."""
    validation_conversations: tuple[Path, ...] = ()
    """Files of validation conversations; without them, none of `conversations` is held out."""
    epochs: PositiveNumber = 1.0
    """Passes over the conversations, or over the mixture, unless `tokens` or `minutes` are given."""
    rate_scale: PositiveNumber = 0.5
    """Multiplies all learning rates of the plan."""
    evaluations: Natural = 4
    """Number of evaluations during training."""

    def check(self) -> None:
        super().check()
        alone = self.validation_conversations and not self.conversations
        refuse(alone, "validation_conversations goes with conversations; give both", "conversations")
        twice = self.mixture and self.conversations
        refuse(twice, "name the files of conversations in the mixture alone", "conversations")


class RlConfig(Training):
    """Reinforcement learning with verifiable rewards (GRPO)."""

    # The content of the problems is in the key.
    NOT_IN_KEY: ClassVar[frozenset[str]] = Training.NOT_IN_KEY | {
        *("show_every", "give_up_after", "problems", "test_problems")
    }

    from_: Path | None = None
    """The bundle to start from; by default the run's fine-tuned model."""
    task: Literal["kindergarten", "gsm8k"] = "kindergarten"
    """Where the problems come from."""
    problems: Path | None = None
    """Problems of your own instead, as JSON lines with "prompt" and "answer"; a part of them is held out."""
    test_problems: Path | None = None
    """Problems for the test at the end; by default another part of `problems`."""
    eval_data: Path | None = None
    """The folder of the benchmarks, for gsm8k; by default the cache of downloads."""
    reward: str = ""
    """A reward function of your own, path.py:function, called with (problem, reply); by default 1 for a right
    answer."""
    form_weight: NaturalNumber = 0.0
    """Weight of the format reward: finished, valid tool calls, `####` (GSM8K)."""
    steps: Natural = 0
    """Rollout batches at most; 0 means as many as `minutes` hold, or 100 without `minutes`."""
    minutes: NaturalNumber = 0.0
    """Training budget in minutes on this machine, without evaluations; 0 means not by time."""
    prompts: Positive = 32
    """Problems per step, over all processes."""
    samples: Annotated[int, Bound(ge=2)] = 8
    """Replies to each problem, which are compared with each other."""
    max_tokens: Positive = 256
    """Longest reply in tokens, tool results included."""
    updates: Positive = 1
    """Weight updates per rollout batch."""
    rate_scale: PositiveNumber = 0.05
    """Multiplies all learning rates of the plan; where `minutes` hold fewer than `steps`, up to twice as much."""
    kl: NaturalNumber = 0.0
    """Weight of the KL penalty towards the initial model."""
    clip_low: Annotated[float, Bound(ge=0, lt=1)] = 0.2
    """Lower clip of the probability ratio (PPO), with several updates."""
    clip_high: NaturalNumber = 0.28
    """Upper clip of the probability ratio."""
    scale_advantage: bool = False
    """Divide advantages by the standard deviation of their group."""
    blend: Annotated[float, Bound(gt=0, le=1)] = 1.0
    """Weight interpolation between the initial (0) and the best weights (1): below 1, a little less is learned and much
    less forgotten (WiSE-FT; Wortsman et al. 2022, arXiv:2109.01903)."""
    replay: Natural = 0
    """Replay texts per step for the forgetting penalty, half conversations and half documents of the run, over all
    processes (Li & Hoiem 2016, arXiv:1606.09282)."""
    replay_weight: PositiveNumber = 2.0
    """Weight of the forgetting penalty: nats per token forgotten, against reward per token gained."""
    evaluations: Natural = 4
    """Number of evaluations on the development problems during training."""
    development: Positive = 200
    """Development problems at most."""
    test: Natural = 0
    """Test problems at the end, at most; 0 means all."""
    give_up_after: Positive = 10
    """Stop after so many steps without any reward."""
    show_every: Natural = 10
    """Show some replies with their rewards every so many steps; 0 never."""
    rows_per_microbatch: Natural = 0
    """Replies in one forward pass; 0 means what fits into the memory."""

    def check(self) -> None:
        alone = self.test_problems and not self.problems
        refuse(alone, "test_problems goes with problems; give both", "problems")


class EvaluateConfig(Output, Run):
    """Measure a model: bits per byte, CORE, chat skills, an exam."""

    run: Path = DEFAULT_RUN
    """A run, whose newest stage is measured, or a bundle."""
    text: tuple[Path, ...] = ()
    """Measure bits per byte on these files or folders alone, instead of the run's validation text; nothing is kept."""
    stages: tuple[str, ...] = ()
    """Measure these stages of the run, not only the newest: all, or names (pretrain, mid, sft, rl, pretrain@1000).
    A pretrained model is asked no questions unless the suite is named."""
    tasks: tuple[str, ...] = ()
    """Measure only these tasks: gsm8k,arc_easy. What CORE and chat both have is asked as core/arc_easy or
    chat/arc_easy."""
    prompts: Literal["own", "nanochat"] = "own"
    """The wording of ARC, MMLU and HumanEval; with nanochat's, scores can be compared with its published ones (without
    spelling and the kindergarten's exam)."""
    suite: Literal["auto", "base", "core", "chat", "exam", "all"] = "auto"
    """What to measure: base (bits per byte, and CORE if its files are there), core, chat, exam, or all of these whose
    files are there. auto: what takes little time and fits what the model was trained for."""
    split: Literal["exam", "development"] = "exam"
    """The problems for the final score, or those to tune on."""
    max_examples: Positive | None = None
    """Items of each task, and rows of validation text, at most: a random choice, the same for every model."""
    tries: Positive = 1
    """Samples per HumanEval problem; pass@10 is reported from ten on."""
    eval_data: Path | None = None
    """The folder of the benchmarks; by default the cache that --download fills."""
    download: bool = False
    """Download the benchmarks' files that are missing first, about 55 MB in all."""
    mirror: str = ""
    """A server with a copy of the benchmarks' folder, to download from instead of the original servers."""
    hf: Path | None = None
    """Measure CORE of this local checkpoint of the transformers library instead (needs chatsmith[hf])."""
    results: Path | None = None
    """A folder for the results, instead of the run's; those of a model outside a run are kept only there."""
    compare: tuple[Path, ...] = ()
    """Two runs that were measured (or bundles in runs, or folders of --results): show which differences are
    significant."""
    track: Tracker = "none"
    """Send the scores and samples to an experiment tracker, too."""
    leakage: bool = False
    """Look for test items in the run's training text (13-gram overlap)."""
    batch_size: Positive = 64
    """Replies generated at once."""
    batch_tokens: Positive = 8192
    """Tokens of validation text scored at once."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    """What to compute in; auto: bf16 where the hardware supports it."""

    def check(self) -> None:
        found, suite = len(self.compare), self.suite
        refuse(found not in (0, 2), f"compare takes two models, not {found}", "compare")
        more = self.hf or suite not in ("auto", "base")
        refuse(self.text and more, "text is for bits per byte alone, of one of chatsmith's models", "text")
        more = self.results or self.tasks
        refuse(self.text and more, "what is measured on text is kept nowhere, and has no tasks", "text")
        more = self.hf or self.text
        refuse(self.stages and more, "stages are those of a run, measured on its own text", "stages")
        has_none = suite in ("base", "all")
        refuse(self.tasks and has_none, f"tasks are of core, chat and exam, not of {suite}", "tasks")
        only = "a transformers checkpoint is only measured by CORE"
        refuse(self.hf and suite not in ("auto", "all", "core"), f"{only}, not by the suite {suite}", "suite")
        lacks = "CORE has no development items: all of its items are for the reported score"
        refuse(suite == "core" and self.split == "development", lacks, "split")
        wanted = "mirror must be the address of a server, http://… or https://…"
        is_address = self.mirror.startswith(("http://", "https://"))
        refuse(self.mirror and not is_address, f"{wanted}, not {self.mirror!r}", "mirror")


class ChatConfig(Inference):
    """Chat with a model in the terminal."""

    run: Path = DEFAULT_RUN
    """A run, whose newest stage answers, a stage of it (RUN/pretrain, RUN/pretrain@1000), or a bundle."""
    complete: bool = False
    """Continue each text instead of answering it: for models that were not taught to converse."""
    prompt: str | None = None
    """Ask this, print only the reply, and exit."""
    system: str | None = None
    """The system message."""
    seed: Annotated[int, Bound(ge=-(2**63), lt=2**63)] | None = None
    """Makes replies reproducible. Without it they differ every time."""
    temperature: NaturalNumber | None = None
    """Sampling temperature; 0 always takes the most likely token. Default: the bundle's."""
    top_k: Natural | None = None
    """Sample from the most likely tokens, so many; 0 is no limit. Default: the bundle's."""
    top_p: Annotated[float, Bound(gt=0, le=1)] | None = None
    """Sample from the most likely tokens that together reach this probability. Default: the bundle's."""
    max_tokens: Positive | None = None
    """Longest reply in tokens. Default: the bundle's."""
    documents: Path | None = None
    """A folder of documents: passages that go with the question are put before it, and named under the reply."""

    def check(self) -> None:
        for name, text in (("prompt", self.prompt), ("system", self.system)):
            is_empty = text is not None and not text.strip()
            refuse(is_empty, f"{name} is empty; give a text or leave it out", name)
        refuse(self.complete and self.system, "a text that is continued has no system message", "system")


class Listening(Settings):
    """Access"""

    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 lets other machines in."""
    port: Annotated[int, Bound(ge=0, le=65535)] = 8000
    """The port to listen at; 0 takes a free one."""
    api_key: tuple[str, ...] = ()
    """Keys that clients must send, each KEY or NAME=KEY. Others can read flags: a file is better."""
    api_key_file: Path | None = None
    """A file with keys, one per line."""
    allowed_host: tuple[str, ...] = ()
    """More names (Host header) that a server without keys answers to, next to its address and localhost; * is all."""
    trusted_proxy: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses or networks of proxies, whose X-Forwarded-For says which client a request is from (for the log)."""

    def check(self) -> None:
        for proxy in self.trusted_proxy:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError:
                raise UserError(
                    f"{proxy!r} is no address and no network; write 10.0.0.7 or 10.0.0.0/8",
                    setting="trusted_proxy",
                ) from None


class ServeConfig(Inference, Listening):
    """Serve a model behind the OpenAI API and a web page.

    Listens on this machine only, unless --host says otherwise.
    """

    run: Path = DEFAULT_RUN
    """A run, whose newest stage answers, or a bundle."""
    model: tuple[str, ...] = ()
    """More models, each NAME=PATH of a run or bundle. Given alone, they replace the default run."""
    name: str | None = None
    """The model's name in the API. Default: the name of its folder."""
    adapter: tuple[str, ...] = ()
    """What LoRA trained beside the (first) model, each NAME=PATH of a run, bundle or adapter: served as a model of that
    name, without another copy of the weights. Steps in which one is asked for run through torch,
    which is slower on a CPU."""
    documents: Path | None = None
    """A folder of documents: passages that go with the last question of a chat are put before it, and named beside the
    reply."""
    cors_origins: tuple[str, ...] = ()
    """Origins (https://example.org) whose web pages may use the API; * is all."""
    also: tuple[Path, ...] = ()
    """More runs or folders of runs, to compare with on the training page."""
    replicas: Positive = 1
    """Engines per model, one per GPU where there are several."""
    threads: Natural = 0
    """CPU threads per engine; 0 leaves a core to the API server and divides the others among the engines."""
    max_running: Natural = 0
    """Replies that an engine generates at the same time; 0 means 16 on a CPU, and on a GPU as many full contexts as
    half of the free memory holds, at most 256."""
    tokens_per_step: Natural = 0
    """Tokens that an engine computes at once; more reads prompts faster, and delays the other replies longer. 0 means
    256 on a CPU, 2,048 on a GPU."""
    tokens_beside_decoding: Natural = 0
    """Prompt tokens among these while other replies are generated; 0 means 16 on a CPU, all elsewhere."""
    kv_tokens: Natural = 0
    """Tokens in an engine's KV cache; 0 means as many as are useful and fit half of the free memory."""
    prefix_caching: bool = True
    """Reuse the KV cache of shared prompt prefixes. Turn it off if clients must not learn, from how fast a reply
    begins, what others sent."""
    exact: bool = False
    """Refuse to start where the same request and seed may give another reply, depending on other requests: on GPUs,
    and without a C compiler. On a CPU replies are exact anyway."""
    max_queue: Natural = 256
    """Requests that may wait for an engine; beyond it, clients get 429 with a time to retry."""
    max_queue_tokens: Natural = 0
    """Prompt tokens that may wait; 0 means four times the KV cache."""
    max_per_key: Natural = 0
    """Open requests per key; 0 is no limit."""
    queue_seconds: PositiveNumber = 60.0
    """Longest wait for the first token (503 after it)."""
    request_seconds: PositiveNumber = 600.0
    """Longest time for a whole reply."""
    read_seconds: PositiveNumber = 30.0
    """Longest time for a client to send its request."""
    max_body_mib: PositiveNumber = 4.0
    """Largest request body, in MiB."""
    drain_seconds: NaturalNumber = 30.0
    """Longest time to finish open replies after a signal to stop."""
    log_prompts: bool = False
    """Write prompts and replies into the log."""

    def check(self) -> None:
        for origin in self.cors_origins:
            wanted = (
                "write https://example.org, with its port if it has one and nothing after it, or * for all"
            )
            is_origin = origin == "*" or ORIGIN.fullmatch(origin)
            refuse(not is_origin, f"{origin} is no origin: {wanted}", "cors_origins")
        Listening.check(self)
        named_models(self)


def named_models(config: ServeConfig) -> tuple[dict[str, Path], dict[str, Path]]:
    """The served models, and the adapters of the first one: path by name. Raises UserError."""
    models: dict[str, Path] = {}
    adapters: dict[str, Path] = {}
    if not config.model or config.run != DEFAULT_RUN or config.name:
        name = config.name or _folder_name(config.run)
        _check_name(name, "name")
        models[name] = config.run
    for setting, found in (("model", models), ("adapter", adapters)):
        for entry in getattr(config, setting):
            name, equals, path = entry.partition("=")
            refuse(not equals or not path, f"each {setting} is written NAME=PATH, not {entry!r}", setting)
            is_taken = name in models or name in adapters
            refuse(is_taken, f"two models are called {name}; give each its own name", setting)
            _check_name(name, setting)
            found[name] = Path(path)
    return models, adapters


def _check_name(name: str, setting: str) -> None:
    wanted = "cannot be the name of a model; use letters, digits and . _ - /"
    refuse(not MODEL_NAME.fullmatch(name), f"{name!r} {wanted}", setting)


def _folder_name(path: Path) -> str:
    """The folder's name; for runs/NAME/sft/bundle, NAME-sft."""
    parts = [part for part in path.absolute().parts if part != "bundle"]
    stages = ("pretrain", "mid", "sft", "rl")
    is_stage = parts[-1].partition("@")[0] in stages and len(parts) > 2
    return ("-".join(parts[-2:]) if is_stage else parts[-1]).replace("@", "-")


# ---- around the pipeline ----


class DemoConfig(Run):
    """Run the whole pipeline on built-in data in minutes, then chat."""

    run: Path = DEFAULT_RUN
    """Run directory, created if need be."""


class RunConfig(Sources):
    """Run the stages of a recipe in order; finished ones are skipped."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("recipe",)

    recipe: str = "kindergarten"
    """A built-in recipe (kindergarten, textbook, gpu, speedrun, d24, d26, d32), a .toml file, or a run directory to
    continue."""
    run: Path | None = None
    """Run directory, created if need be. By default runs/ and the recipe's name."""
    set: tuple[str, ...] = ()
    """Change settings of the recipe, each as stage.name=value: --set pretrain.depth=6."""
    restore: Path | None = None
    """Begin with a copy of this run directory, unless the run is there already."""
    ui: bool = False
    """Open a page in the browser that shows how the run goes."""
    processes: Natural = 0
    """Processes on this machine that share the training stages and the evaluation; 0: one for each GPU."""
    nodes: Natural = 0
    """Machines that share the training, with one file system; 0: as Slurm's or torchrun's environment says."""


class AdaptConfig(Output):
    """Train a model further on your documents, and see what it learned."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("folder",)

    folder: Path = Path("documents")
    """The folder of documents: .txt, .md, .html, .pdf, .docx, .epub, source files."""
    from_: Path | None = None
    """The model to start from: a run or a bundle."""
    run: Path = Path("runs/adapted")
    """Run directory, created if need be. The same command goes on where it was interrupted."""
    replay: tuple[str, ...] = ()
    """What to mix in against forgetting: files, folders, hub:OWNER/NAME, smoltalk, …; by default what the model's own
    run learned from, if that is at hand; none: nothing."""
    lora_rank: Natural = 0
    """LoRA: train matrices of this rank beside the model's own, which stay as they are; 0 trains all weights. The run
    keeps them for `serve --adapter`."""
    review: bool = False
    """Stop once the questions are written, so that they can be read and changed; without it, the command goes on."""
    writer: str = ""
    """More questions, written by a model: the address of an OpenAI-compatible endpoint (http://localhost:8000/v1). Its
    key, if it takes one, stands in the variable CHATSMITH_WRITER_KEY."""
    model: str = ""
    """The name of the model that writes them."""
    writer_calls: Positive = 200
    """At most so many calls, one for a passage."""
    set: tuple[str, ...] = ()
    """Change settings of the training, each as stage.name=value: --set sft.epochs=2."""


class DoctorConfig(RunConfig, Output):
    """Check whether this machine is ready: devices, memory, disk, data, ports."""

    recipe: str = ""
    """Also check what this recipe needs: a built-in one, a .toml file, or a run directory."""


class ReportConfig(Output):
    """Write the report of a run, or compare two runs."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("folder", "other")

    # Not called `run`: then the command would read the run's recipe, and fail where that is damaged.
    folder: Path = DEFAULT_RUN
    """The run directory."""
    other: Path | None = None
    """A second run, to compare with the first."""
    price_per_hour: NaturalNumber = 0.0
    """What an hour of the machine costs, in dollars, all its GPUs together; 0: unknown."""


class WatchConfig(Listening):
    """Serve a page that shows how runs go, here and on a phone; it loads no model."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("folder",)

    # Not called `run`: see ReportConfig.
    folder: Path = DEFAULT_RUN.parent
    """A run, or a folder of runs."""
    also: tuple[Path, ...] = ()
    """More runs or folders, to compare with."""
    port: Annotated[int, Bound(ge=0, le=65535)] = 8001
    """The port to listen at; 0 takes a free one."""
    price_per_hour: NaturalNumber = 0.0
    """What an hour of the machine costs, in dollars, all its GPUs together; 0: unknown."""
    notify: str = ""
    """A command, or an http(s) address to post to, for when a run ends, fails or raises an alarm."""


class ExportConfig(Output):
    """Export a model for other programs: transformers, llama.cpp, Ollama, vLLM.

    What is written is compared with the model itself, by another program, before it is kept; parity.json says how.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ("run", "out")

    run: Path = DEFAULT_RUN
    """A run, whose newest model is exported, or a bundle."""
    out: Path = Path("model")
    """What to write: a new folder, or a new .gguf file."""
    to: Literal["transformers", "gguf"] = "transformers"
    """The form: a folder for transformers, vLLM and others; or a file for llama.cpp, Ollama and LM Studio, which takes
    a model trained with pretrain.architecture=portable and tokenizer.split=qwen2."""
    type: Literal["f32", "bf16", "q8_0"] = "bf16"
    """What a GGUF file keeps large matrices in."""
    unverified: bool = False
    """Keep the result where nothing is installed that could compare it."""

    def check(self) -> None:
        is_other = (self.to == "gguf") != (self.out.suffix == ".gguf")
        refuse(is_other, f"{self.out}: a GGUF file ends in .gguf, and a folder does not", "out")


class ImportConfig(Settings):
    """Turn a transformers folder, from chatsmith or of the same shape, into a bundle."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("folder", "out")

    folder: Path = Path("model")
    """The folder to read. No code in it is executed."""
    out: Path = Path("imported")
    """The bundle to write: a new folder."""


class PushConfig(Settings):
    """A bundle to a hub, with its model card: private, unless asked otherwise."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("run", "name")

    run: Path = DEFAULT_RUN
    """A run, whose newest model is sent, or a bundle."""
    name: str = "my-model"
    """Where to: OWNER/NAME, or NAME among the models of your own."""
    public: bool = False
    """Let everybody see a model that is new there; one that is there already stays as it is."""
    license: str = ""
    """What others may do with it, for the card, as the hub calls licenses: mit, apache-2.0, cc-by-sa-4.0, …"""


class PullConfig(Settings):
    """A bundle from a hub, checked whole."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("name", "out")

    name: str = ""
    """Which: OWNER/NAME."""
    out: Path | None = None
    """The folder to write, a new one; by default NAME, here."""


class PlanConfig(Shape, Output):
    """Show what a recipe or a model depth will cost, and how it will be trained."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("what",)

    what: str = ""
    """A recipe (speedrun, …, or a .toml file), or the depth of a model; by default depth 6."""
    budget_usd: NaturalNumber = 0.0
    """Choose the deepest model whose whole pipeline costs at most so many dollars."""
    hours: NaturalNumber = 0.0
    """Choose the deepest model whose whole pipeline takes at most so many hours."""
    params: Natural = 0
    """Choose the depth whose number of parameters is nearest to this."""
    vocab_size: VocabSize | None = None
    """Vocabulary size; by default 8,192, and 32,768 from depth 12 on."""
    tokens: Natural = 0
    """Token budget; 0 means that `ratio` decides."""
    ratio: PositiveNumber = 10.0
    """Token budget in tokens per non-embedding parameter (Chinchilla ratio)."""
    batch_tokens: Natural = 0
    """Tokens of one optimizer step; 0 means that the plan decides."""
    world_size: Positive = 1
    """Processes on this machine that train together (with `gpu`, `count` says it)."""
    device: str = "auto"
    """The device whose speed is measured: auto, cpu, cuda, cuda:N or mps."""
    gpu: str = "this"
    """The GPU to plan for: h100, h200, a100, l40s, 4090, 4070, 3090, t4; this: the machine this runs on, measured."""
    count: Positive = 1
    """How many of these GPUs train together."""
    price_per_gpu_hour: NaturalNumber = 0.0
    """Dollars for an hour of one GPU; 0 means a usual price."""
    fp8: bool = False
    """Pretrain with the blocks' products in fp8, where the GPU has it."""
    keep_every: Natural = 0
    """Count the disk for the weights that pretraining keeps every so many steps; 0 means as the recipe says."""
    table: Literal["none", "depths", "gpus"] = "none"
    """Compare depths, or all known GPUs, in a table."""
    plot: Path | None = None
    """Draw the hours of that table into this file (.png, .svg)."""

    def check(self) -> None:
        is_alone = self.gpu == "this" and self.table != "gpus"
        refuse(is_alone and self.count > 1, "count goes with gpu: name one", "gpu")
        refuse(is_alone and self.fp8, "fp8 goes with gpu: name one", "gpu")
        choices = sum(map(bool, (self.what, self.budget_usd, self.hours, self.params)))
        refuse(choices > 1, "a recipe or depth, budget_usd, hours, params: only one of them", "what")
        refuse(self.plot and self.table == "none", "plot goes with table: depths or gpus", "table")


class BenchTrainConfig(Shape, Compute, Output):
    """Measure training throughput and MFU of this machine."""

    vocab_size: Positive = 8192
    """Vocabulary size."""
    batch_tokens: Positive = 8192
    """Tokens of one optimizer step."""
    rows_per_microbatch: Natural = 0
    """Rows in one forward pass; 0 means about 8,192 tokens."""
    steps: Positive = 4
    """Steps that are timed, after two for compiling and warm-up; the median counts."""
    compile: bool = True
    """Compile the model where that is possible."""

    def check(self) -> None:
        size, row = self.batch_tokens, self.sequence_length
        refuse(size < row, f"batch_tokens {size} is less than one row of {row}", "batch_tokens")


class BenchInferConfig(Shape, Compute, Output):
    """Measure inference throughput and latency, against the memory-bandwidth limit."""

    parts: tuple[Literal["decode", "load", "prefix", "adapters"], ...] = ("decode", "load", "prefix")
    """What to measure: decode (tokens a second by batch and type of the weights), load (latency under mixed requests),
    prefix (what prefix caching saves), adapters (what serving them costs in tokens a second)."""
    depth: Positive = 12
    """Layers of the model."""
    head_dim: Natural = 64
    """Channels of an attention head."""
    window_pattern: str = "L"
    """Attention windows, as in `pretrain`."""
    vocab_size: Positive = 32_768
    """Vocabulary size."""
    sequence_length: Positive = 1024
    """The model's context."""
    batches: tuple[Positive, ...] = (1, 4, 16, 32)
    """Batch sizes for decode."""
    prompt_tokens: Positive = 32
    """Tokens of each prompt, for decode."""
    new_tokens: Positive = 48
    """Tokens of each reply, for decode."""
    run: Path | None = None
    """A run or bundle: what bf16 and int8 weights cost in bits per byte on its validation text."""

    def check(self) -> None:
        refuse(not self.batches, "batches is empty; give at least one", "batches")
        prompt, new, room = self.prompt_tokens, self.new_tokens, self.sequence_length
        words = f"{prompt} prompt and {new} new tokens do not fit sequence_length {room}"
        refuse(prompt + new > room, words, "sequence_length")


STAGES: dict[str, type[Run]] = {
    "data": DataConfig,
    "tokenizer": TokenizerConfig,
    "pretrain": PretrainConfig,
    "mid": MidConfig,
    "sft": SftConfig,
    "rl": RlConfig,
    "evaluate": EvaluateConfig,
}
"""What a recipe may name, in pipeline order."""
