"""Django on pgroute: a database backend, a database router and a middleware.

``ENGINE = "pgroute.contrib.django"`` is the backend; docs/django.md shows the settings.
"""

from pgroute.contrib.django.behind import get_router
from pgroute.contrib.django.middleware import PositionMiddleware
from pgroute.contrib.django.routing import ReadReplicaRouter

__all__ = ["PositionMiddleware", "ReadReplicaRouter", "get_router"]

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
