"""``python -m tcpsock.bench``: its statistics, its server, its ends. No test looks at a time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tcpsock
from tcpsock.bench import _measure, _peers, _report, _server, _statistics, _works
from tcpsock.bench._peers import Peer, Stopwatch
from tcpsock.bench._protocol import BLOCK, Target

COMMAND = [sys.executable, "-m", "tcpsock.bench"]
NOWHERE = Target("127.0.0.1", 9, tls=False)


@pytest.fixture(autouse=True)
def _same_tcpsock_in_subprocesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(tcpsock.__file__).parents[1])


@pytest.fixture(scope="module")
def server():
    before = os.getcwd()
    os.chdir(Path(tcpsock.__file__).parents[1])
    try:
        with _server.Server() as server:
            yield server
    finally:
        os.chdir(before)


# ---- statistics


def test_spread_of_one_value_is_that_value():
    assert _statistics.spread([3.0]) == _statistics.Spread(3.0, 3.0, 3.0, 3.0, 3.0)


def test_spread_tells_median_quartiles_and_extremes():
    assert _statistics.spread([9.0, 1.0, 2.0, 4.0, 3.0]) == _statistics.Spread(
        median=3.0, low=2.0, high=4.0, least=1.0, most=9.0
    )


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_percentile_is_a_value_that_so_many_do_not_exceed(share, expected):
    assert _statistics.percentile([float(n) for n in range(100, 0, -1)], share) == expected


def test_ratios_above_1_mean_that_the_subject_is_better():
    assert _statistics.ratios([20.0, 5.0], [10.0, 10.0], higher_is_better=True) == [2.0, 0.5]
    assert _statistics.ratios([20.0, 5.0], [10.0, 10.0], higher_is_better=False) == [0.5, 2.0]


def test_ratios_need_pairs():
    with pytest.raises(ValueError, match="zip"):
        _statistics.ratios([1.0], [1.0, 2.0], higher_is_better=True)


# ---- who is measured when


def peer(name, seconds_of_one, calls=None):
    """A peer that claims to take so many seconds, and takes none."""

    def job(target: Target, amount: int, watch: Stopwatch) -> None:
        if calls is not None:
            calls.append((name, amount))
        watch.seconds = watch.cpu_seconds = amount * seconds_of_one
        watch.laps = [seconds_of_one] * min(amount, 100)

    return Peer(name, {work.name: job for work in _works.WORKS})


def lane(name, *peers):
    (work,) = [work for work in _works.WORKS if work.name == name]
    return _measure.Lane(work, NOWHERE, peers)


def test_the_amount_is_the_same_for_all_and_takes_the_planned_time_on_average():
    ping_pong = lane("ping-pong", peer("raw", 1e-4), peer("tcpsock", 3e-4))
    ping_pong.calibrate(0.3)
    assert ping_pong.amount == pytest.approx(0.3 / 2e-4, rel=0.01)


def test_amounts_of_bulk_are_whole_blocks():
    download = lane("download", peer("raw", 1e-9), peer("tcpsock", 1.1e-9))
    download.calibrate(0.01)
    assert download.amount > 0
    assert download.amount % BLOCK == 0


def test_peers_are_measured_in_turn_round_after_round():
    calls = []
    ping_pong = lane("ping-pong", peer("raw", 1e-3, calls), peer("tcpsock", 1e-3, calls))
    rounds = _measure.measure([ping_pong], _measure.Plan(4, 0.1, 60.0), lambda now: None)
    assert rounds == 4
    assert calls[-8:] == [("raw", 100), ("tcpsock", 100)] * 4


def test_no_further_round_begins_when_the_time_is_over_but_three_are_done():
    ping_pong = lane("ping-pong", peer("raw", 1e-3), peer("tcpsock", 1e-3))
    assert _measure.measure([ping_pong], _measure.Plan(50, 0.1, 0.0), lambda now: None) == 3


def test_a_failure_names_the_peer_the_work_and_the_reason():
    def job(target: Target, amount: int, watch: Stopwatch) -> None:
        raise ConnectionResetError("reset by peer")

    upload = lane("upload", Peer("raw", {"upload": job}))
    with pytest.raises(_measure.Failure, match=r"raw failed .plain, upload.: .*reset by peer"):
        upload.calibrate(0.1)


def measured():
    lanes = [
        lane("ping-pong", peer("raw", 1e-4), peer("tcpsock", 2e-4), peer("raw again", 1.3e-4)),
        lane("upload", peer("raw", 4e-9), peer("tcpsock", 2e-9)),
    ]
    _measure.measure(lanes, _measure.Plan(3, 0.1, 60.0), lambda now: None)
    return _measure.rows(lanes)


def test_rows_hold_each_figure_of_each_peer_beside_the_first():
    rows = measured()
    assert [(row.subject, row.lane.work.name, row.figure.name) for row in rows] == [
        ("tcpsock", "ping-pong", "median"),
        ("raw again", "ping-pong", "median"),
        ("tcpsock", "ping-pong", "p99"),
        ("raw again", "ping-pong", "p99"),
        ("tcpsock", "upload", "throughput"),
    ]
    assert {row.baseline for row in rows} == {"raw"}
    assert rows[0].subject_value == pytest.approx(200.0)  # us
    assert rows[0].spread.median == pytest.approx(0.5)
    assert rows[0].cpu_ratio == pytest.approx(2.0)
    assert rows[4].subject_value == pytest.approx(500.0)  # MB/s
    assert rows[4].spread.median == pytest.approx(2.0)
    assert rows[4].cpu_ratio == pytest.approx(0.5)


# ---- the report


def test_C13_table_has_units_ratios_spread_and_noise():
    text = _report.table(measured(), 3, _report.machine())
    assert text.isascii()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "tcpsock raw unit ratio quartiles least-most CPU" in lines
    assert "ping-pong 64 B, median 200 100 us 0.50 0.50-0.50 0.50-0.50 2.00" in lines
    assert "upload 500 250 MB/s 2.00 2.00-2.00 2.00-2.00 0.50" in lines
    assert lines.index("noise: raw against itself") > lines.index("plain")


def test_a_noisy_machine_is_told_once_a_work():
    text = _report.table(measured(), 3, _report.machine())
    warnings = [line for line in text.splitlines() if line.startswith("warning:")]
    assert warnings == [
        "warning: a noisy machine: raw against itself gives 0.77 (plain, ping-pong 64 B)"
    ]


# ---- the server and the peers


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("work", _works.WORKS, ids=lambda work: work.name)
@pytest.mark.parametrize("name", ["raw", "tcpsock"])
def test_C13_every_peer_does_every_work(server, name, work, tls):
    amount = 3 * work.step
    watch = Stopwatch()
    _peers.load(name).jobs[work.name](server.tls if tls else server.plain, amount, watch)
    assert watch.seconds > 0
    sample = _works.Sample(amount, watch.seconds, watch.cpu_seconds, watch.laps)
    assert all(figure.read(sample) > 0 for figure in work.figures)


def test_the_server_outlives_clients_that_hang_up_in_the_middle(server):
    for request in (b"", b"E", b"S\0\0\0\xff\0\0\0\0", b"T\0\0\0\0\0\0\0\5"):
        with socket.create_connection((server.plain.host, server.plain.port)) as client:
            client.sendall(request)
    _peers.load("raw").jobs["ping-pong"](server.plain, 1, Stopwatch())


def test_C13_the_server_process_ends_with_its_block():
    with _server.Server() as server:
        pid = server.pid
        assert is_listening(server.plain.port)
    assert not is_listening(server.plain.port)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_C13_the_server_process_ends_when_its_parent_is_killed():
    program = (
        "import sys; from tcpsock.bench._server import Server\n"
        "with Server() as s: print(s.plain.port, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        port = int(parent.stdout.readline())
        assert is_listening(port)
        parent.kill()
        deadline = time.monotonic() + 20
        while is_listening(port):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_C5_a_server_that_does_not_start_is_an_error_with_its_reason(monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(_server.ServerError, match="did not start"), _server.Server():
        pass


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# ---- the command


def run(*arguments, **keywords):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=50, **keywords
    )


def test_C13_quick_prints_a_table_and_writes_json(tmp_path):
    path = tmp_path / "figures.json"
    done = run("--quick", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    document = json.loads(path.read_text())
    assert {"machine", "rounds", "seconds", "warnings", "rows"} <= set(document)
    assert {"tcpsock", "python", "openssl", "platform", "cores"} <= set(document["machine"])
    assert document["rounds"] >= 3
    for row in document["rows"]:
        assert len(row["ratios"]) == document["rounds"]
        low, high = row["quartiles"]
        least, most = row["range"]
        assert 0 < least <= low <= row["ratio"] <= high <= most
        assert row["amount"] > 0
        assert row["baseline"] == "raw"
        assert row["cpu_ratio"] is None or row["cpu_ratio"] > 0
        assert row["unit"] in {"us", "MB/s", "1/s"}
    measured = {(row["work"], row["transport"]) for row in document["rows"] if not row["noise"]}
    assert measured == {
        (work.name, transport) for work in _works.WORKS for transport in ("plain", "TLS 1.3")
    }
    assert any(row["noise"] for row in document["rows"])
    for work in _works.WORKS:
        assert work.title in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fast"], "--fast"),
        (["--qui"], "--qui"),
        (["something"], "something"),
        (["--json", "/no/such/directory/figures"], "/no/such/directory/figures"),
    ],
)
def test_C1_wrong_usage_is_two_lines_and_exit_2(arguments, said):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    usage, error = done.stderr.splitlines()
    assert usage.startswith("usage: python -m tcpsock.bench")
    assert error.startswith("tcpsock.bench: error: ")
    assert said in error


def test_json_that_cannot_be_used_leaves_files_alone(tmp_path):
    path = tmp_path / "figures"
    path.write_text("older figures")
    assert run("--json", str(path), "--fast").returncode == 2
    assert path.read_text() == "older figures"


def test_C13_help_is_on_stdout():
    done = run("-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--quick" in done.stdout and "--json" in done.stdout


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no POSIX signals here")
def test_C4_C13_ctrl_c_is_silent_and_leaves_no_process():
    with subprocess.Popen(
        [*COMMAND, "--quick"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as bench:
        bench.stderr.readline()  # the first line of progress: the server is running
        children = Path(f"/proc/{bench.pid}/task/{bench.pid}/children")
        servers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        bench.send_signal(signal.SIGINT)
        stdout, stderr = bench.communicate(timeout=20)
        assert (bench.returncode, stdout) == (-signal.SIGINT, "")
        assert "Traceback" not in stderr and "tcpsock.bench:" not in stderr
        for pid in servers:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def main_after(preparation):
    """The command, some of which was replaced before."""
    program = (
        f"import sys, threading, tcpsock.bench.__main__ as m; {preparation}; sys.exit(m.main([]))"
    )
    return [sys.executable, "-c", program]


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no POSIX signals here")
def test_C4_a_reader_of_stdout_that_is_gone_ends_it_silently():
    receiving, sending = os.pipe()
    os.close(receiving)
    try:
        done = subprocess.run(
            main_after("m._run = lambda options: m._print('x')"),
            stdout=sending,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(sending)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_C5_a_full_disk_is_one_line():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            main_after("m._run = lambda options: m._print('x')"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("tcpsock.bench: ")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals here")
def test_C5_what_hangs_is_given_up_in_one_line():
    done = subprocess.run(
        main_after("m._PATIENCE = 0.01; m._measure.measure = lambda *_: threading.Event().wait()"),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("tcpsock.bench: gave up after 1 s")
