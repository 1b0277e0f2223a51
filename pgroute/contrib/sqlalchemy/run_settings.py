"""What kind of transaction `run_in_session` begins: as it was asked for, and as its engine has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from sqlalchemy import Engine

_SETTINGS = {
    "isolation": "isolation_level",
    "read_only": "postgresql_readonly",
    "deferrable": "postgresql_deferrable",
}


def with_settings(engine: Engine, kind: dict[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """Return the kind of the transactions, where it is not said that of the engine, and what need not be set then.

    AUTOCOMMIT of the engine means nothing here: a transaction is what was asked for.
    """
    options = {
        "isolation_level": engine.dialect._on_connect_isolation_level,  # noqa: SLF001  (SQLAlchemy's)
        **engine.get_execution_options(),
    }
    made, settled = dict(kind), {}
    for name, setting in _SETTINGS.items():
        of_engine = options.get(setting)
        if name == "isolation" and of_engine is not None:
            of_engine = of_engine.replace("_", " ")
            usual = None if of_engine == "AUTOCOMMIT" else of_engine.lower()
        else:
            usual = of_engine
        if kind[name] is None:
            made[name] = usual
        asked = made[name]
        if isinstance(asked, psycopg.IsolationLevel):
            asked = asked.name.replace("_", " ")
        settled[setting] = (of_engine, asked.upper() if isinstance(asked, str) else asked)
    return made, settled
