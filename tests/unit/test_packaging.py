"""What a user gets: the contents of a wheel built from this tree, and the command it installs.

`make test` runs all tests in an environment that has only the wheel; these look into the wheel itself.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import covey

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("covey")

# Building takes a second or two, and a busy machine can make a minute of it.
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    answer = subprocess.run(build, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    [path] = folder.glob("covey-*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    [path] = [entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def is_shipped(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


@pytest.mark.requirement("package.wheel-is-complete")
def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/covey").rglob("*") if is_shipped(path)}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == source
    assert "covey/py.typed" in packed


@pytest.mark.requirement("package.wheel-is-complete")
def test_the_wheel_has_the_console_page(wheel: zipfile.ZipFile) -> None:
    console = {Path(name).suffix for name in wheel.namelist() if name.startswith("covey/hub/console/")}
    assert {".html", ".css", ".js"} <= console


@pytest.mark.requirement("package.wheel-is-complete")
def test_the_wheel_declares_its_command_and_license(wheel: zipfile.ZipFile) -> None:
    assert "covey = covey.cli.main:main" in metadata(wheel, "entry_points.txt")
    assert "License-Expression: Apache-2.0" in metadata(wheel, "METADATA")
    assert metadata(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


@pytest.mark.requirement("package.command-runs")
def test_the_command_tells_its_version() -> None:
    answer = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert covey.__version__ in answer.stdout


@pytest.mark.requirement("package.command-runs")
def test_the_command_tells_its_help_as_does_the_module() -> None:
    command = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=True)
    module = subprocess.run([sys.executable, "-m", "covey", "--help"], capture_output=True, text=True, check=True)
    assert "serve" in command.stdout
    assert module.stdout == command.stdout
