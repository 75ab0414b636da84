"""The bench of the portable architecture runs, and prints every way."""

import json
import sys

import pytest


def test_it_prints_every_way(script, monkeypatch: pytest.MonkeyPatch, capsys):
    bench = script("portable")
    for name, value in {"VOCABULARY": 512, "VALIDATION": 4096}.items():
        monkeypatch.setattr(bench, name, value)
    flags = "--seeds 1 --tokens 4096 --longer 1.5 --depth 1 --width 64"
    monkeypatch.setattr(sys, "argv", ["portable.py", *flags.split()])
    bench.main()
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name]["steps"] for name in ("default", "no tables", "portable", "longer")} == {
        "default": 2,
        "no tables": 2,
        "portable": 2,
        "longer": 3,
    }
    assert all(0 < found[name]["bpb"] < 9 for name in ("default", "portable", "longer"))
