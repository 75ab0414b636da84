"""A GGUF export in llama.cpp itself, where llama-cpp-python is installed: what it computes, how it cuts text, what its
own server says to OpenAI's client."""

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from chatsmith.bundle import Bundle, load_bundle, save_bundle
from chatsmith.cli.config import ExportConfig
from chatsmith.cli.export import main
from chatsmith.export import parity
from chatsmith.model.config import NO_SOFTCAP, GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.text.chat import Message, render
from chatsmith.text.tokenizer import train_tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama.cpp: pip install llama-cpp-python")
pytest.importorskip("gguf")
pytestmark = pytest.mark.llama

TEXTS = ["The little fox asked: Where is my red ball? 12 + 345 = 357. Crème brûlée, 東京 🙂\n\n  it's" * 3]
ASKED, SAID = "Where is my ball?", "It is red, little fox: 12 東京 🙂."


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A portable model that has learned one conversation by heart."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 360, "qwen2")
    shape = GPTConfig(tokenizer.vocab_size, 128, 2, 2, 32, softcap=NO_SOFTCAP, architecture="portable")
    model = GPT(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([render((Message.of("user", ASKED), Message.of("assistant", SAID)), tokenizer).ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model.logits(model(ids[:, :-1]))[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    folder = tmp_path_factory.mktemp("llama") / "bundle"
    save_bundle(folder, model.eval(), tokenizer, generation={}, card="# A model\n")
    return load_bundle(folder)


@pytest.fixture(scope="module")
def file(bundle: Bundle) -> Path:
    out = bundle.path.parent / "model.gguf"
    main(ExportConfig(run=bundle.path, out=out, to="gguf", type="f32"))
    return out


@pytest.mark.parametrize("kind", ["f32", "bf16", "q8_0"])
def test_it_computes_what_the_model_computes(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    main(ExportConfig(run=bundle.path, out=tmp_path / "model.gguf", to="gguf", type=kind))
    found = json.loads((tmp_path / "parity.json").read_text())
    print(found)
    assert found["verified"] and found["program"] == "llama.cpp of llama-cpp-python"
    assert found["version"] == llama_cpp.__version__
    assert found["token_ids_equal"] and found["chat_template_equal"] and found["greedy_equal"]
    assert found["logits_difference"] < {"f32": 1e-5, "bf16": 0.03, "q8_0": 0.05}[kind]


def test_it_cuts_text_as_the_tokenizer_does(bundle: Bundle, file: Path) -> None:
    model = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    rng = random.Random(4)
    alphabet = "".join(parity.HOSTILE) + "\u3000\u00a0\u2003\u0e01\u0e33ༀ①ⅷ𝟘𐐀́‿’ſKıß"
    for _ in range(400):
        text = "".join(rng.choices(alphabet, k=rng.randrange(1, 40)))
        assert model.tokenize(text.encode(), add_bos=False) == bundle.tokenizer.encode(text), repr(text)
    for _ in range(400):  # any character at all
        text = "".join(
            chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))) for _ in range(8)
        )
        assert model.tokenize(text.encode(), add_bos=False) == bundle.tokenizer.encode(text), repr(text)


def test_a_wrong_file_is_found_out(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is llama.cpp's, not ours: weights that are a little off do not pass."""
    from chatsmith.export import writers

    plain = writers.qwen3_weights

    def changed(bundle: Bundle) -> dict[str, torch.Tensor]:
        weights = plain(bundle)
        weights["model.layers.1.mlp.up_proj.weight"][3] *= 1.01
        return weights

    monkeypatch.setattr(writers, "qwen3_weights", changed)
    with pytest.raises(Exception, match="logits_difference"):
        main(ExportConfig(run=bundle.path, out=tmp_path / "model.gguf", to="gguf", type="f32"))
    assert not (tmp_path / "model.gguf").exists()


@pytest.fixture(scope="module")
def address(file: Path) -> Iterator[str]:
    """llama.cpp's server in Python, with the file as it is: template and special tokens come from it."""
    pytest.importorskip("sse_starlette", reason="needs its server: pip install 'llama-cpp-python[server]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--model", str(file), "--port", str(port), "--n_ctx", "128", "--n_threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_cpp.server", *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    url, deadline = f"http://127.0.0.1:{port}/v1", time.monotonic() + 120
    try:
        while True:
            assert process.poll() is None, process.communicate()[0].decode()[-2000:]
            assert time.monotonic() < deadline
            try:
                httpx.get(f"{url}/models", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.communicate()


def test_its_own_server_chats_through_openais_client(address: str) -> None:
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        asked: Any = {"model": "x", "messages": [{"role": "user", "content": ASKED}], "temperature": 0}
        whole = client.chat.completions.create(**asked, max_tokens=60)
        assert whole.choices[0].message.content == SAID and whole.choices[0].finish_reason == "stop"
        stream = client.chat.completions.create(**asked, max_tokens=60, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == SAID
