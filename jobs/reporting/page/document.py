"""A self-contained HTML document: it asks for nothing from elsewhere, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jobs.reporting.page.colours import variables
from jobs.reporting.page.markup import text
from jobs.running.clearing import GENERATOR

STYLE = variables() + Path(__file__).with_name("page.css").read_text()
SCRIPT = Path(__file__).with_name("page.js").read_text()
_ITS_OWN = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{_ITS_OWN}'"


def document(title: str, heading: str, facts: list[str], parts: list[str]) -> str:
    """The whole page. title: of the window. facts: lines below the heading. parts: HTML, the empty ones left out."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            GENERATOR,
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{text(heading)}</h1>",
            *(f'<p class="quiet">{text(fact)}</p>' for fact in facts),
            *filter(None, parts),
            f"</main><script>{SCRIPT}</script></body></html>\n",
        ]
    )
