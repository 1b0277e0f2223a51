"""The help of every command on a terminal of 80 columns, and what is said to arguments in the wrong place."""

from __future__ import annotations

import argparse

import pytest

from pgroute.cli import main
from pgroute.cli.parser import make_parser

DSN = "postgresql://app:s3cret@db1/shop"


def every(parser):
    """Yield a parser and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from every(below)


@pytest.mark.parametrize("parser", list(every(make_parser())), ids=lambda parser: parser.prog)
def test_help_fits_a_terminal_of_80_columns(parser, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert [line for line in parser.format_help().splitlines() if len(line) > 79] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([DSN], "expected a command before the DSN, as in `pgroute status DSN`"),
        (["app:s3cret@db1/shop"], "expected a command before the DSN, as in `pgroute status DSN`"),
        (["batch", DSN], "expected a command before the DSN, as in `pgroute batch list DSN`"),
        (["batch", "host=db1 password=s3cret"], "as in `pgroute batch list DSN`"),
        (["status", DSN, DSN], "unrecognized arguments: ***"),
        (["batch", "lst", DSN], "invalid choice: 'lst'"),
        (["status", "db1", "--password", "s3cret", "-Ws3cret"], "unrecognized arguments: --password *** ***"),
        (["status", "--timeout", "host=db1 password='my s3cret'"], "argument --timeout: *** is not a number"),
        (
            ["status", "--timeout", "postgresql://app:my s3cret@db1"],
            "argument --timeout: *** is not a number",
        ),
    ],
)
def test_arguments_in_the_wrong_place_are_told_without_a_password(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert "s3cret" not in told


class Asked(Exception):
    """A router was asked for, with these arguments."""


@pytest.mark.parametrize(
    "command", ["status", "watch", "dsn", "wait", "install", "check", "batch list", "batch show"]
)
def test_every_command_lets_srv_records_lead_elsewhere(command, monkeypatch):
    def ask(*_, **options):
        raise Asked(options)

    monkeypatch.setattr("pgroute.cli.subject.Router", ask)
    job = ["nightly"] if command == "batch show" else []
    with pytest.raises(Asked) as caught:
        main([*command.split(), "host=h", *job, "--srv-domain", "a.example", "--srv-domain", "b.example"])
    [options] = caught.value.args
    assert options["srv_domains"] == ["a.example", "b.example"]
