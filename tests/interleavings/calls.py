"""The calls that block, and the events that happen to their connections."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

from peers import WAIT, pattern
from scene import Blocked, Scene

import tcpsock

__all__ = ["CALLS", "EVENTS", "makes_sense"]

TEXT = b"abcdefghi\n"  # what a read waits for, and a short write sends
AHEAD = TEXT[:3]  # is there already where a read waits for more
BULK = pattern(150_000)  # more than two small buffers take


# -- Calls: each makes itself ready, and returns what the thread is to do -------------------------


def read(scene: Scene) -> Callable[[], object]:
    return reader_of(scene).read


def readinto(scene: Scene) -> Callable[[], object]:
    reader = reader_of(scene)

    def call() -> bytes:
        buffer = bytearray(100)
        return bytes(buffer[: reader.readinto(buffer)])

    return call


def read_exactly(scene: Scene) -> Callable[[], object]:
    return partial(reader_of(scene).read_exactly, len(TEXT))


def read_until(scene: Scene) -> Callable[[], object]:
    return partial(reader_of(scene).read_until, b"\n")


def peek(scene: Scene) -> Callable[[], object]:
    return partial(reader_of(scene).peek, len(TEXT))


def read_file(scene: Scene) -> Callable[[], object]:
    file = reader_of(scene).as_file()
    scene.kept.append(file)
    return partial(file.read, len(TEXT))


def iteration(scene: Scene) -> Callable[[], object]:
    scene.writer = scene.sock.writable.get_writer()
    chunks = iter(scene.sock.readable)
    scene.kept.append(chunks)
    return partial(next, chunks, b"")


def reader_of(scene: Scene) -> tcpsock.Reader:
    scene.reader, scene.writer = scene.sock.streams()
    return scene.reader  # type: ignore[no-any-return]


def pipe_to_file(scene: Scene) -> Callable[[], object]:
    scene.writer = scene.sock.writable.get_writer()
    file = io.BytesIO()
    scene.piped = file.getvalue
    return partial(scene.sock.readable.pipe_to, file)


def pipe_to_socket(scene: Scene) -> Callable[[], object]:
    scene.writer = scene.sock.writable.get_writer()
    other = scene.connect_other()

    def piped() -> bytes:
        other.close()
        return scene.other_peer.read_all()  # type: ignore[no-any-return]

    scene.piped = piped
    return partial(scene.sock.readable.pipe_to, other.writable)


def pipe_from_socket(scene: Scene) -> Callable[[], object]:
    readable = scene.connect_other().readable
    scene.other_peer.send(BULK)
    scene.other_peer.end()
    return partial(readable.pipe_to, scene.sock.writable)


def write(scene: Scene, data: bytes = BULK) -> Callable[[], object]:
    scene.writer = scene.sock.writable.get_writer()
    return partial(scene.writer.write, data)


def second_write(scene: Scene) -> Callable[[], object]:
    begin_another_write(scene, write(scene))
    return partial(scene.writer.write, TEXT)


def read_beside_write(scene: Scene) -> Callable[[], object]:
    call = read(scene)
    begin_another_write(scene, partial(scene.writer.write, BULK))
    return call


def begin_another_write(scene: Scene, call: Callable[[], object]) -> None:
    scene.another = scene.schedule.run("another write", call)
    scene.wrote_before = BULK
    scene.schedule.settle()


def arrival(scene: Scene) -> Callable[[], object]:
    """No call of ours: bytes arrive that nobody reads, and the thread takes them in."""
    scene.reader, scene.writer = scene.sock.streams()
    return partial(scene.send, TEXT)


def detach_early(scene: Scene) -> Callable[[], object]:
    scene.reader, scene.writer = scene.sock.streams()
    sock = scene.sock

    def call() -> None:
        scene.detached = sock.detach(timeout=None)

    return call


def wait_for_opened(scene: Scene) -> Callable[[], object]:
    scene.reader, scene.writer = scene.sock.streams()
    opened, schedule = scene.opened, scene.schedule

    def call() -> None:
        with schedule.waiting(lambda: not opened.done()):
            opened.result(WAIT)

    return call


# -- What the peer does to let them end -----------------------------------------------------------


def send_text(scene: Scene) -> None:
    scene.open_up()
    if not scene.peer_has_ended:
        scene.send(TEXT[len(scene.sent) :])


def send_text_and_end(scene: Scene) -> None:
    send_text(scene)
    scene.end()


def take_all(scene: Scene) -> None:
    scene.open_up()
    scene.receive(len(scene.wrote_before) + len(scene.blocked.writes))


def send_text_and_take_all(scene: Scene) -> None:
    send_text(scene)
    take_all(scene)


def take_all_to_the_end(scene: Scene) -> None:
    scene.receive(len(BULK) + 1)


_reading = partial(Blocked, release=send_text, gives=TEXT)
_piping = partial(Blocked, release=send_text_and_end, gives=len(TEXT))
_writing = partial(Blocked, release=take_all)

# By their kinds, which outcomes.py knows.
CALLS: dict[str, dict[str, Blocked]] = {
    "read": {
        "read": _reading(read),
        "readinto": _reading(readinto),
        "as_file": _reading(read_file),
        "iteration": _reading(iteration),
    },
    "gather": {
        "read_exactly": _reading(read_exactly, ahead=AHEAD),
        "read_until": _reading(read_until, ahead=AHEAD),
        "as_file that has begun": _reading(read_file, ahead=AHEAD),
    },
    "peek": {"peek": _reading(peek, ahead=AHEAD, peeks=True)},
    "pipe": {
        "pipe to file": _piping(pipe_to_file),
        "pipe to socket": _piping(pipe_to_socket),
    },
    "pipe-out": {
        "pipe from socket": Blocked(
            pipe_from_socket, take_all_to_the_end, gives=len(BULK), writes=BULK, at_once=False
        )
    },
    "write": {"write": _writing(write, writes=BULK)},
    "turn": {"second write": _writing(second_write, writes=TEXT)},
    "duplex": {
        "read beside a write": Blocked(read_beside_write, send_text_and_take_all, gives=TEXT)
    },
    "arrival": {"arrival": Blocked(arrival, send_text)},
    "opened": {"opened": Blocked(wait_for_opened, Scene.open_up, opening=True)},
    "early-detach": {"detach": Blocked(detach_early, Scene.open_up, opening=True, at_once=False)},
    "early-read": {"early read": _reading(read, opening=True)},
    "early-write": {"early write": _writing(partial(write, data=TEXT), writes=TEXT, opening=True)},
}


# -- Events ---------------------------------------------------------------------------------------


def close(scene: Scene) -> None:
    scene.sock.close()


def abort(scene: Scene) -> None:
    scene.sock.abort("enough")


def start_tls(scene: Scene) -> None:
    scene.upgraded = scene.sock.start_tls()


def release_lock(scene: Scene) -> None:
    (scene.writer if scene.blocked.writes else scene.reader).release_lock()


def detach(scene: Scene) -> None:
    scene.detached = scene.sock.detach(timeout=None)


def cancel(scene: Scene) -> None:
    scene.given_up = True
    (scene.reader or scene.sock.readable).cancel()


def close_writer(scene: Scene) -> None:
    (scene.writer or scene.sock.writable).close()


def drop(scene: Scene) -> None:
    """Of all references but those of the call itself, which goes with them."""
    scene.sock = scene.reader = scene.writer = None
    scene.kept.clear()


def data(scene: Scene) -> None:
    """Not all that is to come: the rest comes when the peer lets the call end."""
    scene.send(TEXT[len(scene.sent) :][:3])


def fin(scene: Scene) -> None:
    scene.open_up()
    scene.end()


def fin_after_data(scene: Scene) -> None:
    send_text_and_end(scene)


def rst(scene: Scene) -> None:
    scene.open_up()
    scene.reset()


def rst_after_data(scene: Scene) -> None:
    send_text(scene)
    scene.reset()


EVENTS: dict[str, Callable[[Scene], None]] = {
    "close": close,
    "abort": abort,
    "start_tls": start_tls,
    "release_lock": release_lock,
    "detach": detach,
    "cancel": cancel,
    "Writer.close": close_writer,
    "drop": drop,
    "data": data,
    "FIN": fin,
    "FIN after data": fin_after_data,
    "RST": rst,
    "RST after data": rst_after_data,
}


def makes_sense(call: str, event: str) -> bool:
    """Whether this event can come to this call."""
    if event == "data":
        return call not in ("arrival", "opened", "early read", "early write", "detach")
    if call == "as_file that has begun":
        # An io.BufferedReader tells nobody that it goes on with a read, and keeps nothing of one
        # that fails.
        return event not in ("detach", "start_tls", "RST")
    if call == "arrival":
        return "FIN" not in event and "RST" not in event
    if call == "detach":
        return event in ("close", "abort", "start_tls", "detach")
    if event == "release_lock":  # somebody must hold one that is his to release
        return call != "iteration" and not call.startswith("pipe")
    return True
