"""The schema for `once=` and batch jobs: its name, its definition and the privileges to use it."""

from __future__ import annotations

from dataclasses import field

from pgroute.core.late_dataclass import dataclass
from pgroute.core.sql.statements import qualify
from pgroute.errors import ConfigError, holds_password

DEFAULT = "pgroute"

ONCE = frozenset({"once"})
BATCH = frozenset({"batch_job", "batch_chunk", "batch_reject"})
TABLES = ONCE | BATCH

_MOST_NAME_BYTES = 63
"""The longest name (NAMEDATALEN); a server cuts longer ones with a mere NOTICE."""

# Concurrent calls of install() take turns.
LOCK = b"SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pgroute.install'))"

# Nothing here depends on the search_path: otherwise a role that may create objects in one of its schemas could run
# code as the installer.
#
# Keys and names of jobs are compared by their bytes: the order of a language changes with its library, and differs
# between hosts with other versions of it, where an index then does not find its rows (PostgreSQL docs, 23.2.2.1.1), and
# a key or a job is applied again. The keys of `once` are checked by who writes them: a CHECK would take the server a
# quarter of the time of a key.
_DEFINITION = qualify("""\
CREATE SCHEMA IF NOT EXISTS {schema};

CREATE TABLE IF NOT EXISTS {schema}.once (
    key pg_catalog.text COLLATE pg_catalog."C" PRIMARY KEY,
    result pg_catalog.jsonb,
    at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE {schema}.once IS 'transactions that were applied, by the key of run(once=)';

CREATE TABLE IF NOT EXISTS {schema}.batch_job (
    job pg_catalog.text COLLATE pg_catalog."C" PRIMARY KEY
        CHECK (pg_catalog.octet_length(job) `>=` 1 AND pg_catalog.octet_length(job) `<=` 512),
    source pg_catalog.text NOT NULL,
    chunk_size integer NOT NULL CHECK (chunk_size `>` 0),
    planned bigint NOT NULL DEFAULT 0,
    complete boolean NOT NULL DEFAULT false,
    watermark bigint NOT NULL DEFAULT 0 CHECK (watermark `>=` 0 AND watermark `<=` planned),
    rows_total bigint,
    rows_done bigint NOT NULL DEFAULT 0,
    started_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    finished_at pg_catalog.timestamptz
);
COMMENT ON TABLE {schema}.batch_job IS 'jobs; every chunk below the watermark was applied or set aside';

CREATE TABLE IF NOT EXISTS {schema}.batch_chunk (
    job pg_catalog.text COLLATE pg_catalog."C" NOT NULL REFERENCES {schema}.batch_job ON DELETE CASCADE,
    chunk bigint NOT NULL,
    after pg_catalog.text[],
    upto pg_catalog.text[],
    row_count integer NOT NULL,
    done_at pg_catalog.timestamptz,
    PRIMARY KEY (job, chunk)
) WITH (fillfactor = 50);
COMMENT ON TABLE {schema}.batch_chunk IS 'chunks at or above the watermark; each marked as done by its own transaction';

CREATE TABLE IF NOT EXISTS {schema}.batch_reject (
    job pg_catalog.text COLLATE pg_catalog."C" NOT NULL REFERENCES {schema}.batch_job ON DELETE CASCADE,
    chunk bigint NOT NULL,
    after pg_catalog.text[],
    upto pg_catalog.text[],
    row_count integer NOT NULL,
    sqlstate pg_catalog.text,
    error pg_catalog.text NOT NULL,
    at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (job, chunk)
);
COMMENT ON TABLE {schema}.batch_reject IS 'chunks that were set aside because their work failed';
""").decode()

_RIGHTS = """\
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT, INSERT, UPDATE ON {schema}.once TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.batch_job TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.batch_chunk TO {role};
GRANT SELECT, INSERT, DELETE ON {schema}.batch_reject TO {role};
-- and only for whoever calls purge_once_keys():
GRANT DELETE ON {schema}.once TO {role};
"""


@dataclass(frozen=True, slots=True)
class Schema:
    """The location of the tables, and an owner whom the application trusts.

    Attributes:
        name: the name of the schema, without quotes.
        owner: a role that may own it besides those that always may; None for no other role.
        sql: the name as it is written in a statement.
    """

    name: str = DEFAULT
    owner: str | None = None
    sql: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sql", identifier(self.name).encode())


def check_schema(name: object, owner: object) -> Schema:
    """Validate the name and the owner of the schema.

    Raises:
        ConfigError: PostgreSQL does not accept a name, or reserves it for its own schemas.
    """
    _check_identifier("schema", name)
    assert isinstance(name, str)
    if name.startswith("pg_") or name == "information_schema":
        raise ConfigError("schema", name, "expected a name that PostgreSQL does not reserve")
    if owner is not None:
        _check_identifier("schema_owner", owner)
        assert isinstance(owner, str)
    return Schema(name, owner)


def _check_identifier(parameter: str, name: object) -> None:
    accepted = f"expected a name without quotes, 1 to {_MOST_NAME_BYTES} bytes (UTF-8, without NUL)"
    if not isinstance(name, str):
        raise ConfigError(parameter, name, accepted)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= _MOST_NAME_BYTES or "\0" in name:
        shown = name if len(name) <= 100 else f"{name[:40]}... ({size} bytes)"
        raise ConfigError(parameter, shown, accepted, secret=holds_password(name))


def identifier(name: str) -> str:
    """Return a name as it is written in a statement. It has no per cent sign and works in every client encoding."""
    if name == DEFAULT:
        return name  # for people who read the SQL
    text = name.replace('"', '""')
    if text.isascii() and "%" not in text:
        return f'"{text}"'
    escaped = text.replace("\\", "\\\\")
    return 'U&"' + "".join(c if c.isascii() and c != "%" else f"\\+{ord(c):06x}" for c in escaped) + '"'


def definition(schema: str = DEFAULT) -> str:
    """Return the statements that create the missing parts of a schema."""
    return _DEFINITION.format(schema=identifier(schema))


def rights(role: str, schema: str = DEFAULT) -> str:
    """Return the statements that grant a role what it needs; *role* is inserted unchanged."""
    return _RIGHTS.format(role=role, schema=identifier(schema))
