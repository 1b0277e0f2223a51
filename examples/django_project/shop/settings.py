"""The settings: DB_HOST, DB_PORT, DB_NAME and DB_USER say where the database is, and PGPASSFILE has the password."""

from __future__ import annotations

import os
import secrets

_DB = {
    "ENGINE": "pgroute.contrib.django",
    "HOST": os.environ.get("DB_HOST", "db1,db2,db3"),
    "PORT": os.environ.get("DB_PORT", ""),
    "NAME": os.environ.get("DB_NAME", "shop"),
    "USER": os.environ.get("DB_USER", "app"),
}
# Seconds for a request to get a connection; shorter than the timeout of its client.
_OPTIONS = {"acquire_timeout": 3}

DATABASES = {
    "default": _DB | {"OPTIONS": _OPTIONS},
    "reader": _DB | {"OPTIONS": _OPTIONS | {"role": "reader"}, "TEST": {"MIRROR": "default"}},
}
DATABASE_ROUTERS = ["pgroute.contrib.django.ReadReplicaRouter"]
INSTALLED_APPS = ["pgroute.contrib.django", "shop"]
MIDDLEWARE = ["pgroute.contrib.django.PositionMiddleware", "shop.views.ErrorMiddleware"]

# The same for all processes of the shop: it signs the cookie.
SECRET_KEY = os.environ.get("SECRET_KEY") or secrets.token_hex()
ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
