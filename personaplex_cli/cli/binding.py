"""From dataclasses to a command line: Typer sees an option for each field, a command gets the built objects."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter
from typing import Annotated, Any, get_type_hints

import typer

from personaplex_cli.cli.completion import completer
from personaplex_cli.cli.help import with_default
from personaplex_cli.library.settings import variable

PLAIN: dict[Any, Any] = {int | str | None: str | None, tuple[str, ...]: list[str]}  # types as Typer knows them


def bound(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer wants it. Each parameter whose type is a dataclass of `options.py` becomes its fields.

    One whose type is a mapping, annotated with such dataclasses, has the fields that were given on the command line:
    neither variables nor settings count, and the defaults are not those of the dataclasses.
    """
    parameters = inspect.signature(command).parameters.values()
    groups: dict[str, Any] = {each.name: each.annotation for each in parameters if is_dataclass(each.annotation)}
    given: dict[str, Any] = {each.name: kinds for each in parameters if (kinds := _dataclasses(each.annotation))}

    @wraps(command)
    def build_and_call(**values: Any) -> None:
        for name, group in groups.items():
            own = {each.name: values.pop(each.name) for each in fields(group)}
            own |= {option: tuple(value) for option, value in own.items() if isinstance(value, list)}
            values[name] = group(**own)
        for name, kinds in given.items():
            own = {each.name: values.pop(each.name) for kind in kinds for each in fields(kind)}
            values[name] = {option: value for option, value in own.items() if value is not None}
        command(**values)

    def options(each: Parameter) -> Iterable[Parameter]:
        if each.name in groups:
            return _options(each.annotation)
        if each.name in given:
            return (option for kind in given[each.name] for option in _options(kind, unset="as it was"))
        return [each]

    plain = [option for each in parameters for option in options(each)]
    build_and_call.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]
    build_and_call.__annotations__ = {each.name: each.annotation for each in plain}
    return build_and_call


def settable(group: Any) -> dict[str, dict[str, list[str]]]:
    """The options of each command that config.toml may set, with their environment variables: those that have any.

    A command inside another one has both names, as `personas try`.
    """
    found = {}
    for name, command in group.commands.items():
        found[name] = {each.name: each.envvar for each in command.params if getattr(each, "envvar", None)}
        if hasattr(command, "commands"):
            found |= {f"{name} {each}": options for each, options in settable(command).items()}
    return found


def nested(settings: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    """What is set for each command, as Typer's `default_map` wants it: that of `personas try` inside `personas`."""
    nest: dict[str, Any] = {}
    for name, values in settings.items():
        command, _, inner = name.partition(" ")
        nest.setdefault(command, {}).update({inner: values} if inner else values)
    return nest


def _dataclasses(annotation: Any) -> tuple[Any, ...]:
    """Those with which a type is annotated."""
    kinds = getattr(annotation, "__metadata__", ())
    return kinds if all(isinstance(each, type) and is_dataclass(each) for each in kinds) else ()


def _options(group: Any, unset: str = "") -> Iterator[Parameter]:
    """An option for each field. What `unset` ones stand for, if that is no default of theirs: then they are None."""
    types = get_type_hints(group)
    for each in fields(group):
        known = {"panel": getattr(group, "panel", None), "variable": each.name, **each.metadata}
        if unset:
            known |= {"shown": unset, "variable": None}
        flag = each.name.replace("_", "-")
        shown = ("yes" if each.default else "no") if known.get("paired") and not unset else known["shown"]
        short = [known["short"]] if "short" in known else []
        option = typer.Option(
            *short,
            f"--{flag}/--no-{flag}" if known.get("paired") else f"--{flag}",
            help=with_default(known["help"], shown),
            envvar=variable(known["variable"]) if known["variable"] else None,
            show_envvar=False,
            rich_help_panel=known["panel"],
            show_default=not shown and each.default is not False,
            min=known.get("min"),
            max=known.get("max"),
            autocompletion=completer(each.name),
        )
        kind = PLAIN.get(types[each.name], types[each.name])
        kind, default = (kind | None, None) if unset else (kind, each.default)
        yield Parameter(each.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
