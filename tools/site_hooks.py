"""Hooks of mkdocs.yml: fences of the language "math" become MathML, which browsers draw without a script."""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert


def on_config(config: Any) -> Any:
    """Tell the extension that reads fences what to do with equations."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": equation})
    return config


def equation(source: str, *_args: Any, **_options: Any) -> str:
    """One displayed equation of LaTeX; a git host draws the same fence by itself."""
    return f'<div class="equation">{convert(source.strip(), display="block")}</div>'
