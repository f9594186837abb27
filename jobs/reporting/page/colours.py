"""The page's colours, light and dark: every one a CSS variable, so that plots follow the reader's scheme and paper is light.

Text has a contrast of 4.5 or more on what it stands on (WCAG 2.2, 1.4.3), what is drawn 3 or more (1.4.11)."""

COLOURS = {
    "page": ("#f4f6f9", "#0f1620"),
    "card": ("#ffffff", "#18212d"),
    "ink": ("#1e293b", "#e5eaf1"),
    "quiet": ("#526074", "#a5b3c6"),
    "line": ("#d7dfe9", "#334254"),
    "grid": ("#e6ebf2", "#273443"),
    "axis": ("#8190a5", "#71829a"),
    "accent": ("#0063b2", "#5db4f0"),
    "warm": ("#b84300", "#f59a5b"),
    "green": ("#00795d", "#38c89a"),
    "purple": ("#8f2a8a", "#e191dd"),
    "gold": ("#7a6100", "#e0c14a"),
    "cyan": ("#0b7285", "#6fd5e4"),
    "red": ("#b0232f", "#ff8d8d"),
    "slate": ("#5a6471", "#b3bfcc"),
    "notice": ("#fff4e5", "#3a2a12"),
    "notice-ink": ("#7c2d12", "#ffd9ae"),
    "alarm": ("#b3141c", "#b3141d"),
    "alarm-ink": ("#fffffe", "#ffffff"),
}
"""Name -> (light, dark)."""


def variables() -> str:
    """The style sheet's first lines: dark where the screen asks for it, and never on paper."""
    light, dark = ("".join(f"--{name}:{pair[scheme]};" for name, pair in COLOURS.items()) for scheme in (0, 1))
    asked = "@media screen and (prefers-color-scheme:dark)"
    return f":root{{color-scheme:light;{light}}}\n{asked}{{:root{{color-scheme:dark;{dark}}}}}\n"
