"""Settings of a stage: one frozen dataclass, filled from four places.

From the strongest to the weakest: flags on the command line, environment variables
`CHATSMITH_<STAGE>_<FIELD>`, the section of the stage in a TOML recipe, the defaults in the class. Whatever is
unknown or of the wrong type is a one-line UserError that names the place, and the nearest known name. tyro
(https://brentyi.github.io/tyro) reads the flags and writes the help from the docstring under each field.

Conventions for the class: a first field `run` is positional (as are those a class variable POSITIONAL names),
and a field `from_` is written `--from` and `from = …`.
"""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from chatsmith.runtime.errors import UserError
from chatsmith.runtime.recipe import did_you_mean
from chatsmith.runtime.values import as_toml, convert, describe

PREFIX = "CHATSMITH_"
GENERAL_VARIABLES = ("CHATSMITH_DEBUG", "CHATSMITH_SHARED_DATA")  # the second one is for the tests

ConfigT = TypeVar("ConfigT")
Sections = Mapping[str, Mapping[str, Any]]


def load_config(
    config_class: type[ConfigT],
    stage: str,
    recipe: Sections | None = None,
    environ: Mapping[str, str] | None = None,
    argv: Sequence[str] = (),
    *,
    prog: str = "",
    description: str = "",
) -> ConfigT:
    """The configuration of `stage` from `argv`, `environ` and the sections of `recipe`, in this precedence.

    Raises UserError for anything unknown, mistyped, missing, or refused by the class itself. `--help` in
    `argv` prints the help of `prog` and raises SystemExit.
    """
    values = resolve(config_class, stage, recipe, environ, argv, prog=prog, description=description)
    return config_class(**values)


def resolve(
    config_class: type,
    stage: str,
    recipe: Sections | None = None,
    environ: Mapping[str, str] | None = None,
    argv: Sequence[str] = (),
    *,
    prog: str = "",
    description: str = "",
) -> dict[str, Any]:
    """Like `load_config`, but the values by field name, before the class has checked them together."""
    defaults = _defaults(config_class)
    defaults |= from_section(config_class, stage, (recipe or {}).get(stage, {}))
    defaults |= from_environment(config_class, stage, environ or {})
    return _from_flags(config_class, defaults, list(argv), prog or f"chatsmith {stage}", description)


def from_section(config_class: type, stage: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field name from the recipe section of `stage`."""
    hints = _hints(config_class)
    known = {_public(name): name for name in hints if name not in _positional(config_class)}
    values: dict[str, Any] = {}
    for key, value in section.items():
        if key not in known:
            raise UserError(f"the recipe section [{stage}] has no setting {key!r}{did_you_mean(key, known)}")
        values[known[key]] = convert(value, hints[known[key]], f"recipe setting {stage}.{key}")
    return values


def from_environment(config_class: type, stage: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Values by field name from the variables CHATSMITH_<STAGE>_<FIELD>."""
    hints = _hints(config_class)
    prefix = f"{PREFIX}{stage.upper()}_"
    known = {prefix + _public(name).upper(): name for name in hints}
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(prefix) or variable in GENERAL_VARIABLES:
            continue
        if variable not in known:
            raise UserError(f"unknown environment variable {variable}{did_you_mean(variable, known)}")
        values[known[variable]] = convert(text, hints[known[variable]], variable, is_text=True)
    return values


def check_environment(environ: Mapping[str, str], stages: Iterable[str]) -> None:
    """Raise UserError for a CHATSMITH_… variable that belongs to no stage in `stages`."""
    names = [stage.upper() for stage in stages]
    for variable in environ:
        if not variable.startswith(PREFIX) or variable in GENERAL_VARIABLES:
            continue
        word, _, rest = variable.removeprefix(PREFIX).partition("_")
        if word not in names:
            known = [*GENERAL_VARIABLES, *(f"{PREFIX}{name}_{rest}" for name in names)]
            raise UserError(f"unknown environment variable {variable}{did_you_mean(variable, known)}")


def to_section(config: Any) -> dict[str, Any]:
    """The settings of `config` as a recipe section: all but positional fields, `json`, and what is None."""
    skipped = {*_positional(type(config)), "json"}
    section: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in skipped and value is not None:
            section[_public(field.name)] = as_toml(value)
    return section


def _hints(config_class: type) -> dict[str, Any]:
    hints = get_type_hints(config_class, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def _public(name: str) -> str:
    """The name a person writes for the field `name`: `from_` is only Python's spelling of `from`."""
    return name.removesuffix("_")


def _positional(config_class: type) -> tuple[str, ...]:
    first = dataclasses.fields(config_class)[0].name
    return getattr(config_class, "POSITIONAL", ("run",) if first == "run" else ())


def _defaults(config_class: type) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    return values


# ---- flags, through tyro ----


def _from_flags(
    config_class: type, defaults: dict[str, Any], argv: list[str], prog: str, description: str
) -> dict[str, Any]:
    import tyro

    names = [field.name for field in dataclasses.fields(config_class)]
    form = _form(config_class, defaults)
    start = form(**{name: defaults.get(name, tyro.MISSING) for name in names})
    arguments = _prepared(config_class, argv, prog)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, extra = tyro.cli(
                form,
                prog=prog,
                description=description,
                default=start,
                args=arguments,
                return_unknown_args=True,
                config=(tyro.conf.DisallowNone,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help was printed
        raise UserError(_explained(complaint.getvalue(), config_class, arguments, prog)) from None
    if extra:
        raise UserError(f"unexpected {extra[0]!r}; see {prog} --help")
    return {name: getattr(parsed, name) for name in names}


def _form(config_class: type, defaults: Mapping[str, Any]) -> Any:
    """A twin of `config_class` for tyro: it checks nothing, since values from several places are still to be
    put together, and its annotations say how a field is written and what its default is."""
    import tyro

    hints, positional = _hints(config_class), _positional(config_class)
    annotations: dict[str, Any] = {}
    for name, hint in hints.items():
        options: dict[str, Any] = {}
        if _public(name) != name:
            options["name"] = _public(name)
        if name in positional:
            options["metavar"] = f"[{_public(name).upper()}]" if name in defaults else _public(name).upper()
        elif get_origin(hint) is tuple:
            options["metavar"] = f"{getattr(get_args(hint)[0], '__name__', 'value').upper()} ..."
        if name in defaults and defaults[name] in (None, (), ""):
            options["help_behavior_hint"] = "(optional)"
        annotated: Any = Annotated[hint, tyro.conf.arg(**options)] if options else hint
        annotations[name] = Annotated[annotated, tyro.conf.Positional] if name in positional else annotated
    body = {
        "__annotations__": annotations,
        "__doc__": None,
        "__module__": config_class.__module__,
        "__post_init__": lambda self: None,
    }
    return type(config_class.__name__, (config_class,), body)


def _prepared(config_class: type, argv: list[str], prog: str) -> list[str]:
    """`argv` with every flag known, `--list a --list b` joined to `--list a b`, and no value on a switch.

    tyro would keep only the last of two lists, and read `--switch=true` as a positional `true`. Lists move to
    the end, where they cannot swallow a positional argument.
    """
    flags = flags_of(config_class)
    switches = {flag for flag, hint in flags.items() if hint is bool}
    known = [*flags, *(f"--no-{switch[2:]}" for switch in switches), "--help", "-h"]
    plain: list[str] = []
    lists: dict[str, list[str]] = {}
    current = plain
    for token in argv:
        if not re.match("--?[a-zA-Z]", token):
            current.append(token)
            continue
        flag, has_value, value = token.partition("=")
        flag = flag.replace("_", "-")
        if flag not in known:
            raise UserError(_unknown_flag(config_class, flag, known, prog))
        if has_value and flag in switches:
            raise UserError(f"{flag} takes no value; write {flag} or --no-{flag[2:]}")
        is_list = get_origin(flags.get(flag)) is tuple
        current = lists.setdefault(flag, []) if is_list else plain
        if is_list:
            current.extend([value] if has_value else [])
        else:
            current.append(f"{flag}={value}" if has_value else flag)
    for flag, values in lists.items():
        if not values:
            raise UserError(f"{flag} needs at least one value")
    return plain + [part for flag, values in lists.items() for part in (flag, *values)]


def flags_of(config_class: type) -> dict[str, Any]:
    """The type of each setting by its flag."""
    positional = _positional(config_class)
    hints = _hints(config_class).items()
    return {f"--{_public(name).replace('_', '-')}": hint for name, hint in hints if name not in positional}


def _unknown_flag(config_class: type, flag: str, known: list[str], prog: str) -> str:
    name = flag.removeprefix("--")
    if name in _positional(config_class):
        return f"{name.upper()} is written without a flag: {prog} {name.upper()}"
    return f"unknown flag {flag}{did_you_mean(flag, known)}; see {prog} --help"


def _explained(complaint: str, config_class: type, arguments: list[str], prog: str) -> str:
    """tyro's error box as one line. The first paragraph in the box says what is wrong."""
    lines = [line.strip("│╭╮╰╯ \n") for line in complaint.splitlines()]
    paragraph: list[str] = []
    for line in lines[1:]:
        if set(line) <= {"─"}:
            break
        paragraph.append(line)
    text = " ".join(paragraph)
    hints = flags_of(config_class)
    named = re.search(r"--[a-z][a-z0-9-]*", text)
    flag = named[0] if named else ""
    given = next((place for place, token in enumerate(arguments) if token.split("=")[0] == flag), None)
    if flag not in hints or given is None:
        return f"{text}; see {prog} --help"
    _, has_value, value = arguments[given].partition("=")
    following = [value] if has_value else arguments[given + 1 : given + 2]
    if not following or (following[0].startswith("--") and not has_value):
        return f"{flag} needs a value: {describe(hints[flag])}"
    return f"{flag} must be {describe(hints[flag])}, not {following[0]!r}"
