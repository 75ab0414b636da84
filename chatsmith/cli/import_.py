"""`chatsmith import`: a transformers folder as a bundle of chatsmith."""

from chatsmith.bundle import save_bundle
from chatsmith.cli.config import ImportConfig as Config
from chatsmith.export.reader import read_transformers
from chatsmith.report.model_card import model_card
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError


def main(config: Config) -> None:
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
