"""A mkdocs hook that adds files outside docs/ to the site if the documentation links to them, examples as pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files, InclusionLevel

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

OUTWARD = re.compile(r"\]\(\.\./([^)#\s]+)")


def place(path: str) -> str:
    """Return where a file of the repository is in the site's sources: a program is shown on a page of its own."""
    return f"{path}.md" if path.endswith(".py") else path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to; mkdocs reports links to missing files."""
    root = Path(config.config_file_path).parent
    pages = [file for file in files if file.is_documentation_page()]
    linked = {path for file in pages for path in OUTWARD.findall(file.content_string)}
    for path in sorted(linked):
        source = root / path
        if not source.is_file():
            continue
        if source.suffix == ".py":
            content: str | bytes = f"# {path}\n\n~~~~~python\n{source.read_text('utf-8')}~~~~~\n"
        else:
            content = source.read_bytes()
        added = File.generated(config, place(path), content=content, inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(added)
    return files


def on_page_markdown(markdown: str, files: Files, **_others: object) -> str:
    """Point the links at the added files; all pages are in docs/ itself."""

    def lead(link: re.Match[str]) -> str:
        return f"]({place(link[1])}" if place(link[1]) in files.src_uris else link[0]

    return OUTWARD.sub(lead, markdown)
