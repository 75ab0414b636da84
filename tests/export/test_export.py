"""Exports are read by other programs, and give what the model gives; nothing else is kept."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatsmith.bundle import GENERATION_DEFAULTS, Bundle, load_bundle, save_bundle
from chatsmith.cli import main as cli
from chatsmith.cli.config import ExportConfig, ImportConfig
from chatsmith.cli.export import import_folder as import_
from chatsmith.cli.export import main
from chatsmith.export import parity
from chatsmith.export.qwen3 import qwen3_weights
from chatsmith.export.writers import write_transformers
from chatsmith.model.config import NO_SOFTCAP, GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import chat_template
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
    fields = pytest.importorskip("gguf").GGUFReader(tmp_path / "model.gguf").fields
    assert fields["general.sampling.temp"].contents() == pytest.approx(0.6)
    assert fields["general.sampling.top_k"].contents() == 50
    assert fields["general.sampling.top_p"].contents() == 1  # what is not there is 0.95 and 0.05 in llama.cpp
    assert fields["general.sampling.min_p"].contents() == 0
    assert fields["general.description"].contents() == "# A model\n"


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
        first, second = (load_file(tmp_path / one / "model.safetensors") for one in (name, f"{name}-twice"))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def folders(ordinary: Bundle, portable: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {"ordinary": ordinary, "portable": portable}
    place = tmp_path_factory.mktemp("folders")
    for name, bundle in made.items():
        (place / name).mkdir()
        write_transformers(bundle, place / name)
    return {name: place / name for name in made}


def refusal(capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """The one line that `import` says, leaving nothing behind."""
    around = sorted(folder.parent.iterdir())
    assert cli.main(["import", str(folder), str(folder.with_name("again"))], {}) == 2
    error = capsys.readouterr().err
    assert error.startswith("chatsmith: ") and error.count("\n") == 1, error
    assert sorted(folder.parent.iterdir()) == around
    return error


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 96}
WRONG = [
    ("portable", {"num_key_value_heads": 1}, "grouped"),
    ("portable", {"tie_word_embeddings": True}, "token table"),
    ("portable", {"intermediate_size": 100}, "MLP"),
    ("portable", {"model_type": "llama"}, "llama"),
    ("portable", {"hidden_act": "gelu"}, "activations"),
    ("portable", {"rms_norm_eps": 1e-2}, "mean square"),
    ("portable", {"rms_norm_eps": -1}, "mean square"),
    ("portable", {"rms_norm_eps": "small"}, "go together"),
    ("portable", {"rope_scaling": YARN}, "scaled"),
    ("portable", {"rope_parameters": {**YARN, "rope_theta": 1e4}}, "scaled"),
    ("portable", {"rope_parameters": [1]}, "go together"),
    ("portable", {"rope_parameters": {"rope_theta": "far"}}, "go together"),
    ("portable", {"layer_types": ["chunked_attention"] * 3}, "another kind"),
    ("portable", {"layer_types": ["full_attention"] * 2}, "3 numbers"),
    ("portable", {"layer_types": 5}, "go together"),
    ("portable", {"layer_types": None, "use_sliding_window": True, "sliding_window": 9}, "which layers"),
    ("portable", {"num_hidden_layers": 10**9}, "1000000000 layers"),
    ("portable", {"num_hidden_layers": "3"}, "go together"),
    ("portable", {"num_hidden_layers": 2, "layer_types": None}, "no place"),
    ("portable", {"num_hidden_layers": -3}, "at least 1"),
    ("portable", {"max_position_embeddings": 10**12}, "1000000000000 for a context"),
    (
        "portable",
        {"use_sliding_window": True, "sliding_window": 10**30, "layer_types": ["sliding_attention"] * 3},
        "a window",
    ),
    ("portable", {"vocab_size": 10**12}, "shapes of"),
    ("portable", {"vocab_size": 10**30}, "go together"),
    (
        "portable",
        {"head_dim": 10**9, "hidden_size": 2 * 10**9, "intermediate_size": 5_333_333_344},
        "go together",
    ),
    ("ordinary", {"num_layers": 10**9}, "1000000000 layers"),
    ("ordinary", {"num_layers": None}, "go together"),
    ("ordinary", {"context_length": 10**12}, "1000000000000 for a context"),
    ("ordinary", {"head_dim": 10**9}, "go together"),
    ("ordinary", {"bigram_buckets": 10**30}, "go together"),
    ("ordinary", {"windows": "all"}, "windows|damaged"),
    ("ordinary", {"windows": [10**30, 0, 0]}, "a window"),
    ("ordinary", {"rope_base": "far"}, "damaged"),
]


@pytest.mark.parametrize(("which", "change", "reason"), WRONG, ids=lambda one: str(one)[:40])
def test_other_models_are_refused_with_the_reason(
    folders: dict[str, Path], tmp_path: Path, capsys, which: str, change: dict, reason: str
) -> None:
    shutil.copytree(folders[which], tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert re.search(reason, refusal(capsys, tmp_path / "model"))


def test_other_weights_are_refused_with_the_reason(folders: dict[str, Path], tmp_path: Path, capsys) -> None:
    plain = load_file(folders["portable"] / "model.safetensors")
    query, value = (f"model.layers.1.self_attn.{one}.weight" for one in ("q_proj", "v_proj"))
    gain = "model.layers.2.self_attn.q_norm.weight"
    uneven = plain[gain].clone()  # its product with the keys' gains is ours, and yet the function is another
    uneven[0] *= 2
    keys = gain.replace("q_norm", "k_norm")
    cases = [
        ({query: None}, f"lacks {query}"),
        ({"model.layers.1.self_attn.q_proj.bias": torch.zeros(64)}, "no place for: model.layers.1"),
        ({query: plain[query][:1]}, f"shapes of {query}"),
        ({value: plain[value][:1]}, f"shapes of {value}"),
        ({gain: plain[gain][:1]}, f"shapes of {gain}"),
        ({query: (plain[query] * 100).to(torch.int8)}, "torch.int8"),
        ({query: plain[query].double()}, "torch.float64"),
        ({query: plain[query].to(torch.float8_e4m3fn)}, "float8"),
        ({gain: plain[gain] * 1.01}, "queries and keys have gains"),
        ({gain: uneven, keys: plain[keys] * plain[gain] / uneven}, "queries and keys have gains"),
        ({gain: plain[gain] * torch.nan}, "queries and keys have gains"),
        ({"model.embed_tokens.weight": plain["model.embed_tokens.weight"] * 2}, "not normed"),
    ]
    for change, reason in cases:
        shutil.copytree(folders["portable"], tmp_path / "model", dirs_exist_ok=True)
        weights = {name: tensor.clone() for name, tensor in {**plain, **change}.items() if tensor is not None}
        save_file(weights, tmp_path / "model" / "model.safetensors")
        assert reason in refusal(capsys, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0" + b"{" * 99)
    assert "copy it again" in refusal(capsys, tmp_path / "model")


def test_other_folders_are_refused_with_the_reason(folders: dict[str, Path], tmp_path: Path, capsys) -> None:
    for file, content, reason in (
        ("config.json", b"[]", "no JSON object"),
        ("config.json", b"[" * 10**5, "no JSON object"),
        ("config.json", b"\xff", "no JSON object"),
        ("config.json", b'{"model_type": "gpt2"}', "'gpt2'"),
        ("config.json", b'{"model_type": "chatsmith"}', "lacks 'vocab_size'"),  # a bundle says it elsewhere
        ("generation_config.json", b"5", "no JSON object"),
        ("generation_config.json", b'{"temperature": "hot"}', "temperature"),
        ("generation_config.json", b'{"max_new_tokens": -5}', "max_tokens"),
        ("tokenizer.json", b"{}", "tokenizer"),
        ("training_args.bin", b"", "training_args.bin: a pickle"),
    ):
        shutil.copytree(folders["portable"], tmp_path / "model", dirs_exist_ok=True)
        (tmp_path / "model" / file).write_bytes(content)
        assert reason in refusal(capsys, tmp_path / "model")
        (tmp_path / "model" / file).unlink()
    (tmp_path / "model" / "config.json").unlink(missing_ok=True)
    (tmp_path / "model" / "config.json").symlink_to("config.json")  # in a circle
    assert "config.json" in refusal(capsys, tmp_path / "model")
    assert "config.json" in refusal(capsys, tmp_path / "nothing")
    (tmp_path / "model" / "config.json").unlink()
    (tmp_path / "model" / "config.json").symlink_to("/etc/passwd")
    assert "no JSON object" in refusal(capsys, tmp_path / "model")


def test_a_folder_of_links_is_read_as_the_hub_keeps_it(folders: dict[str, Path], tmp_path: Path) -> None:
    """A hub's cache has links to files beside the folder; and not every folder has defaults for sampling."""
    (tmp_path / "snapshot").mkdir()
    for file in folders["portable"].iterdir():
        if file.name != "generation_config.json":
            (tmp_path / "snapshot" / file.name).symlink_to(file)
    assert cli.main(["import", str(tmp_path / "snapshot"), str(tmp_path / "again")], {}) == 0
    assert load_bundle(tmp_path / "again").generation["temperature"] == 0.6
    assert not any(file.is_symlink() for file in (tmp_path / "again").iterdir())


def test_a_foreign_checkpoint_of_the_shape_gives_what_it_gave(portable: Bundle, tmp_path: Path) -> None:
    """Made by transformers alone, with its own epsilon, another base of the angles, and gains that can be folded."""
    transformers = pytest.importorskip("transformers")
    numbers = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 2}
    numbers |= {"num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 80, "rope_theta": 1e6}
    vocabulary = portable.config.vocab_size
    config = transformers.Qwen3Config(**numbers, vocab_size=vocabulary, tie_word_embeddings=False)
    theirs = transformers.Qwen3ForCausalLM(config).eval()
    table = theirs.model.embed_tokens.weight.data
    table.copy_(torch.nn.functional.rms_norm(torch.randn_like(table), table.shape[1:]))
    gain = torch.rand(16) + 0.5
    for layer in theirs.model.layers:
        layer.self_attn.q_norm.weight.data.copy_(1.44 * gain.repeat(2))
        layer.self_attn.k_norm.weight.data.copy_(1 / gain.repeat(2))
        for norm in (layer.input_layernorm, layer.post_attention_layernorm, theirs.model.norm):
            norm.weight.data.copy_(torch.randn_like(norm.weight))
    theirs.save_pretrained(tmp_path / "foreign")
    portable.tokenizer.save(tmp_path / "foreign")
    import_(ImportConfig(folder=tmp_path / "foreign", out=tmp_path / "ours"))
    ours, ids = load_bundle(tmp_path / "ours").model, torch.arange(60)[None]
    with torch.inference_mode():
        expected = theirs(ids).logits
        torch.testing.assert_close(
            ours.logits(ours(ids)), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
        )


def test_weights_in_other_files_are_not_read(folders: dict[str, Path], tmp_path: Path, capsys) -> None:
    shutil.copytree(folders["portable"], tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))
    assert "not read" in refusal(capsys, tmp_path / "model")


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


def test_the_modelfile_on_the_page_renders_as_the_chat_template_does() -> None:
    """Ollama finds no template of its own for the one in the file, so the page has one (Go's text/template, of which
    this knows what the page needs)."""
    jinja2 = pytest.importorskip("jinja2")
    page = (Path(__file__).parents[2] / "docs" / "use-elsewhere.md").read_text(encoding="utf-8")
    modelfile = page.partition("FROM ./model.gguf")[2].partition("```")[0]
    [template] = re.findall(r'^TEMPLATE """(.*)"""$', modelfile, re.MULTILINE)
    for go, jinja in {
        "{{ range .Messages }}": "{% for one in messages %}",
        "{{ .Role }}": "{{ one['role'] }}",
        "{{ .Content }}": "{{ one['content'] }}",
        "{{ end }}": "{% endfor %}",
    }.items():
        assert go in template
        template = template.replace(go, jinja)
    assert "{{ ." not in template
    roles = ("system", "user", "assistant", "tool", "assistant", "user")
    messages = [{"role": role, "content": f"Text {number}.\n"} for number, role in enumerate(roles)]
    theirs, ours = (
        jinja2.Template(one, keep_trailing_newline=True).render(messages=messages, add_generation_prompt=True)
        for one in (template, chat_template())
    )
    assert theirs == ours
    ends = {"<|assistant_end|>", "<|bos|>"}
    assert set(re.findall(r'^PARAMETER stop "(.*)"$', modelfile, re.MULTILINE)) == ends
    for name in ("temperature", "top_k"):
        assert f"\nPARAMETER {name} {GENERATION_DEFAULTS[name]}\n" in modelfile


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
