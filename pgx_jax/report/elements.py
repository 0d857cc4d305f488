"""Small pieces of HTML of which the report is made.

Names and other text from a run go through :func:`text`, which escapes them; arguments that are
called cells or body are HTML already.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from html import escape
from typing import Any

from pgx_jax.report.figures.canvas import GROUP_COLOURS


def text(value: Any) -> str:
    """Escaped text, with a proper minus sign before numbers."""
    return re.sub(r"(?<![\w\]\)-])-(?=\d)", "−", escape(str(value)))


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numeric: Container[int] = (),
    mark: Sequence[bool] = (),
    css: str = "",
) -> str:
    """A table that scrolls sideways where it is too wide.

    Args:
        head: cells of the head.
        rows: cells of each row; the first one names the row.
        numeric: columns that hold numbers.
        mark: rows to stress.
        css: class of the table.
    """
    kinds = [' class="num"' if i in numeric else "" for i in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{cell}</th>' for kind, cell in zip(kinds, head, strict=True))
    body = []
    for i, (first, *rest) in enumerate(rows):
        cells = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], rest, strict=True))
        stress = ' class="ours"' if i < len(mark) and mark[i] else ""
        body.append(f'<tr{stress}><th scope="row">{first}</th>{cells}</tr>')
    inner = f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="{css}">{inner}</table></div>'


def details(title: str, body: str) -> str:
    """Something to unfold; nothing if the body is empty."""
    return f"<details><summary>{text(title)}</summary>{body}</details>" if body else ""


def cards(groups: Sequence[Sequence[str]]) -> str:
    """The groups, one card each."""
    made = []
    for i, group in enumerate(groups):
        names = "".join(f"<li>{text(name)}</li>" for name in group)
        size = f"<span>{len(group)} task{'s' if len(group) != 1 else ''}</span>"
        title = f"<h3>Group {i + 1}{size}</h3>"
        made.append(f'<div class="card" style="--c:{colour(i)}">{title}<ul>{names}</ul></div>')
    return f'<div class="cards">{"".join(made)}</div>'


def chips(groups: Sequence[Sequence[str]]) -> str:
    """The groups in little room, one chip each."""
    made = (f'<li style="--c:{colour(i)}">{text(", ".join(group))}</li>' for i, group in enumerate(groups))
    return f'<ul class="chips">{"".join(made)}</ul>'


def dot(group: int) -> str:
    """The number of a group behind a dot of its colour."""
    return f'<span class="dot" style="--c:{colour(group)}"></span>{group + 1}'


def colour(group: int) -> str:
    """Colour of a group, the same in all figures."""
    return GROUP_COLOURS[group % len(GROUP_COLOURS)]
