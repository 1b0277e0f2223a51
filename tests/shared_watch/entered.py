"""A folder in which processes meet, entered by this one."""

from __future__ import annotations

from pgroute.monitor.shared.folder import Folder


def entered() -> Folder:
    """Return it.

    Raises:
        Unusable: there is none that is certainly closed to other users, or nothing can be written to it.
    """
    folder = Folder()
    folder.renew()
    return folder
