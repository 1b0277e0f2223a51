"""How each row of the page is observed: what a test looks at, and what it needs for that."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.coming_from.observations import (
    PASSIVE,
    Observe,
    attribute,
    called,
    exhaust,
    forgotten,
    fresh,
    gave_up,
    get_soon,
    gives,
    interrupted,
    kept,
    lose,
    most,
    named,
    of_my_class,
    one_if_held,
    opened,
    prepared,
    queue_up,
    read_both,
    read_nothing,
    read_primary,
    read_standby,
    refused_in_queue,
    replaced,
    row_class,
    shows,
    shrunk,
    sizes,
    spread,
    spread_if_held,
    survived,
    use_closed,
    works,
)
from tests.coming_from.page import read_rows


@dataclass(frozen=True)
class Observation:
    """How a row is observed.

    Attributes:
        observe: a function of an open side, whose result must be equal on both.
        shorter: what the test writes in place of the page's numbers and words.
        theirs: further arguments of theirs, that the observation needs.
        ours: further arguments of ours.
        hosts: which servers both are given: "" (each as usual), "all", "standby first", "primary", "standby", "tls",
            "mutual tls" or "nowhere".
        face: "async" or "normal" for another face of a library that has several.
    """

    observe: Observe
    shorter: dict[str, str] = field(default_factory=dict)
    theirs: str = ""
    ours: str = ""
    hosts: str = ""
    face: str = ""

    @property
    def shares_a_pool(self) -> bool:
        """Whether this can be observed of a pool that has arguments of other rows too."""
        return self.observe in PASSIVE and not (self.theirs or self.ours or self.hosts or self.face)


_ONE = "writer=PoolOptions(max_size=1)"
_SEPARATE = "hosts=hosts, ports=ports, username=user, password=password, db_name=database"
_ALL_FILES = {"ca.crt": "{ca}", "my.crt": "{certificate}", "my.key": "{key}"}

OF_ARGUMENTS: dict[str, dict[str, Observation]] = {
    "psycopg_pool": {
        "conninfo=dsn": Observation(works),
        "conninfo=lambda: dsn": Observation(works),
        'kwargs={"autocommit": True}': Observation(attribute("autocommit")),
        'kwargs=lambda: {"password": password}': Observation(works),
        "connection_class=Mine": Observation(of_my_class),
        "min_size=4": Observation(opened(2), {"4": "2"}),
        "max_size=5": Observation(most(2), {"5": "2"}),
        "configure=prepare": Observation(called),
        "check=ConnectionPool.check_connection": Observation(survived),
        "check=prepare": Observation(called),
        "reset=clean": Observation(called),
        'name="shop"': Observation(named),
        "timeout=30": Observation(gave_up, {"30": "0.1"}, theirs="max_size=1", ours=_ONE),
        "max_waiting=1": Observation(refused_in_queue, theirs="max_size=1", ours=_ONE),
        "max_lifetime=3600": Observation(replaced, {"3600": "0.04"}),
        "max_idle=600": Observation(shrunk, {"600": "0.05"}),
        "num_workers=3": Observation(works),
        "NullConnectionPool(dsn, max_size=5, open=False)": Observation(fresh),
    },
    "asyncpg": {
        "dsn=dsn": Observation(works),
        "host=host, port=port, user=user, password=password, database=database": Observation(works),
        "passfile=passfile": Observation(works),
        'dsn="postgresql://", service="shop", servicefile=services': Observation(works),
        "init_size=3": Observation(opened(3)),
        "min_size=4": Observation(opened(2), {"4": "2"}),
        "max_size=5": Observation(most(2), {"5": "2"}),
        "max_queries=50000": Observation(fresh, {"50000": "1"}),
        "max_inactive_connection_lifetime=300": Observation(shrunk, {"300": "0.05"}),
        "connect=connect": Observation(called),
        "setup=prepare": Observation(called),
        "init=prepare": Observation(called),
        "reset=clean": Observation(called),
        "reset=None": Observation(forgotten),
        "connection_class=Mine": Observation(of_my_class),
        "record_class=Item": Observation(row_class),
        "timeout=5": Observation(works),
        "command_timeout=30": Observation(interrupted, {"30": "0.1", "30s": "100ms"}),
        "statement_cache_size=0": Observation(prepared),
        'ssl="require"': Observation(works, hosts="tls"),
        "ssl=context": Observation(works, hosts="tls"),
        "direct_tls=True": Observation(works, theirs='ssl="require"', hosts="tls"),
        'server_settings={"work_mem": "8MB"}': Observation(shows("work_mem")),
        'target_session_attrs="read-write"': Observation(
            gives("SELECT pg_is_in_recovery()"), hosts="standby first"
        ),
        'krbsrvname="postgres"': Observation(works),
    },
    "psqlpy": {
        "dsn=dsn": Observation(works),
        "host=host, port=port, username=user, password=password, db_name=database": Observation(works),
        "hosts=hosts, ports=ports, username=user, password=password, db_name=database": Observation(works),
        "target_session_attrs=TargetSessionAttrs.ReadWrite": Observation(
            gives("SELECT pg_is_in_recovery()"), theirs=_SEPARATE, hosts="standby first"
        ),
        "load_balance_hosts=LoadBalanceHosts.Random": Observation(
            spread_if_held, theirs=f"{_SEPARATE}, max_db_pool_size=16", hosts="all"
        ),
        "load_balance_hosts=LoadBalanceHosts.Disable": Observation(
            one_if_held,
            theirs=f"{_SEPARATE}, max_db_pool_size=16",
            ours="reader=PoolOptions(max_size=16)",
            hosts="all",
        ),
        'options="-c work_mem=8MB"': Observation(shows("work_mem")),
        'application_name="shop"': Observation(shows("application_name")),
        "connect_timeout_sec=5": Observation(works),
        "tcp_user_timeout_sec=10": Observation(works),
        "keepalives=True": Observation(works),
        "keepalives_idle_sec=60": Observation(works),
        "keepalives_interval_sec=5": Observation(works),
        "keepalives_retries=3": Observation(works),
        "max_db_pool_size=5": Observation(most(2), {"5": "2"}),
        "conn_recycling_method=ConnRecyclingMethod.Fast": Observation(kept),
        "conn_recycling_method=ConnRecyclingMethod.Verified": Observation(survived),
        "conn_recycling_method=ConnRecyclingMethod.Clean": Observation(forgotten),
        "ssl_mode=SslMode.Require": Observation(works, hosts="tls"),
        "ssl_mode=SslMode.VerifyCa, ca_file=ca_file": Observation(works, hosts="tls"),
    },
    "psycopg2": {
        "minconn=2, maxconn=5": Observation(sizes(2, 3), {"5": "3"}),
        "minconn=1, maxconn=5, dsn=dsn": Observation(works),
        "minconn=1, maxconn=5, host=host, port=port, user=user, password=password, dbname=database": Observation(
            works
        ),
        'minconn=1, maxconn=5, options="-c work_mem=8MB"': Observation(shows("work_mem")),
        "minconn=1, maxconn=5, connection_factory=Mine": Observation(of_my_class),
        "minconn=1, maxconn=5, cursor_factory=RealDictCursor": Observation(row_class),
        "SimpleConnectionPool(1, 5, dsn)": Observation(most(2), {"5": "2"}),
    },
    "hasql": {
        "dsn=dsn": Observation(works),
        "acquire_timeout=1": Observation(
            gave_up, {"1": "0.1"}, theirs='pool_factory_kwargs={"max_size": 1}', ours=_ONE
        ),
        "refresh_delay=1": Observation(works),
        "refresh_timeout=30": Observation(works),
        "fallback_master=True": Observation(read_primary, hosts="primary"),
        "fallback_master=False": Observation(read_nothing, hosts="primary"),
        "master_as_replica_weight=0.5": Observation(read_both),
        "balancer_policy=GreedyBalancerPolicy": Observation(spread),
        "balancer_policy=RoundRobinBalancerPolicy": Observation(spread),
        "balancer_policy=RandomWeightedBalancerPolicy": Observation(read_standby),
        'pool_factory_kwargs={"max_size": 5}': Observation(most(2), {"5": "2"}),
        "staleness=StalenessPolicy(TimeStalenessChecker(timedelta(seconds=1)))": Observation(read_standby),
        "staleness=StalenessPolicy(BytesStalenessChecker(8388608))": Observation(read_standby),
    },
    "pgmonkey": {
        "connection_type: pool": Observation(works),
        "connection_settings: {user: postgres, host: 127.0.0.1, port: 5432, dbname: postgres}": Observation(
            works, {"@127.0.0.1:5432/": ":{password}@{hosts}/", "5432": "{port}"}
        ),
        'connection_settings: {password: "${PASSWORD}"}': Observation(works),
        "connection_settings: {password: {from_env: PASSWORD}}": Observation(works),
        "connection_settings: {password: {from_file: /run/password}}": Observation(
            works, {"/run/password": "{folder}/password"}
        ),
        'connection_settings: {application_name: "${APP:-shop}"}': Observation(shows("application_name")),
        "connection_settings: {connect_timeout: 10}": Observation(works),
        "connection_settings: {keepalives: 1, keepalives_idle: 60, keepalives_interval: 15, keepalives_count: 5}": (
            Observation(works)
        ),
        "connection_settings: {sslmode: verify-ca, sslrootcert: ca.crt}": Observation(
            works, _ALL_FILES, hosts="tls"
        ),
        "connection_settings: {sslmode: verify-ca, sslrootcert: ca.crt, sslcert: my.crt, sslkey: my.key}": (
            Observation(works, _ALL_FILES, hosts="mutual tls")
        ),
        "connection_settings: {autocommit: true}": Observation(attribute("autocommit"), face="normal"),
        "sync_settings: {work_mem: 8MB}": Observation(shows("work_mem")),
        "async_settings: {work_mem: 8MB}": Observation(shows("work_mem"), face="async"),
        "pool_settings: {min_size: 5, max_size: 20}": Observation(sizes(2, 3), {"5": "2", "20": "3"}),
        "async_pool_settings: {min_size: 5, max_size: 20}": Observation(
            sizes(2, 3), {"5": "2", "20": "3"}, face="async"
        ),
        "pool_settings: {timeout: 30}": Observation(
            gave_up,
            {"30": "0.1"},
            theirs="{pool_settings: {max_size: 1}}",
            ours="{writer: {max_size: 1}}",
        ),
        "pool_settings: {max_idle: 300}": Observation(shrunk, {"300": "0.05"}),
        "pool_settings: {max_lifetime: 3600}": Observation(replaced, {"3600": "0.04"}),
        "pool_settings: {max_waiting: 1}": Observation(
            refused_in_queue,
            theirs="{pool_settings: {max_size: 1}}",
            ours="{writer: {max_size: 1}}",
        ),
        "pool_settings: {check_on_checkout: true}": Observation(survived),
        "pool_settings: {reconnect_timeout: 300, num_workers: 3}": Observation(works),
    },
}

_STATS = "sorted({}.keys() & {{'pool_min', 'pool_max', 'pool_size', 'pool_available', 'requests_num'}})"

_COPIES = [code for row in read_rows() if row.ours for code in row.theirs if "pool.copy_" in code]
"""They return a command tag, such as "COPY 2"."""

AROUND_CALLS: dict[str, dict[str, tuple[str, ...]]] = {
    "psycopg_pool": {
        "pool.open(wait=True, timeout=30)": ("{}; pool.closed",),
        "pool.wait(timeout=30)": (
            "{}; pool.get_stats()['pool_available'] > 0",
            "{}; router.get_stats()['writer']['pool_available'] > 0",
        ),
        "pool.resize(min_size=2, max_size=5)": (
            "{}; [pool.min_size, pool.max_size]",
            "{}; [router.get_stats()['writer']['pool_' + each] for each in ('min', 'max')]",
        ),
        "pool.drain()": ("before = await pid(); {}; before != await pid()",),
        "pool.get_stats()": (_STATS,),
        "pool.pop_stats()": (_STATS,),
        "pool.name": ("type({}).__name__",),
        "pool.close(timeout=5)": ("{}; pool.closed",),
    },
    "asyncpg": {
        **dict.fromkeys(_COPIES, ("int(({}).split()[1])", "{}")),
        'await pool.executemany("INSERT INTO items VALUES ($1)", [[7], [8]])': (
            "{}; await pool.fetchval('SELECT count(*) > 1 FROM items')",
            "{}; await router.fetchval('SELECT count(*) > 1 FROM items', role='writer')",
        ),
        "await conn.close(timeout=5)": ("{}; True", "{}; conn.closed"),
        "conn.terminate()": ("{}; True", "{}; conn.closed"),
        "await pool.expire_connections()": ("before = await pid(); {}; before != await pid()",),
        "await pool.close()": ("{}; pool.is_closing()", "{}; router.closed"),
        "pool.terminate()": ("{}; pool.is_closing()", "{}; router.closed"),
    },
    "psqlpy": {
        "pool.resize(5)": ("{}; pool.status().max_size", "{}; router.get_stats()['writer']['pool_max']"),
        "pool.close()": ("{}; True", "{}; router.closed"),
    },
    "psycopg2": {"pool.closeall()": ("{}; pool.closed", "{}; router.closed")},
    "hasql": {
        "await pool.close()": ("{}; pool.metrics().gauges.closed", "{}; router.closed"),
        "await pool.terminate()": ("{}; pool.metrics().gauges.closed", "{}; router.closed"),
    },
    "pgmonkey": {},
}
"""Calls that have a pool of their own, as they change it or return nothing to compare: one template for both sides, or
one for each. `pid` asks for the server process of a session.
"""

OF_ERRORS: dict[str, dict[str, Observation]] = {
    "psycopg_pool": {
        "PoolTimeout": Observation(exhaust, theirs="max_size=1", ours=_ONE),
        "TooManyRequests": Observation(
            queue_up,
            theirs="max_size=1, max_waiting=1",
            ours="writer=PoolOptions(max_size=1, max_waiting=1)",
        ),
        "PoolClosed": Observation(use_closed),
    },
    "asyncpg": {
        "TimeoutError": Observation(exhaust, theirs="max_size=1", ours=_ONE),
        "InterfaceError": Observation(use_closed),
        "UniqueViolationError": Observation(gives("INSERT INTO pg_proc SELECT * FROM pg_proc LIMIT 1")),
        "ReadOnlySQLTransactionError": Observation(
            gives("SELECT set_config('transaction_read_only', 'on', true), lo_creat(-1)")
        ),
        "TargetServerAttributeNotMatched": Observation(
            get_soon, theirs='target_session_attrs="primary"', hosts="standby"
        ),
        "ConnectionDoesNotExistError": Observation(lose),
    },
    "psqlpy": {
        "BaseConnectionPoolError": Observation(use_closed),
        "DatabaseError": Observation(gives("SELECT FROM nothing")),
    },
    "psycopg2": {
        "PoolError": Observation(exhaust, theirs="maxconn=1", ours=_ONE),
        "psycopg2.OperationalError": Observation(get_soon, theirs="maxconn=1", hosts="nowhere"),
    },
    "hasql": {
        "TimeoutError": Observation(exhaust, theirs='pool_factory_kwargs={"max_size": 1}', ours=_ONE),
        "PoolManagerClosedError": Observation(use_closed),
    },
    "pgmonkey": {
        "EnvInterpolationError": Observation(
            works,
            theirs='{connection_settings: {password: "${NOT_THERE}"}}',
            ours='{kwargs: {password: "${NOT_THERE}"}}',
        ),
    },
}
