"""PostgreSQL: StartTLS behind a reply of one byte, and a login bound to the TLS session."""

from __future__ import annotations

import ssl

import pytest
from launch import Server

import tcpsock
from examples import postgres
from tcpsock import TlsOptions


def only(version: ssl.TLSVersion, ca_data: str) -> TlsOptions:
    context = ssl.create_default_context(cadata=ca_data)
    context.minimum_version = context.maximum_version = version
    return TlsOptions(ssl_context=context)


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls12", "tls13"]
)
def test_S3_query_over_starttls(postgres_server: Server, version: ssl.TLSVersion) -> None:
    """The server takes the channel binding, and says itself which TLS it speaks with us."""
    tls = only(version, postgres_server.ca_data)
    sql = "select version from pg_stat_ssl where pid = pg_backend_pid()"
    with postgres.session(
        postgres_server.address, "postgres", postgres_server.password, tls=tls
    ) as (reader, writer):
        assert postgres.query(reader, writer, "select 6 * 7, null, 'x'") == [["42", None, "x"]]
        assert postgres.query(reader, writer, sql) == [[version.name.replace("_", ".", 1)]]


def test_R3_rows_come_whole(postgres_server: Server) -> None:
    """A value of 5 MB and 50,000 short ones, byte for byte."""
    tls = TlsOptions(ca_data=postgres_server.ca_data)
    with postgres.session(
        postgres_server.address, "postgres", postgres_server.password, tls=tls
    ) as (reader, writer):
        [[big]] = postgres.query(reader, writer, "select repeat('tcpsock', 750000)")
        assert big == "tcpsock" * 750_000
        rows = postgres.query(reader, writer, "select i from generate_series(1, 50000) as i")
        assert rows == [[str(i)] for i in range(1, 50_001)]


def test_the_server_checks_the_channel_binding(postgres_server: Server) -> None:
    """A binding to some other certificate is refused: it is really looked at."""
    tls = TlsOptions(ca_data=postgres_server.ca_data)
    with tcpsock.connect(
        postgres_server.address, secure_transport="starttls", tls=tls, timeout=30
    ) as plain:
        reader, writer = postgres.upgrade(plain).streams()
        writer.write(b"\0\0\0\x17\0\3\0\0user\0postgres\0\0")
        with pytest.raises(postgres.PostgresError, match="channel binding"):
            postgres.log_in(reader, writer, postgres_server.password, b"another certificate")


def test_the_server_refuses(postgres_server: Server) -> None:
    """Its own words reach the caller, and the connection ends cleanly."""
    tls = TlsOptions(ca_data=postgres_server.ca_data)
    login = (postgres_server.address, "postgres")
    with pytest.raises(postgres.PostgresError, match="password authentication failed"):
        with postgres.session(*login, "wrong", tls=tls):
            pass
    with pytest.raises(postgres.PostgresError, match="syntax error"):
        with postgres.session(*login, postgres_server.password, tls=tls) as (reader, writer):
            postgres.query(reader, writer, "selct 1")


def test_S3_an_unknown_certificate_ends_the_upgrade(postgres_server: Server) -> None:
    """Without its root nothing of the login goes out."""
    with pytest.raises(tcpsock.TlsVerificationError):
        with postgres.session(postgres_server.address, "postgres", postgres_server.password):
            pass
