"""The help texts below the options of each command."""

from __future__ import annotations

EPILOG = """\
A DSN is a libpq URI or keyword string with any number of hosts:

  postgresql://app@db1,db2,db3/shop
  "host=db1,db2,db3 dbname=shop user=app"

Instead of a DSN, a configuration file (.toml, .yaml, .yml) serves everywhere:

  pgroute status pgroute.toml --router shop

Without a DSN the PG* environment variables apply, as in psql. Other users
of the machine can read a command line: keep the password in PGPASSWORD or in
~/.pgpass. No command prints a password, except `dsn --with-password`.

first steps:
  pgroute demo              kill the primary of a throw-away cluster under load
  pgroute status DSN        ask your own hosts
  pgroute watch DSN         watch them
  pgroute COMMAND --help    more about a command, with examples
"""
STATUS_HELP = """\
exit status:
  0  writable and readable, and every listed host is up
  1  degraded: only one of writable and readable, or a listed host is not up
  2  neither writable nor readable, or the DSN or file cannot be used

examples:
  pgroute status postgresql://app@db1,db2,db3/shop
  pgroute status "$DSN" --json |
    jq -r '.hosts[] | select(.role == "primary").host'
  pgroute status "$DSN" --watch --json >> topology.jsonl

With --watch the status is printed again whenever a role, a state, a reason
or the verdict changes, until Ctrl-C (exit status 130).
"""
WATCH_HELP = """\
Shows the hosts with their roles, states, timelines and lag, where writers
and readers go now, and each change with its time. On a terminal this is a
full-screen view that q ends; in a pipe, one line for each change until Ctrl-C.

exit status:
  0  q was pressed, or --duration is over
  2  the DSN or the file cannot be used
  130  Ctrl-C was pressed

examples:
  pgroute watch postgresql://app@db1,db2,db3/shop
  pgroute watch "$DSN" | tee failover.log
"""
DSN_HELP = """\
exit status:
  0  the conninfo is printed; a session for the role was opened there
  1  no host can serve the role within the time
  2  the DSN or the file cannot be used

examples:
  psql "$(pgroute dsn "$DSN")"
  conninfo=$(pgroute dsn "$DSN" --role reader) &&
    pg_dump "$conninfo" > shop.sql

In scripts use the second form: after a failure, psql "" would connect to
your default server. The password is left out and must come from PGPASSWORD
or ~/.pgpass; --with-password includes it, for programs that read neither.
"""
WAIT_HELP = """\
exit status:
  0  a session for the role was opened
  1  not within the time; the message shows the state of each host
  2  the DSN or the file cannot be used

examples:
  pgroute wait "$DSN" --timeout 120 && ./migrate
  pgroute wait "$DSN" --role reader --quiet || exit 1
"""
CHECK_HELP = """\
exit status:
  0  nothing, or only notes
  1  warnings
  2  failures; or the DSN or the file cannot be used

results:
  fail  does not work now, or not with all pools full
  warn  will hurt in a failover, or is not safe
  note  a choice to know of

examples:
  pgroute check postgresql://app@db1,db2,db3/shop
  pgroute check pgroute.toml --router shop --processes 24
  pgroute check "$DSN" --json | jq '.hosts[].findings[]'

It changes nothing. Of the functions in a file only credentials is called.
"""
INIT_HELP = """\
exit status:
  0  the files are written
  2  a file exists and --force was not given, or it cannot be written

templates:
  script   a program that writes once and reads
  flask    a web application with Flask
  fastapi  a web application with FastAPI
  django   a module for a Django project

examples:
  pgroute init fastapi --dir shop
"""
INSTALL_HELP = """\
exit status:
  0  the schema exists; the grants that a role needs are printed
  2  failed: no primary, no right to create a schema, an unusable DSN or file

Run it once for each database, as a role that may create schemas there, or
have a database administrator run the output of --sql. A role that may use the
tables can read and forge their results: --schema gives an application its own.
"""
BATCH_HELP = """\
exit status:
  0  done; show: the job is finished, without rejected chunks
  1  show: the job is not finished, or has rejected chunks
     reset: not confirmed, nothing was changed
  2  no such job, no tables of pgroute, no primary, or an unusable DSN or file

examples:
  pgroute batch list postgresql://app@db1,db2,db3/shop
  pgroute batch show "$DSN" nightly

With '' as the DSN the PG* environment variables apply, as in psql.
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
  crash         SIGKILL to the primary; a standby is promoted a second later
  freeze        the primary stops answering while its connections stay open;
                it returns as a stale primary
  switchover    the primary is shut down cleanly; a standby is promoted at once
  split-brain   the primary dies and both standbys are promoted: there are two
                primaries on the same timeline
  standby-loss  a standby dies; writes continue, reads move

exit status:
  0  every acknowledged row was found exactly once, and no unexpected row
  1  rows are missing, duplicated or unexpected, or no write succeeded after
     the fault
  2  the cluster could not be started or repaired (are the PostgreSQL server
     programs installed?), or the picture could not be written

examples:
  pgroute demo
  pgroute demo --fault split-brain --duration 20
  pgroute demo --fault freeze --async --writers 20 --plot freeze.svg
"""
