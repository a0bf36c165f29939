"""Pages from templates: one HTML file each, which loads nothing from anywhere."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from burstenv.pages.palette import variables

HERE = "burstenv.pages"


def render(template: str, package: str = HERE, **values: Any) -> str:
    """Return a page.

    Args:
        template: File name of a template that extends ``base.html.j2``.
        package: Where that file lies.
        values: What the template names; ``title`` is the page's.
    """
    import jinja2

    def source(name: str) -> str:
        return (resources.files(package if name == template else HERE) / name).read_text(encoding="utf-8")

    from markupsafe import Markup

    from burstenv import __version__

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=jinja2.FunctionLoader(source)
    )
    environment.filters.update(coded=_coded, breakable=_breakable, bound=_bound)
    css = Markup(variables() + source("style.css") + source("marks.css"))
    page: str = environment.get_template(template).render(
        css=css, script=Markup(source("page.js")), version=__version__, **values
    )
    return page


def _coded(text: str) -> Any:
    """Escape a sentence and set what stands in backquotes as code."""
    from markupsafe import Markup

    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(_breakable(part)) if k % 2 else _bound(part) for k, part in enumerate(parts)
    )


def _breakable(name: str) -> Any:
    """Let a composite's name break between its parts and parameters."""
    from markupsafe import Markup, escape

    return Markup(re.sub("([/,(_])", r"\1<wbr>", str(escape(name))))


def _bound(text: str) -> Any:
    """Keep a percent sign with its number and an interval in one piece."""
    from markupsafe import escape

    return escape(re.sub(r"\[(\S+), (\S+)\]", "[\\1,\u00a0\\2]", text.replace(" %", "\u00a0%")))
