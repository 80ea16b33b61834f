"""The protobuf wire format and traces, for system tests: no schema, field numbers as in protos/.

    for packet in pb.packets(open(path, "rb").read()):
        bundle = pb.message(packet, 1)          # TracePacket.ftrace_events
"""

import ctypes
import ctypes.util
import struct
import zlib


def varint(buf, pos):
    value = shift = 0
    while True:
        if pos >= len(buf) or shift > 63:
            raise ValueError(f"bad varint at byte {pos}")
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, pos


def fields(buf):
    """Yields (field number, value): int for varint and fixed, bytes for length-delimited."""
    pos = 0
    while pos < len(buf):
        tag, pos = varint(buf, pos)
        kind = tag & 7
        if kind == 0:
            value, pos = varint(buf, pos)
        elif kind == 1:
            value, pos = struct.unpack_from("<Q", buf, pos)[0], pos + 8
        elif kind == 5:
            value, pos = struct.unpack_from("<I", buf, pos)[0], pos + 4
        elif kind == 2:
            size, pos = varint(buf, pos)
            if pos + size > len(buf):
                raise ValueError(f"field {tag >> 3} runs past the end")
            value, pos = buf[pos : pos + size], pos + size
        else:
            raise ValueError(f"wire type {kind} in field {tag >> 3}")
        yield tag >> 3, value


def every(buf, number):
    return [v for n, v in fields(buf) if n == number]


def first(buf, number, default=None):
    """The last value wins, as the format demands of singular fields; the name says: not a list."""
    found = every(buf, number)
    return found[-1] if found else default


def message(buf, number):
    return first(buf, number, b"")


def packed(buf):
    """The varints of a packed field."""
    out, pos = [], 0
    while pos < len(buf):
        value, pos = varint(buf, pos)
        out.append(value)
    return out


def signed(value):
    return value - (1 << 64) if value >> 63 else value


def put_varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def put(number, value):
    """One field: int as varint, bytes or str length-delimited."""
    if isinstance(value, int):
        return put_varint(number << 3) + put_varint(value)
    if isinstance(value, str):
        value = value.encode()
    return put_varint(number << 3 | 2) + put_varint(len(value)) + value


def unzstd(data):
    """Through libzstd itself; Python 3.11 has no module for it."""
    lib = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
    lib.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    lib.ZSTD_getFrameContentSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    lib.ZSTD_decompress.restype = ctypes.c_size_t
    lib.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    size = lib.ZSTD_getFrameContentSize(data, len(data))
    if size > 1 << 30:
        size = 64 << 20
    out = ctypes.create_string_buffer(size)
    got = lib.ZSTD_decompress(out, size, data, len(data))
    if lib.ZSTD_isError(ctypes.c_size_t(got)):
        raise ValueError("zstd data does not decompress")
    return out.raw[:got]


def packets(trace):
    """The TracePackets of a trace, compressed ones unpacked. Raises when the file does not parse to its end."""
    for number, value in fields(trace):
        if number != 1 or not isinstance(value, bytes):
            raise ValueError(f"a trace has packets (field 1) and nothing else, here is field {number}")
        inner = first(value, 50)
        zstd = first(value, 133)
        if inner is not None:
            yield from packets(zlib.decompress(inner))
        elif zstd is not None:
            yield from packets(unzstd(zstd))
        else:
            yield value
