"""Settings from where people write them: flags, environment variables, recipes.

From the strongest to the weakest: flags on the command line, variables `CHATSMITH_<SECTION>_<FIELD>`, the section of
the stage in a TOML recipe, the defaults in the class (`chatsmith.cli.config`). All are views of the same fields:
`rate_scale` is `--rate-scale`, `CHATSMITH_RL_RATE_SCALE`, and `rate_scale = …` in [rl]; `from_` is `from` everywhere.
What is unknown or of the wrong type is a one-line UserError that names the place and the nearest known name.

A field that was renamed keeps its former names: `field(default=1.0, metadata={"former": ("old_name",)})`. They are
accepted with one line that says the new one; the recipe inside an old run is read without a word.

argparse splits the command line, and flags are then read by the same function as variables. (tyro, which reads them
itself, left its errors to be taken apart again, and twice the time before the help.)
"""

import argparse
import ast
import dataclasses
import inspect
import itertools
import shlex
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from chatsmith.cli.config import Settings
from chatsmith.runtime.console import LOG_VARIABLE
from chatsmith.runtime.errors import UserError, did_you_mean
from chatsmith.runtime.run_directory import public_name, settings_of

PREFIX = "CHATSMITH_"
GENERAL_VARIABLES = ("CHATSMITH_DEBUG", "CHATSMITH_CACHE", LOG_VARIABLE, "CHATSMITH_SHARED_DATA")
"""Those of no command; the last one is for the tests."""
Values = dict[str, Any]
"""Values by field name."""


def from_flags(
    config_class: type[Settings], argv: Sequence[str], prog: str, weaker: Mapping[str, Any] | None = None
) -> Values:
    """What `argv` sets; `weaker` is what places weaker than flags set, for the help.

    Raises UserError; `--help` prints the help and raises SystemExit.
    """
    spelled = [_dashed(word) for word in argv]  # --batch_tokens is accepted for --batch-tokens
    found, rest = _parser(config_class, prog, weaker or {}).parse_known_intermixed_args(spelled)
    for word in sorted(rest, key=lambda word: not word.startswith("-")):
        flag = word.partition("=")[0]
        if flag.removeprefix("--") in config_class.POSITIONAL:
            raise UserError(f"{flag[2:].upper()} is written without a flag: {prog} {flag[2:].upper()}")
        if not flag.startswith("-"):
            raise UserError(f"unexpected {word!r}; see {prog} --help")
        raise UserError(f"unknown flag {flag}{did_you_mean(flag, flags_of(config_class))}; see {prog} --help")
    return _read_all(config_class, vars(found), _flag, is_text=True)


def from_environment(config_class: type[Settings], section: str, environ: Mapping[str, str]) -> Values:
    """What the variables CHATSMITH_<SECTION>_<FIELD> set; an empty one, or `none`, unsets what may be unset."""
    prefix = f"{PREFIX}{section.upper()}_"
    names, hints = _names(config_class, positional=True), get_type_hints(config_class)
    written: Values = {}
    for variable, text in environ.items():
        name = variable.removeprefix(prefix).lower()
        if not variable.startswith(prefix) or variable in GENERAL_VARIABLES:
            continue
        if name not in names:
            known = [prefix + name.upper() for name in names]
            raise UserError(f"unknown environment variable {variable}{did_you_mean(variable, known)}")
        can_unset = type(None) in get_args(hints[names[name]])
        written[name] = None if can_unset and text.lower() in ("", "none") else text
    return _read_all(config_class, written, lambda name: prefix + name.upper(), is_text=True)


def from_recipe(
    config_class: type[Settings], section: str, written: Mapping[str, Any], *, is_old: bool = False
) -> Values:
    """What a recipe's section sets. `is_old`: it is the recipe inside a run, which may have former names."""
    known = _names(config_class)
    for key in written:
        if key not in known:
            hint = did_you_mean(key, known)
            raise UserError(f"the recipe section [{section}] has no setting {key!r}{hint}")
    return _read_all(
        config_class, written, lambda key: f"recipe setting {section}.{key}", is_text=False, is_silent=is_old
    )


def layered(config_class: type[Settings], *layers: Values) -> Values:
    """The values of all places, from the weakest to the strongest. A budget in one of them replaces those in weaker
    ones, however they are expressed. Raises UserError where the strongest gives two."""
    values: Values = {}
    given: list[str] = []
    for layer in layers:
        given = [name for name in config_class.BUDGET if layer.get(name)]
        if given:
            values = {name: value for name, value in values.items() if name not in config_class.BUDGET}
        values |= layer
    if len(given) > 1:
        one, other, *_ = given
        raise UserError(
            f"the token budget is given twice, as {one} and as {other}; leave one out", setting=one
        )
    return values


def to_recipe(config: Settings) -> Values:
    """The settings of `config` as a recipe section: all but positional ones, `json`, and what is None."""
    return {
        name: value for name, value in settings_of(config).items() if name not in (*config.POSITIONAL, "json")
    }


def expanded(path: Path) -> Path:
    """`path` with ~ replaced by the home folder; a name of data stays. Raises UserError where that is not known."""
    if str(path).startswith("hub:"):
        return path
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: the home folder is not known here; write the whole path") from error


def check_environment(environ: Mapping[str, str], sections: Iterable[str]) -> None:
    """Raise UserError for a CHATSMITH_… variable that belongs to none of the sections."""
    names = [section.upper() for section in sections]
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in GENERAL_VARIABLES:
            word, _, rest = variable.removeprefix(PREFIX).partition("_")
            if word not in names:
                known = [*GENERAL_VARIABLES, *(f"{PREFIX}{name}_{rest}" for name in names)]
                raise UserError(f"unknown environment variable {variable}{did_you_mean(variable, known)}")


def flags_of(config_class: type[Settings]) -> dict[str, Any]:
    """The type of each setting by its flag; a switch also has its negation, and --help is there."""
    hints = get_type_hints(config_class)
    flags = {_flag(name): hints[field] for name, field in _names(config_class).items()}
    switches = {f"--no-{flag[2:]}": bool for flag, hint in flags.items() if hint is bool}
    return {**flags, **switches, "--help": bool}


def _names(config_class: type[Settings], *, positional: bool = False) -> dict[str, str]:
    """The field by each name that people write for it: its own, and former ones."""
    return {
        name: field.name
        for field in dataclasses.fields(config_class)
        if positional or field.name not in config_class.POSITIONAL
        for name in (public_name(field.name), *field.metadata.get("former", ()))
    }


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _dashed(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if word.startswith("--") else word


# ---- values ----


def _read_all(
    config_class: type[Settings],
    written: Mapping[str, Any],
    place: Callable[[str], str],
    *,
    is_text: bool,
    is_silent: bool = False,
) -> Values:
    """The values by field name; `place` says how a person writes a name there."""
    names, hints = _names(config_class, positional=True), get_type_hints(config_class)
    values: Values = {}
    for name, value in written.items():
        field = names[name]
        if name != public_name(field) and get_origin(hints[field]) is tuple and isinstance(value, str):
            value = [value]  # it was one text
        try:
            values[field] = None if value is None else _read(value, hints[field], is_text)
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{place(name)} must be {_in_words(hints[field])}, not {value!r}") from None
        if name != public_name(field) and not is_silent:
            print(f"chatsmith: {place(name)} is now {place(public_name(field))}", file=sys.stderr)
    return values


_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def _read(value: Any, hint: Any, is_text: bool) -> Any:
    """`value` as the type `hint`: bool, int, float, str, Path, Literal, `X | None` or tuples of one of these. With
    `is_text` it is text to be read, or a list of texts; else it has a type of TOML. Raises ValueError, TypeError or
    KeyError."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _read(value, arguments[0], is_text)
    if origin is Literal:
        return {str(choice) if is_text else choice: choice for choice in arguments}[value]
    if origin is tuple:
        items = shlex.split(value) if is_text and isinstance(value, str) else value
        if not isinstance(items, list):
            raise TypeError
        return tuple(_read(item, arguments[0], is_text) for item in items if item != "")  # --data "": none
    if is_text and isinstance(value, str):
        return _TRUTHS[value.lower()] if hint is bool else hint(value)
    right = {bool: bool, int: int, float: int | float, str: str, Path: str}[hint]
    if not isinstance(value, right) or (isinstance(value, bool) and hint is not bool):
        raise TypeError
    return hint(value)


def _in_words(hint: Any) -> str:
    """The type `hint` in words: 'a whole number'."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _in_words(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    return f"a list, each {_in_words(arguments[0])}" if origin is tuple else _KINDS[hint]


# ---- the command line ----


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def _parser(config_class: type[Settings], prog: str, weaker: Mapping[str, Any]) -> argparse.ArgumentParser:
    """What splits the command line, and prints the help. Values stay text; what is not written is left out."""
    places = " ".join(f"[{name.upper()}]" for name in config_class.POSITIONAL)
    parser = _Parser(
        prog=prog,
        usage=f"{prog} {places} [SETTINGS]".replace("  ", " "),
        description=inspect.getdoc(config_class),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30),
    )
    hints, fields = get_type_hints(config_class), {one.name: one for one in dataclasses.fields(config_class)}
    for title, documented in _groups(config_class):
        group = parser.add_argument_group(title)
        for name, text in documented.items():
            default = weaker.get(name, fields[name].default)
            if default not in (None, (), "") and default is not False:
                shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
                text += f" (default: {shown})"
            text = text.replace("%", "%%")
            if name in config_class.POSITIONAL:
                count = "*" if get_origin(hints[name]) is tuple else "?"
                group.add_argument(name, nargs=count, metavar=public_name(name).upper(), help=text)
                continue
            _add_flag(group, public_name(name), hints[name], text)
            for former in fields[name].metadata.get("former", ()):
                _add_flag(group, former, hints[name], argparse.SUPPRESS)
    return parser


def _add_flag(group: Any, name: str, hint: Any, text: str) -> None:
    if hint is bool:
        group.add_argument(_flag(name), dest=name, action=argparse.BooleanOptionalAction, help=text)
        return
    kind = get_args(hint)[0] if get_origin(hint) in (tuple, Union, types.UnionType) else hint
    is_choice = get_origin(kind) is Literal
    metavar = "{" + ",".join(map(str, get_args(kind))) + "}" if is_choice else kind.__name__.upper()
    many: dict[str, Any] = {"nargs": "+", "action": "extend"} if get_origin(hint) is tuple else {}
    group.add_argument(_flag(name), dest=name, metavar=metavar, help=text, **many)


def _groups(config_class: type[Settings]) -> Iterator[tuple[str, dict[str, str]]]:
    """Titles, and fields with their documentation: first the command's own, then each class's that it inherits from."""
    seen: set[str] = set()
    for owner in config_class.__mro__:
        documented = {name: text for name, text in documentation(owner).items() if name not in seen}
        seen |= documented.keys()
        if documented:
            title = "settings" if owner is config_class else (owner.__doc__ or "").splitlines()[0].lower()
            yield "more settings" if title.endswith(".") else title, documented  # of another command


def documentation(owner: type) -> dict[str, str]:
    """The docstring under each field that the class itself declares, on one line."""
    if not dataclasses.is_dataclass(owner):
        return {}
    names = {field.name for field in dataclasses.fields(owner)}
    texts = {name: "" for name in inspect.get_annotations(owner) if name in names}
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    for pair in itertools.pairwise(definition.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts |= {name: " ".join(text.split())} if name in names else {}
    return texts
