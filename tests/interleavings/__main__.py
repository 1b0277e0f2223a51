"""`python -m tests.interleavings`: histories by command, with what they found; status 1 if that is anything."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter

from tests.interleavings.history import Found, play
from tests.interleavings.threads import Crew


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interleavings", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="no history begins later (default: 60)")
    parser.add_argument("--seed", type=int, help="of the first history (default: a random one)")
    parser.add_argument("--count", type=int, help="histories, at most (default: any number)")
    parser.add_argument(
        "--face", choices=("sync", "async"), action="append", help="repeatable (default: both)"
    )
    parser.add_argument(
        "--journal", action="store_true", help="print the journal of the first one that found something"
    )
    args = parser.parse_args()
    seed = secrets.randbelow(10**9) if args.seed is None else args.seed
    faces = args.face or ["async", "sync"]
    failed = False
    for face in faces:
        found: list[Found] = []
        begun = time.monotonic()
        count = 0
        with Crew() as crew:
            while time.monotonic() - begun < args.seconds / len(faces) and count != args.count:
                history = play(seed + count, face, crew)
                count += 1
                if history.violations:
                    found.append(history)
                    print(history, flush=True)
        seconds = time.monotonic() - begun
        print(
            f"{face}: {count} histories from seed {seed} in {seconds:.1f} s, {count / seconds:.0f} a second"
        )
        kinds = Counter(kind for history in found for kind, _ in history.violations)
        print(f"{face}: {len(found)} found something: {dict(kinds)}" if found else f"{face}: nothing found")
        if found and args.journal:
            print(found[0].tell())
        failed = failed or bool(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
