"""What every test stands on: a state folder of its own, and hypothesis without a stopwatch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

import covey

# No deadline: the machine is shared, and how long an example takes is for bench/ to say.
settings.register_profile("covey", deadline=None, print_blob=True)
settings.register_profile("soak", parent=settings.get_profile("covey"), max_examples=20_000)
settings.load_profile("covey")


def pytest_report_header() -> str:
    return f"covey: {covey.__version__} from {Path(str(covey.__file__)).parent}"


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's own hub, token and state out of the tests, also out of the processes they start."""
    folder = tmp_path / "state"
    monkeypatch.setenv("COVEY_STATE", str(folder))
    for variable in ("COVEY_URL", "COVEY_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of the browser; a machine without one fails, as `make test` would have."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.fail("no Chromium on the PATH; `make test-tools` installs it or says how", pytrace=False)
