"""The pages' templates, with everything that a page needs lying inside it."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup

from lipcert.report import display


def rendered(template: str, context: dict[str, Any], *, folder: Path | None = None) -> str:
    """A page as text: styles and the one script inside, and a policy that forbids whatever else could be loaded or run.

    Everything in the context is escaped.

    Args:
        template: name of the page's template.
        context: what it is filled with.
        folder: where else to look for the template.
    """
    environment = _environment(folder)
    script = environment.get_template("sort.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    page = environment.get_template(template)
    return page.render(context, script=Markup(script), script_digest=digest)


@functools.cache  # templates are compiled once a process
def _environment(folder: Path | None) -> Environment:
    package = PackageLoader("lipcert", "report")
    environment = Environment(
        loader=package if folder is None else ChoiceLoader([package, FileSystemLoader(folder)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        down=display.rounded_down,
        up=display.rounded_up,
        percent_down=display.percent_down,
        percent_up=display.percent_up,
        number=display.number_key,
        moment=display.moment,
        setting=_setting,
        count=lambda value: f"{value:,}",
    )
    environment.filters["by"] = lambda value, name: environment.filters[name](value)
    return environment


def _setting(value: float | str) -> str:
    """An attack's parameter as text: numbers short and exact, anything else as it is."""
    return display.number_key(value) if isinstance(value, float) else str(value)
