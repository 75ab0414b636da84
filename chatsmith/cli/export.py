"""`chatsmith export` and `import`: the model for other programs, with a certificate of how exactly it gives what ours
gives, and a transformers folder as a bundle of chatsmith; `push` and `pull`: the model to a hub and back, as it is.
"""

import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import huggingface_hub

import chatsmith
from chatsmith.bundle import ARCHITECTURE, Bundle, check_bundle, load_bundle, save_bundle
from chatsmith.cli.config import ExportConfig as Config
from chatsmith.cli.config import ImportConfig, PullConfig, PushConfig
from chatsmith.export.parity import certificate
from chatsmith.export.reader import read_transformers, refuse_pickles
from chatsmith.export.writers import write_gguf, write_transformers
from chatsmith.ingest.hub import download, list_repository
from chatsmith.llm import sampling_from
from chatsmith.report.model_card import model_card
from chatsmith.runtime import atomic
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import resolve_bundle

CERTIFICATE = "parity.json"
CARD, CONFIG = "README.md", "config.json"
FILES = (CONFIG, "generation_config.json", "tokenizer.json", "chat_template.jinja", CARD, "model.safetensors")
"""Of a bundle, whatever else lies in its folder."""


def main(config: Config) -> None:
    """Export, compare, and only then put the result in its place.

    Raises UserError if there is no model, the form cannot hold it, the result is not the same, or cannot be compared.
    """
    reporter = Reporter(json=config.json)
    bundle = load_bundle(resolve_bundle(config.run))
    out = config.out
    check_new(out)
    reporter.stage("Export", f"{bundle.path} to {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if config.to == "transformers":
        with atomic.new_folder(out) as folder:
            write_transformers(bundle, folder)
            found = _compared(bundle, folder, "fp32", config)
            (folder / CERTIFICATE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    else:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
            file = Path(folder) / out.name
            write_gguf(bundle, file, config.type)
            found = _compared(bundle, file, config.type, config)
            file.rename(out)
            atomic.write_text(out.parent / CERTIFICATE, json.dumps(found, indent=2) + "\n")
    rows = [[name.replace("_", " "), str(value)] for name, value in found.items()]
    reporter.table(f"{out}, compared with the model itself", ["what", "found"], rows)
    reporter.result(found)


def check_new(out: Path) -> None:
    """Raise UserError if there is something already."""
    if out.exists():
        raise UserError(f"{out} exists; name another place, or remove it first", setting="out")


def _compared(bundle: Bundle, path: Path, kind: str, config: Config) -> dict[str, Any]:
    found = certificate(bundle, path, kind)
    if not found["verified"] and not config.unverified:
        raise UserError(f"not verified, so not kept: {found['why']}", setting="unverified")
    return {"export": config.out.name, "weights": kind, **found}


def import_folder(config: ImportConfig) -> None:
    """Read the folder and write the bundle. Raises UserError for what is no model that our network computes."""
    reporter = Reporter()
    check_new(config.out)
    model, tokenizer, generation = read_transformers(config.folder)
    sampling_from(generation)  # refuses what no engine could use, before anything is written
    summary = f"Imported from {config.folder.name}, a folder of the transformers library."
    card = model_card(config.out.name, summary)
    save_bundle(
        config.out, model, tokenizer, generation=generation, card=card, provenance={"stage": "import"}
    )
    reporter.line(f"{config.out} is a bundle now: chatsmith chat {shlex.quote(str(config.out))}")


def push(config: PushConfig) -> None:
    """Send the files of a whole bundle, all in one commit; what came through of a push that broke off is not sent
    again. Raises UserError if there is no bundle or it is damaged, for a folder with a pickle in it, without a token,
    and where the name is somebody else's or that of another model.
    """
    reporter, bundle = Reporter(), resolve_bundle(config.run)
    check_bundle(bundle)
    refuse_pickles(bundle)
    if huggingface_hub.get_token() is None:
        raise UserError("the hub asks who sends this: set HF_TOKEN, or run `hf auth login`")
    try:
        card: Any = huggingface_hub.ModelCard((bundle / CARD).read_text(encoding="utf-8"))
        card.data.license = config.license or card.data.license
    except Exception as error:  # people edit it: it is not YAML, or no card, in many ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{bundle / CARD} cannot be read as a model card: {reason}") from error
    reporter.stage("Push", f"{bundle} to {config.name}")
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    content = {name: str(bundle / name) for name in FILES} | {CARD: str(card).encode("utf-8")}
    added = [huggingface_hub.CommitOperationAdd(name, what) for name, what in content.items()]
    try:
        url = api.create_repo(config.name, private=not config.public, exist_ok=True)
        there = set(api.list_repo_files(url.repo_id)) - {".gitattributes", CARD}
        if there and not there >= set(FILES) - {CARD}:  # people add files on the hub's page
            raise UserError(f"{url.repo_id} is there, and no bundle of chatsmith: choose another name")
        api.create_commit(url.repo_id, added, commit_message=f"A bundle of chatsmith {chatsmith.__version__}")
    except UserError:
        raise
    except Exception as error:  # of the hub's client, and of what that speaks HTTP with
        status = getattr(getattr(error, "response", None), "status_code", None)
        reasons = {
            401: "the hub does not know the token",
            403: "the token may not write there; whose name is it?",
        }
        reason = reasons.get(status or 0) or " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{config.name} cannot be sent: {reason}") from error
    if not card.data.license:
        reporter.notice("The card names no license (--license mit), so others may do nothing with the model.")
    reporter.line(f"{url} has the model now: chatsmith pull {shlex.quote(url.repo_id)}")


def pull(config: PullConfig) -> None:
    """Fetch a bundle, check it, and only then put it in its place; what has come of a pull that broke off is not
    fetched again. Raises UserError if there is no such model, or it is no bundle, and if the folder is there already.
    """
    owner, _, name = config.name.partition("/")
    if not owner or not name:
        raise UserError(f"a model on a hub is named OWNER/NAME, not {config.name!r}", setting="name")
    out = config.out or Path(name)
    check_new(out)
    repository = list_repository(config.name, kind="model")
    sizes = {file.path: file.size for file in repository.files}
    is_whole = sizes.keys() >= set(FILES)
    described = next(iter(download(repository, [CONFIG]))).read_bytes() if is_whole else b""
    if f'"{ARCHITECTURE}"'.encode() not in described:
        raise UserError(f"{config.name} is no bundle of chatsmith; others are for `chatsmith import`")
    reporter = Reporter()
    with atomic.new_folder(out) as folder:
        with reporter.progress("downloading", sum(sizes[name] for name in FILES), "bytes") as bar:
            for name, path in zip(FILES, download(repository, FILES), strict=True):
                shutil.copyfile(path, folder / name)
                bar.advance(sizes[name])
        check_bundle(folder)
    reporter.line(f"{out} is here: chatsmith chat {shlex.quote(str(out))}")
