"""All that pgroute uses of psycopg beside its documented interface, each with the reason it is needed.

Private names, as they are in psycopg 3.3.9, the oldest version that pgroute accepts:

- ``Connection._tpc`` and ``_num_transactions``: `has_two_phase`, `has_unfinished`, `enter_block`, `leave_block`.
- ``Connection._prepared``: `forget_prepared`; with its ``prepare_threshold``, and ``_autocommit``, ``_read_only``,
  ``_isolation_level``, ``_deferrable``, ``_notice_handlers``, ``_notify_handlers`` and ``_prepared.prepared_max``:
  `settings_of`, and with ``_begin_statement`` `restore_settings`.
- ``Connection._prepared`` with its ``clear``, which is replaced on one connection, ``maintain_gen`` and ``_to_flush``:
  `Prepared`, `remove_steps`, `removes_prepared`.
- ``Connection._pool``: `mark_pooled`.
- ``Connection._adapters``: `swap_adapters`.
- ``AdaptersMap._loaders``, ``_dumpers``, ``_dumpers_by_oid``, ``TypesRegistry._registry``: `layered`.
- ``Connection._connect_gen``: `watched_class`.
- of cursors ``_conn``, ``_pgconn``, ``_tx``, ``_query``, ``_last_query``, ``_reset``, ``_convert_query``,
  ``_check_results``, ``_set_results``, with ``Connection._prepared``, ``_get_tx_start_command`` and ``_preparing``:
  `begin_steps`.
- ``BasePipeline._conn``, and the wording and arguments of psycopg's warnings: `worth_telling`.

Public names that the documentation does not list: ``psycopg.generators.execute`` (`query_steps`) and ``cancel``, with
``psycopg.waiting.wait_conn_async`` (`monitor/late_cancel.py`), its ``wait`` and ``wait_async``
(`_async/pool/cancelling.py`); ``Connection.lock``, ``Connection.wait`` and
``psycopg.errors.error_from_result`` (`_async/statements.py`); ``Copy.formatter`` with its ``write_row``, ``end``,
``parse_row`` and ``transformer`` (`_async/copying/rows.py`). Public methods replaced on one connection, because its
class is the user's: ``wait`` and ``cancel_safe`` (`_async/pool/interrupt.py`).

psycopg_pool contributes exception classes and type variables, all public. ``tests/test_canaries.py`` fails, and says
what to do, when a new version of psycopg changes one of these names.
"""
