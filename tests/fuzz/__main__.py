"""`python -m tests.fuzz ENTRY`: an entry under atheris (pip install atheris), with libFuzzer's options behind it.

Libpq is no part of what is measured, Python's code is. What is found is written to a file, and ends the run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tests.fuzz import entries

try:
    import atheris
except ModuleNotFoundError:
    sys.exit("this needs atheris: pip install atheris")


def text(data: Any, most: int = 400) -> str:
    return str(data.ConsumeUnicode(data.ConsumeIntInRange(0, most)))


def value(data: Any, depth: int = 0) -> Any:
    """Return a value of any kind."""
    match data.ConsumeIntInRange(0, 8 if depth < 3 else 5):
        case 0:
            return None
        case 1:
            return data.ConsumeBool()
        case 2:
            return data.ConsumeInt(data.ConsumeIntInRange(1, 40))
        case 3:
            return data.ConsumeFloat()
        case 4:
            return text(data)
        case 5:
            return data.ConsumeBytes(20)
        case 6:
            return [value(data, depth + 1) for _ in range(data.ConsumeIntInRange(0, 3))]
        case 7:
            return {text(data, 20): value(data, depth + 1) for _ in range(data.ConsumeIntInRange(0, 3))}
        case _:
            return (value(data, depth + 1),)


def records(data: Any) -> None:
    whole = data.ConsumeIntInRange
    services = [
        (
            whole(0, 65535),
            whole(0, 65535),
            whole(0, 65535),
            text(data, 40) + data.PickValueInList(["", ".example.com"]),
        )
        for _ in range(whole(0, 8))
    ]
    addresses = [f"10.0.0.{whole(0, 255)}" for _ in range(whole(0, 4))]
    entries.records(services, addresses, text(data), [text(data, 30) for _ in range(whole(0, 2))])


def answers(data: Any) -> None:
    def big() -> Any:
        return data.PickValueInList([None, 1, 2, data.ConsumeInt(8)])

    told = [
        {
            "standby": data.ConsumeBool(),
            "read_only": data.ConsumeBool(),
            "timeline": big(),
            "lsn": big(),
            "system_id": big(),
            "started_at": data.PickValueInList([None, data.ConsumeFloat()]),
            "fresh": data.ConsumeBool(),
        }
        for _ in range(data.ConsumeIntInRange(1, 6))
    ]
    entries.answers(told, text(data, 60))


def rows(data: Any) -> None:
    cells = [b"t", b"f", b"on", b"off", None, data.ConsumeBytes(30), data.ConsumeBytes(8)]
    entries.rows([data.PickValueInList(cells) for _ in range(data.PickValueInList([1, 3, 9]))])


ENTRIES: dict[str, Callable[[Any], None]] = {
    "dsn": lambda data: entries.dsn(text(data)),
    "error_text": lambda data: entries.error_text(text(data, 4000)),
    "records": records,
    "answers": answers,
    "rows": rows,
    "option": lambda data: entries.option(value(data)),
    "setting": lambda data: entries.setting(text(data, 40), value(data)),
    "key": lambda data: entries.key(value(data)),
}


def main() -> None:
    name, *options = sys.argv[1:] or [""]
    if name not in ENTRIES:
        sys.exit(f"expected one of: {', '.join(ENTRIES)}")
    check = ENTRIES[name]
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *options], lambda data: check(atheris.FuzzedDataProvider(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
