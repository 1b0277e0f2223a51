"""Tables on the terminal, by rich where it is installed."""

from __future__ import annotations

try:
    from rich.console import Console
    from rich.table import Table
except ImportError:
    Console = None


def show(title, header, rows):
    """Print one table."""
    if Console is not None:
        table = Table(title=title, title_justify="left")
        for name in header:
            table.add_column(name)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}")
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
