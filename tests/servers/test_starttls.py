"""C7: negotiate() with real servers, and the protocol goes on over TLS."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from launch import Server

import tcpsock
from tcpsock import Reader, StartTlsRefused, TlsOptions, Writer
from tcpsock.starttls import negotiate


@contextlib.contextmanager
def secured(server: Server, protocol: str, address: str = "") -> Iterator[tuple[Reader, Writer]]:
    """A reader and a writer, with TLS under them."""
    tls = TlsOptions(ca_data=server.ca_data)
    with tcpsock.connect(
        address or server.address, secure_transport="starttls", tls=tls, timeout=30
    ) as sock:
        secure = negotiate(sock, protocol)
        assert secure.opened.result().tls_version
        yield secure.streams()


def reply(reader: Reader) -> list[bytes]:
    """A reply with a code, of one line or more."""
    lines = [reader.readline()]
    while lines[-1][3:4] == b"-":
        lines.append(reader.readline())
    return lines


def test_C7_smtp_exim(smtp_server: Server) -> None:
    """It takes our address literal for a name, and doesn't offer STARTTLS over TLS again."""
    with secured(smtp_server, "smtp") as (reader, writer):
        writer.write(b"EHLO client.example\r\n")
        offers = reply(reader)
        assert offers[-1].startswith(b"250 ") and b"250-8BITMIME\r\n" in offers
        assert not any(b"STARTTLS" in line for line in offers)


def test_C7_exim_is_no_imap_server(smtp_server: Server) -> None:
    with tcpsock.connect(smtp_server.address, secure_transport="starttls", timeout=30) as sock:
        with pytest.raises(StartTlsRefused, match="does not speak imap: 220 ") as caught:
            negotiate(sock, "imap")
        assert caught.value.reply.startswith("220 ")
        assert isinstance(sock.closed.exception(), tcpsock.SocketAborted)


def test_C7_lmtp_dovecot(dovecot_servers: dict[str, Server]) -> None:
    with secured(dovecot_servers["lmtp"], "lmtp") as (reader, writer):
        writer.write(b"LHLO client.example\r\n")
        assert b"250-8BITMIME\r\n" in reply(reader)


def test_C7_imap_dovecot(dovecot_servers: dict[str, Server]) -> None:
    with secured(dovecot_servers["imap"], "imap") as (reader, writer):
        writer.write(b"a LOGIN alice secret\r\n")
        while (line := reader.readline()).startswith(b"* "):
            pass
        assert line.startswith(b"a OK ")


def test_C7_pop3_dovecot(dovecot_servers: dict[str, Server]) -> None:
    with secured(dovecot_servers["pop3"], "pop3") as (reader, writer):
        writer.write(b"USER alice\r\nPASS secret\r\n")
        assert reader.readline().startswith(b"+OK")
        assert reader.readline().startswith(b"+OK Logged in")


def test_C7_sieve_dovecot(dovecot_servers: dict[str, Server]) -> None:
    """Over TLS it begins with its capabilities, without being asked."""
    with secured(dovecot_servers["sieve"], "sieve") as (reader, _):
        lines = [reader.readline()]
        while lines[-1].startswith(b'"'):
            lines.append(reader.readline())
        assert lines[-1].startswith(b"OK")
        assert any(line.startswith(b'"SASL" "PLAIN') for line in lines)
        assert not any(b"STARTTLS" in line for line in lines)


def test_C7_ftp_proftpd(ftp_server: Server) -> None:
    with secured(ftp_server, "ftp") as (reader, writer):
        writer.write(b"PBSZ 0\r\n")
        assert reply(reader)[-1].startswith(b"200 ")


def test_C7_irc_inspircd(irc_server: Server) -> None:
    """The registration, a PING in it included, goes on over TLS."""
    with secured(irc_server, "irc") as (reader, writer):
        writer.write(b"NICK alice\r\nUSER alice 0 * :Alice\r\n")
        while b" 001 alice :" not in (line := reader.readline()):
            assert line
            if line.startswith(b"PING"):
                writer.write(b"PONG" + line[4:])


def test_C7_ldap_slapd(ldap_server: Server) -> None:
    """An anonymous bind over TLS."""
    with secured(ldap_server, "ldap") as (reader, writer):
        writer.write(b"\x30\x0c\x02\x01\x02\x60\x07\x02\x01\x03\x04\x00\x80\x00")
        assert reader.read_exactly(14) == b"\x30\x0c\x02\x01\x02\x61\x07\x0a\x01\0\x04\0\x04\0"


def test_C7_postgres(postgres_server: Server) -> None:
    """The startup message goes over TLS, and is answered."""
    with secured(postgres_server, "postgres") as (reader, writer):
        writer.write(b"\0\0\0\x17\0\3\0\0user\0postgres\0\0")
        assert reader.read_exactly(1) == b"R"  # which login it wants
        assert b"SCRAM-SHA-256-PLUS" in reader.read_exactly(int.from_bytes(reader.peek(4), "big"))


def test_C7_mysql_mariadb(mysql_server: Server) -> None:
    """A login without a password; the sequence goes on where SSLRequest was."""
    with secured(mysql_server, "mysql") as (reader, writer):
        login = b"\x05\xaa\x08\0\xff\xff\xff\0\x2d" + bytes(23) + b"root\0\0mysql_native_password\0"
        writer.write(len(login).to_bytes(3, "little") + b"\x02" + login)
        head = reader.read_exactly(4)
        answer = reader.read_exactly(int.from_bytes(head[:3], "little"))
        assert head[3] == 3 and answer[0] == 0, answer


def test_C7_xmpp_prosody(xmpp_server: Server) -> None:
    """A new stream begins over TLS, in which passwords may be sent."""
    with secured(xmpp_server, "xmpp") as (reader, writer):
        writer.write(
            b"<stream:stream to='localhost' xmlns='jabber:client' version='1.0'"
            b" xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        features = reader.read_until(b"</stream:features>")
        assert b"<mechanism>PLAIN</mechanism>" in features and b"<starttls" not in features


def test_C7_xmpp_server_prosody(xmpp_server: Server) -> None:
    with secured(xmpp_server, "xmpp-server", xmpp_server.tls_address) as (reader, writer):
        writer.write(
            b"<stream:stream to='localhost' xmlns='jabber:server' version='1.0'"
            b" xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        assert b"<starttls" not in reader.read_until(b"</stream:features>")
