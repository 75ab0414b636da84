"""Our own server writes questions for `adapt --writer`: it takes the request, and what it says is read."""

import json
from pathlib import Path

import pytest

from chatsmith.adapt.passages import Passage
from chatsmith.adapt.writer import written_pairs
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError
from tests.serve.conftest import RunningServer

pytest.importorskip("openai")


def test_our_own_server_is_an_endpoint_that_writes(roomy_server: RunningServer, tmp_path: Path) -> None:
    passages = [Passage("a.md", "Pumps", "A pump is a part."), Passage("b.md", "", "word " * 9_000)]
    url, file = f"{roomy_server.url}/v1", tmp_path / "written.json"
    written = written_pairs(passages, [], url, "roomy", file, Reporter(silent=True))
    assert all(one.answer in passages[0].text for one in written)
    replies = sorted(json.loads(file.read_bytes()).values(), key=len)
    assert replies[0] == "" and '"pairs"' in replies[1].replace(
        " ", ""
    )  # the second passage is too long for it
    with pytest.raises(UserError, match=r"wrote no questions.*no-such-model"):
        written_pairs(passages, [], url, "no-such-model", tmp_path / "other.json", Reporter(silent=True))
