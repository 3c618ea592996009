"""The one look of pages and reports."""

from typing import Any


def templates() -> Any:
    "The Jinja environment of site and reports; it escapes everything."
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("llmchain.workbench")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
