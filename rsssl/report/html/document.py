"""What every page shares: one file that asks no other for anything, its style, escaped text, pictures inside it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from PIL import Image

from rsssl.geo.style import printable


def text(value: Any) -> str:
    """The value as text of a page, or as an attribute in quotes."""
    return escape(printable(str(value)))


@cache
def part(name: str) -> str:
    """A style sheet or a script beside this file."""
    return files("rsssl.report.html").joinpath(name).read_text(encoding="utf-8")


def document(title: str, body: Sequence[str], style: str = "", script: str = "") -> bytes:
    """A whole page in UTF-8.

    Its policy lets nothing be loaded, and no script run but the one given: what a name smuggles in stays text even
    where it was not escaped.

    Args:
        title: plain text.
        body: HTML.
        style: sheets beside the common one.
        script: runs at the end.
    """
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{known}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{text(title)}</title>",
        f"<style>{part('base.css')}{style}</style>",
    ]
    page = ['<!DOCTYPE html><html lang="en"><head>', *head, "</head><body>", *body]
    page += [f"<script>{script}</script>"] if script else []
    return ("\n".join([*page, "</body></html>"]) + "\n").encode("utf-8", "replace")


def data_block(name: str, content: Any) -> str:
    """Numbers and texts for the script, which finds them by name; never run."""
    plain = json.dumps(content, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
    return f'<script type="application/json" id="{text(name)}">{plain}</script>'


def picture(image: Image.Image, kind: str = "JPEG", quality: int = 85) -> str:
    """An image as the address of itself."""
    out = io.BytesIO()
    options: dict[str, Any] = {"quality": quality} if kind == "JPEG" else {}
    image.save(out, kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"
