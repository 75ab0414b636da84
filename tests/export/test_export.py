"""Exports are read by other programs, and give what the model gives; nothing else is kept."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatsmith.bundle import Bundle, load_bundle, save_bundle
from chatsmith.cli.config import ExportConfig, ImportConfig
from chatsmith.cli.export import import_folder as import_
from chatsmith.cli.export import main
from chatsmith.export import parity
from chatsmith.export.qwen3 import qwen3_weights
from chatsmith.model.config import NO_SOFTCAP, GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import SPLITS, train_tokenizer

TEXTS = ["The little fox asked: Where is my red ball? 12 + 345 = 357. Crème brûlée, 東京 🙂\n\n  it's" * 3]
FULL = {"windows": (0, 7, 0), "value_embedding_layers": (1,), "bigram_buckets": 64}
PORTABLE = {"architecture": "portable", "softcap": NO_SOFTCAP}


def bundle_of(folder: Path, split: str = "chatsmith", **fields) -> Bundle:
    tokenizer = train_tokenizer(TEXTS, 360, split)
    model = GPT(GPTConfig(tokenizer.vocab_size, 96, 3, 2, 32, **fields))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    save_bundle(folder, model, tokenizer, generation={"temperature": 0.6}, card="# A model\n")
    return load_bundle(folder)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("ordinary") / "bundle", **FULL)


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("portable") / "bundle", "qwen2", **PORTABLE)


def exported(bundle: Bundle, out: Path, **settings) -> dict:
    main(ExportConfig(run=bundle.path, out=out, **settings))
    return json.loads(((out if out.is_dir() else out.parent) / "parity.json").read_text())


def test_any_model_becomes_a_transformers_folder_that_gives_the_same(
    ordinary: Bundle, tmp_path: Path
) -> None:
    found = exported(ordinary, tmp_path / "model")
    assert found["verified"] and found["logits_difference"] < 1e-5
    assert found["token_ids_equal"] and found["chat_template_equal"] and found["greedy_equal"]


def test_a_portable_model_is_plain_qwen3(portable: Bundle, tmp_path: Path) -> None:
    found = exported(portable, tmp_path / "model")
    assert found["verified"] and found["logits_difference"] < 1e-5
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"] and "auto_map" not in config
    assert not list((tmp_path / "model").glob("*.py"))
    chat = pytest.importorskip("transformers").pipeline("text-generation", str(tmp_path / "model"))
    [answered] = chat([{"role": "user", "content": "Hello!"}], max_new_tokens=4, do_sample=False)
    assert [one["role"] for one in answered["generated_text"]] == ["user", "assistant"]


def test_windows_of_a_portable_model_are_kept(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle", windows=(9, 0, 9), **PORTABLE)
    assert exported(bundle, tmp_path / "model")["logits_difference"] < 1e-5


@pytest.mark.parametrize("kind", ["f32", "bf16", "q8_0"])
def test_a_portable_model_becomes_gguf(
    portable: Bundle, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where llama.cpp is not installed; test_llama.py has it where it is."""
    pytest.importorskip("gguf")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    found = exported(portable, tmp_path / "model.gguf", to="gguf", type=kind)
    assert found["program"] == "transformers" and found["verified"]
    assert found["token_ids_equal"] and found["chat_template_equal"]
    assert found["logits_difference"] <= found["logits_bound"]
    assert found.get("bits_ratio", 1) <= 1.005


def test_left_padding_and_beams_change_nothing(ordinary: Bundle, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    exported(ordinary, tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True)
    short, long = torch.arange(5, 12)[None], torch.arange(20, 40)[None]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options |= {"temperature": None, "top_k": None}
    alone = [
        model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, -8:] for ids in (short, long)
    ]
    padded = torch.cat([torch.nn.functional.pad(short, (13, 0)), long])
    mask = torch.ones_like(padded)
    mask[0, :13] = 0
    together = model.generate(padded, attention_mask=mask, **options)[:, -8:]
    assert torch.equal(together, torch.stack(alone))
    beams = model.generate(long, attention_mask=torch.ones_like(long), num_beams=3, **options)
    with torch.inference_mode():  # beams found with the cache score as they do without it
        uncached = model(beams).logits
        cached = model.generate(
            long, attention_mask=torch.ones_like(long), use_cache=False, num_beams=3, **options
        )
    assert torch.equal(beams, cached) and uncached.isfinite().all()


def test_a_cache_without_the_token_before_is_refused(ordinary: Bundle, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    exported(ordinary, tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True)
    ids = torch.arange(5, 12)[None]
    cache = transformers.DynamicCache()
    whole = model(ids).logits
    model(ids[:, :4], past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="previous_ids"):
        model(ids[:, 4:], past_key_values=cache, use_cache=True)
    rest = model(ids[:, 4:], past_key_values=cache, use_cache=True, previous_ids=ids[:, 3:-1]).logits
    torch.testing.assert_close(rest, whole[:, 4:], rtol=1e-4, atol=1e-5)


def test_what_was_exported_is_read_back(ordinary: Bundle, portable: Bundle, tmp_path: Path) -> None:
    for name, bundle in (("ordinary", ordinary), ("portable", portable)):
        exported(bundle, tmp_path / name)
        import_(ImportConfig(folder=tmp_path / name, out=tmp_path / f"{name}-again"))
        again = load_bundle(tmp_path / f"{name}-again")
        assert again.config == bundle.config and again.tokenizer.to_json() == bundle.tokenizer.to_json()
        assert again.generation["temperature"] == bundle.generation["temperature"]
        ours, theirs = bundle.model.state_dict(), again.model.state_dict()
        if name == "portable":  # the token table was normed
            ours["embedding.weight"] = theirs["embedding.weight"]
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        exported(again, tmp_path / f"{name}-twice")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_key_value_heads": 1}, "grouped"),
        ({"tie_word_embeddings": True}, "token table"),
        ({"intermediate_size": 100}, "MLP"),
        ({"model_type": "llama"}, "llama"),
        ({"hidden_act": "gelu"}, "activations"),
    ],
)
def test_other_models_are_refused_with_the_reason(
    portable: Bundle, tmp_path: Path, change: dict, reason: str
) -> None:
    exported(portable, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=reason):
        import_(ImportConfig(folder=tmp_path / "model", out=tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def test_gains_and_pickles_are_refused(portable: Bundle, tmp_path: Path) -> None:
    exported(portable, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][3] = 2
    save_file(weights, file)
    with pytest.raises(UserError, match="gains"):
        import_(ImportConfig(folder=tmp_path / "model", out=tmp_path / "again"))
    file.rename(file.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match="not read"):
        import_(ImportConfig(folder=tmp_path / "model", out=tmp_path / "again"))


def test_what_the_form_cannot_hold_is_refused_in_one_line_and_nothing_is_written(
    ordinary: Bundle, portable: Bundle, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    windowed = bundle_of(tmp_path / "w", "qwen2", windows=(9, 0, 9), **PORTABLE)
    other_split = bundle_of(tmp_path / "s", **PORTABLE)
    place = tmp_path / "out"
    place.mkdir()
    for bundle, reason in ((ordinary, "llama.cpp has no"), (windowed, "windows"), (other_split, "split")):
        with pytest.raises(UserError, match=reason):
            exported(bundle, place / "model.gguf", to="gguf")
    with pytest.raises(UserError, match="exists"):
        exported(portable, place)
    with pytest.raises(UserError, match=r"\.gguf"):
        ExportConfig(out=Path("model"), to="gguf")
    several = bundle_of(tmp_path / "v", windows=(9, 8, 0), **PORTABLE)
    with pytest.raises(UserError, match="one size"):
        exported(several, place / "model")
    assert list(place.iterdir()) == []


def test_a_weight_that_the_target_does_not_know_stops_the_export(portable: Bundle, tmp_path: Path) -> None:
    portable.model.register_buffer("surplus", torch.zeros(1))
    try:
        with pytest.raises(UserError, match="surplus"):
            qwen3_weights(portable)
    finally:
        del portable.model.surplus


@pytest.mark.parametrize("part", ["logits", "token_ids", "chats", "greedy"])
def test_an_export_that_differs_is_not_kept(
    portable: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    plain = parity.their_answers

    def wrong(*args) -> parity.Answers:
        answers = plain(*args)
        if part == "logits":
            return dataclasses.replace(answers, logits=lambda ids: answers.logits(ids) + 0.01)
        values = getattr(answers, part)
        values[1] = values[1][:-1]
        return answers

    monkeypatch.setattr(parity, "their_answers", wrong)
    with pytest.raises(UserError, match="not kept"):
        exported(portable, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_without_another_program_it_says_so(
    portable: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise UserError("nothing independent is installed")

    monkeypatch.setattr(parity, "_transformers", missing)
    with pytest.raises(UserError, match="not verified"):
        exported(portable, tmp_path / "model")
    assert exported(portable, tmp_path / "kept", unverified=True)["verified"] is False


def test_the_card_says_how_to_use_the_copy(ordinary: Bundle, portable: Bundle, tmp_path: Path) -> None:
    for name, bundle, trust in (("a", ordinary, ", trust_remote_code=True)"), ("b", portable, '"FOLDER")')):
        exported(bundle, tmp_path / name)
        card = (tmp_path / name / "README.md").read_text()
        assert (
            card.startswith("# A model\n\n## Use with transformers") and trust in card and "TRUST" not in card
        )


def test_the_split_that_others_know_cuts_as_theirs() -> None:
    """qwen2's pattern as transformers and llama.cpp have it, on texts without long runs of white space."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    for text in (*parity.HOSTILE, *parity.TEXTS):
        text = text.replace("ſ", "")  # folds to an s there
        pieces = [
            [
                piece
                for piece, _ in tokenizers.pre_tokenizers.Split(
                    tokenizers.Regex(one), "isolated"
                ).pre_tokenize_str(text)
            ]
            for one in (SPLITS["qwen2"], theirs)
        ]
        assert pieces[0] == pieces[1], text
