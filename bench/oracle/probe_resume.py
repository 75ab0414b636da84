"""Runs across versions: what the old tree began or finished, and the tree that is probed goes on with.

A run that is done must be skipped, one that was interrupted must end in the same weights, a horizon that was measured
must be kept, bundles of the old tree and of format 1 must load. Called as `probe_resume.py RECIPE RESULT`.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import probe_weights as weights

MEASURED = ("--tokens", "0", "--minutes", "0.02", "--evaluations", "0")

Result = dict[str, Any]


def main() -> None:
    """Let the old tree make the runs, go on with them, and write what came of it."""
    recipe, out = sys.argv[1], Path(sys.argv[2])
    old = old_environment()
    done = Path("done")
    weights.chatsmith("run", recipe, "--run", "done", *weights.settings(weights.EXACT), environment=old)
    interrupted = weights.without_models(done, "interrupted")
    weights.interrupt(interrupted, old)
    measured = weights.without_models(done, "measured")
    weights.chatsmith("pretrain", "measured", *MEASURED, environment=old)

    result = scored(done) | skipped(done, recipe) | gone_on(interrupted) | kept(measured)
    v1 = Path(recipe).parents[1] / "fixtures" / "bundle-v1"
    shutil.copytree(v1, "bundle-v1")
    said = weights.chatsmith("chat", "bundle-v1", "--prompt", "hello", "--seed", "3", "--max-tokens", "12")
    result["bundle of format 1"] = said
    out.write_text(json.dumps(result, indent=1))


def old_environment() -> dict[str, str]:
    """This process's, with the old tree in the place of the one that is probed."""
    tree, old = os.environ["ORACLE_TREE"], os.environ["ORACLE_OLD"]
    path = os.environ["PYTHONPATH"].split(os.pathsep)
    return {
        **os.environ,
        "ORACLE_TREE": old,
        "PYTHONPATH": os.pathsep.join(old if one == tree else one for one in path),
    }


def scored(run: Path) -> Result:
    """The old tree's model, measured and asked."""
    return {f"done/{name}": value for name, value in weights.scores(run).items()}


def skipped(run: Path, recipe: str) -> Result:
    """Which stages of a run that is done are made anew: none, if all is well."""

    def written() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in sorted(run.glob("*/done.json"))}

    before = written()
    weights.chatsmith("run", recipe, "--run", str(run), *weights.settings(weights.EXACT))
    after = written()
    return {"done/made anew": [stage for stage in after if before.get(stage) != after[stage]]}


def gone_on(run: Path) -> Result:
    """An interrupted pretraining, to its end."""
    said = weights.chatsmith("pretrain", str(run), *weights.LONGER)
    return {
        "interrupted/goes on": re.findall(r"going on after step \d+ of 64", said) != [],
        **weights.outputs(run, ("pretrain",)),
    }


def kept(run: Path) -> Result:
    """Whether a horizon in minutes is measured again where the bundle must be made once more."""
    (run / "pretrain" / "done.json").unlink()
    before = weights.tensors(run / "pretrain" / "bundle" / "model.safetensors")
    said = weights.chatsmith("pretrain", str(run), *MEASURED)
    after = weights.tensors(run / "pretrain" / "bundle" / "model.safetensors")
    return {"measured/again": "Measuring" in said, "measured/same tensors": before == after}


if __name__ == "__main__":
    main()
