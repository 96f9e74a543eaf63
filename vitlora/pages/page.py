"""Offline HTML pages: one file with its own style and pictures, which loads nothing else."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image


def render(template: str, **values: object) -> str:
    """Returns a page from ``vitlora/pages/templates``; every value is escaped.

    Args:
        template: Name of a file that extends ``base.html``.
        values: Values of its variables; a missing one is an error.
    """
    loader = PackageLoader("vitlora.pages")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals["data_uri"] = data_uri
    return environment.get_template(template).render(values)


def shared_script() -> str:
    """Returns the JavaScript of all pages that answer pictures: their texts, and their answers."""
    return (Path(__file__).parent / "answers.js").read_text("utf-8")


def data_uri(image: Image.Image, side: int = 160) -> str:
    """Returns an RGB picture as a JPEG for a page, its longer side at most ``side`` pixels."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
