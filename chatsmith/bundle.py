"""The bundle: one folder that holds a model whole, the only model format chatsmith has.

    config.json             format version, architecture, provenance, size and SHA-256 of the files below but the
                            last, and a SHA-256 of all this
    model.safetensors       weights by parameter name, fp32
    tokenizer.json          what turns text into this model's ids
    chat_template.jinja     the chat format for other programs; chatsmith itself never executes it
    generation_config.json  how to sample from it by default
    README.md               the model card

A bundle is written atomically and checked whole when loaded: weights and tokenizer cannot come from two
places, and no damage passes unnoticed. A newer chatsmith loads every older format version, through `MIGRATIONS`.
The training state is not part of it (see `train.checkpoint`).

The file goes from one sealed file to the whole folder, and ends with the model card.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

import chatsmith
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import chat_template
from chatsmith.text.tokenizer import Tokenizer

FORMAT_VERSION = 2  # 1 sealed the weights and the tokenizer alone
ARCHITECTURE = "chatsmith-gpt"

Migration = Callable[[dict[str, Any], dict[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]
# Format version -> what turns config.json's content and the weights of that version into those of the next.
MIGRATIONS: dict[int, Migration] = {1: lambda config, weights: (config, weights)}

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer.json"
_TEMPLATE = "chat_template.jinja"
_GENERATION = "generation_config.json"
_CARD = "README.md"
_SEALED = {1: (_WEIGHTS, _TOKENIZER), 2: (_WEIGHTS, _TOKENIZER, _GENERATION, _TEMPLATE)}  # by format version
_WHAT_TO_DO = "copy the bundle again or create it again"


class DamagedFileError(ValueError):
    """A file is missing, cut off or altered. The message says which and how, not yet what to do."""


@dataclass(frozen=True)
class Seal:
    """What a finished file was: its size in bytes and the SHA-256 of its content, in hex."""

    size: int
    sha256: str

    def to_json(self) -> dict[str, int | str]:
        return {"bytes": self.size, "sha256": self.sha256}

    @classmethod
    def from_json(cls, stored: object) -> "Seal":
        """Raises ValueError if `stored` is not what `to_json` gives."""
        match stored:
            case {"bytes": int(size), "sha256": str(sha256)}:
                return cls(size, sha256)
        raise ValueError(f"expected a size and a SHA-256, found {stored!r}")


def seal_of(path: Path) -> Seal:
    """Measure the file at `path`, reading it once."""
    with path.open("rb") as file:
        return Seal(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def check_seal(path: Path, seal: Seal) -> None:
    """Raise DamagedFileError unless the file at `path` is, byte for byte, the one that was sealed."""
    if not path.is_file():
        raise DamagedFileError(f"{path} is missing")
    size = path.stat().st_size
    if size < seal.size:
        raise DamagedFileError(f"{path} is cut off: {size:,} of {seal.size:,} bytes are there")
    if seal_of(path) != seal:
        raise DamagedFileError(f"{path} is not the file that was saved: its content has changed")


_STORED_TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
}
"""What can be written, in the order of the file: wide types first, so that every tensor is aligned."""


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> Seal:
    """Write tensors of any device to a new safetensors file at `path`, not atomically. Returns its seal.

    The bytes are those of `safetensors.torch.save_file`, which would have to be read once more for their hash. Raises
    OSError on a full disk, above a limit on file sizes and the like.
    """
    types = list(_STORED_TYPES)
    ordered = sorted(tensors, key=lambda name: (types.index(tensors[name].dtype), name))
    header: dict[str, Any] = {}
    end = 0
    for name in ordered:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        shape, kind = list(tensor.shape), _STORED_TYPES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:

            def write(content: Any) -> None:
                file.write(content)
                digest.update(content)

            write(len(text).to_bytes(8, "little") + text)
            for name in ordered:
                write(tensors[name].detach().to("cpu").contiguous().flatten().view(torch.uint8).numpy())
    except OSError as error:  # what writing raises names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    return Seal(8 + len(text) + end, digest.hexdigest())


def read_tensors(path: Path, seal: Seal) -> dict[str, torch.Tensor]:
    """Read a file written by `write_tensors` to CPU tensors. Raises DamagedFileError unless as sealed."""
    check_seal(path, seal)
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is not a safetensors file ({error})") from error


GENERATION_DEFAULTS = {"temperature": 0.6, "top_k": 50, "max_tokens": 256}
"""How a model samples unless told otherwise: a little below its own spread, rare tokens cut off."""


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. `generation` is generation_config.json; `provenance` says what made the bundle."""

    model: GPT
    tokenizer: Tokenizer
    config: GPTConfig
    generation: dict[str, Any]
    provenance: dict[str, Any]
    path: Path


def save_bundle(
    path: Path,
    model: GPT,
    tokenizer: Tokenizer,
    *,
    generation: Mapping[str, Any],
    card: str,
    provenance: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the bundle folder `path`, replacing it whole if it exists.

    `generation` holds defaults for sampling (temperature, top_k, max_tokens, …); the ids that begin and end a
    reply are added from the tokenizer. `provenance` (stage, recipe, …) must be JSON and the same for equal
    runs, since two runs with one seed give equal bundles; this chatsmith's version is added. `card` is the
    text of README.md. Raises UserError on a full disk; then an older bundle at `path` stays as it was.
    """
    assert model.config.vocab_size == tokenizer.vocab_size, "a model is saved with its own tokenizer"
    weights = {name: tensor.detach().to("cpu", dtype) for name, tensor in model.state_dict().items()}
    reply_ids = {  # where a text begins, and after which ids a reply is over, under the names other programs read
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": [tokenizer.special("<|assistant_end|>"), tokenizer.bos_id],
    }
    with new_folder(path) as folder:
        weights_seal = write_tensors(folder / _WEIGHTS, weights)
        tokenizer.save(folder)
        _write(folder / _GENERATION, _json_text({**generation, **reply_ids}))
        _write(folder / _TEMPLATE, chat_template())
        _write(folder / _CARD, card)
        seals = {name: seal_of(folder / name) for name in _SEALED[FORMAT_VERSION] if name != _WEIGHTS}
        config = {
            "format_version": FORMAT_VERSION,
            "architecture": ARCHITECTURE,
            "architectures": ["ChatsmithForCausalLM"],
            "model_type": "chatsmith",
            "model": model.config.to_json(),
            "provenance": {"chatsmith_version": chatsmith.__version__, **(provenance or {})},
            "files": {name: seal.to_json() for name, seal in {_WEIGHTS: weights_seal, **seals}.items()},
        }
        _write(folder / _CONFIG, _json_text({**config, "sha256": content_hash(config)}))


def load_bundle(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Bundle:
    """Load the bundle folder `path`, its weights as `dtype` on `device`, the model in evaluation mode.

    Raises UserError, naming the file and what to do, if `path` is no bundle, if a file of it is missing, cut
    off, altered or not readable, if its format is newer than this chatsmith, or if config, weights and
    tokenizer do not belong together.
    """
    config = check_bundle(path, but=(_WEIGHTS,))
    with _explained(path):
        weights = read_tensors(path / _WEIGHTS, _seals(path, config)[_WEIGHTS])
    for version in range(config["format_version"], FORMAT_VERSION):
        config, weights = MIGRATIONS[version](config, weights)
    try:
        model_config = GPTConfig.from_json(config["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / _CONFIG} does not describe a model ({error}); {_WHAT_TO_DO}") from error
    tokenizer = Tokenizer.load(path / _TOKENIZER)
    if tokenizer.vocab_size != model_config.vocab_size:
        raise UserError(
            f"{path / _TOKENIZER} has {tokenizer.vocab_size} entries but the model in {path / _CONFIG} has "
            f"{model_config.vocab_size}: they are not of one model; {_WHAT_TO_DO}"
        )
    model = GPT(model_config)
    _check_weights(path / _WEIGHTS, found=weights, wanted=model.state_dict())
    model.load_state_dict(weights)
    return Bundle(
        model=model.to(device=device, dtype=dtype).eval(),
        tokenizer=tokenizer,
        config=model_config,
        generation=_read_object(path / _GENERATION),
        provenance=config.get("provenance", {}),
        path=path,
    )


def check_bundle(path: Path, but: Collection[str] = ()) -> dict[str, Any]:
    """Raise UserError, as `load_bundle` does, unless every file of the bundle, `but` those, is the one that was saved.
    Returns what config.json says."""
    config = _read_config(path)
    with _explained(path):
        for name, seal in _seals(path, config).items():
            if name not in but:
                check_seal(path / name, seal)
    return config


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except DamagedFileError as error:
        raise UserError(f"{error}; {_WHAT_TO_DO}") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def bundle_fingerprint(path: Path) -> str:
    """SHA-256 that changes with the weights, tokenizer or architecture of a bundle, not with its card.

    It is a hash of what config.json said in format 1, the hashes of weights and tokenizer included, so that it costs
    nothing and a new format does not change it: keys of stages depend on it. Raises UserError if `path` is no bundle.
    """
    config = _read_config(path)
    if config["format_version"] > 1:
        files = {name: config["files"][name] for name in _SEALED[1]}
        kept = {name: config[name] for name in ("architecture", "model", "provenance")}
        config = {"format_version": 1, **kept, "files": files}
    return hashlib.sha256(_json_text(config).encode("utf-8")).hexdigest()


def _read_config(path: Path) -> dict[str, Any]:
    """config.json as an object of a format version that can be read here, undamaged as far as its format can tell."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; a bundle is a folder with {_CONFIG} and {_WEIGHTS}")
    if not (path / _CONFIG).is_file():
        raise UserError(f"{path} is not a bundle: it has no {_CONFIG}; give a folder that `chatsmith` saved")
    config = _read_object(path / _CONFIG)
    version = config.get("format_version")
    if config.get("architecture") != ARCHITECTURE or not isinstance(version, int) or version < 1:
        raise UserError(
            f"{path / _CONFIG} is not of a chatsmith bundle (architecture {config.get('architecture')!r}); "
            "give a folder that `chatsmith` saved"
        )
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} was made by a newer chatsmith (bundle format {version}, this one reads up to "
            f"{FORMAT_VERSION}): upgrade chatsmith"
        )
    if version > 1 and config.pop("sha256", None) != content_hash(config):
        raise UserError(f"{path / _CONFIG} is not what was saved: its content has changed; {_WHAT_TO_DO}")
    return config


def _seals(path: Path, config: Mapping[str, Any]) -> dict[str, Seal]:
    """What config.json says about the other files."""
    files = config.get("files", {})
    try:
        return {name: Seal.from_json(files[name]) for name in _SEALED[config["format_version"]]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / _CONFIG} does not say what its files should be; {_WHAT_TO_DO}") from error


def _check_weights(path: Path, *, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise UserError unless exactly the wanted tensors are there, in their shapes."""
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    misshapen = sorted(
        name for name in wanted.keys() & found.keys() if wanted[name].shape != found[name].shape
    )
    complaints = [
        f"lacks {_first(missing)}" if missing else "",
        f"has {_first(unexpected)}, which the model does not know" if unexpected else "",
        f"has {_first(misshapen)} in another shape" if misshapen else "",
    ]
    if any(complaints):
        said = " and ".join(complaint for complaint in complaints if complaint)
        raise UserError(f"{path} does not fit its {_CONFIG}: it {said}; {_WHAT_TO_DO}")


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {_WHAT_TO_DO}") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged, it is not JSON ({error}); {_WHAT_TO_DO}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged, it should hold a JSON object; {_WHAT_TO_DO}")
    return content


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{error.filename or path} cannot be read ({error.strerror}); check its permissions and its disk"
    )


def _json_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def content_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of what is JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode("utf-8")).hexdigest()


_FRONT_MATTER = """---
library_name: chatsmith
pipeline_tag: text-generation
---
"""
_SCORES = "## Scores"
_NO_SCORES = "Not evaluated yet: `chatsmith evaluate` adds the scores here."

_USE = """## Use

    chatsmith chat PATH

`config.json` describes the architecture, `model.safetensors` holds the weights, `tokenizer.json` belongs to
these weights and to no others. `chat_template.jinja` shows other programs how a conversation becomes text;
user text must be encoded so that it cannot produce special tokens.
"""


def model_card(
    title: str,
    summary: str,
    *,
    data: Mapping[str, str],
    recipe: Mapping[str, str],
    scores: Mapping[str, str],
    cost: Mapping[str, str],
) -> str:
    """README.md: what this is, what it was made from and how, how good it is, what it cost, and how to use it.

    Each section is a table of labels and texts ready to be read.
    """
    sections = {"## Data": data, "## Recipe": recipe, _SCORES: scores, "## Cost": cost}
    lines = [_FRONT_MATTER, f"# {title}", "", summary, ""]
    for heading, rows in sections.items():
        lines += [heading, "", _table(rows, _NO_SCORES if heading == _SCORES else "Not recorded."), ""]
    return "\n".join([*lines, _USE])


def with_scores(card: str, scores: Mapping[str, str]) -> str:
    """The card with its section of scores replaced by `scores`, or added at its end if it has none."""
    section = f"{_SCORES}\n\n{_table(scores, _NO_SCORES)}\n"
    before, found, after = card.partition(f"{_SCORES}\n")
    if not found:
        return f"{card.rstrip()}\n\n{section}"
    _, next_heading, rest = after.partition("\n## ")
    return before + section + next_heading + rest


def _table(rows: Mapping[str, str], if_empty: str) -> str:
    """A Markdown table of two columns."""
    if not rows:
        return if_empty
    lines = [f"| {_cell(label)} | {_cell(value)} |" for label, value in rows.items()]
    return "\n".join(["| | |", "|-|-|", *lines])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
