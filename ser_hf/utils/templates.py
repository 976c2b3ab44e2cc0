"""The Jinja templates of cards, pages and tables, rendered by one environment."""

import functools
import re
from collections.abc import Callable
from pathlib import Path, PurePath

from huggingface_hub import CardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context, select_autoescape
from jinja2.runtime import Context

_PACKAGED = Path(__file__).parents[1] / "cards_templates"
TEMPLATES = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "cards"
"""A wheel and a Space hold the templates in the package, a checkout beside it."""
_FINALIZE = "finalize it"  # no template can name it


def render(template: str, finalize: Callable[[object], object] | None = None, **values: object) -> str:
    """Fill in a template of `TEMPLATES`.

    Values are escaped in a `.html.jinja`, and in no other template.

    Args:
        template: name of its file.
        finalize: is given every value that the template prints, and returns what to print.
        values: what the template names; one that it names and that is missing is an error.

    Raises:
        jinja2.UndefinedError: for a missing value.
    """
    return _environment(TEMPLATES).get_template(template).render(values | {_FINALIZE: finalize})


def escape_tex(text: object) -> str:
    r"""Text for LaTeX, with its special characters escaped; a backslash, as in a path, becomes `/`.

    >>> print(escape_tex("50%_a~b^c"))
    50\%\_a\textasciitilde{}b\textasciicircum{}c
    """
    words = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": "/", "\n": " "}
    return re.sub(r"[&%$#_{}~^\\\n]", lambda match: words.get(match[0], f"\\{match[0]}"), str(text))


def render_card(
    template: str, front_matter: CardData, finalize: Callable[[object], object] | None = None, **values: object
) -> str:
    """A `README.md` for the Hub: YAML front matter, then a template.

    `huggingface_hub.RepoCard.from_template` would build an environment of its own. That one prints
    nothing for a missing value, and keeps the line breaks after blocks.
    """
    return f"---\n{front_matter.to_yaml()}\n---\n\n{render(template, finalize, **values)}\n"


@functools.cache
def _environment(folder: Path) -> Environment:
    """The environment of a folder: to compile its templates takes longer than to fill them in."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=select_autoescape(("html.jinja",), default=False),
        finalize=_finalized,
    )
    environment.filters["tex"] = escape_tex
    environment.filters["basename"] = lambda path: PurePath(path).name
    return environment


@pass_context  # so that constants are finalized with all else, whenever a template is filled in
def _finalized(context: Context, value: object) -> object:
    finalize = context[_FINALIZE]
    return value if finalize is None else finalize(value)
