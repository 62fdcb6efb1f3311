from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import RemoteProtocolError, TooLargeError
from covey.wire.codec import FrameDecoder, encode_frame
from covey.wire.frames import Answer, Ask, Done, Execute, FromProcess, Ready, Result, ToProcess

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TO_PROCESS = st.one_of(
    st.builds(Execute, cell=TEXT, code=TEXT), st.builds(Answer, number=st.integers(0, 2**31), text=st.none() | TEXT)
)


@pytest.mark.requirement("codec.any-split")
@given(st.lists(TO_PROCESS), st.data())
def test_frames_survive_any_split_of_their_bytes(frames: list[ToProcess], data: st.DataObject) -> None:
    blob = b"".join(encode_frame(frame) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(blob)), max_size=8)))
    decoder: FrameDecoder[ToProcess] = FrameDecoder(ToProcess)
    received: list[ToProcess] = []
    for start, end in zip([0, *cuts], [*cuts, len(blob)], strict=True):
        received += decoder.receive_data(blob[start:end])
    assert received == frames


@pytest.mark.requirement("codec.limits")
def test_a_frame_over_the_limit_is_not_sent() -> None:
    with pytest.raises(TooLargeError):
        encode_frame(Execute(cell="c", code="x" * 1000), frame_bytes_max=1000)


@pytest.mark.requirement("codec.limits")
def test_a_frame_announced_over_the_limit_is_refused_before_it_is_read() -> None:
    decoder: FrameDecoder[ToProcess] = FrameDecoder(ToProcess, frame_bytes_max=1000)
    with pytest.raises(RemoteProtocolError, match="1001 bytes") as caught:
        decoder.receive_data((1001).to_bytes(4, "little"))
    assert caught.value.close_code == 1009


@pytest.mark.requirement("codec.garbage")
@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x81\xa5frame\xa7nothing", b"\x81\xa5frame\xa7execute"]
)
def test_bytes_that_are_no_frame_are_the_other_ends_fault(body: bytes) -> None:
    decoder: FrameDecoder[ToProcess] = FrameDecoder(ToProcess)
    with pytest.raises(RemoteProtocolError):
        decoder.receive_data(len(body).to_bytes(4, "little") + body)


@pytest.mark.requirement("codec.garbage")
def test_frames_of_the_other_direction_are_refused() -> None:
    decoder: FrameDecoder[FromProcess] = FrameDecoder(FromProcess)
    with pytest.raises(RemoteProtocolError):
        decoder.receive_data(encode_frame(Execute(cell="c", code="1")))
    ours = [
        Ready(pid=1, banner=""),
        Result(cell="c", mime={"text/plain": "2"}),
        Ask(cell="c", number=1, prompt="? ", password=False),
        Done(cell="c", status="ok"),
    ]
    fresh: FrameDecoder[FromProcess] = FrameDecoder(FromProcess)
    assert fresh.receive_data(b"".join(encode_frame(frame) for frame in ours)) == ours
