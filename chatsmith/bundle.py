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

Seals are those of `runtime.sealed`; what the model card says is in `report.model_card`.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import chatsmith
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.sealed import (
    DamagedFileError,
    Seal,
    check_seal,
    content_hash,
    read_tensors,
    seal_of,
    write_tensors,
)
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
) -> None:
    """Write the bundle folder `path`, replacing it whole if it exists.

    `generation` holds defaults for sampling (temperature, top_k, max_tokens, …); the ids that begin and end a
    reply are added from the tokenizer. `provenance` (stage, recipe, …) must be JSON and the same for equal
    runs, since two runs with one seed give equal bundles; this chatsmith's version is added. `card` is the
    text of README.md. Raises UserError on a full disk; then an older bundle at `path` stays as it was.
    """
    assert model.config.vocab_size == tokenizer.vocab_size, "a model is saved with its own tokenizer"
    weights = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in model.state_dict().items()}
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
            f"{path / _CONFIG} is not a bundle of chatsmith (architecture {config.get('architecture')!r}); "
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
    shared = wanted.keys() & found.keys()
    complaints = {
        "lacks {}": wanted.keys() - found.keys(),
        "has {}, which the model does not know": found.keys() - wanted.keys(),
        "has {} in another shape": {name for name in shared if wanted[name].shape != found[name].shape},
    }
    for complaint, names in complaints.items():
        if names:
            first, *others = sorted(names)
            said = complaint.format(f"{first} and {len(others)} more" if others else first)
            raise UserError(f"{path} does not fit its {_CONFIG}: it {said}; {_WHAT_TO_DO}")


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
    path.write_text(text, encoding="utf-8", errors="replace")  # a run's name may be no text
