"""What a forked child does with its copies of our sockets, and what it leaves alone."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import weakref

from peers import WAIT

from tcpsock._wire.descriptors import ours


def test_E6_knowing_a_socket_does_not_keep_it() -> None:
    sock, other = socket.socketpair()
    ours.add(sock)
    assert sock in ours
    assert other not in ours
    sock.close()
    other.close()
    gone = weakref.ref(sock)
    del sock
    gc.collect()
    assert gone() is None


def test_E8_a_child_closes_its_copies_and_the_peer_notices_nothing() -> None:
    run(
        """
        mine, peer = socket.socketpair()
        users_own, _ = socket.socketpair()
        closed, _other = socket.socketpair()
        ours.update([mine, closed])
        closed.close()
        fd = mine.fileno()
        peer.setblocking(False)
        child = os.fork()
        if child == 0:
            assert mine.fileno() == -1
            assert mine not in ours
            assert users_own.send(b"x") == 1
            try:
                os.fstat(fd)
            except OSError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        try:
            peer.recv(1)
        except BlockingIOError:  # neither data nor an end
            pass
        else:
            raise AssertionError("the peer was told something")
        assert mine.send(b"still here") == 10
        assert peer.recv(100) == b"still here"
        assert mine in ours and mine.fileno() == fd
        """
    )


def test_E8_a_child_leaves_the_parents_TLS_objects_alone_and_alive() -> None:
    """A thread of the parent may have been in the middle of a call into one."""
    run(
        """
        mine, peer = socket.socketpair()
        context = ssl.create_default_context()
        tls = context.wrap_socket(mine, server_hostname="a", do_handshake_on_connect=False)
        ours.add(tls)
        freed = weakref.ref(tls)
        child = os.fork()
        if child == 0:
            assert tls.fileno() == -1
            del tls
            gc.collect()
            os._exit(0 if freed() is not None else 1)
        assert os.waitpid(child, 0)[1] == 0
        peer.setblocking(False)
        try:
            peer.recv(1)
        except BlockingIOError:
            pass
        else:
            raise AssertionError("the peer was told something")
        tls.close()
        del tls
        gc.collect()
        assert freed() is None  # the parent keeps none
        """
    )


def run(body: str) -> None:
    program = f"""if True:
        import gc, os, socket, ssl, weakref
        from tcpsock._wire.descriptors import ours
        {body}
        print("good")
    """
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=WAIT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr
