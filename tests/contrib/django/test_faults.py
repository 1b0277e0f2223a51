"""Lost connections, unknown commits and refusals, as an application of Django's sees them."""

from __future__ import annotations

import pickle
import threading
import time
from contextlib import suppress

import django.db
import psycopg
import pytest
from django.db import InternalError, OperationalError, connection, transaction

import pgroute
from pgroute.contrib.django import get_router
from pgroute.testing import FaultProxy
from tests.contrib.django.conftest import make_models, use
from tests.contrib.django.models import Note
from tests.support import dsn_with, eventually, within

pytestmark = pytest.mark.cluster


@pytest.fixture
def proxy(configure, dsn, databases, shared, pgroute_proxy_factory):
    """The way to the primary, which is the only host of DATABASES."""
    proxy = pgroute_proxy_factory(shared.primary)
    configure(dsn_with(FaultProxy.dsn([proxy]), dbname="django_tests"), acquire_timeout=5)
    yield proxy
    use({})


def texts():
    return sorted(Note.objects.using("default").values_list("text", flat=True))


def test_a_connection_lost_within_atomic_is_told_and_the_next_block_has_another(proxy):
    with pytest.raises(OperationalError), transaction.atomic():
        Note.objects.create(text="lost")
        proxy.reset()
        Note.objects.create(text="never")
    with transaction.atomic():
        Note.objects.create(text="after")
    assert texts() == ["after"]


def test_a_connection_lost_outside_of_atomic_is_told_once(proxy):
    Note.objects.create(text="before")
    proxy.reset()
    with pytest.raises(OperationalError):
        Note.objects.create(text="lost")
    Note.objects.create(text="after")
    assert texts() == ["after", "before"]


def test_an_idle_connection_that_was_lost_is_not_seen_by_the_next_request(proxy):
    Note.objects.create(text="before")
    connection.close()
    proxy.reset()
    Note.objects.create(text="after")
    assert texts() == ["after", "before"]


def test_a_lost_acknowledgement_of_commit_is_commit_unknown(proxy):
    lost = []
    with pytest.raises(OperationalError) as caught, transaction.atomic():
        transaction.on_commit(lambda: lost.append("called"))
        Note.objects.create(text="perhaps")
        trigger = proxy.when(b"COMMIT", action="reset")
    assert trigger.hits == 1
    error = caught.value
    assert isinstance(error, pgroute.CommitUnknown)
    assert isinstance(error.__cause__, pgroute.CommitUnknown)
    assert isinstance(error, psycopg.OperationalError)
    assert (error.may_have_committed, error.rerun_safe, lost) == (True, False, [])
    assert "was lost during COMMIT: it may have been committed" in str(error)
    assert isinstance(pickle.loads(pickle.dumps(error)), pgroute.CommitUnknown)  # noqa: S301
    with transaction.atomic():
        Note.objects.create(text="after")
    assert texts() in (["after"], ["after", "perhaps"])


def test_a_connection_lost_before_commit_is_session_lost(proxy):
    with pytest.raises(pgroute.SessionLost) as caught, transaction.atomic():
        Note.objects.create(text="never")
        proxy.reset()
        eventually(lambda: not connection.is_usable())
    assert isinstance(caught.value, OperationalError)
    assert texts() == []


def test_the_error_of_a_lost_commit_does_not_wait_for_a_new_primary(proxy):
    with pytest.raises(pgroute.CommitUnknown), transaction.atomic():
        Note.objects.create(text="perhaps")
        proxy.refuse()
        proxy.when(b"COMMIT", action="reset")
        transaction.on_commit(lambda: None)
        begun = time.monotonic()
    assert time.monotonic() - begun < within(2), "far from acquire_timeout"
    proxy.clear_faults()


def test_no_host_is_told_with_its_reasons(proxy):
    Note.objects.using("default").count()
    connection.close()
    proxy.refuse(existing="reset")
    eventually(lambda: not get_router().topology.writable)
    get_router()
    use_short = connection.settings_dict["OPTIONS"] | {"acquire_timeout": 0.2}
    connection.settings_dict["OPTIONS"] = use_short
    with pytest.raises(pgroute.NoHostAvailable, match="no writer session") as caught:
        Note.objects.using("default").count()
    assert isinstance(caught.value, OperationalError)
    proxy.clear_faults()


def test_a_server_that_refuses_writes_gets_no_second_one_from_this_session(databases, dsn):
    # As behind a pooler that was led to a standby.
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        first = cursor.fetchone()
        cursor.execute("SET default_transaction_read_only = on")
        with pytest.raises(InternalError, match="read-only transaction"):
            Note.objects.create(text="no")
    assert not connection.is_usable()
    Note.objects.create(text="yes")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() != first


def test_a_transaction_made_read_only_by_the_application_keeps_its_connection(databases):
    with suppress(InternalError), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        Note.objects.create(text="no")
    assert connection.is_usable()


def test_a_commit_that_no_standby_confirms_is_commit_unknown(configure, synchronous_pair):
    first, standby = synchronous_pair.nodes
    first.execute("CREATE DATABASE django_pair")
    configure(dsn_with(synchronous_pair.dsn, dbname="django_pair"))
    make_models()
    standby.freeze()
    try:
        cancel_when_waiting(first)
        with (
            pytest.raises(pgroute.CommitUnknown, match="no synchronous standby has confirmed it"),
            transaction.atomic(),
        ):
            Note.objects.create(text="local")
        cancel_when_waiting(first)
        with pytest.raises(pgroute.CommitUnknown, match="no synchronous standby has confirmed it"):
            Note.objects.create(text="local too")
    finally:
        standby.thaw()
    assert get_router().stats().counts.commits_unknown == 2
    assert texts() == ["local", "local too"]
    use({})
    first.execute("DROP DATABASE django_pair WITH (FORCE)")


def cancel_when_waiting(node):
    sql = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

    def cancel():
        eventually(lambda: node.execute(sql))

    threading.Thread(target=cancel).start()


def test_errors_of_pgroute_are_django_s_by_class():
    from pgroute.contrib.django.errors import as_django

    for error in (
        pgroute.SessionLost("s", rerun_safe=True),
        pgroute.PoolExhausted("p"),
        pgroute.RouterClosed("r"),
    ):
        made = as_django(error)
        assert isinstance(made, (type(error), django.db.OperationalError))
        assert isinstance(made, type(error))
        assert (str(made), made.rerun_safe) == (str(error), error.rerun_safe)
