"""One fixture for each real server; a session starts one when a test first asks for it.

A server that isn't installed skips its tests and names its package, except where CI is set in the
environment: there everything must run, and it fails them.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pathlib
import signal
import socket
import textwrap
from collections.abc import Callable, Iterator

import pytest
import trustme
from launch import Missing, Place, Process, Server, find, free_port, run

_HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("server")


@pytest.fixture(scope="session")
def private_authority() -> trustme.CA:
    return trustme.CA()


def _accepts(port: int) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            return False
        return True

    return ready


def _speaks_first(port: int) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                return sock.recv(1) != b""
        except OSError:
            return False

    return ready


def _says(place: Place, text: str) -> Callable[[], bool]:
    log = place.directory / "log"
    return lambda: text in log.read_text(errors="replace")


@contextlib.contextmanager
def _or_skip() -> Iterator[None]:
    try:
        yield
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def postgres_server(private_authority: trustme.CA) -> Iterator[Server]:
    with _or_skip():
        initdb, postgres = find("postgresql", "initdb", "postgres")
    with Place("postgres", private_authority) as place:
        password, port = "correct horse", free_port()
        pwfile = place.write("password", password, mode=0o600)
        cluster = place.make("cluster")
        login = ["-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(pwfile)]
        fast = ["-E", "UTF8", "--locale=C", "--no-sync"]
        run([initdb, "-D", str(cluster), *login, *fast], place)
        settings = {
            "listen_addresses": "127.0.0.1",
            "ssl": "on",
            "ssl_cert_file": place.cert,
            "ssl_key_file": place.key,
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        command = [postgres, "-D", str(cluster), "-p", str(port), "-k", str(place.directory)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        # SIGINT is its fast shutdown: it doesn't wait for its clients.
        ready = _says(place, "ready to accept connections")
        with Process(command, place, ready=ready, stop=signal.SIGINT):
            yield Server(port, 0, place.ca_data, place.directory, password)


@pytest.fixture(scope="session")
def smtp_server(private_authority: trustme.CA) -> Iterator[Server]:
    """exim4; a message for anybody at example.com is appended to the file `mailbox`."""
    with _or_skip():
        [exim] = find("exim4-daemon-light", "exim4")
    with Place("exim", private_authority) as place:
        account, port, tls_port = place.account, free_port(), free_port()
        spool, mailbox = place.make("spool"), place.directory / "mailbox"
        conf = f"""\
            exim_user = {account.pw_uid}
            exim_group = {account.pw_gid}
            spool_directory = {spool}
            log_file_path = {spool}/%slog
            pid_file_path = {spool}/pid
            keep_environment =
            primary_hostname = localhost
            local_interfaces = 127.0.0.1
            daemon_smtp_ports = {port} : {tls_port}
            tls_on_connect_ports = {tls_port}
            tls_advertise_hosts = *
            tls_certificate = {place.cert}
            tls_privatekey = {place.key}
            acl_smtp_rcpt = recipient
            acl_smtp_data = content
            begin acl
            recipient:
              accept domains = example.com
            content:
              accept
            begin routers
            all:
              driver = accept
              transport = box
            begin transports
            box:
              driver = appendfile
              file = {mailbox}
              user = {account.pw_uid}
              group = {account.pw_gid}
              no_mode_fail_narrower
            """
        path = place.write("exim.conf", textwrap.dedent(conf))
        command = [exim, "-C", str(path), "-bdf"]
        with Process(command, place, ready=_speaks_first(port)):
            yield Server(port, tls_port, place.ca_data, place.directory)


@pytest.fixture(scope="session")
def redis_server(private_authority: trustme.CA) -> Iterator[Server]:
    with _or_skip():
        [redis] = find("redis-server", "redis-server")
    with Place("redis", private_authority) as place:
        port, tls_port = free_port(), free_port()
        options = {
            "port": port,
            "bind": "127.0.0.1",
            "dir": place.directory,
            "save": "",
            "appendonly": "no",
            "tls-port": tls_port,
            "tls-cert-file": place.cert,
            "tls-key-file": place.key,
            "tls-ca-cert-file": place.ca,
            "tls-auth-clients": "no",
        }
        command = [redis]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        with Process(command, place, ready=_says(place, "Ready to accept connections")):
            yield Server(port, tls_port, place.ca_data, place.directory)


@pytest.fixture(scope="session")
def http_server(private_authority: trustme.CA) -> Iterator[Server]:
    """nginx, over what is in its directory `files`."""
    with _or_skip():
        [nginx] = find("nginx-light", "nginx")
    with Place("nginx", private_authority) as place:
        port, tls_port = free_port(), free_port()
        place.make("files")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {place.directory}/{kind};\n" for kind in kinds)
        conf = f"""\
            daemon off;
            master_process off;
            pid {place.directory}/pid;
            error_log stderr;
            events {{}}
            http {{
              access_log off;
              {temporary}
              server {{
                listen 127.0.0.1:{port};
                listen 127.0.0.1:{tls_port} ssl;
                ssl_certificate {place.cert};
                ssl_certificate_key {place.key};
                root {place.directory}/files;
              }}
            }}
            """
        path = place.write("nginx.conf", conf)
        command = [nginx, "-p", str(place.directory), "-e", "stderr", "-c", str(path)]
        with Process(command, place, ready=_accepts(port)):
            yield Server(port, tls_port, place.ca_data, place.directory / "files")


@pytest.fixture(scope="session")
def gopher_server(private_authority: trustme.CA) -> Iterator[Server]:
    """pygopherd, over what is in its directory `files`. It tells TLS by its first byte."""
    with _or_skip():
        [pygopherd] = find("pygopherd", "pygopherd")
    with Place("gopher", private_authority) as place:
        port = free_port()
        files, types = place.make("files"), place.write("mime.types", "text/plain txt\n")
        conf = f"""\
            [pygopherd]
            detach = no
            port = {port}
            interface = 127.0.0.1
            servername = localhost
            servertype = ThreadingTCPServer
            timeout = 60
            abstract_headers = off
            abstract_entries = unsupported
            tracebacks = no
            usechroot = no
            enable_tls = yes
            tls_certfile = {place.cert}
            tls_keyfile = {place.key}
            root = {files}
            mimetypes = {types}
            encoding = []
            [logger]
            logmethod = file
            [GopherEntry]
            defaultmimetype = text/plain
            mapping = [['text/.+', '0'], ['application/gopher-menu', '1'], ['.*', '9']]
            eaexts = {{}}
            [handlers.HandlerMultiplexer]
            handlers = [dir.DirHandler, file.FileHandler]
            [handlers.dir.DirHandler]
            ignorepatt = /\\.
            cachetime = 0
            cachefile = .cache
            [protocols.ProtocolMultiplexer]
            protocols = [rfc1436.GopherProtocol, rfc1436.SecureGopherProtocol]
            """
        path = place.write("pygopherd.conf", textwrap.dedent(conf))
        with Process([pygopherd, str(path)], place, ready=_accepts(port)):
            yield Server(port, port, place.ca_data, files)


@pytest.fixture(scope="session")
def dovecot_servers(private_authority: trustme.CA) -> Iterator[dict[str, Server]]:
    """Dovecot, by protocol: imap, pop3, sieve and lmtp."""
    with _or_skip():
        [dovecot] = find("dovecot-core", "dovecot")
        find("dovecot-imapd", "/usr/lib/dovecot/imap")
        find("dovecot-pop3d", "/usr/lib/dovecot/pop3")
        find("dovecot-lmtpd", "/usr/lib/dovecot/lmtp")
        find("dovecot-managesieved", "/usr/lib/dovecot/managesieve")
    with Place("dovecot", private_authority) as place:
        ports = {protocol: free_port() for protocol in ("imap", "pop3", "sieve", "lmtp")}
        name = place.account.pw_name
        services = "".join(
            f"""\
            service {service}-login {{
              chroot =
              inet_listener {listener} {{
                port = {port}
              }}
              inet_listener {listener}s {{
                port = 0
              }}
            }}
            """
            for service, listener, port in (
                ("imap", "imap", ports["imap"]),
                ("pop3", "pop3", ports["pop3"]),
                ("managesieve", "sieve", ports["sieve"]),
            )
        )
        conf = f"""\
            protocols = imap pop3 sieve lmtp
            listen = 127.0.0.1
            base_dir = {place.make("run")}
            state_dir = {place.make("state")}
            log_path = /dev/stderr
            default_internal_user = {name}
            default_internal_group = {grp.getgrgid(place.account.pw_gid).gr_name}
            default_login_user = {name}
            ssl = yes
            ssl_cert = <{place.cert}
            ssl_key = <{place.key}
            mail_location = maildir:{place.directory}/mail
            service anvil {{
              chroot =
            }}
            service stats {{
              chroot =
            }}
            passdb {{
              driver = static
              args = nopassword=y
            }}
            userdb {{
              driver = static
              args = uid={place.account.pw_uid} gid={place.account.pw_gid} home={place.directory}
            }}
            service lmtp {{
              inet_listener lmtp {{
                port = {ports["lmtp"]}
              }}
            }}
            {services}"""
        path = place.write("dovecot.conf", textwrap.dedent(conf))
        command = [dovecot, "-F", "-c", str(path)]
        ready = [_speaks_first(port) for port in ports.values()]
        with Process(command, place, ready=lambda: all(each() for each in ready)):
            yield {
                protocol: Server(port, 0, place.ca_data, place.directory)
                for protocol, port in ports.items()
            }


@pytest.fixture(scope="session")
def ldap_server(private_authority: trustme.CA) -> Iterator[Server]:
    """slapd, without any entries."""
    with _or_skip():
        [slapd] = find("slapd", "slapd")
    with Place("slapd", private_authority) as place:
        port = free_port()
        conf = f"""\
            pidfile {place.directory}/pid
            TLSCACertificateFile {place.ca}
            TLSCertificateFile {place.cert}
            TLSCertificateKeyFile {place.key}
            """
        path = place.write("slapd.conf", textwrap.dedent(conf))
        command = [slapd, "-h", f"ldap://127.0.0.1:{port}/", "-f", str(path), "-d", "0"]
        with Process(command, place, ready=_accepts(port)):
            yield Server(port, 0, place.ca_data, place.directory)


@pytest.fixture(scope="session")
def mysql_server(private_authority: trustme.CA) -> Iterator[Server]:
    """MariaDB; root has no password."""
    with _or_skip():
        install, mariadbd = find("mariadb-server", "mariadb-install-db", "mariadbd")
    with Place("mariadb", private_authority) as place:
        port, data = free_port(), place.make("data")
        quick = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        run([install, "--no-defaults", f"--datadir={data}", *quick, "--skip-name-resolve"], place)
        command = [
            mariadbd,
            "--no-defaults",
            f"--datadir={data}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={place.directory}/socket",
            f"--pid-file={place.directory}/pid",
            f"--ssl-cert={place.cert}",
            f"--ssl-key={place.key}",
            f"--ssl-ca={place.ca}",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=16M",
        ]
        with Process(command, place, ready=_says(place, "ready for connections")):
            yield Server(port, 0, place.ca_data, place.directory)


@pytest.fixture(scope="session")
def ftp_server(private_authority: trustme.CA) -> Iterator[Server]:
    """proftpd, without any users."""
    with _or_skip():
        [proftpd] = find("proftpd-core", "proftpd")
        if not pathlib.Path("/usr/lib/proftpd/mod_tls.so").exists():
            find("proftpd-mod-crypto", "mod_tls.so")
    with Place("proftpd", private_authority) as place:
        port = free_port()
        conf = f"""\
            ModulePath /usr/lib/proftpd
            LoadModule mod_tls.c
            ServerType standalone
            ServerName "a server of two lines"
            DefaultAddress 127.0.0.1
            Port {port}
            User {place.account.pw_name}
            Group {grp.getgrgid(place.account.pw_gid).gr_name}
            UseIPv6 off
            UseReverseDNS off
            WtmpLog off
            PidFile {place.directory}/pid
            ScoreboardFile {place.directory}/scoreboard
            DelayTable none
            SystemLog {place.directory}/system.log
            TLSEngine on
            TLSLog {place.directory}/tls.log
            TLSRSACertificateFile {place.cert}
            TLSRSACertificateKeyFile {place.key}
            TLSECCertificateFile {place.cert}
            TLSECCertificateKeyFile {place.key}
            """
        path = place.write("proftpd.conf", textwrap.dedent(conf))
        command = [proftpd, "-n", "-q", "-c", str(path)]
        with Process(command, place, ready=_speaks_first(port)):
            yield Server(port, 0, place.ca_data, place.directory)


@pytest.fixture(scope="session")
def irc_server(private_authority: trustme.CA) -> Iterator[Server]:
    """InspIRCd, with its modules ssl_gnutls and starttls."""
    with _or_skip():
        [inspircd] = find("inspircd", "inspircd")
    with Place("inspircd", private_authority) as place:
        port = free_port()
        conf = f"""\
            <server name="irc.example" description="test" id="97K" network="test">
            <admin name="none" nick="none" email="none@example.com">
            <path configdir="{place.directory}" datadir="{place.directory}"
             logdir="{place.directory}" runtimedir="{place.directory}">
            <module name="ssl_gnutls">
            <module name="starttls">
            <sslprofile name="test" provider="gnutls" cafile="{place.ca}"
             certfile="{place.cert}" keyfile="{place.key}">
            <starttls sslprofile="test">
            <bind address="127.0.0.1" port="{port}" type="clients">
            <connect name="main" allow="*" timeout="60" pingfreq="120" resolvehostnames="no"
             useident="no">
            <log method="file" type="*" level="default" target="inspircd.log">
            """
        path = place.write("inspircd.conf", textwrap.dedent(conf))
        command = [inspircd, "--nofork", "--nopid", f"--config={path}"]
        with Process(command, place, ready=_accepts(port)):
            yield Server(port, 0, place.ca_data, place.directory)


@pytest.fixture(scope="session")
def xmpp_server(private_authority: trustme.CA) -> Iterator[Server]:
    """Prosody, for the domain localhost; `tls_port` is where servers connect, with StartTLS too."""
    with _or_skip():
        [prosody] = find("prosody", "prosody")
    with Place("prosody", private_authority) as place:
        port, server_port, data = free_port(), free_port(), place.make("data")
        conf = f"""\
            modules_enabled = {{ "roster", "saslauth", "tls", "dialback" }}
            modules_disabled = {{ "http", "posix" }}
            authentication = "internal_hashed"
            interfaces = {{ "127.0.0.1" }}
            c2s_ports = {{ {port} }}
            s2s_ports = {{ {server_port} }}
            c2s_direct_tls_ports = {{}}
            s2s_direct_tls_ports = {{}}
            http_ports = {{}}
            https_ports = {{}}
            data_path = "{data}"
            pidfile = "{place.directory}/pid"
            log = {{ info = "*console" }}
            ssl = {{ certificate = "{place.cert}", key = "{place.key}" }}
            VirtualHost "localhost"
            """
        path = place.write("prosody.cfg.lua", textwrap.dedent(conf))
        ready = [_accepts(port), _accepts(server_port)]
        command = [prosody, "--config", str(path), "-F"]
        with Process(command, place, ready=lambda: all(each() for each in ready)):
            yield Server(port, server_port, place.ca_data, place.directory)
