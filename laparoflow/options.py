"""Settings from YAML files, words and values, in one way for the command line, the demo and the evidence.

An option is a field of a settings dataclass, named by its dotted path (``trainer.log_every``).  Files and words give values
by that name, a later one over an earlier one; jsonargparse checks their types and builds the dataclass.
"""

from __future__ import annotations

import difflib
import json
import re
import types
import warnings
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace

from laparoflow.training.settings import PretrainSettings

CONFIGS = Path(__file__).parent / "configs"


class OptionError(ValueError):
    """An option that does not exist, or a value that it does not take."""


@cache
def build_parser(settings: type) -> ArgumentParser:
    """The parser whose actions are the options of a settings dataclass."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(settings)
    return parser


@cache
def options_of(settings: type) -> dict[str, Any]:
    """Dotted name -> jsonargparse's action (``help``, ``default``, ``required``), in the order of the dataclass."""
    actions = [action for action in build_parser(settings)._actions if hasattr(action, "_typehint")]
    return {action.dest: action for action in actions if not hasattr(action._typehint, "__dataclass_fields__")}


def load_settings(settings: type, names: Sequence[str | Path] = (), overrides: Mapping[str, Any] | None = None) -> Any:
    """An instance of a settings dataclass, from YAML files or names of ours, of which a later one changes an earlier one.

    ``overrides`` are dotted name -> value, over the files; text is read as YAML where the option is no text.

    Raises:
        OptionError: an unknown option, or a value of another type.
        ValueError: a value out of range.
        FileNotFoundError: no such file.
    """
    given: dict[str, Any] = {}
    for name in names:
        given |= read_file(settings, name)
    for name, value in (overrides or {}).items():
        given |= flatten(settings, name, value)
    nested = Namespace()
    for name, value in given.items():
        nested[name] = value
    parser = build_parser(settings)
    if missing := [name for name, action in options_of(settings).items() if action.required and name not in given]:
        raise OptionError(f"missing: {', '.join(f'--{name}' for name in missing)}")
    try:
        values = parser.parse_object(nested)
    except ArgumentError as error:
        raise OptionError(_type_message(settings, str(error), given)) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of jsonargparse call the method instantiate
        built: Namespace = parser.instantiate_classes(values)
    return settings(**{key: built[key] for key in built.__dict__})


def load_recipe(names: Sequence[str | Path], overrides: Mapping[str, Any]) -> PretrainSettings:
    """Settings of a pretraining run from recipes and single options; see :func:`load_settings`."""
    return load_settings(PretrainSettings, names, overrides)


def read_file(settings: type, name: str | Path) -> dict[str, Any]:
    """The options in a YAML file, or in the one of ours with that name."""
    path = Path(find_config(str(name)))
    if not path.is_file():
        ours = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise FileNotFoundError(f"config: no file {name}, and none of ours has that name ({ours})")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"config: {path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise OptionError(f"config: expected keys and values in {path}, got {type(content).__name__}")
    try:
        return {key: value for name, part in content.items() for key, value in flatten(settings, str(name), part).items()}
    except OptionError as error:
        raise OptionError(f"config: {path}: {error}") from None


def find_config(value: str) -> str:
    """A file as it stands, or the one of our configs with that name."""
    named = CONFIGS / (value if value.endswith(".yaml") else f"{value}.yaml")
    return str(named) if value and not Path(value).is_file() and named.is_file() else value


def flatten(settings: type, name: str, value: Any) -> dict[str, Any]:
    """One option as it is, or a group of options as its members."""
    options = options_of(settings)
    if name in options:
        return {name: value}
    if not any(option.startswith(f"{name}.") for option in options):
        raise OptionError(f"unknown option --{name}{near(name, options)}")
    content = yaml.safe_load(value) if isinstance(value, str) else value
    if not isinstance(content, Mapping):
        raise OptionError(f"{name}: expected a group of options, got {value!r}")
    return {key: item for part, under in content.items() for key, item in flatten(settings, f"{name}.{part}", under).items()}


def near(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """"; did you mean ...?" for a name that is none of ``known``, or nothing where none is near."""
    last = name.rpartition(".")[2]
    found = difflib.get_close_matches(name, list(known), 3, 0.8) or [
        one for one in known if difflib.get_close_matches(last, [one.rpartition(".")[2]], 1, 0.8)
    ][:3]
    prefix = "--" if isinstance(known, Mapping) else ""
    return f"; did you mean {' or '.join(prefix + one for one in found)}?" if found else ""


def read_words(settings: type, words: Sequence[str], positional: str | None = None) -> tuple[list[str], dict[str, Any]]:
    """Command-line words as names of configs and values of options.

    Dashes and underscores are the same; a list takes its words one after the other, and each as it stands where it is a list
    of text; a switch without a value is true.

    Raises:
        OptionError: an unknown option, a value that is missing, or a word that belongs to no option.
    """
    options, names, given = options_of(settings), list[str](), dict[str, Any]()
    loose: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            loose.append(word)
            continue
        option, equals, value = word[2:].partition("=")
        option = option.replace("-", "_")
        taken = [value] if equals else []
        hint = getattr(options.get(option), "_typehint", None)
        while rest and not equals and not rest[0].startswith("--") and (is_list(hint) or not taken):
            if hint is bool and rest[0].lower() not in ("true", "false", "yes", "no"):
                break
            taken.append(rest.pop(0))
        parent, _, key = option.rpartition(".")
        if option == "config" and taken:
            names.append(taken[0])
        elif is_list(hint):
            given[option] = list_word(taken, hint)
        elif hint is bool:
            given[option] = taken[0].lower() if taken else "true"
        elif option not in options and parent in options and "dict" in str(options[parent]._typehint) and taken:
            before = given.get(parent) or {}
            before = before if isinstance(before, dict) else yaml.safe_load(before)
            given[parent] = {**before, key: yaml.safe_load(taken[0])}
        else:
            found = flatten(settings, option, taken[0] if taken else "{}") if option != "config" else {}
            if not taken:
                raise OptionError(f"--{option}: expected a value")
            given |= found
    if positional is not None and loose:
        given[positional] = loose if is_list(options[positional]._typehint) else loose[0]
        loose = [] if is_list(options[positional]._typehint) else loose[1:]
    if loose:
        raise OptionError(f"{loose[0]!r} belongs to no option")
    return names, given


def list_word(taken: list[str], hint: Any) -> str:
    """The words of a list option as the one word that the parser reads as that list."""
    if len(taken) == 1:
        word = taken[0]
        if (word.startswith("[") and word.endswith("]")) or (word == "null" and type(None) in members(hint)):
            return word
    if "[str" in str(hint):
        taken = [json.dumps(word, ensure_ascii=False) for word in taken]
    return "[" + ",".join(taken) + "]"


def _type_message(settings: type, text: str, given: Mapping[str, Any]) -> str:
    """jsonargparse's words about a value as ours: name, what was expected, what came."""
    found = re.search(r'key "([\w.]+)"', text)
    if found and found[1] in given:
        expected = type_text(options_of(settings)[found[1]]._typehint)
        return f"{found[1]}: expected {expected}, got {given[found[1]]!r}"
    return text


def is_list(hint: Any) -> bool:
    """Whether an option of this type takes several words."""
    return get_origin(hint) in (list, tuple) or any(is_list(one) for one in members(hint))


def members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; none of another type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()


def type_text(hint: Any) -> str:
    """A type as the help and the messages name it."""
    names = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false", type(None): "null", Any: "VALUE"}
    if hint in names:
        return names[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "|".join(map(str, inner))
    if origin is tuple and inner[-1] is not ...:
        return " ".join(map(type_text, inner))
    if origin in (list, tuple):
        one = type_text(inner[0])
        return f"{one} ..." if " " not in one else f"({one}) ..."
    return "|".join(map(type_text, inner)) if members(hint) else "KEY: VALUE"
