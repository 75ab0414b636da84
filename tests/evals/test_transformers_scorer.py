"""A tiny random GPT-2, saved to disk, scored like our own models."""

from pathlib import Path

import pytest
import torch

from chatsmith.evals.scoring import TransformersScorer, make_question
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers", reason="needs the extra hf")


@pytest.fixture
def scorer(gpt2: Path) -> TransformersScorer:
    return TransformersScorer(gpt2, device=torch.device("cpu"), dtype=torch.float32)


def test_it_knows_the_checkpoints_context_and_beginning(scorer: TransformersScorer, tokenizer: Tokenizer):
    assert scorer.context_length == 48
    assert scorer.encode(["a cat"]) == [tokenizer.encode("a cat")]


def test_scores_are_those_of_each_text_by_itself(scorer: TransformersScorer, gpt2: Path):
    """Against the library's own logits, token by token."""
    texts = ["a cat", "a mat and a hat", "what is one and two?", "a", "a cat, a mat and a hat; what is one?"]
    questions = []
    for index, text in enumerate(texts):
        ids = [[scorer.bos_id, *one] for one in scorer.encode([text, f"{text} and two", f"{text}?"])]
        questions.append(make_question("multiple choice", ids[1:], 48))
        if index % 2:
            questions.append(make_question("language modeling", ids[:2], 48))
    model = transformers.AutoModelForCausalLM.from_pretrained(gpt2).eval()
    scored = list(scorer.score(questions))
    assert [(index, question) for index, question, _ in scored] == list(enumerate(questions))
    for _, question, found in scored:
        for passage, score in zip(question, found, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([passage.ids])).logits[0]
            spots = range(passage.start, len(passage.ids))
            expected = [logits[spot - 1].log_softmax(-1)[passage.ids[spot]].item() for spot in spots]
            assert score.logprobs == pytest.approx(expected, abs=1e-4)
            assert score.is_likeliest == all(
                int(logits[spot - 1].argmax()) == passage.ids[spot] for spot in spots
            )


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, gpt2: Path):
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="no folder"):
        TransformersScorer(tmp_path / "nowhere", device=cpu, dtype=torch.float32)
    with pytest.raises(UserError, match="cannot be loaded") as error:
        TransformersScorer(tmp_path, device=cpu, dtype=torch.float32)
    assert "\n" not in str(error.value)


def test_pickled_weights_are_refused(tmp_path: Path, gpt2: Path):
    for file in gpt2.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(UserError, match="cannot be loaded"):
        TransformersScorer(tmp_path, device=torch.device("cpu"), dtype=torch.float32)
