"""ReadReplicaRouter and PositionMiddleware: which server a query goes to, and what its user sees there."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from asgiref.sync import ThreadSensitiveContext
from django.core import signing
from django.db import connection, connections, router, transaction
from django.test import AsyncClient, Client

import pgroute
from pgroute.contrib.django import PositionMiddleware, ReadReplicaRouter, get_router
from tests.contrib.django.conftest import make_models, use
from tests.contrib.django.models import Comment, Note
from tests.support import dsn_at, eventually
from tests.wiretap import Wiretap

pytestmark = pytest.mark.cluster

COOKIE = PositionMiddleware.cookie_name


@pytest.fixture
def late(shared, databases):
    """The standbys replay nothing within this block."""

    @contextlib.contextmanager
    def block():
        shared.catch_up()
        for node in shared.standbys:
            node.pause_replay()
        try:
            yield
        finally:
            for node in shared.standbys:
                node.resume_replay()

    return block


def get(client, path):
    reply = client.get(path)
    assert reply.status_code == 200
    return reply.json()


def test_reads_go_to_the_reader_until_the_thread_has_the_writer(databases):
    assert Note.objects.all().db == "reader"
    with transaction.atomic():
        assert Note.objects.all().db == "default"
    assert Note.objects.all().db == "default"  # the connection is there, and has the write
    connection.close()
    assert Note.objects.all().db == "reader"
    note = Note.objects.create(text="one")
    assert Note.objects.get(pk=note.pk) == note
    assert note._state.db == "default"


def test_an_instance_that_was_read_is_saved_on_the_writer(databases, shared):
    Note.objects.create(text="one")
    connection.close()
    shared.catch_up()
    note = Note.objects.get()
    assert note._state.db == "reader"
    note.text = "two"
    note.save()
    comment = Comment.objects.create(note=note, text="of a note that was read")
    assert comment.note.text == "two"
    assert router.allow_relation(note, comment) is True


def test_migrations_leave_the_reader_alone(databases):
    assert router.allow_migrate("reader", "notes") is False
    assert router.allow_migrate("default", "notes") is True


def test_instances_of_other_databases_are_none_of_its_business(databases):
    stranger = Note(text="of another")
    stranger._state.db = "archive"
    ours = ReadReplicaRouter()
    assert ours.db_for_read(Note, instance=stranger) is None
    assert ours.db_for_write(Note, instance=stranger) is None
    assert ours.allow_relation(stranger, Note()) is None


def test_a_subclass_names_other_aliases(databases):
    class Other(ReadReplicaRouter):
        writer = "reader"
        reader = "default"

    assert Other().db_for_write(Note) == "reader"
    assert Other().allow_migrate("default", "notes") is False


def test_a_user_sees_what_he_has_written_and_others_what_a_late_standby_has(late, shared):
    with late():
        user, other = Client(), Client()
        written = get(user, "/write/tea")
        read = get(user, "/read")
        assert (read["notes"], read["read_from"]) == (["tea"], written["written_to"])
        assert get(other, "/read")["notes"] == []
        plain = get(user, "/write-plain/coffee")
        assert get(user, "/read") == {
            "notes": ["tea", "coffee"],
            "alias": "reader",
            "read_from": plain["written_to"],
        }
    eventually(lambda: get(user, "/read")["read_from"] != shared.primary.port)
    assert get(user, "/read")["notes"] == ["tea", "coffee"]


def test_the_same_with_async_views(late, shared):
    async def story():
        async with ThreadSensitiveContext():  # as Django's handler does for each request
            await requests()

    async def requests():
        user, other = AsyncClient(), AsyncClient()
        written = (await user.get("/awrite/tea")).json()
        read = (await user.get("/aread")).json()
        assert (read["notes"], read["read_from"]) == (["tea"], written["written_to"])
        assert (await other.get("/aread")).json()["notes"] == []

    with late():
        asyncio.run(story())


@pytest.mark.parametrize("page", ["/stream/", "/stream-late/"])
def test_an_answer_that_is_made_while_it_is_sent_has_what_the_request_has_written(late, page):
    Note.objects.bulk_create([Note(text="old") for _ in range(5)])
    connection.close()
    with late():
        answer = Client().get(page + "new")
        assert b"".join(answer.streaming_content).split() == [b"old"] * 5 + [b"new"]


def test_the_same_with_an_async_answer(late):
    async def story():
        async with ThreadSensitiveContext():
            answer = await AsyncClient().get("/astream/new")
            return [part async for part in answer.streaming_content]

    with late():
        assert asyncio.run(story()) == [b"new "]


def test_the_connections_are_back_when_the_answer_is_there(databases):
    client = Client()
    get(client, "/read")
    get(client, "/write/tea")
    totals = [role.totals for role in (get_router().stats().writer, get_router().stats().reader)]
    assert [each["pool_available"] == each["pool_size"] for each in totals] == [True, True]


def test_a_page_that_asks_nothing_sets_no_cookie(databases):
    client = Client()
    assert COOKIE not in client.get("/nothing").cookies
    first = client.get("/write/tea").cookies[COOKIE]
    assert first["httponly"]
    assert COOKIE not in client.get("/nothing").cookies
    assert client.cookies[COOKIE].value == first.value


def test_a_forged_old_or_foreign_cookie_is_ignored(databases, shared):
    client = Client()
    written = get(client, "/write/tea")
    position = signing.loads(client.cookies[COOKIE].value, salt="pgroute.position")[0]
    parsed = pgroute.Position.parse(position)
    ahead = str(pgroute.Position(parsed.system_id, parsed.timeline, parsed.lsn + 2**40))
    foreign = str(pgroute.Position(1, 1, 1))
    for value in (
        "",
        position,
        signing.dumps([ahead], salt="another"),
        signing.dumps([ahead], key="?", salt="pgroute.position"),
        signing.dumps([foreign], salt="pgroute.position"),
        signing.dumps("no list", salt="pgroute.position"),
        signing.dumps(7, salt="pgroute.position"),
    ):
        client.cookies[COOKIE] = value
        reply = client.get("/read")
        assert reply.status_code == 200
    client.cookies[COOKIE] = signing.dumps([foreign, position], salt="pgroute.position")
    assert get(client, "/read")["notes"] == ["tea"]
    assert written["written_to"] == shared.primary.port


def test_a_position_of_another_cluster_is_ignored_before_the_cluster_is_known(configure, dsn, shared):
    configure(dsn)
    client = Client()
    client.cookies[COOKIE] = signing.dumps([str(pgroute.Position(1, 1, 1))], salt="pgroute.position")
    assert client.get("/read").status_code == 200  # the first of this router


def test_a_lost_position_is_told_once(configure, any_cluster):
    first, *standbys = any_cluster.nodes
    configure(any_cluster.dsn)
    make_models()
    user = Client(raise_request_exception=False)
    get(user, "/write/tea")
    any_cluster.catch_up()
    for node in standbys:
        node.execute("ALTER SYSTEM SET primary_conninfo TO ''")
        node.execute("SELECT pg_reload_conf()")
    eventually(lambda: first.execute("SELECT count(*) FROM pg_stat_replication") == [(0,)])
    get(user, "/write/coffee")
    first.kill()
    any_cluster.promote()
    eventually(lambda: Client(raise_request_exception=False).get("/write/water").status_code == 200)
    lost = user.get("/read")
    assert lost.status_code == 500
    assert lost.cookies[COOKIE].value == ""
    assert isinstance(lost.exc_info[1], pgroute.PositionLost)
    eventually(lambda: user.get("/read").json()["notes"] == ["tea", "water"])
    use({})


def test_reads_that_are_not_noted_cost_no_question(databases, late, monkeypatch):
    monkeypatch.setattr(PositionMiddleware, "on_reads", False)
    client = Client()
    assert COOKIE not in client.get("/read").cookies
    with late():
        get(client, "/write/tea")
        assert get(client, "/read")["notes"] == ["tea"]


def test_a_position_comes_with_the_commit_or_costs_one_round_trip(configure, dsn, databases, shared):
    with Wiretap(shared.primary) as tap:
        configure(dsn_at(f"{tap.host}:{tap.port}", tap, dbname="django_tests"))
        client = Client()
        get(client, "/write/first")
        tap.take()
        get(client, "/write/tea")
        assert tap.round_trips() == 3  # BEGIN, INSERT, COMMIT with the question
        get(client, "/write-plain/coffee")
        assert tap.round_trips() == 2  # INSERT, the question
        use({})


def test_tests_read_where_they_write(databases):
    connections["reader"].creation.set_as_test_mirror(connections["default"].settings_dict)
    assert Note.objects.all().db == "default"
    with connections["reader"].cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        assert cursor.fetchone() == (False,)
