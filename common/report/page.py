"""A report's page: the shared shell around a report's own template, style and script."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from common import __version__
from common.task import Task

SHELL = "common.report"
"""The package of the templates that all reports share."""


def render(  # noqa: PLR0913 - what rarely changes goes by name
    package: str,
    task: Task,
    *,
    blocks: Mapping[str, object],
    values: Mapping[str, object],
    root_style: str = "",
    parts: Sequence[str] = ("report",),
    scripts_beside: bool = False,
) -> str:
    """A page of `report.html` and its parts' styles and scripts in a package's `templates`.

    Args:
        package: the report's.
        task: gives the regions' colours.
        blocks: what the script reads with `block(id)`.
        values: what the template names, besides what every page has.
        root_style: declarations of the style sheet's `:root`, as `--regions:3`.
        parts: names of its `.css` and `.js`, in order.
        scripts_beside: whether it may load scripts from the place where it lies itself.
    """
    styles = [_text(package, f"{part}.css") for part in parts]
    style = _colours(task, root_style) + _text(SHELL, "base.css") + "".join(styles)
    code = _text(SHELL, "base.js") + "".join(_text(package, f"{part}.js") for part in parts)
    # Nothing is global, so that what a page defines cannot meet what the browser does.
    script = f'"use strict";\n(() => {{\n{code}}})();\n'
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(SHELL)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        values,
        style=Markup(style),  # noqa: S704 - the package's own
        script=Markup(script),  # noqa: S704 - the package's own
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        scripts_beside=scripts_beside,
        blocks={name: _json_block(value) for name, value in blocks.items()},
        made=f"{datetime.now().astimezone():%-d %B %Y, %H:%M %Z}",
        version=__version__,
    )


def as_base64(data: bytes) -> str:
    """Bytes for a JSON block."""
    return base64.b64encode(data).decode()


def _colours(task: Task, root_style: str) -> str:
    """A class for each region that sets its colour."""
    return f":root{{{root_style}}}" + "".join(
        f".region-{name}{{--region:{colour}}}" for name, colour in task.region_colours.items()
    )


def _text(package: str, name: str) -> str:
    return (resources.files(package) / "templates" / name).read_text("utf-8")


def _csp_hash(text: str) -> str:
    return f"sha256-{as_base64(hashlib.sha256(text.encode()).digest())}"


def _json_block(value: object) -> Markup:
    """JSON that cannot end a script block or start a comment, whatever its strings contain."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - no HTML syntax is left
