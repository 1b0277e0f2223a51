"""pgroute in Flask."""

from pgroute.contrib.flask.errors import add_error_handlers
from pgroute.contrib.flask.extension import PGRoute
from pgroute.contrib.flask.health import health_blueprint

__all__ = ["PGRoute", "add_error_handlers", "health_blueprint"]
