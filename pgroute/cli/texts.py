"""What the help of each command says below its options."""

from __future__ import annotations

EPILOG = """\
A DSN is a libpq URI or keyword string with any number of hosts:

  postgresql://app@db1,db2,db3/shop
  "host=db1,db2,db3 dbname=shop user=app"

Without one the PG* environment counts, as for psql. Other users of the
machine can read a command line: keep the password in PGPASSWORD or in
~/.pgpass. No command prints a password unless it is asked to.

first steps:
  pgroute demo              kill the primary of a throw-away cluster under load
  pgroute status DSN        ask your own hosts
  pgroute watch DSN         keep an eye on them
  pgroute COMMAND --help    more about a command, with examples
"""
STATUS_HELP = """\
exit status:
  0  writable and readable, and every listed host is up
  1  degraded: only one of writable and readable, or a listed host is not up
  2  neither writable nor readable, or the DSN cannot be used

examples:
  pgroute status postgresql://app@db1,db2,db3/shop
  pgroute status "$DSN" --json |
    jq -r '.hosts[] | select(.role == "primary").host'
  pgroute status "$DSN" --watch --json >> topology.jsonl

With --watch it is told again whenever a role, a state, a reason or the
verdict changes, until Ctrl-C (exit status 130).
"""
WATCH_HELP = """\
The hosts with their roles, states, timelines and lag, where writers and
readers go now, and each change with its time. On a terminal a full-screen
view, which q ends; in a pipe one line for each change, until Ctrl-C.

exit status:
  0  q was pressed, or the time given by --duration is over
  2  the DSN cannot be used
  130  Ctrl-C was pressed

examples:
  pgroute watch postgresql://app@db1,db2,db3/shop
  pgroute watch "$DSN" | tee failover.log
"""
DSN_HELP = """\
exit status:
  0  printed; a session for that role was had there
  1  no host can serve the role within the time
  2  the DSN cannot be used

examples:
  psql "$(pgroute dsn "$DSN")"
  conninfo=$(pgroute dsn "$DSN" --role reader) &&
    pg_dump "$conninfo" > shop.sql

In scripts use the second form: after a failure, psql "" would go to your
default server. The password is left out, so it must come from PGPASSWORD or
~/.pgpass; --with-password puts it in, for programs that know neither.
"""
WAIT_HELP = """\
exit status:
  0  a session for that role could be had
  1  not within the time; the text says what each host is
  2  the DSN cannot be used

examples:
  pgroute wait "$DSN" --timeout 120 && ./migrate
  pgroute wait "$DSN" --role reader --quiet || exit 1
"""
INSTALL_HELP = """\
exit status:
  0  the schema is in place; the rights that a role needs to use it are printed
  2  it is not: no primary, no right to create a schema, or the DSN cannot be
     used

Run it once for each database, as a role that may create schemas there. With
--sql a database administrator can do it. Whoever may use the tables can read
and forge the results in them: with --schema an application has its own.
"""
BATCH_HELP = """\
exit status:
  0  done; of show: the job is finished, and no chunk was set aside
  1  of show: it is not finished, or chunks were set aside;
     of reset: not confirmed, nothing was changed
  2  no such job, no tables of pgroute's, no primary, or the DSN cannot be used

examples:
  pgroute batch list postgresql://app@db1,db2,db3/shop
  pgroute batch show "$DSN" nightly

With '' for a DSN the PG* environment counts, as for psql.
"""
COMPLETION_HELP = """\
examples:
  bash  DIR=~/.local/share/bash-completion/completions
        pgroute completion bash > "$DIR/pgroute"
  zsh   pgroute completion zsh > ~/.zfunc/_pgroute
        (with ~/.zfunc in $fpath, before compinit)
  tcsh  pgroute completion tcsh > ~/.pgroute.tcsh
        (and "source ~/.pgroute.tcsh" in ~/.tcshrc)
"""
DEMO_HELP = """\
faults:
  crash         SIGKILL to the primary; a second later a standby is promoted
  freeze        the primary stops answering, its connections stay open;
                it comes back as a stale primary
  switchover    the primary is shut down cleanly, a standby promoted at once
  split-brain   the primary dies and both standbys are promoted: two
                primaries, between which nothing decides
  standby-loss  a standby dies; writes go on, reads move

exit status:
  0  every acknowledged row was found, once, and no row that nobody can
     account for
  1  rows are missing, doubled or unaccounted for, or no write went through
     after the fault
  2  the cluster could not be started (no PostgreSQL server programs?) or be
     repaired, or the picture not be written

examples:
  pgroute demo
  pgroute demo --fault split-brain --duration 20
  pgroute demo --fault freeze --async --writers 20 --plot freeze.svg
"""
