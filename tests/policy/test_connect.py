"""P1, P2, P5, P11 to P14, P17: a policy at work in connect(), and who sees what of it."""

from __future__ import annotations

import itertools
import logging
import socket
import ssl
import subprocess
import sys
import threading
from typing import Any

import pytest
from peers import WAIT, Call, ca_data, only

import tcpsock
from tcpsock import ConnectError, EgressPolicy, PolicyViolation

from .network import PUBLIC, Dials, QuietListener, Zone

public_internet = EgressPolicy.public_internet
workers = EgressPolicy.workers
Records = list[logging.LogRecord]


def refused(address: object, policy: EgressPolicy, **options: Any) -> PolicyViolation:
    """What a connection fails with: `opened`, `closed`, and who reads (rules O3 and P1)."""
    sock = tcpsock.connect(address, policy=policy, **options)
    error = sock.opened.exception(WAIT)
    assert isinstance(error, PolicyViolation), error
    assert sock.closed.exception(WAIT) is error
    with pytest.raises(PolicyViolation) as raised:
        sock.readable.get_reader().read()
    assert str(raised.value) == str(error) and raised.value.__cause__ is error
    assert raised.value.decision == error.decision
    return error


def reached(address: object, listener: QuietListener, policy: EgressPolicy) -> tcpsock.SocketInfo:
    with tcpsock.connect(address, policy=policy, close_timeout=0) as sock:
        info = sock.opened.result(WAIT)
        listener.accept().close()
    return info


# P1, P5: how a refusal arrives, and what was done until then


@pytest.mark.parametrize(
    ("host", "fields", "code"),
    [
        ("2130706433", {}, "policy-spelling"),
        ("0x7f.1", {"preset": "public_internet"}, "policy-spelling"),
        ("127.0.0.1.", {"preset": "workers"}, "policy-spelling"),
        ("\uff12\uff11\uff13\uff10\uff17\uff10\uff16\uff14\uff13\uff13", {}, "policy-spelling"),
        ("db.example", {"allow_ports": [1]}, "policy-port"),
        ("db.example", {"deny_hosts": ["*.example"]}, "policy-host"),
        ("127.0.0.1", {"preset": "public_internet"}, "policy-address"),
        ("::ffff:127.0.0.1", {"preset": "public_internet"}, "policy-address"),
        ("\uff11\uff12\uff17.0.0.1", {"preset": "public_internet"}, "policy-address"),
        ("127.0.0.1", {"own_addresses": ["0.0.0.0:PORT"]}, "policy-loop"),
        ("127.0.0.1", {"check": lambda *_: False}, "policy-check"),
    ],
    ids=lambda value: ascii(value) if isinstance(value, str) else "",
)
def test_P1_P5_refused_before_any_look_up(
    zone: Zone, dials: Dials, listener: QuietListener, host: str, fields: Any, code: str
) -> None:
    """Nothing is asked or dialled, and the listener that would have been reached is not."""
    if "own_addresses" in fields:
        fields = {"own_addresses": [f"0.0.0.0:{listener.port}"]}
    zone["db.example"] = ["127.0.0.1"]
    error = refused((host, listener.port), EgressPolicy(**fields))
    assert (error.code, error.phase, error.errno) == (code, "policy", None)
    assert error.address == (f"[{host}]" if ":" in host else host) + f":{listener.port}"
    assert isinstance(error, PermissionError)
    assert zone.asked == [] and dials.made == []
    assert listener.saw_nobody()


def test_P1_refused_after_exactly_one_look_up(
    zone: Zone, dials: Dials, listener: QuietListener
) -> None:
    zone["db.example"] = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.5"]
    error = refused(("db.example", listener.port), public_internet())
    assert error.code == "policy-address"
    assert str(error) == (
        f"db.example:{listener.port}: 127.0.0.1 is loopback (127.0.0.0/8, RFC 1122), not public"
        ' internet; if this is meant: allow_networks=("127.0.0.0/8",)'
    )
    decision: Any = error.decision
    # In the order in which they would have been dialled, by families in turn.
    assert {address for address, _ in decision.refused} == set(zone.names["db.example"])
    assert zone.asked == ["db.example"] and dials.made == []
    assert listener.saw_nobody()


def test_P1_a_connection_that_is_allowed_takes_one_look_up(
    zone: Zone, dials: Dials, listener: QuietListener
) -> None:
    zone["db.example"] = ["127.0.0.1"]
    info = reached(
        ("db.example", listener.port), listener, public_internet(allow_networks=["127.0.0.1"])
    )
    assert info.remote_address == listener.address
    assert zone.asked == ["db.example"] and dials.made == ["127.0.0.1"]


def test_P1_dns_rebinding_gets_nothing(zone: Zone, dials: Dials, listener: QuietListener) -> None:
    """A name that is public the first time and loopback from then on: it is looked up once."""
    answers = itertools.chain([["192.0.2.1"]], itertools.repeat(["127.0.0.1"]))
    zone["rebind.example"] = lambda: next(answers)
    policy = public_internet(allow_networks=["192.0.2.1"])
    address = ("rebind.example", listener.port)
    sock = tcpsock.connect(address, policy=policy)
    error = sock.opened.exception(WAIT)
    assert isinstance(error, ConnectError) and "not in a test" in str(error)
    assert zone.asked == ["rebind.example"] and dials.made == ["192.0.2.1"]
    # The next connection is a look-up of its own, and is judged by what that finds.
    assert refused(address, policy).code == "policy-address"
    assert zone.asked == ["rebind.example"] * 2 and dials.made == ["192.0.2.1"]
    assert listener.saw_nobody()


def test_P1_the_vetted_sockaddr_itself_is_dialled(
    zone: Zone, listener: QuietListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not its text again, which somebody may read differently."""
    seen: list[Any] = []

    class Socket(socket.socket):
        def connect_ex(self, address: Any) -> int:
            seen.append(address)
            return super().connect_ex(address)

    monkeypatch.setattr(socket, "socket", Socket)
    zone["db.example"] = ["127.0.0.1"]
    reached(("db.example", listener.port), listener, EgressPolicy())
    assert seen == [("127.0.0.1", listener.port)]


def test_P1_an_answer_that_is_no_address_is_not_handed_to_the_kernel(
    zone: Zone, dials: Dials, listener: QuietListener
) -> None:
    """connect() on a name would look it up a second time, and where nobody judges."""
    for junk in ("localhost", "0x7f.1", "2130706433"):
        zone["odd.example"] = [junk]
        error = refused(("odd.example", listener.port), EgressPolicy())
        assert error.code == "policy-address" and "is no IP address" in str(error)
    assert dials.made == [] and listener.saw_nobody()


def test_P1_the_proxy_of_another_name_is_judged_like_any(
    zone: Zone, listener: QuietListener
) -> None:
    for name in ("localhost", "localhost.localdomain", "ip6-localhost", "127.0.0.1.nip.example"):
        zone[name] = ["127.0.0.1"]
        assert refused((name, listener.port), public_internet()).code == "policy-address"
    assert listener.saw_nobody()


@pytest.mark.parametrize("transport", ["on", "starttls"])
def test_P1_with_tls_too(zone: Zone, listener: QuietListener, transport: Any) -> None:
    zone["localhost"] = ["127.0.0.1"]
    error = refused(("localhost", listener.port), workers(), secure_transport=transport)
    assert str(error) == "proxy request failed, cannot connect to the specified address"
    assert listener.saw_nobody()


def test_P1_after_start_tls_all_four_futures_tell_it() -> None:
    sock = tcpsock.connect("10.0.0.5:80", policy=public_internet(), secure_transport="starttls")
    try:
        upgraded = sock.start_tls()
    except PolicyViolation:
        return  # the refusal was there first
    for future in (sock.opened, sock.closed, upgraded.opened, upgraded.closed):
        assert isinstance(future.exception(WAIT), PolicyViolation)


def test_P1_an_option_of_connect_or_of_SocketOptions(listener: QuietListener) -> None:
    policy = public_internet()
    options = tcpsock.SocketOptions(policy=policy)
    sock = tcpsock.connect(listener.address, options)
    assert isinstance(sock.opened.exception(WAIT), PolicyViolation)
    assert listener.saw_nobody()
    listener.sock.settimeout(WAIT)
    with tcpsock.connect(listener.address, options, policy=None, close_timeout=0) as sock:
        sock.opened.result(WAIT)
        listener.accept().close()


def test_P10_without_a_policy_nothing_is_judged(zone: Zone, listener: QuietListener) -> None:
    """What getaddrinfo takes for an address is one, as with any other socket."""
    zone["0x7f.1"] = ["127.0.0.1"]
    with tcpsock.connect(("0x7f.1", listener.port), close_timeout=0) as sock:
        sock.opened.result(WAIT)
        listener.accept().close()
    assert zone.asked == ["0x7f.1"]


def test_O5_a_name_with_hundreds_of_addresses(zone: Zone, listener: QuietListener) -> None:
    zone["many.example"] = [f"10.0.{i}.5" for i in range(250)] + ["127.0.0.1"]
    policy = public_internet(allow_networks=["127.0.0.1"])
    info = reached(("many.example", listener.port), listener, policy)
    assert len(info.attempts) == 251 and info.attempts[-1].error is None


# P2: the Workers runtime's sentences, and nothing else

SENTENCE = "proxy request failed, cannot connect to the specified address"


@pytest.mark.parametrize(
    ("host", "port", "fields", "text"),
    [
        ("10.0.0.5", 80, {}, SENTENCE),
        ("internal.example", 80, {}, SENTENCE),
        ("169.254.169.254", 80, {}, SENTENCE),
        ("0x7f.1", 80, {}, SENTENCE),
        (PUBLIC, 80, {"deny_networks": [PUBLIC]}, SENTENCE),
        (PUBLIC, 80, {"check": lambda *_: "10.0.0.5 is secret"}, SENTENCE),
        ("127.0.0.1", 8000, {"own_addresses": ["127.0.0.1:8000"]}, "TCP Loop detected"),
        ("internal.example", 80, {"own_addresses": ["10.0.0.5:80"]}, "TCP Loop detected"),
        ("mail.example", 25, {}, "Connections to port 25 are prohibited"),
    ],
)
def test_P2_workers_messages_word_for_word(
    zone: Zone, host: str, port: int, fields: Any, text: str
) -> None:
    zone["internal.example"] = ["10.0.0.5"]
    error = refused((host, port), workers(**fields))
    assert str(error) == text and error.args == (text,) and error.strerror == text
    assert str(error.decision) not in ("", text)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"deny_ports": [80]}, "deny_ports (80)"),
        ({"allow_ports": [443]}, "allow_ports"),
        ({"deny_hosts": ["*.example"]}, 'deny_hosts "*.example"'),
        ({"allow_hosts": ["web.example"]}, "allow_hosts"),
    ],
    ids=["deny_ports", "allow_ports", "deny_hosts", "allow_hosts"],
)
def test_P2_with_workers_the_users_own_hosts_and_ports_are_named(fields: Any, said: str) -> None:
    error = refused("db.example:80", workers(**fields))
    assert str(error).startswith("db.example:80: ") and said in str(error)


def test_P2_cloudflares_own_ranges_are_no_part_of_it() -> None:
    for address in ("104.16.132.229", "1.1.1.1", "2606:4700:4700::1111"):
        assert workers().evaluate(address, 443)
        assert not workers(
            deny_networks=["104.16.0.0/13", "1.1.1.0/24", "2606:4700::/32"]
        ).evaluate(address, 443)


def test_P12_a_loop_is_seen_where_it_would_be_dialled(
    zone: Zone, dials: Dials, listener: QuietListener
) -> None:
    own = f"127.0.0.1:{listener.port}"
    policy = EgressPolicy(own_addresses=[own])
    zone["me.example"] = ["127.0.0.1"]
    zone.ports["me.example"] = listener.port
    error = refused("me.example:80", policy)
    assert error.code == "policy-loop"
    assert str(error) == (
        f'me.example:80: TCP Loop detected: {own} is this program itself (own_addresses "{own}")'
    )
    assert dials.made == [] and listener.saw_nobody()


# P11: mixed answers


def test_P11_the_forbidden_ones_are_left_out_and_told(
    zone: Zone, dials: Dials, listener: QuietListener, records: Records
) -> None:
    zone["mixed.example"] = ["10.0.0.5", "fd00::5", "127.0.0.1"]
    policy = public_internet(allow_networks=["127.0.0.1"])
    info = reached(("mixed.example", listener.port), listener, policy)
    assert dials.made == ["127.0.0.1"]
    *left_out, won = info.attempts
    assert won.address == listener.address and won.error is None
    assert {attempt.address for attempt in left_out} == {
        f"10.0.0.5:{listener.port}",
        f"[fd00::5]:{listener.port}",
    }
    for attempt in left_out:
        error = attempt.error
        assert isinstance(error, PolicyViolation) and attempt.seconds == 0.0
        assert error.code == "policy-address"
        assert error.address == f"mixed.example:{listener.port}"
        decision: Any = error.decision
        assert decision.allowed and decision.addresses == ("127.0.0.1",)
    assert sorted((r.levelname, facts(r)["peer"]) for r in records) == [
        ("INFO", "10.0.0.5"),
        ("INFO", "fd00::5"),
    ]


def test_P11_in_a_ConnectError_too(zone: Zone, dials: Dials) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    zone["mixed.example"] = ["10.0.0.5", "127.0.0.1"]
    policy = workers(allow_networks=["127.0.0.1"])
    error = tcpsock.connect(("mixed.example", port), policy=policy).opened.exception(WAIT)
    assert isinstance(error, ConnectError)
    left_out, tried = error.attempts
    assert isinstance(left_out.error, PolicyViolation) and str(left_out.error) == SENTENCE
    assert isinstance(tried.error, ConnectionRefusedError)
    assert f"10.0.0.5:{port} left out by the policy" in str(error)
    assert dials.made == ["127.0.0.1"]


def test_P11_an_own_address_among_others_is_left_out(zone: Zone, listener: QuietListener) -> None:
    zone["mixed.example"] = ["127.0.0.2", "127.0.0.1"]
    policy = EgressPolicy(own_addresses=[f"127.0.0.2:{listener.port}"])
    info = reached(("mixed.example", listener.port), listener, policy)
    error = info.attempts[0].error
    assert isinstance(error, PolicyViolation) and error.code == "policy-loop"


def test_P11_none_left_is_refused(zone: Zone, dials: Dials) -> None:
    zone["db.example"] = ["10.0.0.5", "fd00::5"]
    error = refused("db.example:80", public_internet())
    decision: Any = error.decision
    assert not decision and decision.addresses == () and len(decision.refused) == 2
    assert dials.made == []


# P13: where check runs


def test_P13_in_the_connections_thread_and_outside_locks(
    zone: Zone, listener: QuietListener
) -> None:
    zone["db.example"] = ["127.0.0.1"]
    seen: list[Any] = []

    def check(host: str, port: int, address: str) -> bool:
        # A lock held here would stop what another thread asks of the same socket.
        call = Call(lambda: (repr(sock), sock.stats, policy.evaluate("::1", 1, ["::1"])) and True)
        seen.append((host, port, address, threading.current_thread().name, call.result()))
        return True

    made = threading.Event()

    def waiting(host: str, port: int, address: str) -> bool:
        return made.wait(WAIT) and check(host, port, address) if address != "::1" else True

    policy = EgressPolicy(check=waiting)
    sock = tcpsock.connect(("db.example", listener.port), policy=policy, close_timeout=0)
    made.set()
    sock.opened.result(WAIT)
    listener.accept().close()
    sock.close().result(WAIT)
    name = f"tcpsock db.example:{listener.port}"
    assert seen == [("db.example", listener.port, "127.0.0.1", name, True)]


def test_P13_an_exception_is_the_cause(zone: Zone, dials: Dials) -> None:
    for raised in (LookupError("no database"), SystemExit(3), KeyboardInterrupt()):

        def check(host: str, port: int, address: str, raised: BaseException = raised) -> bool:
            raise raised

        error = refused("127.0.0.1:80", EgressPolicy(check=check))
        assert error.code == "policy-check" and error.__cause__ is raised
        assert error.__cause__.__traceback__ is None  # it would keep the socket alive
    assert dials.made == []


def test_P13_a_check_that_hangs_holds_up_no_other_connection(listener: QuietListener) -> None:
    answer = threading.Event()
    policy = EgressPolicy(check=lambda *_: answer.wait(WAIT))
    sock = tcpsock.connect(listener.address, policy=policy, close_timeout=0)
    with tcpsock.connect(listener.address, policy=EgressPolicy(), close_timeout=0) as other:
        other.opened.result(WAIT)
        listener.accept().close()
    assert not sock.opened.done()
    answer.set()
    sock.opened.result(WAIT)
    listener.accept().close()
    sock.close().result(WAIT)


def test_E4_closed_while_check_runs(listener: QuietListener, dials: Dials) -> None:
    asked, answer = threading.Event(), threading.Event()

    def check(host: str, port: int, address: str) -> bool:
        asked.set()
        return answer.wait(WAIT)

    sock = tcpsock.connect(listener.address, policy=EgressPolicy(check=check), close_timeout=0)
    assert asked.wait(WAIT)
    closed = sock.close()
    answer.set()
    assert closed.result(WAIT) is None
    assert isinstance(sock.opened.exception(WAIT), tcpsock.SocketClosed)


# P14


def test_P14_combined_policies_in_connect(
    zone: Zone, dials: Dials, listener: QuietListener
) -> None:
    zone["db.example"] = ["127.0.0.1", "127.0.0.2"]
    one = EgressPolicy(allow_networks=["127.0.0.0/8"])
    two = EgressPolicy(deny_networks=["127.0.0.2"], deny_ports=[22])
    info = reached(("db.example", listener.port), listener, one & two)
    assert len(info.attempts) == 2 and dials.made == ["127.0.0.1"]
    assert refused("db.example:22", one & two).code == "policy-port"


# P17: the log


def facts(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = vars(record)["tcpsock"]
    return found


def test_P17_each_refused_connection_is_one_warning(zone: Zone, records: Records) -> None:
    zone["db.example"] = ["10.0.0.5", "10.0.0.6", "fd00::5"]
    refused("db.example:80", public_internet())
    refused("0x7f.1:80", workers())
    refused("db.example:25", workers())
    refused("[::1]:80", workers())
    expected = [
        ("db.example:80", "10.0.0.5", "policy-address"),
        ("0x7f.1:80", None, "policy-spelling"),
        ("db.example:25", None, "policy-port"),
        ("[::1]:80", "::1", "policy-address"),
    ]
    assert [facts(record) for record in records] == [
        {"event": "policy", "address": address, "peer": peer, "code": code, "scope": None}
        for address, peer, code in expected
    ]
    for record in records:
        assert (record.name, record.levelname) == ("tcpsock.policy", "WARNING")
    assert records[0].getMessage().startswith("refused db.example:80: 10.0.0.5 is private-use")
    assert "loopback" in records[3].getMessage()  # also where the error keeps it to itself


def test_P17_a_connection_that_is_allowed_logs_nothing(
    listener: QuietListener, records: Records
) -> None:
    reached(listener.address, listener, EgressPolicy())
    assert records == []


def test_P17_L2_hosts_in_messages_are_escaped_and_cut(records: Records) -> None:
    host = ".".join(["a" * 60] * 4)
    error = refused((host, 80), EgressPolicy(deny_hosts=[host]))
    assert error.address == f"{host}:80"  # attributes keep it raw
    shown = host[:200] + "...:80"
    assert str(error).startswith(f"{shown}: the host is denied by deny_hosts")
    assert facts(records[0])["address"] == shown
    assert host not in records[0].getMessage() and host not in str(error)


def test_P17_L2_what_check_says_is_escaped(records: Records) -> None:
    policy = EgressPolicy(check=lambda *_: "\x1b]0;gotcha\x07\u202e" + "x" * 1000)
    error = refused("127.0.0.1:80", policy)
    for text in (str(error), str(error.decision), repr(error), records[0].getMessage()):
        assert "\x1b" not in text and "\u202e" not in text and len(text) < 400
        assert "gotcha" in text


@pytest.mark.parametrize("raised", [ValueError, SystemExit])
def test_L1_a_handler_that_raises_breaks_no_connection(
    zone: Zone, listener: QuietListener, raised: type[BaseException], records: Records
) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise raised

    handler = Broken()
    logging.getLogger("tcpsock.policy").addHandler(handler)
    try:
        zone["mixed.example"] = ["10.0.0.5", "127.0.0.1"]
        policy = public_internet(allow_networks=["127.0.0.1"])
        reached(("mixed.example", listener.port), listener, policy)
        assert refused("10.0.0.5:80", policy).code == "policy-address"
    finally:
        logging.getLogger("tcpsock.policy").removeHandler(handler)


def test_L1_nothing_is_printed_by_itself() -> None:
    script = (
        "import tcpsock\n"
        "policy = tcpsock.EgressPolicy.public_internet()\n"
        "error = tcpsock.connect('127.0.0.1:9', policy=policy).opened.exception(20)\n"
        "assert error.code == 'policy-address'\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script], capture_output=True, timeout=50
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# The rest of the connection is as ever


def test_tls_over_a_vetted_address(zone: Zone, listener: QuietListener) -> None:
    zone["localhost"] = ["127.0.0.1"]
    policy = public_internet(allow_networks=["127.0.0.1"])
    options = {"secure_transport": "on", "tls": tcpsock.TlsOptions(ca_data=ca_data())}
    with tcpsock.connect(
        ("localhost", listener.port), policy=policy, close_timeout=0, **options
    ) as sock:
        peer = listener.accept()
        peer.start_tls(only(ssl.TLSVersion.TLSv1_3))
        assert sock.opened.result(WAIT).tls_version == "TLSv1.3"
    peer.close()


def test_local_address_leaves_its_family_and_the_policy_judges_the_rest(
    zone: Zone, listener: QuietListener
) -> None:
    zone["db.example"] = ["::1", "127.0.0.1"]
    policy = EgressPolicy(allow_networks=["::1"])
    error = refused(("db.example", listener.port), policy, local_address=("127.0.0.1", 0))
    decision: Any = error.decision
    assert [address for address, _ in decision.refused] == ["127.0.0.1"]
