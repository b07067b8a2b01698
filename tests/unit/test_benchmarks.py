"""The benchmark: its arithmetic, its tables and picture, its proxy, and the complete command at its smallest size."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import goals, report, servers
from benchmarks.figures import Sample, order, summarise
from benchmarks.jobs import JOBS, choose_jobs
from benchmarks.layout import GIB, MIB, Endpoint, Layout, Task
from benchmarks.peers import PEERS
from benchmarks.picture import to_svg
from benchmarks.run import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.figures import Summary

ROOT = Path(__file__).parents[2]
DELAY_MS = 60
YARDSTICKS = {job.name: job.yardstick for job in JOBS}


def sample(peer: str, wall: float, cpu: float, repeat: int = 0, job: str = "upload-1g") -> Sample:
    figures = {"wall": wall, "cpu": cpu, "process_wall": wall + 1, "process_cpu": cpu + 1, "peak_rss": 100.0 * MIB}
    return Sample(job, peer, repeat, figures)


@pytest.fixture
def summaries() -> dict[str, dict[str, Summary]]:
    samples = [
        *(sample("gllm-storage", wall, 1.0, repeat) for repeat, wall in enumerate((9.0, 1.0, 2.0))),
        sample("obstore", 4.0, 2.0),
        sample("s3fs", 8.0, 1.6),
        sample("awscrt", 0.5, 0.5),
    ]
    return summarise(samples, {"obstore", "s3fs"}, YARDSTICKS)


def test_median(summaries: dict[str, dict[str, Summary]]) -> None:
    """The median is the middle run, not the mean."""
    ours = summaries["upload-1g"]["gllm-storage"]
    assert (ours.medians["wall"], ours.least["wall"], ours.most["wall"], ours.runs) == (2.0, 1.0, 9.0, 3)


def test_best_peer(
    summaries: dict[str, dict[str, Summary]],
) -> None:
    """The best peer of each figure is neither this library nor a reference."""
    ours = summaries["upload-1g"]["gllm-storage"]
    assert (ours.to_best["wall"], ours.to_best["cpu"]) == (0.5, 0.625)
    assert summaries["upload-1g"]["awscrt"].to_best["wall"] == 0.125


def test_ratio_to_s3fs(summaries: dict[str, dict[str, Summary]]) -> None:
    """The ratio to s3fs is the ratio of the two medians."""
    assert summaries["upload-1g"]["gllm-storage"].to_yardstick["wall"] == 0.25


def test_ratio_without_peers() -> None:
    """Without another peer there are no ratios."""
    alone = summarise([sample("gllm-storage", 1.0, 1.0)], {"s3fs"}, YARDSTICKS)["upload-1g"]["gllm-storage"]
    assert (alone.to_best, alone.to_yardstick) == ({}, {})


def test_order_of_peers() -> None:
    """Each round begins with another peer."""
    assert [order(["a", "b", "c"], turn) for turn in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_choice_of_jobs() -> None:
    """Jobs are chosen by name, by the first words of a name, or by a pattern."""
    assert [job.name for job in choose_jobs(["latency"])] == ["latency-upload", "latency-exists", "latency-download"]
    assert [job.name for job in choose_jobs(["*-4g"])] == [
        "upload-4g",
        "download-4g",
        "memory-upload-4g",
        "memory-download-4g",
    ]
    assert not any(job.name.startswith("memory") for job in choose_jobs([]))
    with pytest.raises(ValueError, match="no job is called 'uplaod'"):
        choose_jobs(["uplaod"])


def test_quick_jobs() -> None:
    """Quick jobs are small, and the large ones still need several parts."""
    assert {job.size for job in choose_jobs(["upload-1g", "upload-4g"], quick=True)} == {16 * MIB, 64 * MIB}
    assert all(job.size * job.count < GIB for job in choose_jobs([], quick=True))


def test_task_in_json() -> None:
    """A task survives a round trip through JSON."""
    task = Task(Endpoint("http://127.0.0.1:1", "b", "k", "s"), Layout("folder", "prefix"), "upload", 5, 1, MIB)
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_table(summaries: dict[str, dict[str, Summary]]) -> None:
    """The table is sorted by time, and gives a reason for each missing peer."""
    outcome = Outcome()
    jobs = choose_jobs(["upload-1g"])
    outcome.fail(jobs[0], "boto3", "Traceback\nRuntimeError: no more")
    peers: dict[str, dict[str, Any]] = {
        "s5cmd": {"cannot": {"upload": "a reason"}},
        "obstore": {"missing": "cannot be imported"},
    }
    table = report.to_markdown(jobs, summaries, outcome, peers)
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows == ["", "awscrt", "gllm-storage", "obstore", "s3fs"]
    assert "| gllm-storage | 2.00 | 1.00–9.00 | 1.00 | 0.50 | 0.62 | 0.25 | 0.62 | 100 | 3.00 | 2.00 |" in table
    assert "Not in the table: s5cmd: a reason; boto3: RuntimeError: no more." in table
    assert "- obstore: cannot be imported" in table


def test_cells_of_the_table(summaries: dict[str, dict[str, Summary]]) -> None:
    """Every row of a table has as many cells as its header."""
    lines = report.to_markdown(choose_jobs(["upload-1g"]), summaries, Outcome(), {}).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_json_report(summaries: dict[str, dict[str, Summary]]) -> None:
    """The JSON report holds the samples and describes the machine, without the user's home folder."""
    outcome = Outcome([sample("s3fs", 8.0, 1.6)])
    found = report.to_json(choose_jobs(["upload-1g"]), summaries, outcome, {}, {"endpoint": "nulls3"})
    assert json.loads(json.dumps(found))["samples"] == [asdict(outcome.samples[0])]
    assert set(found["machine"]) == {"processor", "cores", "memory_gib", "system", "python", "load_at_start"}
    assert str(Path.home()) not in json.dumps(found)


def test_picture(summaries: dict[str, dict[str, Summary]]) -> None:
    """The picture is well-formed SVG, with two bars for each peer of a job."""
    root = ET.fromstring(to_svg(choose_jobs(["upload"]), summaries, {"gllm-storage"}, "1 < 2 & so on"))  # noqa: S314
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"awscrt", "gllm-storage", "obstore", "s3fs", "1 GiB up", "0.50"} <= set(texts)
    bars = [each.get("class") for each in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert sorted(str(each) for each in bars) == ["cpu"] * 3 + ["cpu mine"] + ["wall"] * 3 + ["wall mine"]


def test_goal_of_the_process(summaries: dict[str, dict[str, Summary]]) -> None:
    """A goal is met only if the figures of the complete process meet it too."""
    found = {each.figure: each for each in goals.judge(choose_jobs(["upload-1g"]), summaries, {})}
    assert found["wall, to the best peer"].met
    assert found["CPU, to the best peer"].reached == 0.625
    assert found["CPU, to the best peer"].process == pytest.approx(2 / 2.6)
    assert not found["CPU, to the best peer"].met
    assert found["peak RSS, MiB"].met


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"x" * 100_000)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Log nothing."""


@pytest.fixture
def web() -> Iterator[Endpoint]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Endpoint(f"http://127.0.0.1:{server.server_port}", "b", "k", "s")
        server.shutdown()
        thread.join()


def time_requests(url: str, times: int) -> float:
    """Send GET requests on one connection, and return the seconds that they took."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    start = time.monotonic()
    for _ in range(times):
        connection.request("GET", "/")
        assert len(connection.getresponse().read()) == 100_000
    connection.close()
    return time.monotonic() - start


def test_proxy_counts(web: Endpoint, tmp_path: Path) -> None:
    """The proxy counts requests, connections and bytes, and delays each response."""
    program = servers.compile_c(servers.SLOWPROXY, str(tmp_path))
    with servers.proxy(program, web, DELAY_MS) as slow:
        assert time_requests(slow.url, 3) >= 3 * DELAY_MS / 1000
    assert slow.seen["requests"] == {"GET": 3, "HEAD": 0, "PUT": 0, "POST": 0, "DELETE": 0}
    assert slow.seen["connections"] == 1
    assert 300_000 < slow.seen["bytes_down"] < 310_000


def test_proxy_bandwidth(web: Endpoint, tmp_path: Path) -> None:
    """The proxy limits the bandwidth of each connection."""
    program = servers.compile_c(servers.SLOWPROXY, str(tmp_path))
    with servers.proxy(program, web, bandwidth=1_000_000) as narrow:
        assert time_requests(narrow.url, 2) >= 0.19


def test_proxy_of_https() -> None:
    """The proxy refuses an https endpoint."""
    endpoint = Endpoint("https://127.0.0.1:1", "b", "k", "s")
    with pytest.raises(RuntimeError, match="http endpoint"), servers.proxy("slowproxy", endpoint):
        pass


@pytest.mark.slow
def test_complete_command(tmp_path: Path) -> None:
    """The command measures this library and its peers on a real server, and removes its folders."""
    files = {name: tmp_path / f"found.{name}" for name in ("json", "svg", "markdown")}
    command = [sys.executable, "-m", "benchmarks", "--venv", "none", "--server", "ministack", "--quick", "--repeats", "1"]
    command += ["--peers", "gllm-storage", "gllm-storage, unchecked", "boto3", "--work", str(tmp_path)]
    command += ["--jobs", "upload-16k", "download-1m", "conflict-1k"]
    command += [each for name, path in files.items() for each in (f"--{name}", str(path))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    found = json.loads(files["json"].read_text())
    assert not found["failures"]
    assert {(each["job"], each["peer"]) for each in found["samples"]} == {
        ("upload-16k", "gllm-storage"),
        ("upload-16k", "boto3"),
        ("download-1m", "gllm-storage"),
        ("download-1m", "boto3"),
        ("conflict-1k", "gllm-storage"),
        ("conflict-1k", "gllm-storage, unchecked"),
    }
    walls = {each["peer"]: each["figures"]["wall"] for each in found["samples"] if each["job"] == "upload-16k"}
    ratio = found["summaries"]["upload-16k"]["gllm-storage"]["to_best"]["wall"]
    assert ratio == pytest.approx(walls["gllm-storage"] / walls["boto3"])
    assert found["counts"]["conflict-1k"]["gllm-storage, unchecked"]["requests"]["PUT"] == 25
    assert ET.fromstring(files["svg"].read_text()).tag.endswith("svg")  # noqa: S314 - our own file
    assert files["markdown"].read_text() in done.stdout
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_modules_of_peers() -> None:
    """Every peer names an existing module."""
    assert all((ROOT / "benchmarks" / "peers" / f"{entry.module}.py").is_file() for entry in PEERS.values())


def test_unknown_job(tmp_path: Path) -> None:
    """An unknown job ends the command with a plain message."""
    command = [sys.executable, "-m", "benchmarks", "--venv", "none", "--jobs", "nonsense", "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no job is called 'nonsense'" in done.stderr


def test_compiler() -> None:
    """The tests of the proxy need a C compiler. Without this test, their failures would not name the cause."""
    assert shutil.which("cc")
