"""A bundle of format version 1, made long ago, still loads and still computes what it computed then."""

from pathlib import Path

import safetensors.torch
import torch

from chatsmith.bundle import load_bundle

FIXTURES = Path(__file__).parent.parent / "fixtures"
BUNDLE = FIXTURES / "bundle-v1"
EXPECTED = FIXTURES / "bundle-v1-expected.safetensors"


def test_it_computes_the_logits_it_computed_when_it_was_made() -> None:
    expected = safetensors.torch.load_file(EXPECTED)
    model = load_bundle(BUNDLE).model
    with torch.no_grad():
        logits = model.logits(model(expected["tokens"]))
    torch.testing.assert_close(logits, expected["logits"], rtol=1e-4, atol=1e-4)


def test_its_tokenizer_gives_the_ids_it_gave_then() -> None:
    expected = safetensors.torch.load_file(EXPECTED)
    tokenizer = load_bundle(BUNDLE).tokenizer
    ids = expected["tokens"][0].tolist()
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.encode("The cat sat on the mat")[:3] == ids[1:4]


def test_both_together_stay_small_enough_to_be_committed() -> None:
    files = [EXPECTED, *(path for path in BUNDLE.rglob("*") if path.is_file())]
    assert sum(path.stat().st_size for path in files) <= 300_000
