"""What the application is going to do: how many connections it may open, as whom, and where readers go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pgroute import Role
from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from pgroute import SessionAttrs
    from pgroute.core.config.router_config import RouterConfig


@dataclass(frozen=True, slots=True)
class Plan:
    """How many connections the application may open, and how it connects.

    Attributes:
        processes: how many processes with such a router there are.
        writers: connections of the writers' pool to one host, in each process.
        readers: those of the readers' pool.
        readers_on_primary: those of the readers' pool to the primary.
        by_role: the user of each of "writer", "reader" and "probe"; empty for the operating system's.
        sslmode: as given, "prefer" by default.
        tcp_user_timeout: milliseconds, 0 for none.
        abort_after: seconds; None: never.
        reader_attrs: which hosts readers accept.
        max_lag: seconds that readers may be behind; None: any.
    """

    processes: int
    writers: int
    readers: int
    readers_on_primary: int
    by_role: tuple[tuple[str, str], ...]
    sslmode: str
    tcp_user_timeout: int
    abort_after: float | None
    reader_attrs: SessionAttrs
    max_lag: float | None

    @classmethod
    def of(cls, config: RouterConfig, processes: int) -> Self:
        """Return the plan of a router's configuration."""
        readers = config.reader.options
        on_primary = readers.max_size_on_primary
        watch = config.watch.params
        users = {
            Role.WRITER.value: config.writer.dsn.params,
            Role.READER.value: config.reader.dsn.params,
            "probe": watch,
        }
        return cls(
            processes=processes,
            writers=config.writer.options.max_size,
            readers=readers.max_size,
            readers_on_primary=readers.max_size if on_primary is None else min(on_primary, readers.max_size),
            by_role=tuple((role, params.get("user", "")) for role, params in users.items()),
            sslmode=config.writer.dsn.params.get("sslmode", "prefer"),
            tcp_user_timeout=int(config.writer.dsn.params.get("tcp_user_timeout", "0")),
            abort_after=config.probe.abort_after,
            reader_attrs=config.reader_attrs,
            max_lag=config.max_lag,
        )

    @property
    def users(self) -> set[str]:
        """The users that are named."""
        return {user for _, user in self.by_role if user}

    def users_by_role(self, probe: str) -> dict[str, str]:
        """Return the user of each role, empty if not known.

        A role without a user logs in as a probe without one does.

        Args:
            probe: who the probes are at the server.
        """
        unnamed = "" if dict(self.by_role)["probe"] else probe
        return {role: name or unnamed for role, name in self.by_role}

    def needed(self) -> dict[str, int]:
        """Return the most connections of all processes to one host, by what they are for.

        Any host may become the primary, and then serves writers too.
        """
        readers = max(self.readers_on_primary, self.readers - self.writers)
        each = {Role.WRITER.value: self.writers, Role.READER.value: readers, "probe": 1}
        return {name: number * self.processes for name, number in each.items()}

    def needed_by(self, user: str, probe: str) -> int:
        """Return the most connections of one user; *probe* is the server's name for the probes' user."""
        users = self.users_by_role(probe)
        return sum(number for role, number in self.needed().items() if users[role] == user)
