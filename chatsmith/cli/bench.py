"""`chatsmith bench train` and `chatsmith bench infer`: the speed of this machine.

What measures it stands in bench/, next to the package: it comes with the source, and is no part of a wheel.
"""

import sys
from importlib import import_module
from pathlib import Path

from chatsmith.cli.config import BenchInferConfig, BenchTrainConfig
from chatsmith.runtime.errors import UserError

FOLDER = Path(__file__).parents[2] / "bench"


def main(config: BenchInferConfig | BenchTrainConfig) -> None:
    """Run the benchmark of these settings. Raises UserError where the source is not at hand."""
    name = "infer" if isinstance(config, BenchInferConfig) else "train"
    if not (FOLDER / f"{name}.py").is_file():
        raise UserError(
            f"the benchmarks come with the source: {FOLDER} is not there; install chatsmith from its repository with "
            "`make install`"
        )
    sys.path.insert(0, str(FOLDER))
    import_module(name).main(config)
