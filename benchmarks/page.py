"""Writes the figures of benchmarks/results.json into docs/performance.md and README.md, between their markers.

    python -m benchmarks.page [--json FILE]

A marker is a line ``<!-- figures: NAME -->``; all up to the next line ``<!-- end -->`` is replaced.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from pathlib import Path

from benchmarks import transactions
from benchmarks.compare.summary import brief, tables
from benchmarks.reads import summary as reads
from benchmarks.versions import listed

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs/performance.md", ROOT / "README.md")
MARKED = re.compile(r"(?ms)^(<!-- figures: ([^>]+) -->\n).*?^(<!-- end -->)$")


def markdown(header, rows):
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def parts(measured):
    """Return the content between the markers, by name."""
    found = {
        "machine": f"{listed(measured['machine'])}; {listed(measured['versions'])}; seed {measured['seed']}.\n"
    }
    parts_of = (
        tables(measured["results"]),
        reads.tables(measured.get("reads", {})),
        transactions.tables(measured.get("transactions")),
    )
    for key, title, header, rows in itertools.chain(*parts_of):
        found[key] = f"{title[0].upper()}{title[1:]}:\n\n{markdown(header, rows)}"
    found["brief"] = markdown(*brief(measured["results"]))
    return found


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results.json")
    found = parts(json.loads(parser.parse_args().json.read_text()))

    def fill(match):
        if match[2] not in found:
            raise SystemExit(f"no figures for {match[2]!r}, only for {', '.join(found)}")
        return f"{match[1]}\n{found.pop(match[2])}\n{match[3]}"

    for page in PAGES:
        page.write_text(MARKED.sub(fill, page.read_text()))
    for left in found:
        print(f"on no page: {left}")


if __name__ == "__main__":
    main()
