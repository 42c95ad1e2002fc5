"""tcpsock._wire.contexts: what a context trusts and shows, and when two connections share one."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tcpsock._errors import TlsError
from tcpsock._options import TlsOptions
from tcpsock._wire import contexts
from tcpsock._wire.contexts import checked_at_call, client_context

trustme = pytest.importorskip("trustme")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")

ROOT = Path(__file__).resolve().parents[2]
HOST = "server.example"
PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from outside, and no context from the test before."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    contexts._entries.clear()
    yield
    contexts._entries.clear()
    gc.collect()  # a context with a key log holds its file open


@pytest.fixture(scope="module")
def authority() -> Any:
    return trustme.CA()


@pytest.fixture(scope="module")
def stranger() -> Any:
    """An authority that our contexts are not told to trust."""
    return trustme.CA()


@pytest.fixture
def roots(authority: Any, tmp_path: Path) -> Path:
    """A file with the authority's root."""
    path = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def client_files(authority: Any, tmp_path: Path) -> Path:
    """A directory with a client certificate and its key in several forms."""
    issued = authority.issue_cert("client.example")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encryption = serialization.BestAvailableEncryption(PASSWORD.encode())
    encrypted = {
        "pkcs8.pem": serialization.PrivateFormat.PKCS8,
        "traditional.pem": serialization.PrivateFormat.TraditionalOpenSSL,
    }
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    authority.issue_cert("other.example").private_key_pem.write_to_path(tmp_path / "other.pem")
    cert = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    (tmp_path / "cert.pem").write_bytes(cert)
    for name, form in encrypted.items():
        pem = key.private_bytes(serialization.Encoding.PEM, form, encryption)
        (tmp_path / name).write_bytes(pem)
    (tmp_path / "both-encrypted.pem").write_bytes(cert + (tmp_path / "pkcs8.pem").read_bytes())
    (tmp_path / "rsa.pem").write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (tmp_path / "garbage.pem").write_bytes(b"no certificate, no key\n")
    (tmp_path / "broken.pem").write_bytes(
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    (tmp_path / "empty.pem").touch()
    return tmp_path


def server_context(authority: Any, name: str = HOST) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[ssl.SSLSocket, object]:
    """The client's end after a handshake with a server, and what certificate that has seen."""
    near, far = socket.socketpair()
    seen: list[object] = []

    def serve() -> None:
        with far:
            try:
                with server.wrap_socket(far, server_side=True) as accepted:
                    seen.append(accepted.getpeercert(binary_form=True))
            except OSError as error:
                seen.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with near:
            secured = client.wrap_socket(near, server_hostname=HOST)
    finally:
        thread.join()
    return secured, seen[0]


def trusts(client: ssl.SSLContext, authority: Any) -> bool:
    try:
        secured, _ = handshake(client, server_context(authority))
    except ssl.SSLCertVerificationError:
        return False
    secured.close()
    return True


def run_python(*arguments: object, **environment: object) -> list[str]:
    """The lines that a fresh interpreter prints; `tcpsock` is found in the project's root."""
    finished = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


# How it is built


@pytest.mark.parametrize("trust", ["certifi", "system"])
def test_O7_contexts_are_explicit(trust: Any) -> None:
    """The same on every Python, whatever its default context is like."""
    context = client_context(TlsOptions(trust=trust))
    assert context.protocol == ssl.PROTOCOL_TLS_CLIENT
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname is True
    assert context.hostname_checks_common_name is False
    assert context.verify_flags == ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    usual = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).options
    ours = (usual & ~ssl.OP_IGNORE_UNEXPECTED_EOF) | ssl.OP_NO_RENEGOTIATION
    assert context.options == ours


def test_O7_the_default_trusts_certifi() -> None:
    """certifi's roots, all of them and no others."""
    certifi = pytest.importorskip("certifi")
    expected = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    expected.load_verify_locations(certifi.where())
    assert client_context(TlsOptions()).get_ca_certs(True) == expected.get_ca_certs(True)


def test_K2_certifi_is_imported_late(roots: Path) -> None:
    """Neither the import nor a context with roots of its own needs certifi."""
    script = (
        "import sys\n"
        "from tcpsock._options import TlsOptions\n"
        "from tcpsock._wire.contexts import client_context\n"
        "client_context(TlsOptions(ca_file=sys.argv[1]))\n"
        "print('certifi' in sys.modules)\n"
        "client_context(TlsOptions())\n"
        "print('certifi' in sys.modules)\n"
    )
    assert run_python("-c", script, roots) == ["False", "True"]


def test_O7_minimum_version_is_held(authority: Any, roots: Path) -> None:
    """With TLS 1.3 at least, a TLS 1.2 server is refused."""
    server = server_context(authority)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    secured, _ = handshake(client_context(TlsOptions(ca_file=roots)), server)
    with secured:
        assert secured.version() == "TLSv1.2"
    newer = TlsOptions(ca_file=roots, minimum_version=ssl.TLSVersion.TLSv1_3)
    with pytest.raises(ssl.SSLError):
        handshake(client_context(newer), server)


def test_O7_alpn_is_offered(authority: Any, roots: Path) -> None:
    """The protocols go out; the server chooses one."""
    server = server_context(authority)
    server.set_alpn_protocols(["http/1.1"])
    client = client_context(TlsOptions(ca_file=roots, alpn=["h2", "http/1.1"]))
    secured, _ = handshake(client, server)
    with secured:
        assert secured.selected_alpn_protocol() == "http/1.1"


def test_O7_the_name_is_verified(authority: Any, roots: Path) -> None:
    """A trusted certificate for another name is refused."""
    client = client_context(TlsOptions(ca_file=roots))
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        handshake(client, server_context(authority, "other.example"))


def test_A4_an_own_context_is_used_as_it_is() -> None:
    """It comes back itself, and nothing about it changes."""
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own.check_hostname = False
    own.verify_mode = ssl.CERT_NONE
    before = (own.options, own.verify_flags, own.minimum_version)
    assert client_context(TlsOptions(ssl_context=own)) is own
    assert (own.options, own.verify_flags, own.minimum_version) == before
    assert own.verify_mode == ssl.CERT_NONE


# Who is trusted


def in_a_file(pem: bytes, directory: Path) -> TlsOptions:
    path = directory / "form.pem"
    path.write_bytes(pem)
    return TlsOptions(ca_file=path)


def in_a_named_file(pem: bytes, directory: Path) -> TlsOptions:
    in_a_file(pem, directory)
    return TlsOptions(ca_file=str(directory / "form.pem"))


def in_a_commented_file(pem: bytes, directory: Path) -> TlsOptions:
    return in_a_file("# F\u0151 root\n".encode() + pem + b"# \xff\n", directory)


def as_text(pem: bytes, directory: Path) -> TlsOptions:
    return TlsOptions(ca_data=pem.decode())


def as_commented_text(pem: bytes, directory: Path) -> TlsOptions:
    return TlsOptions(ca_data="# F\u0151 root\n" + pem.decode())


def as_pem_bytes(pem: bytes, directory: Path) -> TlsOptions:
    return TlsOptions(ca_data=b"# \xff\n" + pem)


def as_der(pem: bytes, directory: Path) -> TlsOptions:
    return TlsOptions(ca_data=ssl.PEM_cert_to_DER_cert(pem.decode()))


@pytest.mark.parametrize(
    "form",
    [
        in_a_file,
        in_a_named_file,
        in_a_commented_file,
        as_text,
        as_commented_text,
        as_pem_bytes,
        as_der,
    ],
)
def test_A4_roots_in_every_form(
    form: Callable[[bytes, Path], TlsOptions], authority: Any, stranger: Any, tmp_path: Path
) -> None:
    """Exactly these roots are trusted: no stranger's, and none of certifi's."""
    options = form(authority.cert_pem.bytes(), tmp_path)
    context = client_context(options)
    assert checked_at_call(options)
    assert len(context.get_ca_certs()) == 1
    assert trusts(context, authority)
    assert not trusts(context, stranger)


def test_O7_several_roots_in_one_file(authority: Any, stranger: Any, tmp_path: Path) -> None:
    """Every certificate of a bundle counts."""
    bundle = authority.cert_pem.bytes() + stranger.cert_pem.bytes()
    context = client_context(in_a_file(bundle, tmp_path))
    assert trusts(context, authority)
    assert trusts(context, stranger)


def test_O7_an_intermediate_certificate_may_be_the_root(tmp_path: Path) -> None:
    """A root is what ca_file says, also if it has an issuer of its own (partial chain)."""
    middle = trustme.CA().create_child_ca()
    assert trusts(client_context(in_a_file(middle.cert_pem.bytes(), tmp_path)), middle)


@pytest.mark.parametrize(
    ("path", "error"), [("missing.pem", FileNotFoundError), (".", IsADirectoryError)]
)
@pytest.mark.parametrize("option", ["ca_file", "client_cert", "client_key"])
def test_A4_an_unreadable_file(
    option: str, path: str, error: type[OSError], client_files: Path
) -> None:
    """Its own OSError, which tells the file's name."""
    wrong = str(client_files / path)
    given: dict[str, Any] = {option: wrong}
    if option == "client_key":
        given["client_cert"] = client_files / "cert.pem"
    with pytest.raises(error) as caught:
        client_context(TlsOptions(**given))
    assert caught.value.filename == wrong
    assert not isinstance(caught.value, TlsError)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """No longer root, who may read every file."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if is_root:
        os.seteuid(65534)  # nobody
    yield
    if is_root:
        os.seteuid(0)


def test_A4_a_file_without_permission(roots: Path, request: pytest.FixtureRequest) -> None:
    """PermissionError, with the name."""
    roots.chmod(0)
    request.getfixturevalue("unprivileged")
    with pytest.raises(PermissionError) as caught:
        client_context(TlsOptions(ca_file=roots))
    assert caught.value.filename == str(roots)


def broken_roots(pem: bytes) -> list[bytes]:
    lines = pem.splitlines(keepends=True)
    return [
        b"",
        b"garbage\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        pem[: len(pem) // 2],
        pem + pem[: len(pem) // 2],
        pem + b"".join([*lines[:3], b"!!!!\n", *lines[3:]]),
        pem.decode().encode("utf-16"),
    ]


@pytest.mark.parametrize("which", range(len(broken_roots(b""))))
def test_A4_malformed_roots(which: int, authority: Any, tmp_path: Path) -> None:
    """A ValueError that names the file, or ca_data; also if only one of many is broken."""
    broken = broken_roots(authority.cert_pem.bytes())[which]
    options = in_a_file(broken, tmp_path)
    with pytest.raises(ValueError, match=r"ca_file '.*form\.pem'"):
        client_context(options)
    with pytest.raises(ValueError, match="ca_data"):
        client_context(TlsOptions(ca_data=broken))
    with pytest.raises(ValueError, match="ca_data"):
        client_context(TlsOptions(ca_data=broken.decode("latin-1")))


def test_A4_malformed_der(authority: Any) -> None:
    """DER that ends too early, or goes on with something else."""
    der = ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())
    for broken in (der[:100], der + b"garbage", der + der[:100]):
        with pytest.raises(ValueError, match="ca_data"):
            client_context(TlsOptions(ca_data=broken))


def test_A4_a_private_key_is_no_root(client_files: Path) -> None:
    """A mixed-up file is told, and nothing of its content is shown."""
    with pytest.raises(ValueError, match=r"ca_file '.*key\.pem'") as caught:
        client_context(TlsOptions(ca_file=client_files / "key.pem"))
    assert "PRIVATE" not in str(caught.value)


# The client's certificate


@pytest.mark.parametrize(
    ("cert", "key", "password"),
    [
        ("cert.pem", "key.pem", None),
        ("cert.pem", "key.pem", "not needed"),
        ("both.pem", None, None),
        ("both.pem", "both.pem", None),
        ("both-encrypted.pem", None, PASSWORD),
        ("cert.pem", "pkcs8.pem", PASSWORD),
        ("cert.pem", "pkcs8.pem", PASSWORD.encode()),
        ("cert.pem", "traditional.pem", PASSWORD),
    ],
)
def test_A4_a_client_certificate_is_shown(
    cert: str,
    key: str | None,
    password: str | bytes | None,
    client_files: Path,
    authority: Any,
    roots: Path,
) -> None:
    """The server gets to see the certificate, however the key is kept."""
    server = server_context(authority)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(roots)
    options = TlsOptions(
        ca_file=roots,
        client_cert=client_files / cert,
        client_key=None if key is None else client_files / key,
        client_key_password=password,
    )
    secured, seen = handshake(client_context(options), server)
    secured.close()
    pem = (client_files / "cert.pem").read_text()
    assert seen == ssl.PEM_cert_to_DER_cert(pem)
    assert checked_at_call(options)


@pytest.mark.parametrize(
    ("cert", "key", "password", "message"),
    [
        ("garbage.pem", "key.pem", None, r"client_cert '.*garbage\.pem': no certificate"),
        ("broken.pem", "key.pem", None, r"client_cert '.*broken\.pem': no certificate"),
        ("empty.pem", "key.pem", None, r"client_cert '.*empty\.pem': no certificate"),
        ("key.pem", "key.pem", None, r"client_cert '.*key\.pem': no certificate"),
        ("pkcs8.pem", None, None, r"client_cert '.*pkcs8\.pem': no certificate"),
        ("cert.pem", "garbage.pem", None, r"client_key '.*garbage\.pem': no private key"),
        ("cert.pem", "cert.pem", None, r"client_cert '.*cert\.pem': no private key"),
        ("cert.pem", None, None, r"client_cert '.*cert\.pem': no private key"),
        ("cert.pem", "empty.pem", None, r"client_key '.*empty\.pem': no private key"),
        ("cert.pem", "other.pem", None, r"client_key '.*other\.pem': not the key of .*cert\.pem"),
        ("cert.pem", "rsa.pem", None, r"client_key '.*rsa\.pem': not the key of .*cert\.pem"),
        ("cert.pem", "pkcs8.pem", None, r"client_key '.*pkcs8\.pem': .* client_key_password"),
        ("cert.pem", "traditional.pem", None, r"client_key '.*pem': .* client_key_password"),
        ("both-encrypted.pem", None, None, r"client_cert '.*pem': .* client_key_password"),
        ("cert.pem", "pkcs8.pem", "wrong pony", r"client_key '.*pkcs8\.pem': client_key_password"),
        ("cert.pem", "pkcs8.pem", "", r"client_key '.*pkcs8\.pem': client_key_password"),
        ("cert.pem", "traditional.pem", b"wrong pony", r"'.*traditional\.pem': client_key_passw"),
    ],
)
def test_A4_a_client_certificate_that_cannot_be(
    cert: str, key: str | None, password: str | bytes | None, message: str, client_files: Path
) -> None:
    """A ValueError names the option and the file at fault, never the password."""
    options = TlsOptions(
        client_cert=client_files / cert,
        client_key=None if key is None else client_files / key,
        client_key_password=password,
    )
    with pytest.raises(ValueError, match=message) as caught:
        client_context(options)
    assert type(caught.value) is ValueError
    assert "pony" not in str(caught.value)


def test_A4_a_refused_certificate_says_why(client_files: Path) -> None:
    """What OpenSSL holds for too weak is told in its words, not taken for a broken file."""
    x509 = pytest.importorskip("cryptography.x509")
    hashes = pytest.importorskip("cryptography.hazmat.primitives.hashes")
    datetime = pytest.importorskip("datetime")
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak.example")])
    start = datetime.datetime(2020, 1, 1)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start.replace(year=2040))
    ).sign(key, hashes.SHA256())
    path = client_files / "weak.pem"
    path.write_bytes(
        cert.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(ValueError, match=r"client_cert '.*weak\.pem': refused \(.*too small\)"):
        client_context(TlsOptions(client_cert=path))


# One context for many connections


def test_O7_equal_options_share_a_context(roots: Path, authority: Any) -> None:
    """What doesn't shape a context doesn't part connections either."""
    assert client_context(TlsOptions()) is client_context(TlsOptions())
    one = client_context(TlsOptions(ca_file=roots, alpn=["h2"]))
    assert client_context(TlsOptions(ca_file=str(roots), alpn=("h2",))) is one
    secured, _ = handshake(client_context(TlsOptions(ca_file=roots)), server_context(authority))
    with secured:
        variants = [
            TlsOptions(ca_file=roots, server_hostname="a.example"),
            TlsOptions(ca_file=roots, allow_truncation=True),
            TlsOptions(ca_file=roots, session=secured.session),
        ]
    assert {client_context(options) for options in variants} == {secured.context}


def test_O7_what_shapes_a_context_parts_them(client_files: Path, roots: Path) -> None:
    """Each option that makes a context different makes another one."""
    shutil.copy(roots, client_files / "copy.pem")
    cert, key = client_files / "cert.pem", client_files / "key.pem"
    options = [
        TlsOptions(),
        TlsOptions(trust="system"),
        TlsOptions(alpn=["h2"]),
        TlsOptions(alpn=["h2", "x"]),
        TlsOptions(minimum_version=ssl.TLSVersion.TLSv1_3),
        TlsOptions(ca_file=roots),
        TlsOptions(ca_file=client_files / "copy.pem"),
        TlsOptions(ca_data=roots.read_text()),
        TlsOptions(ca_data=roots.read_bytes() + b"\n"),
        TlsOptions(client_cert=cert, client_key=key),
        TlsOptions(client_cert=cert, client_key=key, client_key_password="x"),
        TlsOptions(client_cert=cert, client_key=key, client_key_password="y"),
    ]
    assert len({id(client_context(each)) for each in options}) == len(options)


def test_O7_a_changed_file_is_read_again(authority: Any, stranger: Any, roots: Path) -> None:
    """A file replaced in place, as certificates are when they are renewed."""
    options = TlsOptions(ca_file=roots)
    before = client_context(options)
    assert client_context(options) is before
    renewed = roots.with_suffix(".new")
    stranger.cert_pem.write_to_path(renewed)
    renewed.replace(roots)
    after = client_context(options)
    assert trusts(before, authority) and not trusts(before, stranger)
    assert trusts(after, stranger) and not trusts(after, authority)


def test_O7_a_changed_client_certificate_is_read_again(client_files: Path) -> None:
    """A key that no longer fits is noticed, although the options are the same."""
    options = TlsOptions(client_cert=client_files / "cert.pem", client_key=client_files / "key.pem")
    client_context(options)
    shutil.copy(client_files / "other.pem", client_files / "key.pem")
    with pytest.raises(ValueError, match="not the key"):
        client_context(options)


def test_O7_a_removed_file_is_missed(roots: Path) -> None:
    """A context from the cache does not hide that its file is gone."""
    options = TlsOptions(ca_file=roots)
    client_context(options)
    roots.unlink()
    with pytest.raises(FileNotFoundError):
        client_context(options)


def test_A4_a_wrong_password_finds_no_context_of_the_right_one(client_files: Path) -> None:
    """Who knows the password opens the key for nobody else; the cache doesn't know it either."""
    base = TlsOptions(
        client_cert=client_files / "cert.pem",
        client_key=client_files / "pkcs8.pem",
        client_key_password=PASSWORD,
    )
    client_context(base)
    client_context(replace(base, client_key_password=PASSWORD.encode()))
    assert len(contexts._entries) == 1
    assert PASSWORD not in repr(contexts._entries)
    for wrong in ("wrong pony", None):
        with pytest.raises(ValueError, match="client_key_password"):
            client_context(replace(base, client_key_password=wrong))


def test_A4_a_failure_is_not_kept(roots: Path) -> None:
    """A broken file that is put right works at the next connection, and the cache is bounded."""
    good = roots.read_bytes()
    options = TlsOptions(ca_file=roots)
    roots.write_bytes(b"x" * len(good))
    for _ in range(2):
        with pytest.raises(ValueError, match="ca_file"):
            client_context(options)
    roots.write_bytes(good + b"\n")
    assert client_context(options).get_ca_certs()


def test_O7_the_cache_is_bounded(roots: Path) -> None:
    """The one not used for the longest time goes; one in use stays."""
    used = client_context(TlsOptions(ca_file=roots))
    unused = client_context(TlsOptions(ca_file=roots, alpn=["unused"]))
    for number in range(2 * contexts._MOST_CONTEXTS):
        client_context(TlsOptions(ca_file=roots, alpn=[f"p{number}"]))
        assert client_context(TlsOptions(ca_file=roots)) is used
        assert len(contexts._entries) <= contexts._MOST_CONTEXTS
    assert client_context(TlsOptions(ca_file=roots, alpn=["unused"])) is not unused


def test_O7_threads_that_start_together_get_one_context(roots: Path) -> None:
    """It is built once, and everybody waits for that one."""
    threads = 16
    together = threading.Barrier(threads)

    def get(_: int) -> ssl.SSLContext:
        together.wait()
        return client_context(TlsOptions())

    with ThreadPoolExecutor(threads) as pool:
        assert len(set(pool.map(get, range(threads)))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes don't fork here")
def test_E8_a_forked_child_needs_no_lock_of_its_parent() -> None:
    """A child forked while others hold the locks builds its own; contexts have locks inside too."""
    script = (
        "import os, threading\n"
        "from tcpsock._options import TlsOptions\n"
        "from tcpsock._wire import contexts\n"
        "built = contexts.client_context(TlsOptions())\n"
        "half_built = contexts._shape_of(TlsOptions(trust='system'))\n"
        "contexts._entries[half_built] = contexts._Entry()\n"
        "for entry in contexts._entries.values():\n"
        "    entry.lock.acquire()\n"
        "contexts._lock.acquire()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    anew = contexts.client_context(TlsOptions())\n"
        "    assert anew is not built and contexts.client_context(TlsOptions()) is anew\n"
        "    contexts.client_context(TlsOptions(trust='system'))\n"
        "    os._exit(0)\n"
        "print(os.waitpid(child, 0)[1])\n"
    )
    assert run_python("-c", script) == ["0"]


def test_A4_what_is_checked_at_the_call() -> None:
    """Only what the user's own files and data may be wrong in; not the default, nor a context."""
    assert not checked_at_call(TlsOptions())
    assert not checked_at_call(TlsOptions(trust="system", alpn=["h2"], server_hostname="a"))
    assert not checked_at_call(TlsOptions(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))


# What the environment says


@pytest.fixture
def hashed(authority: Any, roots: Path, tmp_path: Path) -> Path:
    """A directory as OpenSSL looks certificates up in: by the hash of their subject."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl (the program) is not installed")
    directory = tmp_path / "hashed"
    directory.mkdir()
    command = [openssl, "x509", "-noout", "-hash", "-in", str(roots)]
    named = subprocess.run(command, capture_output=True, check=True, text=True)
    shutil.copy(roots, directory / f"{named.stdout.strip()}.0")
    return directory


@pytest.mark.parametrize("trust", ["certifi", "system"])
def test_O7_SSL_CERT_FILE_replaces_the_default_roots(
    trust: Any, authority: Any, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For both kinds of trust, and only while it is set."""
    before = client_context(TlsOptions(trust=trust))
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    context = client_context(TlsOptions(trust=trust))
    assert len(context.get_ca_certs()) == 1
    assert trusts(context, authority)
    monkeypatch.delenv("SSL_CERT_FILE")
    assert client_context(TlsOptions(trust=trust)) is before
    assert not trusts(before, authority)


@pytest.mark.parametrize("trust", ["certifi", "system"])
def test_O7_SSL_CERT_DIR_replaces_the_default_roots(
    trust: Any, authority: Any, stranger: Any, hashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One directory or several, and together with SSL_CERT_FILE."""
    empty = hashed.with_name("empty")
    empty.mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", os.pathsep.join([str(empty), str(hashed)]))
    context = client_context(TlsOptions(trust=trust))
    assert trusts(context, authority)
    assert not trusts(context, stranger)
    strange = hashed.with_name("strange.pem")
    stranger.cert_pem.write_to_path(strange)
    monkeypatch.setenv("SSL_CERT_FILE", str(strange))
    both = client_context(TlsOptions(trust=trust))
    assert trusts(both, authority) and trusts(both, stranger)


def test_O7_a_changed_SSL_CERT_FILE_is_read_again(
    stranger: Any, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its identity counts, as that of a file of the options does."""
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    before = client_context(TlsOptions())
    assert client_context(TlsOptions()) is before
    roots.unlink()
    stranger.cert_pem.write_to_path(roots)
    assert trusts(client_context(TlsOptions()), stranger)


def test_O7_own_roots_go_before_the_environment(
    authority: Any, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names roots gets exactly these, whatever the variables say."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/roots.pem")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    assert trusts(client_context(TlsOptions(ca_file=roots)), authority)
    assert trusts(client_context(TlsOptions(ca_data=roots.read_bytes())), authority)


@pytest.mark.parametrize("trust", ["certifi", "system"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "missing.pem"),
        ("SSL_CERT_FILE", "."),
        ("SSL_CERT_FILE", "empty.pem"),
        ("SSL_CERT_FILE", "key.pem"),
        ("SSL_CERT_FILE", "broken.pem"),
        ("SSL_CERT_DIR", "missing"),
        ("SSL_CERT_DIR", "cert.pem"),
        ("SSL_CERT_DIR", "."),
        ("SSLKEYLOGFILE", "missing/keys.log"),
        ("SSLKEYLOGFILE", "."),
    ],
)
def test_O7_an_unusable_setting_names_the_variable(
    name: str, value: str, trust: Any, client_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TlsError that shows the setting: never other roots than those asked for."""
    monkeypatch.setenv(name, str(client_files / value))
    for _ in range(2):
        with pytest.raises(TlsError, match=f"{name}='.*'") as caught:
            client_context(TlsOptions(trust=trust))
        assert caught.value.phase == "tls"
        assert caught.value.__cause__ is not None
    if "missing" in value:
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        assert caught.value.errno == caught.value.__cause__.errno


@pytest.mark.parametrize("trust", ["certifi", "system"])
def test_O7_an_empty_setting_is_none(trust: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SSL_CERT_FILE= command` takes the setting away, from OpenSSL's own reading of it too."""
    plain = client_context(TlsOptions(trust=trust)).get_ca_certs(True)
    contexts._entries.clear()
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.setenv(name, "")
    assert client_context(TlsOptions(trust=trust)).get_ca_certs(True) == plain


@pytest.mark.parametrize("flag", ["-E", "-I"])
@pytest.mark.parametrize("trust", ["certifi", "system"])
def test_O7_L3_the_environment_is_ignored_on_demand(
    flag: str, trust: str, roots: Path, tmp_path: Path
) -> None:
    """Under -E and -I none of the three variables has any effect, on OpenSSL itself neither."""
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tcpsock._options import TlsOptions\n"
        "from tcpsock._wire.contexts import client_context\n"
        "context = client_context(TlsOptions(trust=sys.argv[1]))\n"
        "root = open(sys.argv[2]).read()\n"
        "import ssl\n"
        "print(ssl.PEM_cert_to_DER_cert(root) in context.get_ca_certs(True))\n"
        "print(context.keylog_filename)\n"
    )
    log = tmp_path / "keys.log"
    settings = {"SSL_CERT_FILE": roots, "SSLKEYLOGFILE": log}
    assert run_python("-c", script, trust, roots, **settings) == ["True", str(log)]
    log.unlink()
    assert run_python(flag, "-c", script, trust, roots, **settings) == ["False", "None"]
    assert not log.exists()
    broken = {"SSL_CERT_FILE": "/nonexistent", "SSL_CERT_DIR": "/nonexistent", "SSLKEYLOGFILE": "/"}
    assert run_python(flag, "-c", script, trust, roots, **broken) == ["False", "None"]


def test_L3_SSLKEYLOGFILE_gets_the_keys(
    authority: Any, roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Wireshark wants; a context made before the variable was set is not used for it."""
    options = TlsOptions(ca_file=roots)
    before = client_context(options)
    log = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    context = client_context(options)
    assert context is not before
    assert trusts(context, authority)
    assert "CLIENT_HANDSHAKE_TRAFFIC_SECRET" in log.read_text()
    assert client_context(TlsOptions()).keylog_filename == str(log)
    monkeypatch.delenv("SSLKEYLOGFILE")
    assert client_context(options) is before


def test_L3_an_own_context_is_not_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSLKEYLOGFILE holds for contexts that we make."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert client_context(TlsOptions(ssl_context=own)).keylog_filename is None
