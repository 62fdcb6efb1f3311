"""Frames to bytes and back, with size limits.

On a byte stream a frame is a 4-byte little-endian length and that many bytes of MessagePack.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Generic, TypeVar

import msgspec

from covey.errors import RemoteProtocolError, TooLargeError

FRAME_BYTES_MAX: Final = 64 << 20
_LENGTH: Final = struct.Struct("<I")

F = TypeVar("F")
_encoder: Final = msgspec.msgpack.Encoder()


def encode_frame(frame: msgspec.Struct, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """Return the frame with its length before it.

    Raises:
        TooLargeError: it is over the limit.
    """
    # Room for the length comes first, so that the frame is never copied just to be prefixed.
    buffer = bytearray(_LENGTH.size)
    _encoder.encode_into(frame, buffer, _LENGTH.size)
    size = len(buffer) - _LENGTH.size
    if size > frame_bytes_max:
        message = f"a frame may have {frame_bytes_max} bytes, this one has {size}"
        raise TooLargeError(message, limit_bytes=frame_bytes_max)
    _LENGTH.pack_into(buffer, 0, size)
    return bytes(buffer)


class FrameDecoder(Generic[F]):
    """Bytes in at any split, frames out.

    Args:
        frames: the union of frame types that the other end may send.
        frame_bytes_max: a longer frame is refused before it is read.
    """

    def __init__(self, frames: Any, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:  # noqa: ANN401 -- a union is no type
        self._decoder: msgspec.msgpack.Decoder[F] = msgspec.msgpack.Decoder(frames)
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> list[F]:
        """Return the frames that are complete now.

        Raises:
            RemoteProtocolError: the bytes are no frame of the expected types, or one over the limit.
        """
        buffer = self._buffer
        buffer += data
        frames: list[F] = []
        position = 0
        while len(buffer) - position >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer, position)
            if size > self._frame_bytes_max:
                message = f"a frame of {size} bytes was announced, {self._frame_bytes_max} are allowed"
                raise RemoteProtocolError(message, close_code=1009)
            end = position + _LENGTH.size + size
            if end > len(buffer):
                break
            frames.append(self._decode(buffer[position + _LENGTH.size : end]))
            position = end
        del buffer[:position]
        return frames

    def _decode(self, body: bytearray) -> F:
        try:
            return self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            message = f"bytes on the channel are no frame: {error}"
            raise RemoteProtocolError(message) from error
