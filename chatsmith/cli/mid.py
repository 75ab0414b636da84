"""`chatsmith mid`: train the pretrained model further on a mixture of documents and conversations, before it is
fine-tuned, and write `<run>/mid/bundle`.
"""

from chatsmith.cli.config import MidConfig as Config
from chatsmith.cli.sft import tune


def main(config: Config) -> None:
    """Train, unless the run's model is already what this would make."""
    tune(config, "mid", "Mid-training", "then trained further on documents and conversations.")
