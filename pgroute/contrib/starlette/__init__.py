"""pgroute in Starlette, and what `pgroute.contrib.fastapi` builds on."""

from pgroute.contrib.starlette.database import causal_of, lifespan, router_of
from pgroute.contrib.starlette.errors import add_error_handlers
from pgroute.contrib.starlette.health import health_routes
from pgroute.contrib.starlette.read_your_writes import ReadYourWrites

__all__ = ["ReadYourWrites", "add_error_handlers", "causal_of", "health_routes", "lifespan", "router_of"]
