from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from covey import assembly


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """Start as from a shell: with less than the system would allow."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.requirement("skeleton.descriptors")
def test_a_hub_takes_the_descriptors_that_its_readers_need(few_descriptors: int) -> None:
    assembly._allow_descriptors()
    allowed, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert allowed > 512
    assert allowed == (hard if 0 <= hard < assembly.DESCRIPTORS_MAX else assembly.DESCRIPTORS_MAX)
    assert hard == few_descriptors


@pytest.mark.requirement("skeleton.descriptors")
def test_a_limit_that_is_high_enough_stays(few_descriptors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "DESCRIPTORS_MAX", 256)
    assembly._allow_descriptors()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (512, few_descriptors)
