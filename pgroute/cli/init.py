"""`pgroute init`: writes a configuration with comments, and a program that runs with it."""

from __future__ import annotations

import os
import shlex
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pgroute.cli.errors import CommandError
from pgroute.core.printable import printable

if TYPE_CHECKING:
    import argparse

_CONFIG = "pgroute.toml"


class _Template(NamedTuple):
    program: str
    kind: str
    next_steps: tuple[str, ...]


_TEMPLATES = {
    "script": _Template("main.py", "connection", ("python main.py",)),
    "flask": _Template("main.py", "pool", ("pip install flask", "flask --app main run")),
    "fastapi": _Template("main.py", "async_pool", ("pip install fastapi uvicorn", "uvicorn main:app")),
    "django": _Template("database.py", "pool", ("# then follow the first lines of database.py",)),
}


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    template = _TEMPLATES[args.template]
    folder = Path(args.dir)
    source = files("pgroute.cli") / "templates"
    config = (source / _CONFIG).read_text("utf-8")
    # In a comment of the file: any name of a folder must leave it a comment.
    name = "".join(c for c in folder.resolve().name if c.isalnum() or c in "-_") or "app"
    contents = {
        folder / _CONFIG: config.replace("@KIND@", template.kind).replace("@NAME@", name),
        folder / template.program: (source / f"{args.template}.py.txt").read_text("utf-8"),
    }
    _write(contents, force=args.force)
    # The name of a folder may be in no encoding that can be printed.
    print(f"wrote {' and '.join(printable(str(file)) for file in contents)}\n\nnext:")
    if args.dir != ".":
        print(f"  cd {shlex.quote(printable(args.dir))}")
    print("  export DATABASE_URL=postgresql://app@db1,db2,db3/shop")
    for step in (f"pgroute check {_CONFIG}", *template.next_steps):
        print(f"  {step}")
    return 0


def _write(contents: dict[Path, str], *, force: bool) -> None:
    """Write all files or, as far as that can be foreseen, none.

    Raises:
        CommandError: a file exists, or cannot be written.
    """
    present = [str(file) for file in contents if os.path.lexists(file)]
    if present and not force:
        raise CommandError(
            f"{' and '.join(present)} exist{'s' if len(present) == 1 else ''}: --force replaces"
        )
    try:
        for file, text in contents.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            # Without --force, a file that came meanwhile is left alone too.
            with file.open("w" if force else "x", encoding="utf-8") as opened:
                opened.write(text)
    except OSError as exc:
        raise CommandError(f"cannot write {file}: {exc.strerror}") from None
