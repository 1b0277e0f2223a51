"""Trouble of the rarer kinds: broken callbacks and settings, frozen hosts, full queues, interrupts, honest ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, ConfigError, HostState, NoHostAvailable, PoolOptions, Role, SessionLost
from pgroute._async import session as session_module
from pgroute.testing import LocalCluster, Node
from tests.aio.workload import key, primary, read, state
from tests.support import AsyncBackground, async_call, async_eventually, eventually

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
