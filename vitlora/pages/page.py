"""Offline HTML pages: one file that holds its own style and pictures and asks for nothing."""

import base64
import io
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image


def render(template: str, **values: Any) -> str:
    """Returns a page from ``vitlora/pages/templates``; every value is escaped.

    Args:
        template: Name of a file that extends ``base.html``.
        values: What its variables stand for; one that is missing is an error.
    """
    loader = PackageLoader("vitlora.pages")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals["data_uri"] = data_uri
    return environment.get_template(template).render(values)


def data_uri(image: Image.Image, side: int = 160) -> str:
    """Returns an RGB picture as a JPEG for a page, its longer side at most ``side`` pixels."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
