"""A bundle goes to a hub and comes back as it was, by the unmodified client; what must not go or come does not."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from chatsmith.bundle import save_bundle
from chatsmith.cli import main as cli
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.text.tokenizer import train_tokenizer
from tests.hub_server import Hub, Repo, Trouble, serving

CARD = "---\nlibrary_name: chatsmith\n---\n\n# A model\n\n## Scores\n\n| CORE | 0.1 |\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("time.sleep", lambda _: None)
        monkeypatch.chdir(tmp_path)
        yield hub


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer(["a cat and a hat; what is one and two? " * 5], 300)
    torch.manual_seed(1)
    model = GPT(GPTConfig(tokenizer.vocab_size, 32, 2, 2, 8))
    model.init_weights(torch.Generator().manual_seed(1))
    save_bundle(tmp_path / "model", model, tokenizer, generation={"temperature": 0.6}, card=CARD)
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_pushed_is_pulled_as_it_was(hub: Hub, bundle: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["push", str(bundle), "me/mine", "--license", "mit"], {}) == 0
    repo = hub.repos["models/me/mine"]
    assert repo.private
    card = repo.files["README.md"].decode()
    assert "license: mit" in card and "library_name: chatsmith" in card and "| CORE | 0.1 |" in card
    described = json.loads(repo.files["config.json"])
    assert described["architectures"] == ["ChatsmithForCausalLM"] and described["model_type"] == "chatsmith"
    assert cli.main(["pull", "me/mine", "back"], {}) == 0
    assert contents(Path("back")) == contents(bundle) | {"README.md": card.encode()}
    assert cli.main(["push", "back", "mine"], {}) == 0, "again, and among the models of one's own"
    assert hub.asked["PUT"] == 1, "the weights are there"
    assert "chatsmith pull me/mine" in capsys.readouterr().out


def test_a_push_that_broke_off_sends_the_rest(hub: Hub, bundle: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copy(bundle / "model.safetensors", bundle / "notes.txt")  # nobody's business
    hub.trouble["PUT"] = Trouble("down", times=100)
    assert cli.main(["push", str(bundle), "mine", "--public"], {}) == 2
    error = capsys.readouterr().err
    assert "mine cannot be sent" in error and error.count("\n") == 1
    assert hub.repos["models/me/mine"].files.keys() == {".gitattributes"}, "all or nothing"
    del hub.trouble["PUT"]
    assert cli.main(["push", str(bundle), "mine"], {}) == 0
    assert "notes.txt" not in hub.repos["models/me/mine"].files
    assert not hub.repos["models/me/mine"].private


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert cli.main(list(argv), {}) == 2
    error = capsys.readouterr().err
    assert error.startswith("chatsmith: ") and error.count("\n") == 1
    return error


def test_what_must_not_go_is_one_line(
    hub: Hub, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    hub.repos["models/you/yours"] = Repo({"README.md": b"Mine."})
    hub.repos["models/me/other"] = Repo({"config.json": b"{}", "pytorch_model.bin": b""})
    push = ("push", str(bundle))
    assert "may not write" in refusal(capsys, *push, "you/yours")
    assert "may not write" in refusal(capsys, *push, "you/new")
    assert "choose another name" in refusal(capsys, *push, "me/other")
    assert "cannot be sent" in refusal(capsys, *push, "no name/at all")
    assert hub.asked["PUT"] == 0
    (bundle / "optimizer.pt").write_bytes(b"")
    assert "optimizer.pt" in refusal(capsys, *push, "mine")
    (bundle / "optimizer.pt").unlink()
    card = (bundle / "README.md").read_text()
    for front in ("---\na: [\n---\n", "---\n- a\n---\n"):
        (bundle / "README.md").write_text(front + "# Mine\n")
        assert "cannot be read as a model card" in refusal(capsys, *push, "mine")
    (bundle / "README.md").write_text(card)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not know the token" in refusal(capsys, *push, "mine")
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN" in refusal(capsys, *push, "mine")
    (bundle / "tokenizer.json").write_text("{}")
    assert "tokenizer.json" in refusal(capsys, *push, "mine")


def test_what_is_no_bundle_does_not_come(hub: Hub, bundle: Path, capsys: pytest.CaptureFixture[str]):
    ours = contents(bundle)
    hub.repos["models/you/other"] = Repo({"config.json": b"{}", "model.safetensors": b"0" * (1 << 15)})
    hub.repos["models/you/like-it"] = Repo(ours | {"config.json": b'{"model_type": "qwen3"}'})
    damaged = (
        ours["tokenizer.json"].replace(b"cat", b"cut").replace(b"hat", b"hut").replace(b'"a"', b'"\\u0061"')
    )
    assert damaged != ours["tokenizer.json"]
    hub.repos["models/you/damaged"] = Repo(ours | {"tokenizer.json": damaged})
    for name in ("", "you/", "alone"):
        assert "OWNER/NAME" in refusal(capsys, "pull", name)
    assert "is no bundle" in refusal(capsys, "pull", "you/other")
    assert "is no bundle" in refusal(capsys, "pull", "you/like-it")
    assert hub.sent("model.safetensors") == 0
    assert "no such model" in refusal(capsys, "pull", "you/nothing")
    assert "tokenizer.json" in refusal(capsys, "pull", "you/damaged")
    assert not list(Path().glob("*other*")) and not Path("damaged").exists()
    assert "exists" in refusal(capsys, "pull", "you/damaged", str(bundle))
    hub.repos["models/you/whole"] = Repo(ours)
    hub.asked.clear()  # the damaged one's weights may have been asked for, or not
    hub.trouble["model.safetensors"] = Trouble("break")
    assert cli.main(["pull", "you/whole"], {}) == 0, "a connection that breaks off is tried again"
    assert contents(Path("whole")) == ours and hub.sent("model.safetensors") == 2
