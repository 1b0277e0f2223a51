"""What the ORM costs over a router: an insert and a select, beside the psycopg dialect with its QueuePool.

    python benchmarks/contrib/sqlalchemy_orm.py [--rounds 20] [--count 200] [--async]

Rounds are interleaved. The ratio is the time of the psycopg dialect over that of pgroute in the same pair of rounds:
1.00 is no overhead.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time

from sqlalchemy import create_engine, select
from sqlalchemy.dialects import registry
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from pgroute.testing import LocalCluster

registry.register("postgresql.pgroute", "pgroute.contrib.sqlalchemy.dialect", "PgrouteDialect")

DRIVERS = ("psycopg", "pgroute", "psycopg, pre-ping")
"""Pre-ping asks the server at each checkout, as stock engines do that are to survive a restart of it."""


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


def insert(maker, count, serial):
    for _ in range(count):
        with maker.begin() as session:
            session.add(Row(number=next(serial)))


def read(maker, count, serial):
    for _ in range(count):
        with maker() as session:
            session.scalars(select(Row).where(Row.number == 1)).one()


async def async_insert(maker, count, serial):
    for _ in range(count):
        async with maker.begin() as session:
            session.add(Row(number=next(serial)))


async def async_read(maker, count, serial):
    for _ in range(count):
        async with maker() as session:
            (await session.scalars(select(Row).where(Row.number == 1))).one()


def report(times):
    for stock in (driver for driver in DRIVERS if driver != "pgroute"):
        for work in times[stock]:
            theirs, ours = times[stock][work], times["pgroute"][work]
            ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
            print(
                f"{work}: {stock} {statistics.median(theirs) * 1e6:.0f} us, pgroute "
                f"{statistics.median(ours) * 1e6:.0f} us, ratio {ratio:.3f}"
            )


def options_of(driver):
    return {"pool_pre_ping": True} if driver.endswith("pre-ping") else {}


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--async", dest="asynchronous", action="store_true")
    options = parser.parse_args()
    with LocalCluster(0) as cluster:
        node = cluster.primary
        urls = {
            driver: f"postgresql+{driver.partition(',')[0]}://postgres@{node.host}:{node.port}/postgres?passfile={cluster.passfile}"
            for driver in DRIVERS
        }
        engine = create_engine(urls["psycopg"])
        Base.metadata.create_all(engine)
        engine.dispose()
        run = asyncio.run(async_rounds(urls, options)) if options.asynchronous else rounds(urls, options)
        report(run)


def rounds(urls, options):
    serial = itertools.count(1)
    engines = {driver: create_engine(url, **options_of(driver)) for driver, url in urls.items()}
    makers = {driver: sessionmaker(engine) for driver, engine in engines.items()}
    times = {driver: {"insert": [], "select": []} for driver in DRIVERS}
    for driver in DRIVERS:
        insert(makers[driver], 20, serial)
        read(makers[driver], 20, serial)
    for number in range(options.rounds):
        for driver in DRIVERS if number % 2 else DRIVERS[::-1]:
            for name, work in (("insert", insert), ("select", read)):
                start = time.perf_counter()
                work(makers[driver], options.count, serial)
                times[driver][name].append((time.perf_counter() - start) / options.count)
    for engine in engines.values():
        engine.dispose()
    return times


async def async_rounds(urls, options):
    serial = itertools.count(1)
    engines = {driver: create_async_engine(url, **options_of(driver)) for driver, url in urls.items()}
    makers = {driver: async_sessionmaker(engine) for driver, engine in engines.items()}
    times = {driver: {"insert": [], "select": []} for driver in DRIVERS}
    for driver in DRIVERS:
        await async_insert(makers[driver], 20, serial)
        await async_read(makers[driver], 20, serial)
    for number in range(options.rounds):
        for driver in DRIVERS if number % 2 else DRIVERS[::-1]:
            for name, work in (("insert", async_insert), ("select", async_read)):
                start = time.perf_counter()
                await work(makers[driver], options.count, serial)
                times[driver][name].append((time.perf_counter() - start) / options.count)
    for engine in engines.values():
        await engine.dispose()
    return times


if __name__ == "__main__":
    main()
