"""Python runs this before every probe and every process a probe starts: `chatsmith` must come from the tree asked for.

An editable install finds modules of `chatsmith` that the tree does not have (it looks submodules up, too), so a module
that was moved away would silently come from the installed checkout. Its finder is taken out here.
"""

import importlib.util
import os
import sys

sys.meta_path[:] = [
    finder for finder in sys.meta_path if "chatsmith" not in getattr(finder, "__module__", "")
]

tree = os.environ.get("ORACLE_TREE")
if tree:
    found = importlib.util.find_spec("chatsmith")
    if found is None or not str(found.origin).startswith(f"{tree}/"):
        print(
            f"oracle: chatsmith is found at {found and found.origin}, not in {tree}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(97)
