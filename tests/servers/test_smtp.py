"""SMTP with STARTTLS to exim4, into a mailbox."""

from __future__ import annotations

import time

import pytest
from launch import Server

import tcpsock
from examples import smtp
from tcpsock import TlsOptions

DELIVERY = 20.0  # seconds; exim hands a message on in a process of its own


def delivered(server: Server, subject: str) -> str:
    """Wait until the mailbox holds a message with that subject, and return it."""
    mailbox = server.directory / "mailbox"
    deadline = time.monotonic() + DELIVERY
    while time.monotonic() < deadline:
        text = mailbox.read_text() if mailbox.exists() else ""
        for message in text.split("From alice@example.com ")[1:]:
            if f"\nSubject: {subject}\n" in message and message.endswith("\n\n"):
                return message
        time.sleep(0.05)
    raise AssertionError(f"no message {subject!r} in {mailbox}")


def test_S3_message_over_starttls(smtp_server: Server) -> None:
    """It arrives as it was sent, its lines that begin with dots included, and came over TLS."""
    tls = TlsOptions(ca_data=smtp_server.ca_data)
    message = "Subject: first\n\nOne\n.\n..two dots\nthe end\n"
    answer = smtp.send(
        smtp_server.address, "alice@example.com", "bob@example.com", message, tls=tls
    )
    assert answer.startswith("OK id=")
    arrived = delivered(smtp_server, "first")
    head, body = arrived.split("\n\n", 1)
    assert body.rstrip("\n") == "One\n.\n..two dots\nthe end"
    assert "with esmtps  (TLS1" in head


def test_W1_a_long_message(smtp_server: Server) -> None:
    """Five megabytes of it, in one write."""
    tls = TlsOptions(ca_data=smtp_server.ca_data)
    line = "x" * 70
    message = "Subject: long\n\n" + f"{line}\n" * 70_000
    smtp.send(smtp_server.address, "alice@example.com", "bob@example.com", message, tls=tls)
    assert delivered(smtp_server, "long").count(line) == 70_000


def test_the_server_refuses(smtp_server: Server) -> None:
    """Its own words reach the caller."""
    tls = TlsOptions(ca_data=smtp_server.ca_data)
    with pytest.raises(smtp.SmtpError, match="550"):
        smtp.send(smtp_server.address, "alice@example.com", "bob@elsewhere.example", "", tls=tls)


def test_S3_an_unknown_certificate_ends_the_upgrade(smtp_server: Server) -> None:
    """The message is never sent to whom we can't verify."""
    with pytest.raises(tcpsock.TlsVerificationError):
        smtp.send(smtp_server.address, "alice@example.com", "bob@example.com", "Subject: no\n\n")
    mailbox = smtp_server.directory / "mailbox"
    assert not mailbox.exists() or "Subject: no\n" not in mailbox.read_text()
