"""Names that people bring from elsewhere, and what they are called here (rule D7)."""

from __future__ import annotations

__all__ = ["missing_attribute"]

_OURS = {
    # Cloudflare Workers
    "getReader": "readable.get_reader()",
    "getWriter": "writable.get_writer()",
    "pipeTo": "ReadableStream.pipe_to()",
    "releaseLock": "release_lock()",
    "secureTransport": "secure_transport",
    "startTls": "start_tls()",
    # socket.socket
    "fileno": "Socket.detach(), which gives the real socket",
    "getpeername": "Socket.opened.result().remote_address",
    "getsockname": "Socket.opened.result().local_address",
    "makefile": "Reader.as_file() or Writer.as_file()",
    "recv": "Reader.read()",
    "recv_into": "Reader.readinto()",
    "send": "Writer.write(), which sends all of it",
    "sendall": "Writer.write()",
    "settimeout": "the timeout= of connect(), or of each call",
    "shutdown": "Writer.close(), the half-close",
    "unwrap": "Writer.close(), the half-close",
    # asyncio's streams
    "drain": "nothing: Writer.write() waits by itself",
    "readexactly": "read_exactly()",
    "readuntil": "read_until()",
    "wait_closed": "closed.result()",
    "write_eof": "Writer.close()",
}


def missing_attribute(owner: object, name: str) -> AttributeError:
    """The error for an attribute that isn't there; it names ours where there is one."""
    message = f"{type(owner).__name__!r} object has no attribute {name!r}"
    if name in _OURS:
        message += f"; here it is {_OURS[name]}"
    return AttributeError(message, name=name, obj=owner)
