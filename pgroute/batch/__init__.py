"""Batch jobs that can be interrupted and run again: they work in chunks, each applied once despite failovers."""

from pgroute.batch._async.job import AsyncBatchJob
from pgroute.batch._sync.job import BatchJob
from pgroute.batch.errors import BatchError
from pgroute.batch.model import BatchProgress, BatchReport, Chunk
from pgroute.batch.source import Keyset

__all__ = [
    "AsyncBatchJob",
    "BatchError",
    "BatchJob",
    "BatchProgress",
    "BatchReport",
    "Chunk",
    "Keyset",
]

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
