"""Reads a configuration file: TOML or YAML, and files with a secret."""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING, Any, cast

from pgroute.core.printable import printable
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = (".toml", ".yaml", ".yml")
_MOST = 1_000_000
"""Bytes of a configuration file; it is no place for data."""
_MOST_SECRET = 65_536
_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|\([^()]*\)(?= twice)""")


def read_tables(file: Path) -> dict[str, Any]:
    """Return the content of a configuration file.

    Raises:
        ConfigError: it cannot be read, or is not TOML or YAML. The error shows nothing of its content.
    """
    kind = file.suffix.lower()
    if kind not in SUFFIXES:
        raise ConfigError(
            "configuration", str(file), "expected a file name that ends in .toml, .yaml or .yml"
        )
    text = _read(file, _MOST)
    content, mistake = _toml(text) if kind == ".toml" else _yaml(text)
    if mistake:
        raise ConfigError("configuration", str(file), mistake)
    return content


def read_secret(file: Path) -> str:
    """Return the text in a file, without the end of its last line.

    Raises:
        ConfigError: it cannot be read, is empty or too long.
    """
    text = _read(file, _MOST_SECRET)
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError("from_file", str(file), "the file is empty")
    return text


def _read(file: Path, most: int) -> str:
    raw = b""
    try:
        # Opening a pipe would wait, reading a device might never end.
        if not stat.S_ISREG(file.stat().st_mode):
            reason = "it is a folder" if file.is_dir() else "it is not a regular file"
        else:
            with file.open("rb") as opened:
                raw = opened.read(most + 1)
            reason = f"it has more than {most} bytes" if len(raw) > most else ""
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
    except ValueError:
        reason = "a file name has no NUL character"
    if reason:
        raise ConfigError("file", str(file), f"cannot be read: {reason}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw[: exc.start].count(b"\n") + 1
    raise ConfigError("file", str(file), f"expected UTF-8 text (line {line} is not)")


def _toml(text: str) -> tuple[dict[str, Any], str]:
    import tomllib

    try:
        return tomllib.loads(text), ""
    except tomllib.TOMLDecodeError as exc:
        return {}, f"expected TOML: {_QUOTED.sub('...', printable(str(exc)))}"
    except ValueError:
        return {}, "expected TOML: a number of too many digits"
    except RecursionError:
        return {}, "expected TOML: too many brackets within each other"


def _yaml(text: str) -> tuple[dict[str, Any], str]:
    try:
        import yaml
    except ModuleNotFoundError:
        return {}, 'this needs PyYAML: pip install pyyaml (the extra "yaml" brings it)'

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
        """Refuses a key that is there twice; PyYAML itself takes the last one."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value in seen and isinstance(key.value, str):
                    raise yaml.MarkedYAMLError(problem="a key is there twice", problem_mark=key.start_mark)
                seen.add(key.value if isinstance(key.value, str) else id(key))
            return cast("dict[Any, Any]", super().construct_mapping(node, deep))

    try:
        content = yaml.load(text, Loader)  # noqa: S506  (a SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        return {}, f"expected YAML: {_QUOTED.sub('...', exc.problem or 'malformed')}{where}"
    except yaml.YAMLError:
        return {}, "expected YAML: it holds a character that YAML does not allow"
    except (RecursionError, ValueError, TypeError):
        return {}, "expected YAML: a value that cannot be read"
    if content is None:
        return {}, ""
    if not isinstance(content, dict):
        return {}, "expected a table of keys and values at the top"
    return content, ""
