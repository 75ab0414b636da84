"""Constrained replies have their form, and a form never changes what its neighbours say."""

import json
import re

import jsonschema
import pytest

from chatsmith.backends.guided import Grammars
from chatsmith.engine.request import Constraint, Request, RequestError, SamplingParams
from chatsmith.model.gpt import GPT
from chatsmith.serve.tools import object_schema
from chatsmith.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from tests.backends.conftest import fast_engine

SCHEMA = {
    "type": "object",
    "properties": {"cat": {"enum": ["sat", "mat"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["cat", "legs"],
    "additionalProperties": False,
}


def replies(model: GPT, tokenizer: Tokenizer, constraint: Constraint | None, **sampling: object) -> list[str]:
    values = {"temperature": 1.0, "max_tokens": 60, **sampling}
    requests = [
        Request((1, 2, 3), SamplingParams(seed=seed, **values), constraint=constraint) for seed in range(6)
    ]  # pyright: ignore
    completions = fast_engine(model, tokenizer, max_running=3).generate(requests)
    assert [one.finish_reason for one in completions] == ["stop"] * 6
    return [one.text for one in completions]


def test_a_json_schema_is_obeyed(model: GPT, tokenizer: Tokenizer) -> None:
    for text in replies(model, tokenizer, Constraint.json_schema(SCHEMA)):
        value = json.loads(text)
        assert value["cat"] in ("sat", "mat") and 0 <= value["legs"] <= 9


def test_a_regular_expression_is_obeyed(model: GPT, tokenizer: Tokenizer) -> None:
    found = replies(model, tokenizer, Constraint("regex", "[0-9]{2,3}( cat| dog)"))
    assert all(re.fullmatch("[0-9]{2,3}( cat| dog)", text) for text in found)
    assert len(set(found)) > 1


def test_a_choice_is_one_of_the_texts_even_with_signs_of_regular_expressions(
    model: GPT, tokenizer: Tokenizer
) -> None:
    assert set(replies(model, tokenizer, Constraint("regex", r"a\+b|\(c\|d\)|the cat"))) <= {
        "a+b",
        "(c|d)",
        "the cat",
    }


def test_a_grammar_is_obeyed(model: GPT, tokenizer: Tokenizer) -> None:
    grammar = 'start: animal " sat"\nanimal: "the cat" | "the dog"'
    found = replies(model, tokenizer, Constraint("lark", grammar))
    assert set(found) <= {"the cat sat", "the dog sat"}


def test_a_constraint_leaves_the_other_requests_alone(model: GPT, tokenizer: Tokenizer) -> None:
    free = [Request((1, 2, 3), SamplingParams(seed=seed, max_tokens=20)) for seed in range(4)]
    bound = Request((4, 5), SamplingParams(seed=9, max_tokens=20), constraint=Constraint("regex", "[0-9]+"))
    alone = fast_engine(model, tokenizer).generate(free)
    together = fast_engine(model, tokenizer).generate([free[0], bound, *free[1:]])
    assert [one.ids for one in together if one.prompt_ids == (1, 2, 3)] == [one.ids for one in alone]


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("regex", "[0-9"),
        Constraint.json_schema({"type": "cat"}),
        Constraint.json_schema({"minimum": -(10**300)}),
        Constraint("lark", "start: cat"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused_at_submit(
    model: GPT, tokenizer: Tokenizer, constraint: Constraint
) -> None:
    engine = fast_engine(model, tokenizer)
    with pytest.raises(RequestError) as refusal:
        engine.submit(Request((1,), constraint=constraint))
    assert refusal.value.parameter == "constraint"
    assert "\n" not in str(refusal.value)
    assert engine.is_idle


def test_a_minimum_length_is_refused() -> None:
    with pytest.raises(RequestError, match="min_tokens"):
        Request((1,), SamplingParams(min_tokens=3), constraint=Constraint.json_schema({"type": "object"}))


SPECIAL_FORMS = {
    "const": lambda name: Constraint.json_schema({"const": name}),
    "enum": lambda name: Constraint.json_schema({"enum": [f"a{name}b"]}),
    "key": lambda name: Constraint.json_schema(
        {
            "type": "object",
            "properties": {name: {"const": 1}},
            "required": [name],
            "additionalProperties": False,
        }
    ),
    "pattern": lambda name: Constraint.json_schema({"type": "string", "pattern": f"^{re.escape(name)}$"}),
    "regex": lambda name: Constraint("regex", re.escape(f"{name}+{name}")),
    "grammar": lambda name: Constraint(
        "lark", f"start: {json.dumps('the ' + name)} %json {json.dumps({'const': name})}"
    ),
}


@pytest.mark.parametrize("form", SPECIAL_FORMS)
def test_names_of_special_tokens_are_spelled_in_ordinary_tokens(
    model: GPT, tokenizer: Tokenizer, form: str
) -> None:
    """Wherever a constraint holds such a name, and whichever: what people write is never read as the token."""
    names = [*SPECIAL_TOKENS, "<|bos", "<|x|>"]
    sampling = SamplingParams(temperature=0, max_tokens=80)
    requests = [Request((1, 2, 3), sampling, constraint=SPECIAL_FORMS[form](name)) for name in names]
    for name, completion in zip(names, fast_engine(model, tokenizer).generate(requests), strict=True):
        assert (completion.error, completion.finish_reason) == (None, "stop"), name
        assert name in completion.text
        assert not any(tokenizer.is_special(id) for id in completion.ids[:-1])
        if form in ("const", "enum", "key", "pattern"):
            json.loads(completion.text)


def node(required: str = "next", **more: object) -> dict[str, object]:
    """An object that requires one like itself."""
    return {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}, "required": [required], **more}


ENDLESS = {
    "itself": {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]},
    "a definition": {"$defs": {"n": node()}, "$ref": "#/$defs/n"},
    "by its name in full": {
        "$id": "https://example.org/x",
        "$defs": {"n": {**node(), "properties": {"next": {"$ref": "https://example.org/x#/$defs/n"}}}},
        "$ref": "#/$defs/n",
    },
    "within a property": {
        "type": "object",
        "properties": {"n": {"$ref": "#/properties/n"}},
        "required": ["n"],
    },
    "at another place": {
        "schemas": {"n": {**node(), "properties": {"next": {"$ref": "#/schemas/n"}}}},
        "$ref": "#/schemas/n",
    },
    "nothing but itself": {"$ref": "#"},
    "one another": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "each choice": {"$defs": {"n": node()}, "anyOf": [{"$ref": "#/$defs/n"}, node()]},
    "one choice": {"$defs": {"n": {"oneOf": [node()]}}, "$ref": "#/$defs/n"},
    "items": {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    "a first item": {"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1},
    "any other key": {"type": "object", "required": ["q"], "additionalProperties": {"$ref": "#"}},
    "a key of a pattern": {"type": "object", "required": ["q"], "patternProperties": {"^q": {"$ref": "#"}}},
    "a number of keys": {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#"}},
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("embedded", [False, True], ids=["alone", "in a grammar"])
def test_a_value_that_can_never_end_is_refused_at_submit(
    model: GPT, tokenizer: Tokenizer, kind: str, embedded: bool
) -> None:
    schema = ENDLESS[kind]
    constraint = Constraint.json_schema(schema)
    if embedded:
        constraint = Constraint("lark", f'start: "<call>" %json {json.dumps(schema)} "</call>"')
    with pytest.raises(RequestError, match="can ever end"):
        fast_engine(model, tokenizer).submit(Request((1,), constraint=constraint))


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"n": {"anyOf": [node(), {"type": "null"}]}}, "$ref": "#/$defs/n"},
        {"$defs": {"n": {**node(), "type": ["object", "null"]}}, "$ref": "#/$defs/n"},
        {"$defs": {"n": node(required="other")}, "$ref": "#/$defs/n"},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
        {"type": "object", "required": ["$ref"], "properties": {"$ref": {"enum": ["#", "a"]}}},
        {"type": "object", "properties": {"minProperties": {"type": "integer"}, "$ref": {"const": "#"}}},
        {"const": {"minProperties": 5, "$ref": "#", "properties": 3}},
    ],
    ids=str,
)
def test_what_may_hold_itself_but_need_not_is_accepted(
    model: GPT, tokenizer: Tokenizer, schema: dict[str, object]
) -> None:
    fast_engine(model, tokenizer).submit(Request((1,), constraint=Constraint.json_schema(schema)))


@pytest.mark.parametrize(
    ("schema", "is_safe"),
    [
        (
            {"patternProperties": {"^a$": {"const": 1}}, "additionalProperties": False, "minProperties": 2},
            False,
        ),
        (
            {
                "patternProperties": {"^[ab]$": {"const": 1}},
                "additionalProperties": False,
                "maxProperties": 2,
            },
            True,
        ),
        ({"minProperties": 2}, False),
        ({"minProperties": 1, "maxProperties": 3}, True),
        ({"properties": {"a": {"const": 1}}, "required": ["a"], "minProperties": 3}, False),
        ({"properties": {"a": {"const": 1}}, "required": ["a"], "minProperties": 2}, True),
        ({"properties": {"o": {"type": "object", "minProperties": 2}}}, False),
    ],
    ids=str,
)
def test_a_number_of_keys_that_repeated_ones_could_make_up_is_refused(
    model: GPT, tokenizer: Tokenizer, schema: dict[str, object], is_safe: bool
) -> None:
    """Parsed, `{"a": 1, "a": 1}` has one key. What is accepted is valid once it is parsed."""
    engine = fast_engine(model, tokenizer)
    constraint = Constraint.json_schema({"type": "object", **schema})
    if not is_safe:
        with pytest.raises(RequestError, match="minProperties"):
            engine.submit(Request((1,), constraint=constraint))
        return
    bias = {id: 20.0 for text in ('a"', "a", '{"', '"', "}", '": 1', "1") for id in tokenizer.encode(text)}
    for seed in range(4):
        sampling = SamplingParams(seed=seed, max_tokens=40, logit_bias=bias)
        [completion] = engine.generate([Request((1,), sampling, constraint=constraint)])
        if completion.finish_reason == "stop":
            jsonschema.validate(json.loads(completion.text), {"type": "object", **schema})


TRUE_A = {
    "type": "object",
    "properties": {"a": {"const": True}},
    "required": ["a"],
    "additionalProperties": False,
}
UNTYPED = {name: value for name, value in TRUE_A.items() if name != "type"}


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        TRUE_A,
        UNTYPED,
        {**TRUE_A, "type": ["object", "null"]},
        {"anyOf": [{"type": "null"}, TRUE_A]},
        {"enum": [1, {"a": True}]},
        {"$ref": "#/$defs/a", "$defs": {"a": UNTYPED}},
    ],
    ids=str,
)
def test_a_tools_arguments_are_an_object_whatever_else_its_schema_allows(
    model: GPT, tokenizer: Tokenizer, parameters: dict[str, object] | None
) -> None:
    schema = object_schema(parameters)
    grammar = f'start: "<call>" %json {json.dumps(schema)} "</call>"'
    bias = {id: 9.0 for text in ("}", '"a": true}', "</call>") for id in tokenizer.encode(text)}
    engine = fast_engine(model, tokenizer)
    for seed in range(2):
        sampling = SamplingParams(seed=seed, max_tokens=80, logit_bias=bias)
        [completion] = engine.generate([Request((1,), sampling, constraint=Constraint("lark", grammar))])
        written = completion.text.removeprefix("<call>")
        assert written.startswith("{")
        if completion.finish_reason == "stop":
            arguments = json.loads(written.removesuffix("</call>"))
            jsonschema.validate(arguments, {"type": "object", **(parameters or {})})


@pytest.mark.parametrize(
    "parameters",
    [
        *({"type": kind} for kind in ("null", "boolean", "number", "integer", "string", "array")),
        {"type": ["string", "null"]},
        {"type": []},
        {"enum": [1, 2]},
        {"const": None},
        {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        {"allOf": [{"type": "string"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
    ],
    ids=str,
)
def test_a_tool_whose_arguments_could_be_no_object_is_refused(
    model: GPT, tokenizer: Tokenizer, parameters: dict[str, object]
) -> None:
    with pytest.raises(RequestError):
        constraint = Constraint("lark", f"start: %json {json.dumps(object_schema(parameters))}")
        fast_engine(model, tokenizer).submit(Request((1,), constraint=constraint))


@pytest.mark.parametrize(
    "schema",
    [
        {
            "$defs": {
                "n": {
                    "type": "object",
                    "patternProperties": {"^x$": {"$ref": "#/$defs/n"}},
                    "minProperties": 1,
                    "additionalProperties": False,
                }
            },
            "$ref": "#/$defs/n",
        },
        {
            "type": "object",
            "properties": {"a": {"const": 1}},
            "required": ["a"],
            "patternProperties": {"^a$": {"const": 1}},
            "additionalProperties": False,
            "minProperties": 2,
        },
    ],
)
def test_keys_that_patterns_alone_allow_do_not_make_an_end(tokenizer: Tokenizer, schema: dict) -> None:
    with pytest.raises(RequestError, match=r"can ever end|could repeat a key"):
        Grammars(tokenizer).start(Constraint.json_schema(schema))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "pattern": "a", "maxLength": 0}, "patterns, lengths, format and enum exclude each other"),
        ({"type": "string", "format": "email", "pattern": "^x$"}, "exclude each other"),
        ({"enum": []}, "its anyOf, enum or type is an empty list"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "its types exclude each other"),
        ({"anyOf": [False]}, "it is false"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "no value can satisfy its property 'a'"),
        ({"type": "array", "items": False, "minItems": 1}, "no value can satisfy one of its items"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "no value can satisfy it: minimum (5)"),
        ({"type": "integer", "multipleOf": 0}, "multipleOf must be more than 0"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "use anyOf"),
        ({"uniqueItems": True, "type": "array"}, 'it has keys that cannot be enforced here: "uniqueItems"'),
        ({"$ref": "http://x/y"}, "$ref points to http://x/y; it can only point into the schema itself"),
        ({"type": "string", "pattern": r"\bfoo"}, r"the pattern \bfoo has an anchor or boundary"),
        ({"type": "string", "pattern": "("}, "the pattern ( is not valid: unclosed group"),
        ({"type": "string", "minLength": "x"}, "'minLength' takes a whole number"),
        ({"type": "integer", "minimum": 10**30}, "a number is too large: 1000"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)  # fmt: skip
def test_a_schema_is_refused_in_our_words(tokenizer: Tokenizer, schema: dict, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        Grammars(tokenizer).start(Constraint.json_schema(schema))
    said = str(caught.value)
    assert said.startswith("the json_schema cannot be used: ") and reason in said and "\n" not in said
    assert not re.search(r"Unsatisfiable|unsatisfiable|Regex|Unimplemented|option|retriev|f64|serializ", said)
