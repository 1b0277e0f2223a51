"""pgroute in FastAPI."""

from pgroute.contrib.fastapi.dependencies import CausalSessions, Dependencies, Reader, RequestRouter, Writer
from pgroute.contrib.starlette import ReadYourWrites, add_error_handlers, health_routes, lifespan

__all__ = [
    "CausalSessions",
    "Dependencies",
    "ReadYourWrites",
    "Reader",
    "RequestRouter",
    "Writer",
    "add_error_handlers",
    "health_routes",
    "lifespan",
]
