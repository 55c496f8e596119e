"""Pages that this package writes: one frame for all, in which nothing runs and nothing is fetched."""

from __future__ import annotations

import html

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: str, style: str, body: str) -> str:
    """A whole HTML page. ``body`` is markup, in which everything that others wrote went through ``text``."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{style}</style></head><body>{body}</body></html>\n"
    )


def text(value: object) -> str:
    """Any value as text of a page or of an attribute in quotes, never as markup."""
    return html.escape(str(value), quote=True)
