"""Scoring passages with a checkpoint of the transformers library, so that published models can be checked against.

One text at a time: it is for reproducing known scores, and not fast. It reads local folders only: nothing is
downloaded, no code of a checkpoint is executed, and weights must be safetensors. It needs the extra `hf`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from chatsmith.evals.scoring import Passage, PassageScore, Question, Scored
from chatsmith.runtime.errors import UserError


class TransformersScorer:
    """A `Scorer` over a folder that transformers can load."""

    def __init__(self, path: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Raises UserError if the extra is missing or the folder is not such a checkpoint."""
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise UserError("scoring other models needs transformers: pip install 'chatsmith[hf]'") from None
        if not path.is_dir():
            raise UserError(f"{path} is no folder with a transformers checkpoint")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                path, local_files_only=True, use_safetensors=True, dtype=dtype
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{path} cannot be loaded as a transformers checkpoint: {reason}") from None
        self._model: Any = model.to(device).eval()
        self._device = device
        self.bos_id = _first_id(self._tokenizer, path)
        self.context_length = getattr(self._model.config, "max_position_embeddings", 0)
        if not isinstance(self.context_length, int) or not self.context_length:
            raise UserError(f"{path}: its config.json does not say how long its context is")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of ordinary texts."""
        return self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    def score(self, questions: Iterable[Question]) -> Iterator[Scored]:
        """Every question with its scores, in order."""
        for index, question in enumerate(questions):
            yield index, question, [self._score(passage) for passage in question]

    def _score(self, passage: Passage) -> PassageScore:
        inputs = torch.tensor([passage.ids], device=self._device)
        with torch.inference_mode():
            # (T, V): it makes them for every token
            logits = self._model(input_ids=inputs, use_cache=False).logits[0]
            scored, before = inputs[0, passage.start :], logits[passage.start - 1 : -1].float()
            logprobs = before.log_softmax(dim=-1).gather(-1, scored[:, None])[:, 0]
            return PassageScore(tuple(logprobs.tolist()), bool((before.argmax(dim=-1) == scored).all()))


def _first_id(tokenizer: Any, path: Path) -> int:
    """The id that every text begins with: libraries agree on little here, so the usual names are tried."""
    known = tokenizer.get_vocab()
    for name in ("<|bos|>", "<|endoftext|>"):
        if name in known:
            return known[name]
    for id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(id, int):
            return id
    raise UserError(f"{path}: its tokenizer has no token for the beginning of a text")
