"""The Python door: a model folder, an engine, and text in and out.

    from chatsmith import LLM, SamplingParams

    llm = LLM("runs/mine")
    for completion in llm.generate(["Once upon a time"], SamplingParams(max_tokens=20, temperature=0.8, seed=1)):
        print(completion.text, completion.finish_reason)
    print(llm.chat([{"role": "user", "content": "What is 6 times 7?"}]).text)

What is computed at once, and in which order, changes no completion on a CPU: a seed repeats it. On a GPU in bf16 it can
change the last digits, and now and then a token.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from chatsmith.backends import Quantization, choose_backend
from chatsmith.bundle import GENERATION_DEFAULTS, Bundle, load_bundle
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request, SamplingParams
from chatsmith.runtime.device import detect_runtime
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import resolve_bundle
from chatsmith.text.chat import parse_conversation, render_prompt
from chatsmith.tools.calculator import calculator_tool

__all__ = ["LLM", "SamplingParams"]


class LLM:
    """A model that completes texts and answers in conversations.

    `path` is a run directory, whose newest model is taken, or a bundle folder; or a bundle that is loaded already, with
    its device and dtype. `quantize` keeps the large weights in "bf16" or "int8". `exact`: what is computed at once, and
    whether a prompt was cached, changes no bit; None: where that is possible, which is on CPUs. `engine_settings` are
    those of `Engine` (max_running, kv_tokens, …); its tool is the calculator unless another is given. Raises UserError
    if there is no model, or it is damaged.
    """

    def __init__(
        self,
        path: str | Path | Bundle,
        *,
        device: str = "auto",
        dtype: Literal["auto", "fp32", "bf16"] = "auto",
        quantize: Quantization | None = None,
        exact: bool | None = None,
        **engine_settings: Any,
    ) -> None:
        if isinstance(path, Bundle):
            self.bundle = path
        else:
            runtime = detect_runtime(device, dtype)
            self.bundle = load_bundle(
                resolve_bundle(Path(path)), device=runtime.device, dtype=runtime.compute_dtype
            )
        self.tokenizer = self.bundle.tokenizer
        self.engine = Engine(
            self.bundle.model,
            self.tokenizer,
            backend=choose_backend(self.bundle.model, quantize=quantize, exact=exact),
            **{"tool": calculator_tool, **engine_settings},
        )

    def sampling(self, **given: Any) -> SamplingParams:
        """How the model's folder says to sample, below what is `given` (None: not given)."""
        return sampling_from({**GENERATION_DEFAULTS, **self.bundle.generation}, **given)

    def generate(
        self, prompts: Sequence[str | Sequence[int]], sampling: SamplingParams | None = None
    ) -> list[Completion]:
        """Continue texts (each after `<|bos|>`) or token ids. Raises UserError for a prompt that has no completion: it
        does not fit the context, say."""
        ids = [
            (self.tokenizer.bos_id, *self.tokenizer.encode(one)) if isinstance(one, str) else tuple(one)
            for one in prompts
        ]
        completions = self.engine.generate(Request(one, sampling or self.sampling()) for one in ids)
        for number, completion in enumerate(completions, start=1):
            if completion.error is not None:
                raise UserError(f"prompt {number} of {len(completions)}: {completion.error}")
        return completions

    def chat(
        self, messages: Sequence[Mapping[str, Any]], sampling: SamplingParams | None = None
    ) -> Completion:
        """The assistant's reply to a conversation: messages with `role` and `content`, as OpenAI's API takes them.

        Raises ValueError if they are no conversation that awaits a reply, UserError if they do not fit the context.
        """
        conversation = parse_conversation({"messages": list(messages)})
        return self.generate([render_prompt(conversation, self.tokenizer)], sampling)[0]


_GENERATION_TYPES = {"temperature": float, "top_k": int, "top_p": float, "min_p": float, "max_tokens": int}


def sampling_from(generation: Mapping[str, Any], **given: Any) -> SamplingParams:
    """What a bundle's generation_config.json says, below what is `given` (None: not given).

    Raises UserError for a value of the wrong type, RequestError for one out of range.
    """
    values = {name: value for name, value in given.items() if value is not None}
    for name, kind in _GENERATION_TYPES.items():
        value = generation.get(name)
        if name in values or value is None:
            continue
        if type(value) not in (int, kind):
            words = "a number" if kind is float else "a whole number"
            raise UserError(f"generation_config.json says {name} = {value!r}; it must be {words}")
        values[name] = value
    return SamplingParams(**values)
