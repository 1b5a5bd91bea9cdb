"""The pieces of HTML that the report's sections share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: frozenset[int] = frozenset()) -> str:
    """An HTML table; cells are HTML already, the columns in `numbers` are set flush right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if k in numbers else ''}>{cell}</{tag}>" for k, cell in enumerate(cells)
        ).join(("<tr>", "</tr>"))

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"
