"""`client/address.py`: which hub, which token, and who never gets to see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from covey.client.address import Address, find_address, state_folder, token_file
from covey.errors import AuthenticationError, CoveyError, InvalidInputError

SECRET = "s3cret-Token_0123456789"


def keep(folder: Path, port: int, token: str = SECRET) -> dict[str, str]:
    environ = {"COVEY_STATE": str(folder)}
    path = token_file(port, environ)
    path.parent.mkdir(parents=True)
    path.write_text(token + "\n")
    return environ


@pytest.mark.requirement("client.address.found")
def test_without_anything_it_is_this_machines_hub_with_its_token_file(tmp_path: Path) -> None:
    environ = keep(tmp_path, 7077)
    assert find_address(environ=environ) == Address("http://127.0.0.1:7077", SECRET)


@pytest.mark.requirement("client.address.found")
def test_a_port_names_another_hub_of_this_machine(tmp_path: Path) -> None:
    environ = keep(tmp_path, 8123)
    assert find_address(port=8123, environ=environ) == Address("http://127.0.0.1:8123", SECRET)


@pytest.mark.requirement("client.address.found")
def test_the_environment_names_hub_and_token(tmp_path: Path) -> None:
    environ = {"COVEY_STATE": str(tmp_path), "COVEY_URL": "https://hub.example/team/", "COVEY_TOKEN": SECRET}
    assert find_address(environ=environ) == Address("https://hub.example/team", SECRET)


@pytest.mark.requirement("client.address.found")
def test_the_url_that_the_hub_prints_can_be_pasted_into_the_environment(tmp_path: Path) -> None:
    environ = {"COVEY_STATE": str(tmp_path), "COVEY_URL": f"http://127.0.0.1:7077/#token={SECRET}"}
    assert find_address(environ=environ) == Address("http://127.0.0.1:7077", SECRET)


@pytest.mark.requirement("client.address.found")
@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"COVEY_STATE": "/a/b", "XDG_STATE_HOME": "/c"}, Path("/a/b")),
        ({"XDG_STATE_HOME": "/c"}, Path("/c/covey")),
        ({"XDG_STATE_HOME": "not/absolute"}, Path("~/.local/state/covey").expanduser()),
        ({}, Path("~/.local/state/covey").expanduser()),
    ],
)
def test_the_state_folder_is_where_the_protocol_says(environ: dict[str, str], folder: Path) -> None:
    assert state_folder(environ) == folder


@pytest.mark.requirement("client.address.found")
def test_without_a_token_anywhere_there_is_none(tmp_path: Path) -> None:
    assert find_address(environ={"COVEY_STATE": str(tmp_path)}).token is None


@pytest.mark.requirement("client.token.stays-here")
@pytest.mark.parametrize("url", ["http://hub.example:7077", "http://10.0.0.1:7077", "http://127.evil.example:7077"])
def test_a_token_file_is_for_this_machine_only(tmp_path: Path, url: str) -> None:
    environ = keep(tmp_path, 7077)
    assert find_address(url=url, environ=environ).token is None


@pytest.mark.requirement("client.token.stays-here")
def test_the_token_of_the_environment_is_for_the_hub_of_the_environment(tmp_path: Path) -> None:
    environ = {"COVEY_STATE": str(tmp_path), "COVEY_URL": "https://hub.example", "COVEY_TOKEN": SECRET}
    assert find_address(url="https://other.example", environ=environ).token is None
    assert find_address(port=7077, environ=environ).token is None
    assert find_address(url="https://hub.example:443/", environ=environ).token == SECRET


@pytest.mark.requirement("client.token.stays-here")
def test_a_token_on_the_command_line_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        find_address(url=f"http://127.0.0.1:7077/#token={SECRET}", environ={"COVEY_STATE": str(tmp_path)})
    assert SECRET not in f"{caught.value} {caught.value.hint}"
    assert "COVEY_TOKEN" in str(caught.value.hint)


@pytest.mark.requirement("client.token.stays-here")
def test_the_token_is_not_in_what_is_printed_of_an_address() -> None:
    assert SECRET not in repr(Address("http://127.0.0.1:7077", SECRET))
    assert SECRET not in str(Address("http://127.0.0.1:7077", SECRET))


@pytest.mark.requirement("client.address.bad-input")
@pytest.mark.parametrize(
    "url",
    [
        "", "hub", "127.0.0.1:7077", "ftp://hub", "http://", "http://:7077", "http://hub:0", "http://hub:99999",
        "http://hub:x", "http://[::1", f"http://me:{SECRET}@hub", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_hub_is_refused_without_repeating_it(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        find_address(url=url, environ={"COVEY_STATE": str(tmp_path)})
    assert SECRET not in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint


@pytest.mark.requirement("client.address.bad-input")
def test_a_token_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "7077" / "token"
    path.mkdir(parents=True)
    with pytest.raises(AuthenticationError, match="can't be read") as caught:
        find_address(environ={"COVEY_STATE": str(tmp_path)})
    assert str(path) in str(caught.value)


@pytest.mark.requirement("client.address.bad-input")
@pytest.mark.parametrize("token", ["two words", "line\r\nX-Injected: 1", "naïve", "\x1b[31m"])
def test_a_token_that_no_header_can_carry_is_refused_without_repeating_it(tmp_path: Path, token: str) -> None:
    with pytest.raises(CoveyError) as caught:
        find_address(environ={"COVEY_STATE": str(tmp_path), "COVEY_TOKEN": token})
    assert token not in str(caught.value)


@pytest.mark.requirement("client.address.bad-input")
def test_a_part_of_a_path_stays_in_its_place() -> None:
    assert Address("http://h", None).path("streams", "a/b?c#d") == "http://h/v1/streams/a%2Fb%3Fc%23d"
