"""`chatsmith export` and `import`: the model for other programs, with a certificate of how exactly it gives what ours
gives; and a transformers folder as a bundle of chatsmith.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from chatsmith.bundle import Bundle, load_bundle, save_bundle
from chatsmith.cli.config import ExportConfig as Config
from chatsmith.cli.config import ImportConfig
from chatsmith.export.parity import certificate
from chatsmith.export.reader import read_transformers
from chatsmith.export.writers import write_gguf, write_transformers
from chatsmith.report.model_card import model_card
from chatsmith.runtime import atomic
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import resolve_bundle

CERTIFICATE = "parity.json"


def main(config: Config) -> None:
    """Export, compare, and only then put the result in its place.

    Raises UserError if there is no model, the form cannot hold it, the result is not the same, or cannot be compared.
    """
    reporter = Reporter(json=config.json)
    bundle = load_bundle(resolve_bundle(config.run))
    out = config.out
    if out.exists():
        raise UserError(f"{out} exists; name another place, or remove it first", setting="out")
    reporter.stage("Export", f"{bundle.path} to {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if config.to == "transformers":
        with atomic.new_folder(out) as folder:
            write_transformers(bundle, folder)
            found = _compared(bundle, folder, "fp32", config)
            (folder / CERTIFICATE).write_text(_text(found), encoding="utf-8")
    else:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
            file = Path(folder) / out.name
            write_gguf(bundle, file, config.type)
            found = _compared(bundle, file, config.type, config)
            file.rename(out)
            atomic.write_text(out.parent / CERTIFICATE, _text(found))
    rows = [[name.replace("_", " "), str(value)] for name, value in found.items()]
    reporter.table(f"{out}, compared with the model itself", ["what", "found"], rows)
    if config.json:
        print(json.dumps(found))


def _compared(bundle: Bundle, path: Path, kind: str, config: Config) -> dict[str, Any]:
    found = certificate(bundle, path, kind)
    if not found["verified"] and not config.unverified:
        raise UserError(f"not verified, so not kept: {found['why']}", setting="unverified")
    return {"export": config.out.name, "weights": kind, **found}


def _text(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2) + "\n"


def import_folder(config: ImportConfig) -> None:
    """Read the folder and write the bundle. Raises UserError for what is no model that our network computes."""
    reporter = Reporter()
    if config.out.exists():
        raise UserError(f"{config.out} exists; name another place, or remove it first", setting="out")
    model, tokenizer, generation = read_transformers(config.folder)
    summary = f"Imported from {config.folder.name}, a folder of the transformers library."
    card = model_card(config.out.name, summary)
    save_bundle(
        config.out, model, tokenizer, generation=generation, card=card, provenance={"stage": "import"}
    )
    reporter.line(f"{config.out} is a bundle now: chatsmith chat {config.out}")
