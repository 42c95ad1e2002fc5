"""Send a message over SMTP with STARTTLS: a dialogue of lines that turns to TLS in its middle.

    python examples/smtp.py                               to a stand-in that it starts itself
    python examples/smtp.py HOST:PORT SENDER RECIPIENT    the message is read from stdin

An environment variable SSL_CERT_FILE names the roots to trust, if they are not the public ones.
RFC 5321 is the dialogue, RFC 3207 its STARTTLS.
"""

from __future__ import annotations

import re
import sys

from tcpsock import Reader, SocketError, TlsOptions, Writer, connect


class SmtpError(Exception):
    """The server said no; the text is its reply."""


def read_reply(reader: Reader, *, expect: int) -> list[str]:
    """Read a reply of one line or more ("250-" goes on, "250 " is the last) and return its texts.

    Raises:
        SmtpError: it has another code than the one expected.
    """
    texts = []
    while True:
        line = reader.readline(limit=4096).decode("utf-8", "replace").rstrip("\r\n")
        texts.append(line[4:])
        if line[3:4] != "-":
            break
    if line[:3] != str(expect):
        raise SmtpError(f"{line[:3]} {' / '.join(texts)}")
    return texts


def ask(reader: Reader, writer: Writer, command: str, *, expect: int) -> list[str]:
    """Send one command and return the texts of its reply."""
    writer.write(command.encode() + b"\r\n")
    return read_reply(reader, expect=expect)


def dotted(message: str) -> bytes:
    """The message as DATA takes it: CR LF, no line that is one dot alone, and then that line."""
    lines = re.split(r"\r\n|\r|\n", message.rstrip("\r\n"))
    lines = ["." + line if line.startswith(".") else line for line in lines]
    return "\r\n".join([*lines, ".", ""]).encode()


def send(
    address: str, sender: str, recipient: str, message: str, *, tls: TlsOptions | None = None
) -> str:
    """Send `message` (headers, an empty line, text) and return what the server said to it.

    Raises:
        SmtpError: the server refused something, or has no STARTTLS: nothing goes out in clear.
    """
    with connect(address, secure_transport="starttls", tls=tls, timeout=30) as plain:
        reader, writer = plain.streams()
        read_reply(reader, expect=220)
        if "STARTTLS" not in ask(reader, writer, "EHLO localhost", expect=250):
            raise SmtpError("the server has no STARTTLS")
        ask(reader, writer, "STARTTLS", expect=220)

        # The old reader and writer have stopped working. Had anything come behind the server's
        # go-ahead, this would raise PlaintextInjected: it can't have been the server who sent it.
        secure = plain.start_tls()
        reader, writer = secure.streams()
        ask(reader, writer, "EHLO localhost", expect=250)  # what was said in clear doesn't count
        ask(reader, writer, f"MAIL FROM:<{sender}>", expect=250)
        ask(reader, writer, f"RCPT TO:<{recipient}>", expect=250)
        ask(reader, writer, "DATA", expect=354)
        writer.write(dotted(message))
        answer = read_reply(reader, expect=250)
        ask(reader, writer, "QUIT", expect=221)
        return answer[-1]
    # Leaving the block that began before start_tls() has closed the socket that took over.


MESSAGE = """\
From: <alice@example.com>
To: <bob@example.com>
Subject: Lunch

At noon.
.. and don't be late.
"""


def main() -> None:
    if len(sys.argv) > 3:
        _, address, sender, recipient, *_ = sys.argv
        print(send(address, sender, recipient, sys.stdin.read()))
    else:
        import stand_ins

        with stand_ins.smtp() as server:
            tls = TlsOptions(ca_data=server.ca_data)
            print(send(server.address, "alice@example.com", "bob@example.com", MESSAGE, tls=tls))


if __name__ == "__main__":
    try:
        main()
    except (SocketError, SmtpError) as error:
        sys.exit(f"smtp: {error}")
