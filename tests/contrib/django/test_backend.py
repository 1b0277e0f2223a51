"""The backend: connections come from the pools of one router, and atomic() means what it always meant."""

from __future__ import annotations

import gc
import os
import threading
from contextlib import suppress

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import InternalError, connection, connections, transaction
from django.db.utils import IntegrityError

from pgroute import Router
from pgroute.contrib.django import get_router
from tests.contrib.django.conftest import use, with_params
from tests.contrib.django.models import Comment, Note
from tests.support import dsn_at, dsn_with, password_of
from tests.wiretap import Wiretap

pytestmark = pytest.mark.cluster


def value(alias, sql):
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
        [(found,)] = cursor.fetchall()
        return found


def pid(alias="default"):
    return value(alias, "SELECT pg_backend_pid()")


def test_writer_and_reader_share_a_router_and_go_to_their_hosts(databases, shared):
    assert get_router("default") is get_router("reader")
    assert value("default", "SELECT pg_is_in_recovery()") is False
    assert value("reader", "SELECT pg_is_in_recovery()") is True
    assert connections["reader"].connection.info.port in {node.port for node in shared.standbys}


def test_a_closed_connection_goes_back_and_is_taken_again(databases):
    first = pid()
    connection.close()
    assert connection.connection is None
    assert get_router().stats().writer.totals["pool_available"] == 1
    assert pid() == first


def test_atomic_commits_rolls_back_and_knows_savepoints(databases):
    with transaction.atomic():
        Note.objects.create(text="kept")
        with suppress(ZeroDivisionError), transaction.atomic():
            Note.objects.create(text="undone")
            raise ZeroDivisionError
    with suppress(ZeroDivisionError), transaction.atomic():
        Note.objects.create(text="lost")
        raise ZeroDivisionError
    assert [note.text for note in Note.objects.all()] == ["kept"]


def test_on_commit_runs_after_the_commit_and_never_after_a_rollback(databases):
    called = []
    with transaction.atomic():
        transaction.on_commit(lambda: called.append(connection.in_atomic_block))
        assert called == []
    assert called == [False]
    with suppress(ZeroDivisionError), transaction.atomic():
        transaction.on_commit(lambda: called.append("never"))
        raise ZeroDivisionError
    assert called == [False]


def test_a_durable_block_is_not_nested(databases):
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"), transaction.atomic(durable=True):
        pass


def test_what_is_left_open_is_rolled_back_on_close(databases):
    connection.set_autocommit(False)
    Note.objects.create(text="never")
    before = pid()
    connection.close()
    assert not Note.objects.exists()
    assert pid() == before


def test_a_connection_closed_within_atomic_is_not_used_there_again(databases):
    with transaction.atomic():
        Note.objects.create(text="never")
        connection.close()
        with pytest.raises(Exception, match="Cannot open a new connection in an atomic block"):
            Note.objects.exists()
    assert not Note.objects.exists()


def test_a_connection_costs_no_round_trip_beyond_its_statements(configure, dsn, shared):
    with Wiretap(shared.primary) as tap:
        configure(dsn_at(f"{tap.host}:{tap.port}", tap, dbname="django_tests"))
        pid()
        connection.close()
        tap.take()
        for _ in range(3):
            pid()
            connection.close()
        assert tap.round_trips() == 3
        with transaction.atomic():
            Note.objects.count()
        connection.close()
        assert tap.round_trips() == 3  # BEGIN, SELECT, COMMIT
        use({})


def test_settings_of_one_session_are_not_seen_by_the_next(databases, dsn):
    with transaction.atomic():
        notes = Note.objects.bulk_create([Note(text=str(n)) for n in range(3)])
    assert len(notes) == 3
    before = pid()
    rows = Note.objects.using("default").iterator(chunk_size=1)  # a server-side cursor, held
    next(rows)
    conn = connection.connection
    cursor = connection.cursor()
    conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    conn.prepare_threshold = 1
    connection.close()
    with pytest.raises(Exception, match="closed"):
        cursor.execute("SELECT 1")
    with pytest.raises(Exception, match="closed"):
        list(rows)
    with get_router().writer() as plain:
        assert plain.execute("SELECT pg_backend_pid()").fetchone() == (before,)
        assert plain.autocommit is False
        assert plain.isolation_level is None
        assert plain.prepare_threshold is None
        assert plain.execute("SELECT name FROM pg_cursors").fetchall() == []


def test_aliases_with_other_session_settings_share_the_pool(configure, dsn):
    databases = configure(dsn)
    databases["other"] = databases["default"] | {
        "TIME_ZONE": "Africa/Nairobi",
        "OPTIONS": databases["default"]["OPTIONS"] | {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE},
    }
    use(databases)
    assert get_router("other") is get_router("default")
    for _ in range(2):
        assert value("default", "SHOW TimeZone") == "UTC"
        with transaction.atomic():
            assert value("default", "SHOW transaction_isolation") == "read committed"
        first = pid("default")
        connections["default"].close()
        assert value("other", "SHOW TimeZone") == "Africa/Nairobi"
        with transaction.atomic("other"):
            assert value("other", "SHOW transaction_isolation") == "serializable"
        assert pid("other") == first
        connections["other"].close()


def test_a_subclass_of_the_backend_shares_the_router_and_may_have_its_own_cursors(databases, make_backend):
    class Mine(psycopg.ClientCursor):
        pass

    engine = make_backend(get_connection_params=with_params(cursor_factory=Mine))
    use({alias: each | {"ENGINE": engine} for alias, each in databases.items()})
    assert get_router("default") is get_router("reader")
    assert not Note.objects.exists()
    assert Note.objects.all().db == "reader"
    assert type(connections["reader"].cursor().cursor) is Mine


def test_a_role_is_assumed_once_for_each_connection(configure, dsn, shared):
    with Wiretap(shared.primary) as tap:
        configure(dsn_at(f"{tap.host}:{tap.port}", tap, dbname="django_tests"), assume_role="pg_monitor")
        assert value("default", "SELECT current_user::text") == "pg_monitor"
        connection.close()
        tap.take()
        assert value("default", "SELECT current_user::text") == "pg_monitor"
        assert tap.round_trips() == 1
        use({})


def test_a_role_that_does_not_exist_is_told_as_by_django_itself(configure, dsn):
    configure(dsn, assume_role="nobody_here")
    with pytest.raises(Exception, match='role "nobody_here" does not exist'):
        pid()


def test_a_role_is_assumed_again_where_connections_are_reset(configure, dsn):
    configure(dsn, assume_role="pg_monitor", reset="discard")
    for _ in range(2):
        assert value("default", "SELECT current_user::text") == "pg_monitor"
        connection.close()


def test_a_reader_that_is_written_to_says_so(databases):
    with pytest.raises(
        InternalError, match=r"the alias 'reader' is for reading \(its OPTIONS say 'role': 'reader'\)"
    ):
        Note.objects.using("reader").create(text="no")
    with pytest.raises(InternalError, match="for reading"), transaction.atomic("reader"):
        Note.objects.using("reader").create(text="no")


def test_errors_of_the_data_are_django_s(databases):
    Note.objects.create(pk=1, text="one")
    with pytest.raises(IntegrityError):
        Note.objects.create(pk=1, text="again")
    with pytest.raises(IntegrityError):
        Comment.objects.create(note_id=7, text="of nothing")
    assert Note.objects.count() == 1


def test_each_thread_has_its_own_connection_and_gives_it_back_when_it_ends(configure, dsn):
    configure(dsn, writer={"max_size": 2}, acquire_timeout=5)
    mine, theirs = pid(), []

    def work():
        theirs.append(pid())
        connection.set_autocommit(False)
        connection.cursor().execute("CREATE TEMPORARY TABLE left_open ()")

    gc.disable()  # Django's object for a connection is part of a circle
    try:
        for _ in range(3):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    finally:
        gc.enable()
    assert set(theirs) != {mine}
    assert len(set(theirs)) == 1
    assert pid() == mine
    assert not get_router().stats().writer.totals.get("connections_lost")


def test_threads_that_come_first_together_find_the_router_open(databases, monkeypatch):
    really_open = Router.open
    opening, go_on = threading.Event(), threading.Event()

    def open_slowly(router, *args, **options):
        if not opening.is_set():
            opening.set()
            go_on.wait(10)
        really_open(router, *args, **options)

    monkeypatch.setattr(Router, "open", open_slowly)
    first = threading.Thread(target=pid)
    first.start()
    assert opening.wait(10)
    try:
        assert pid()
    finally:
        go_on.set()
        first.join()


def test_a_shared_connection_outlives_the_thread_that_has_taken_it(databases):
    connection.inc_thread_sharing()
    try:
        shared, found = connections["default"], []

        def take():
            shared.ensure_connection()
            found.append(shared.connection)

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        assert shared.connection is found[0]
        assert value("default", "SELECT 1") == 1
    finally:
        connection.dec_thread_sharing()


def test_a_forked_child_makes_its_own_router(databases):
    before, router = pid(), get_router()
    child = os.fork()
    if not child:
        status = 1
        with suppress(BaseException):
            # By the connection that the parent has, and would share.
            assert pid() != before
            assert get_router() is not router
            from pgroute.contrib.django.routers import close_all

            connections.close_all()
            close_all()
            status = 0
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert pid() == before


def test_a_child_forked_within_atomic_leaves_the_transaction_to_its_parent(databases):
    with transaction.atomic():
        Note.objects.create(text="the parent's")
        child = os.fork()
        if not child:
            status = 1
            with suppress(BaseException):
                with pytest.raises(Exception, match="before this process was forked"):
                    Note.objects.create(text="the child's")
                status = 0
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    assert [note.text for note in Note.objects.all()] == ["the parent's"]


def test_a_password_is_in_no_error_nor_repr(configure, dsn, pgroute_shared_cluster):
    password = password_of(pgroute_shared_cluster)
    configure(dsn_with(dsn, password=password), acquire_timeot=3)
    with pytest.raises(ImproperlyConfigured) as caught:
        pid()
    configure(dsn_with(dsn, password=password))
    told = [
        str(caught.value),
        repr(connection),
        repr(connection.get_connection_params()),
        repr(connection.spec),
    ]
    assert password not in "".join(told)
    assert "did you mean acquire_timeout?" in told[0]
