"""The bundle: it gives back the very model that was saved, or says in one line what is wrong with it."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import chatsmith
from chatsmith import bundle as bundle_module
from chatsmith.bundle import bundle_fingerprint, load_bundle, save_bundle
from chatsmith.model.gpt import GPT
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import resolve_bundle
from chatsmith.runtime.sealed import seal_of
from chatsmith.text.chat import chat_template
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer

Saved = Callable[[str], Path]
FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "chat_template.jinja",
    "generation_config.json",
    "README.md",
}


def edit_config(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change config.json and its hash, as a careless conversion script would."""
    config = json.loads((path / "config.json").read_text())
    if config.pop("sha256", None):
        edit(config)
        config["sha256"] = bundle_module.content_hash(config)
    else:
        edit(config)
    (path / "config.json").write_text(json.dumps(config))


def as_format_1(path: Path) -> None:
    """Make the bundle what earlier versions wrote."""
    config = json.loads((path / "config.json").read_text())
    for name in ("architectures", "model_type", "sha256"):
        del config[name]
    for name in ("generation_config.json", "chat_template.jinja"):
        del config["files"][name]
    text = json.dumps({**config, "format_version": 1}, indent=2, ensure_ascii=False) + "\n"
    (path / "config.json").write_text(text, encoding="utf-8")


def rewrite_weights(path: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the weights and seal them anew, as a careless conversion script would."""
    weights = safetensors.torch.load_file(path / "model.safetensors")
    edit(weights)
    safetensors.torch.save_file(weights, path / "model.safetensors")
    reseal(path, "model.safetensors")


def reseal(path: Path, file: str) -> None:
    edit_config(path, lambda config: config["files"].update({file: seal_of(path / file).to_json()}))


def refusal(path: Path) -> str:
    """What loading the damaged bundle says: one line that names the bundle's folder."""
    with pytest.raises(UserError) as raised:
        load_bundle(path)
    message = str(raised.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_a_loaded_bundle_is_bitwise_the_saved_model(saved: Saved, model: GPT, tokenizer: Tokenizer) -> None:
    loaded = load_bundle(saved("bundle"))
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name
    assert loaded.config == model.config
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    tokens = torch.tensor([tokenizer.encode("the cat sat on the dog")])
    assert torch.equal(loaded.model.logits(loaded.model(tokens)), model.logits(model(tokens)))
    assert not loaded.model.training


def test_a_bundle_holds_all_that_others_need(saved: Saved, tokenizer: Tokenizer) -> None:
    path = saved("bundle")
    assert {file.name for file in path.iterdir()} == FILES
    config = json.loads((path / "config.json").read_text())
    assert config["format_version"] == 2
    assert config["architecture"] == "chatsmith-gpt"
    assert (config["architectures"], config["model_type"]) == (["ChatsmithForCausalLM"], "chatsmith")
    assert set(config["files"]) == FILES - {"config.json", "README.md"}
    assert config["provenance"] == {"chatsmith_version": chatsmith.__version__, "stage": "pretrain"}
    assert (path / "chat_template.jinja").read_text(encoding="utf-8") == chat_template()
    assert (path / "README.md").read_text() == "# Tiny\n"
    loaded = load_bundle(path)
    assert loaded.provenance == config["provenance"]
    assert loaded.generation == {
        "temperature": 0.8,
        "top_k": 20,
        "max_tokens": 64,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": [tokenizer.special("<|assistant_end|>"), tokenizer.bos_id],
    }


def test_equal_models_give_equal_bundles_byte_for_byte(saved: Saved) -> None:
    first, second = saved("first"), saved("second")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_weights_can_be_loaded_in_another_precision_and_are_kept_in_fp32(saved: Saved, model: GPT) -> None:
    path = saved("bundle")
    stored = safetensors.torch.load_file(path / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float32}
    loaded = load_bundle(path, dtype=torch.bfloat16)
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight.to(torch.bfloat16)), name


def test_a_model_in_another_precision_is_saved_in_fp32(
    tmp_path: Path, model: GPT, tokenizer: Tokenizer
) -> None:
    save_bundle(tmp_path / "bundle", model.to(torch.bfloat16), tokenizer, generation={}, card="")
    stored = safetensors.torch.load_file(tmp_path / "bundle" / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float32}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "generation_config.json"])
def test_a_missing_file_is_named(saved: Saved, name: str) -> None:
    path = saved("bundle")
    (path / name).unlink()
    assert re.search(rf"{re.escape(name)} is missing; copy the bundle again", refusal(path))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_truncated_file_is_named(saved: Saved, name: str) -> None:
    path = saved("bundle")
    (path / name).write_bytes((path / name).read_bytes()[:-20])
    assert re.search(
        rf"{re.escape(name)} is cut off: .* bytes are there; copy the bundle again", refusal(path)
    )


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_a_single_changed_bit_is_one_clear_line_wherever_it_is(saved: Saved, name: str) -> None:
    path = saved("bundle")
    good = (path / name).read_bytes()
    for place in torch.randint(8 * len(good), (40,), generator=torch.Generator().manual_seed(0)).tolist():
        content = bytearray(good)
        content[place // 8] ^= 1 << (place % 8)
        (path / name).write_bytes(bytes(content))
        message = refusal(path)
        if name != "config.json":
            assert f"{name} is not the file that was saved" in message


@pytest.mark.parametrize("edited", ["rope_base", "softcap"])
def test_a_changed_number_in_the_architecture_is_noticed(saved: Saved, edited: str) -> None:
    path = saved("bundle")
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(re.sub(rf'("{edited}[a-z_]*": )(\d)', r"\g<1>9\2", text))
    assert (path / "config.json").read_text() != text
    assert "config.json is not what was saved" in refusal(path)
    with pytest.raises(UserError, match=r"config\.json is not what was saved"):
        bundle_fingerprint(path)


def test_a_card_may_be_edited(saved: Saved) -> None:
    (saved("bundle") / "README.md").write_text("# Mine\n")
    load_bundle(saved("bundle"))


def test_a_bundle_of_format_1_loads_and_has_the_fingerprint_it_always_had(saved: Saved, model: GPT) -> None:
    new, old = saved("new"), saved("old")
    as_format_1(old)
    loaded = load_bundle(old)
    assert all(torch.equal(loaded.model.state_dict()[name], w) for name, w in model.state_dict().items())
    assert bundle_fingerprint(old) == hashlib.sha256((old / "config.json").read_bytes()).hexdigest()
    assert bundle_fingerprint(new) == bundle_fingerprint(old)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"", b'{"format_version": 1', b"[1]", b"\xff\xfe"])
def test_json_that_is_none_is_named(saved: Saved, name: str, content: bytes) -> None:
    path = saved("bundle")
    as_format_1(path)  # which does not seal them
    (path / name).write_bytes(content)
    assert f"{name} is damaged" in refusal(path)


def test_a_newer_format_asks_for_an_upgrade(saved: Saved) -> None:
    path = saved("bundle")
    edit_config(path, lambda config: config.update(format_version=3))
    assert "made by a newer chatsmith" in refusal(path)
    assert "upgrade chatsmith" in refusal(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config.update(architecture="LlamaForCausalLM"),
        lambda config: config.pop("architecture"),
        lambda config: config.update(format_version="1"),
        lambda config: config.update(format_version=0),
    ],
)
def test_a_model_of_another_program_is_refused(saved: Saved, edit: Callable[[dict[str, Any]], None]) -> None:
    path = saved("bundle")
    edit_config(path, edit)
    assert "not a bundle of chatsmith" in refusal(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config.pop("model"),
        lambda config: config.update(model=3),
        lambda config: config["model"].update(number_of_wings=2),
        lambda config: config["model"].update(num_layers="many"),
        lambda config: config["model"].update(num_layers=0),
    ],
)
def test_a_config_without_a_model_in_it_is_refused(
    saved: Saved, edit: Callable[[dict[str, Any]], None]
) -> None:
    path = saved("bundle")
    edit_config(path, edit)
    assert "config.json does not describe a model" in refusal(path)


@pytest.mark.parametrize("files", [None, {}, {"tokenizer.json": {}}, 3])
def test_a_config_without_seals_is_refused(saved: Saved, files: object) -> None:
    path = saved("bundle")
    edit_config(path, lambda config: config.update(files=files))
    assert "does not say what its files should be" in refusal(path)


@pytest.mark.parametrize("kind", ["missing", "file", "empty folder", "other folder"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model"
    if kind == "file":
        path.write_text("weights")
    elif kind != "missing":
        path.mkdir()
    if kind == "other folder":
        (path / "notes.txt").write_text("nothing here")
    assert "bundle" in refusal(path)


def test_a_tokenizer_of_another_model_is_refused(saved: Saved) -> None:
    path = saved("bundle")
    train_tokenizer(["another corpus altogether"], vocab_size=285).save(path)
    assert "tokenizer.json is not the file that was saved" in refusal(path) or "cut off" in refusal(path)
    reseal(path, "tokenizer.json")
    assert "not of one model" in refusal(path)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda weights: weights.pop("smear_strength"), "lacks smear_strength"),
        (lambda weights: weights.update(wings=torch.ones(2)), "has wings, which the model does not know"),
        (lambda weights: weights.update(smear_strength=torch.ones(2)), "has smear_strength in another shape"),
        (lambda weights: weights.clear(), r"lacks .* and \d+ more"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    saved: Saved, edit: Callable[[dict[str, Tensor]], None], complaint: str
) -> None:
    path = saved("bundle")
    rewrite_weights(path, edit)
    assert re.search(rf"model.safetensors does not fit its config.json: it {complaint}", refusal(path))


def test_a_file_that_is_no_safetensors_file_is_named(saved: Saved) -> None:
    path = saved("bundle")
    (path / "model.safetensors").write_bytes(b"not weights at all")
    reseal(path, "model.safetensors")
    assert "model.safetensors is not a safetensors file" in refusal(path)


def test_older_formats_are_migrated_one_version_at_a_time(
    saved: Saved, model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved("bundle")
    as_format_1(path)

    def undo(config: dict[str, Any]) -> None:
        config["model"]["depth"] = config["model"].pop("num_layers")

    edit_config(path, undo)
    rewrite_weights(path, lambda weights: weights.update(smear=weights.pop("smear_strength")))
    versions: list[int] = []

    def rename_depth(config: dict[str, Any], weights: dict[str, Tensor]) -> tuple[dict, dict]:
        versions.append(1)
        described = {**config["model"], "num_layers": config["model"]["depth"]}
        described.pop("depth")
        return {**config, "model": described}, weights

    def rename_smear(config: dict[str, Any], weights: dict[str, Tensor]) -> tuple[dict, dict]:
        versions.append(2)
        return config, {("smear_strength" if name == "smear" else name): w for name, w in weights.items()}

    monkeypatch.setattr(bundle_module, "FORMAT_VERSION", 3)
    monkeypatch.setattr(bundle_module, "MIGRATIONS", {1: rename_depth, 2: rename_smear})
    loaded = load_bundle(path)
    assert versions == [1, 2]
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name


def test_every_older_format_has_a_migration() -> None:
    assert sorted(bundle_module.MIGRATIONS) == list(range(1, bundle_module.FORMAT_VERSION))


@pytest.mark.parametrize("fails", ["write_tensors", "chat_template"])
def test_a_save_that_is_interrupted_leaves_the_old_bundle_whole(
    saved: Saved, model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = saved("bundle")
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_module, fails, interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_bundle(path, model, tokenizer, generation={}, card="new")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [other.name for other in path.parent.iterdir()] == ["bundle"]


def test_a_first_save_that_is_interrupted_leaves_nothing(
    tmp_path: Path, model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module, "write_tensors", full)
    with pytest.raises(UserError, match="disk is full"):
        save_bundle(tmp_path / "bundle", model, tokenizer, generation={}, card="")
    assert list(tmp_path.iterdir()) == []


def test_a_fingerprint_follows_the_weights_and_not_the_card(saved: Saved, model: GPT) -> None:
    first, second = saved("first"), saved("second")
    (second / "README.md").write_text("# Another card\n")
    assert bundle_fingerprint(first) == bundle_fingerprint(second)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert bundle_fingerprint(first) != bundle_fingerprint(saved("third"))


def test_a_run_means_its_newest_stage(saved: Saved, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrained = saved("run/pretrain/bundle")
    assert resolve_bundle(run) == pretrained
    tuned = saved("run/sft/bundle")
    assert resolve_bundle(run) == tuned
    reinforced = saved("run/rl/bundle")
    assert resolve_bundle(run) == reinforced
    assert resolve_bundle(run / "pretrain") == pretrained
    assert resolve_bundle(pretrained) == pretrained
    shutil.rmtree(run / "rl")
    assert resolve_bundle(run) == tuned


def test_what_holds_no_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, complaint in (
        ("absent", "does not exist"),
        ("file", "is a file"),
        ("empty", "pretrain"),
    ):
        with pytest.raises(UserError, match=complaint) as raised:
            resolve_bundle(tmp_path / name)
        assert "\n" not in str(raised.value)
