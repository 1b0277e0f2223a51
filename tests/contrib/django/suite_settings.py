"""Settings for Django's own test suite, and a runner that records what became of each test; used by suite.py."""

from __future__ import annotations

import json
import os
import unittest
from pathlib import Path
from typing import Any

from django.test.runner import DiscoverRunner

_SERVER = json.loads(os.environ["SUITE_SERVER"])
_ALIAS = {
    "ENGINE": os.environ["SUITE_ENGINE"],
    "HOST": _SERVER["host"],
    "PORT": _SERVER["port"],
    "USER": _SERVER["user"],
}

DATABASES = {
    name: _ALIAS | {"NAME": f"suite_{name}", "OPTIONS": {"passfile": _SERVER["passfile"]}}
    for name in ("default", "other")
}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "tests.contrib.django.suite_settings.Runner"

OUTCOMES: dict[str, str] = {}


class Result(unittest.TextTestResult):
    """Records the outcome of each test by its name."""

    def addSuccess(self, test: Any) -> None:  # noqa: N802  (unittest's)
        super().addSuccess(test)
        OUTCOMES.setdefault(test.id(), "passed")

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        OUTCOMES[test.id()] = "failed"

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        OUTCOMES[test.id()] = "failed"

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        OUTCOMES[test.id()] = f"skipped: {reason}"

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addExpectedFailure(test, err)
        OUTCOMES[test.id()] = "failed as expected"

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        super().addSubTest(test, subtest, err)
        if err is not None:
            OUTCOMES[test.id()] = "failed"


class Runner(DiscoverRunner):
    """Runs the tests, and writes their outcomes into the file that SUITE_OUTCOMES names."""

    def get_resultclass(self) -> type[unittest.TextTestResult]:
        return Result

    def suite_result(self, suite: Any, result: Any, **kwargs: Any) -> Any:
        Path(os.environ["SUITE_OUTCOMES"]).write_text(json.dumps(OUTCOMES))
        return super().suite_result(suite, result, **kwargs)
