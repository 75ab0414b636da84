"""POST /tokenize, POST /detokenize, GET /tokenizer_info: text and conversations as the model sees them.

These alone read the names of special tokens as those tokens, since evaluation harnesses need it; everywhere else what
a client sends is ordinary text.
"""

from typing import Any

from chatsmith.serve.errors import invalid
from chatsmith.serve.prompt import conversation_ids, message_ranges
from chatsmith.serve.requests import DetokenizeRequest, TokenizeRequest
from chatsmith.serve.served_model import LoadedModel
from chatsmith.text.chat import chat_template

MAX_TOKENS = 262_144
"""An answer is an entry a token, in several lists; a longer one would keep other requests waiting."""


def tokenize(request: TokenizeRequest, model: LoadedModel) -> dict[str, Any]:
    """The ids of a text or a conversation, and how to show them. Raises ApiError (400)."""
    tokenizer = model.tokenizer
    param = "prompt" if request.messages is None else "messages"
    if request.messages is not None:
        ids = conversation_ids(
            request.messages,
            tokenizer,
            request.tools,
            continues=bool(request.continue_final_message),
            awaits_reply=request.add_generation_prompt is not False,
        )
        messages = [
            {"role": one.role, "start": one.start, "end": one.end} for one in message_ranges(ids, tokenizer)
        ]
    else:
        ids = tokenizer.encode_with_special(request.prompt or "")
        messages = []
        if request.add_special_tokens:
            ids = [tokenizer.bos_id, *ids]
    if len(ids) > MAX_TOKENS:
        raise invalid(f"this has {len(ids)} tokens; {MAX_TOKENS} at most can be shown", param)
    return {
        "tokens": ids,
        "count": len(ids),
        "max_model_len": model.info.context_length,
        "token_strs": [model.texts.text(id) for id in ids],
        "special": [tokenizer.is_special(id) for id in ids],
        "messages": messages,
    }


def detokenize(request: DetokenizeRequest, model: LoadedModel) -> dict[str, Any]:
    """The text of ids. Raises ApiError (400)."""
    try:
        return {"prompt": model.tokenizer.decode(request.tokens)}
    except ValueError as error:
        raise invalid(f"tokens: {error}", "tokens") from error


def tokenizer_info(model: LoadedModel) -> dict[str, Any]:
    """What other programs need to know of the tokenizer. A reply ends with the end token."""
    return {
        "tokenizer_class": "chatsmith",
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "pad_token": None,
        "chat_template": chat_template(),
        "vocab_size": model.info.vocab_size,
        "model_max_length": model.info.context_length,
    }
