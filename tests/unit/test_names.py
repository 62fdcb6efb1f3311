from __future__ import annotations

import pytest

from covey.errors import InvalidInputError
from covey.wire.names import check_name, check_own_name


@pytest.mark.requirement("names.form")
@pytest.mark.parametrize("name", ["ada", "ada.out", "a-b_c.D9", "a" * 128, "repl-1"])
def test_well_formed_names_pass(name: str) -> None:
    assert check_own_name(name) == name


@pytest.mark.requirement("names.form")
@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a/b", "../a", "a b", "a\n", "ü", "a" * 129, "a\0b", "a*"]
)
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="is not a name"):
        check_name(name)


@pytest.mark.requirement("names.reserved")
@pytest.mark.parametrize("name", ["covey", "covey.x", "call.abc", "link.1"])
def test_coveys_own_names_are_refused_to_others(name: str) -> None:
    assert check_name(name) == name
    with pytest.raises(InvalidInputError, match="covey's own"):
        check_own_name(name)


@pytest.mark.requirement("names.reserved")
def test_only_a_whole_first_part_is_reserved() -> None:
    assert check_own_name("caller.covey") == "caller.covey"
