"""The one look of pages and reports."""

from pathlib import Path
from typing import Any


def templates() -> Any:
    "The Jinja environment of site and reports; it escapes everything, the style is `css`."
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    found = Environment(
        loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    found.globals["css"] = Markup((folder / "style.css").read_text(encoding="utf-8"))
    return found
