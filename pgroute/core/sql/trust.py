"""Checks that no other role can make users of the schema run its code: the query, and the error.

The owner of a table decides which code runs when the table is used: triggers, rules, policies, defaults, checks. So
the schema and its tables must belong to a role that could act as this session anyway, or that the database trusts:
superusers, the owner of the database (PostgreSQL docs, 5.10.6: no use of schemas is secure if that one is not trusted),
the role that logged in, and members of these. A role that is no superuser also trusts the roles whose privileges it
has. The role that logged in counts, because any code can RESET ROLE to it.

The privileges TRIGGER and REFERENCES allow other roles to create triggers and foreign keys, and the work of a former
owner stays when a table changes hands. So only trusted roles may have these privileges, and the tables must have no
code except for their definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.sql.statements import qualify
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgroute.core.sql.schema import Schema

_MOST_SHOWN = 3

# Returns one row for each existing table (its name alone), and one for each objection: the table or NULL (the schema),
# the objection, a name. Objects from 16384 on are not PostgreSQL's own (FirstNormalObjectId). Expressions are examined
# as they are stored, because a printed one does not show which function of several with one name it calls.
EXAMINE = qualify("""
WITH me AS (
    SELECT login.oid AS login, login.rolsuper AS super, base.datdba AS owner
      FROM pg_catalog.pg_roles AS login, pg_catalog.pg_database AS base
     WHERE login.rolname `=` SESSION_USER AND base.datname `=` pg_catalog.current_database()
), home AS (
    SELECT oid, nspowner FROM pg_catalog.pg_namespace WHERE nspname `=` %(name)s
), part AS (
    SELECT class.oid, relname, relowner, relkind, reloftype, relacl, relrowsecurity
      FROM pg_catalog.pg_class AS class, home
     WHERE relnamespace `=` home.oid
       AND relname `=` ANY ('{once,batch_job,batch_chunk,batch_reject}'::pg_catalog.name[])
), power AS (
    SELECT NULL::pg_catalog.name AS relname, nspowner AS role, 'belongs to' AS what FROM home
     UNION ALL
    SELECT relname, relowner, 'belongs to' FROM part
     UNION ALL
    SELECT relname, held.grantee, pg_catalog.concat('gives the right ', held.privilege_type, ' to')
      FROM part, pg_catalog.aclexplode(relacl) AS held
     WHERE held.privilege_type `=` ANY ('{TRIGGER,REFERENCES}'::pg_catalog.text[])
     UNION ALL
    SELECT relname, held.grantee, 'gives the right REFERENCES to'
      FROM part, pg_catalog.pg_attribute, pg_catalog.aclexplode(attacl) AS held
     WHERE attrelid `=` part.oid AND held.privilege_type `=` 'REFERENCES'
)
SELECT relname, NULL, NULL FROM part
 UNION ALL
SELECT relname, what, coalesce(holder.rolname, 'PUBLIC')
  FROM power LEFT JOIN me ON true LEFT JOIN pg_catalog.pg_roles AS holder ON holder.oid `=` role
 WHERE (pg_catalog.pg_has_role(holder.oid, me.login, 'MEMBER')
        OR pg_catalog.pg_has_role(holder.oid, me.owner, 'MEMBER')
        OR holder.rolname `=` 'pg_database_owner' OR holder.rolname `=` %(owner)s
        OR (NOT me.super
            AND (holder.rolname `=` CURRENT_USER OR pg_catalog.pg_has_role(me.login, holder.oid, 'USAGE')))
       ) IS NOT TRUE
 UNION ALL
SELECT relname, 'is no plain table', '' FROM part WHERE relkind `<>` 'r' OR reloftype `<>` 0
 UNION ALL
SELECT relname, 'has row security', '' FROM part WHERE relrowsecurity
 UNION ALL
SELECT relname, 'has the rule', rulename FROM part, pg_catalog.pg_rewrite WHERE ev_class `=` part.oid
 UNION ALL
SELECT relname, 'has the trigger', tgname FROM part, pg_catalog.pg_trigger
 WHERE tgrelid `=` part.oid AND NOT tgisinternal
 UNION ALL
SELECT relname, 'inherits, or is inherited from', '' FROM part, pg_catalog.pg_inherits
 WHERE inhparent `=` part.oid OR inhrelid `=` part.oid
 UNION ALL
SELECT DISTINCT part.relname, 'shares a foreign key with the table', other.relname
  FROM part, pg_catalog.pg_trigger, pg_catalog.pg_class AS other
 WHERE tgrelid `=` part.oid AND tgconstrrelid `=` other.oid
   AND other.oid `<>` ALL (ARRAY(SELECT oid FROM part))
 UNION ALL
SELECT relname, 'has a type that is not PostgreSQL''s own in the column', attname FROM part, pg_catalog.pg_attribute
 WHERE attrelid `=` part.oid AND attnum `>` 0 AND NOT attisdropped AND atttypid `>=` 16384::pg_catalog.oid
 UNION ALL
SELECT DISTINCT relname, 'has a default, a check or an index that is not part of it', ''
  FROM part,
       LATERAL (SELECT adbin::pg_catalog.text FROM pg_catalog.pg_attrdef WHERE adrelid `=` part.oid
                 UNION ALL
                SELECT conbin::pg_catalog.text FROM pg_catalog.pg_constraint WHERE conrelid `=` part.oid
                 UNION ALL
                SELECT pg_catalog.concat(indexprs, indpred) FROM pg_catalog.pg_index WHERE indrelid `=` part.oid
               ) AS expression (tree),
       pg_catalog.regexp_matches(tree, ':(funcid|opno|[a-z_]*type|[a-z_]*typeid) ([0-9]+)', 'g') AS used
 WHERE (used[2]::pg_catalog.oid `>=` 16384::pg_catalog.oid
        OR (used[1] `=` 'funcid' AND used[2]::pg_catalog.oid `<>` ALL (
            '{pg_catalog.clock_timestamp(),pg_catalog.octet_length(pg_catalog.text),pg_catalog.int8(pg_catalog.int4)}'
            ::pg_catalog.regprocedure[]::pg_catalog.oid[])))
""")


def untrusted(schema: Schema, objections: Sequence[tuple[str, str, str]]) -> ConfigError:
    """Return the error for a schema through which other roles could run code.

    Args:
        schema: the schema of the router.
        objections: for each a table, or "" for the schema itself; the objection; a name.
    """
    told = [
        f"{f'the table {table!r}' if table else 'it'} {what}{f' {name!r}' if name else ''}"
        for table, what, name in objections[:_MOST_SHOWN]
    ]
    if len(objections) > _MOST_SHOWN:
        told.append(f"{len(objections) - _MOST_SHOWN} more")
    return ConfigError(
        "schema",
        schema.name,
        f"other roles could run code in this session: {'; '.join(told)}. Expected a schema and tables as made by "
        "install(), owned by a superuser, the owner of the database, this role, a member of one of these, or "
        "schema_owner=; nothing was written. Find out who made the named objects; then drop the schema and install it "
        "again, or correct them (ALTER ... OWNER TO, REVOKE, DROP)",
    )
