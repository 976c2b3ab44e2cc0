"""Settings of every command: dataclasses, filled from flags and an optional config file.

A field carries its own help, as `metadata={"help": ...}`. What else its metadata holds goes to
`argparse`: `metavar`, `choices`, `action="extend"`. `positional=True` makes a field a word without
a flag. Flags win over the config file, the config file over the defaults.
"""

import argparse
import inspect
import json
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ser_hf.errors import UserError, first_line, nearest
from ser_hf.utils import files

if TYPE_CHECKING:
    from transformers import HfArgumentParser

Settings = TypeVar("Settings")

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


class CommandLine:
    """The words after a command's name, from which its settings are parsed.

    Args:
        command: name, as in `ser-hf NAME`.
        words: of the command line; the first may be a config file.
        doc: the command's docstring, which heads its help.
    """

    def __init__(self, command: str, words: list[str], doc: str | None = None) -> None:
        self.command = command
        self.doc = inspect.cleandoc(doc or "")
        self.words = list(words)
        self.file_values: dict[str, Any] = {}
        self._file_read = False
        self._known: list[str] = []

    def parse(
        self, cls: type[Settings], make: Callable[..., Settings] | None = None, *, partial: bool = False
    ) -> Settings:
        """Fill a settings dataclass; print its help and exit where that was asked for.

        Args:
            cls: the dataclass.
            make: makes it of the values that were given, in place of `cls`.
            partial: leave unknown flags and keys for a second call with another dataclass.

        Raises:
            UserError: in one line, naming the flag, the key of the file, or the value.
            SystemExit: after `--help`.
        """
        if {"-h", "--help"} & set(self.words):
            print(self._help(cls))
            raise SystemExit(0)
        if not self._file_read:
            self._read_file(takes_words=any(_positional(field) for field in _init_fields(cls)))
        self._known += [field.name for field in _init_fields(cls)]
        parser = _parser(cls, self.command) if self.words or self.file_values else None
        values = self._values(parser, cls) if parser else {}
        missing = [_spelling(field) for field in _init_fields(cls) if _required(field) and field.name not in values]
        if missing:
            raise self._error(f"the following arguments are required: {', '.join(missing)}")
        if not partial:
            self._refuse_rest()
        return (make or cls)(**values)

    def rest(self) -> list[str]:
        """What no dataclass took yet, of the config file and of the flags, as flags."""
        return [*(f"--{name}={value}" for name, value in self.file_values.items()), *self.words]

    def with_words(self, command: str, words: list[str]) -> "CommandLine":
        """A command line of what no dataclass took yet, and of more words, for another command."""
        line = CommandLine(command, [*self.words, *words])
        line.file_values, line._file_read = dict(self.file_values), True
        return line

    def _values(self, parser: "HfArgumentParser", cls: type) -> dict[str, Any]:
        """What the file and the flags set, and take that out of `words` and `file_values`."""
        values, hints = {}, get_type_hints(cls)
        for name in [field.name for field in _init_fields(cls) if field.name in self.file_values]:
            values[name] = _converted(parser, name, self.file_values.pop(name), hints[name])
        namespace, self.words = parser.parse_known_args(self.words)
        return {name: _at_home(value) for name, value in {**values, **vars(namespace)}.items()}

    def _read_file(self, takes_words: bool) -> None:
        self._file_read = True
        if not self.words or self.words[0].startswith("-"):
            return
        path = Path(self.words[0])
        if path.suffix not in CONFIG_SUFFIXES:
            if takes_words:
                return
            raise UserError(f"'{path}' is no config file: its name must end in .yaml, .yml or .json")
        self.file_values, self.words = _read_config(path), self.words[1:]

    def _refuse_rest(self) -> None:
        if self.file_values:
            name = next(iter(self.file_values))
            raise self._error(f"'{name}' in the config file is no setting{_meant(name, self._known)}")
        if self.words:
            flag, known = self.words[0].split("=")[0], [f"--{name}" for name in self._known]
            raise self._error(f"'{self.words[0]}' is no flag of ser-hf {self.command}{_meant(flag, known)}")

    def _error(self, message: str) -> UserError:
        return UserError(f"{message} (see ser-hf {self.command} --help)")

    def _help(self, cls: type) -> str:
        """The usage, what the command does, a line a flag with its default, and remarks."""
        rows = _init_fields(cls)
        required = [field for field in rows if _required(field) and not _positional(field)]
        hints = get_type_hints(cls)
        usage = ["[CONFIG.yaml|.json]", *(_spelling(field) for field in rows if _positional(field))]
        usage += [_left(field, hints[field.name]) for field in required]
        summary, _, rest = self.doc.partition("\n\n")
        usage_line = f"usage: ser-hf {self.command} {' '.join(usage)} [flags]"
        lines = [_wrapped(usage_line, indent=7), "", _wrapped(summary), ""]
        lines += [row(_left(field, hints[field.name]), _right(field, hints[field.name])) for field in rows]
        return "\n".join([*lines, *(f"\n{_paragraph(text)}" for text in rest.split("\n\n") if text)])


_COLUMNS = 80
"""Of help: what a terminal has at least."""
_LEFT = 28
"""Columns for the name of a flag, before its help."""


def _wrapped(text: str, indent: int = 0) -> str:
    """Text in lines of 80 columns, all but the first one indented."""
    return textwrap.fill(text, _COLUMNS, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)


def row(left: str, right: str, width: int = _LEFT) -> str:
    """A name and its help in two columns; a name longer than `width` has a line of its own."""
    margin = " " * (width + 3)
    first = f"  {left:{width}} " if len(left) <= width else f"  {left}\n{margin}"
    return first + _wrapped(f"{margin}{right}", len(margin)).lstrip()


def _paragraph(text: str) -> str:
    """A paragraph of a docstring; one with indented lines, such as examples, stays as it is."""
    return text if "\n " in text else _wrapped(text)


def _meant(word: str, known: list[str]) -> str:
    meant = nearest(word, known)
    return f", did you mean {meant}?" if meant else ""


def _parser(cls: type, command: str) -> "HfArgumentParser":
    """A parser of one dataclass that returns only what was given, and requires nothing."""
    try:
        from transformers.hf_argparser import HfArgumentParser  # here: help and --help must stay fast
    except ImportError as error:
        raise UserError(f"transformers cannot be imported ({first_line(error)}): run `ser-hf doctor`") from error

    class Parser(HfArgumentParser):
        def error(self, message: str) -> None:
            raise UserError(f"{message} (see ser-hf {command} --help)")

        def add_argument(self, *names: str, **options: Any) -> argparse.Action:
            options.pop("required", None)
            for name in ("help", "default_text"):  # what `_help` prints, without transformers
                options.pop(name, None)
            if options.pop("positional", False):
                names = (names[0].removeprefix("--"),)
            action = super().add_argument(*names, **{**options, "default": argparse.SUPPRESS})
            action.required = False  # a config file may set it
            return action

    return Parser(cls, allow_abbrev=False, add_help=False)


def _converted(parser: "HfArgumentParser", name: str, value: Any, hint: Any) -> Any:
    """A value of a config file, converted and checked as if it stood on the command line.

    Raises:
        UserError: where the value does not fit.
    """
    action = next(action for action in parser._actions if action.dest == name)
    if value is None and type(None) not in get_args(hint):
        raise UserError(f"'{name}' in the config file has no value: write one, or leave the line out")
    if value is None or value == [] or (isinstance(value, list) and action.nargs != "+"):
        return value
    items = value if isinstance(value, list) else [value]
    texts = [json.dumps(item) if isinstance(item, dict) else str(item) for item in items]
    if not action.option_strings:
        words = texts
    elif isinstance(value, list):
        words = [f"--{name}", *texts]
    else:
        words = [f"--{name}={texts[0]}"]  # one word: the value may begin with a dash
    return getattr(parser.parse_known_args(words)[0], name)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"'{path}' does not exist: check the path of the config file")
    values = files.read_settings(path, typed=True)  # with numbers in nested mappings as numbers
    if not isinstance(values, dict):
        raise UserError(f"'{path}' holds no settings: write one `name: value` a line")
    return {str(name): value for name, value in values.items()}


def _at_home(value: Any) -> Any:
    """A path below `~` in full: no shell expands it in `--output=~/x` or in a config file."""
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


def _init_fields(cls: type) -> list[Field]:
    return [field for field in fields(cls) if field.init]


def _positional(field: Field) -> bool:
    return field.metadata.get("positional", False)


def _required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _spelling(field: Field) -> str:
    return field.metadata.get("metavar", field.name.upper()) if _positional(field) else f"--{field.name}"


def _left(field: Field, hint: Any) -> str:
    if _positional(field):
        return _spelling(field)
    kinds = {int: "N", float: "X", str: "TEXT"}
    metavar = next((letter for kind, letter in kinds.items() if kind in (hint, *get_args(hint))), "")
    return f"--{field.name} {field.metadata.get('metavar', metavar)}".rstrip()


def _right(field: Field, hint: Any) -> str:
    remarks = "; ".join(_remarks(field, hint))
    return field.metadata.get("help", "") + (f" ({remarks})" if remarks else "")


def _remarks(field: Field, hint: Any) -> Iterator[str]:
    """Choices and the default, where there are any."""
    choices = field.metadata.get("choices") or (get_args(hint) if get_origin(hint) is Literal else ())
    if choices:
        yield ", ".join(map(str, choices))
    if _required(field):
        yield "required"
    elif isinstance(field.default, float | int | str) and field.default not in (False, ""):
        yield f"default: {field.metadata.get('default_text', _shown(field.default))}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
