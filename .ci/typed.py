"""Checks with pyright what type checkers tell users: the types of calls, and that no public type has to be guessed.

mypy checks the types of calls too, with all other files.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "pgroute"
UNTYPED = re.compile(r"\bpgroute\.contrib\.django\.[\w.]+: Type of (?:meta|base )class unknown$")


def pyright(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pyright on this tree."""
    return subprocess.run(
        [sys.executable, "-m", "pyright", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            # It asks the first Python on PATH where packages are; its own option for that does not count everywhere.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": str(ROOT),
            # It would ask a registry for its newest version.
            "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )


def untold(report: dict[str, Any]) -> list[str]:
    """Return the public names whose types other checkers may infer in another way, and what else went wrong."""
    found = [problem["message"] for problem in report["generalDiagnostics"]]
    for symbol in report["typeCompleteness"]["symbols"]:
        for problem in symbol["diagnostics"]:
            if problem["severity"] == "error":
                line = problem["range"]["start"]["line"] + 1 if "range" in problem else 0
                found.append(f"{problem.get('file', '')}:{line}: {symbol['name']}: {problem['message']}")
    # A type is partially unknown because of another one. Django's classes have no types.
    causes = [line for line in found if "partially unknown" not in line]
    ours = [line for line in causes or found if not UNTYPED.search(line)]
    return list(dict.fromkeys(ours))


def main() -> int:
    """Run both checks, print what is wrong, and return the exit status."""
    calls = pyright()
    print(calls.stdout, end="")
    names = pyright("--verifytypes", PACKAGE, "--ignoreexternal", "--outputjson")
    report = json.loads(names.stdout)
    lines = untold(report)
    for line in lines:
        print(line)
    print(f"types of {PACKAGE}: {report['typeCompleteness']['completenessScore']:.1%} complete")
    return calls.returncode or int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
