"""The benchmark: its arithmetic, its tables and charts, its servers, and the complete command at its smallest size."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from moto.server import ThreadedMotoServer

from benchmarks import docs, first, folders, goals, killed, report, results, run, servers
from benchmarks.figures import best, far_behind, floor_of, order, summarise
from benchmarks.jobs import choose_jobs
from benchmarks.layout import CLOUDS, ENDPOINTS, GIB, MIB, Endpoint, Layout, Task
from benchmarks.peers import BEFORE, PEERS
from gllm_storage import get_storage_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.figures import Runs, Summary
    from benchmarks.results import Results

ROOT = Path(__file__).parents[2]
DELAY_MS = 60


def runs_of(wall: float, *more: float, cpu: float = 1.0, warm: float = 0.0) -> Runs:
    """The runs of a peer, of which the first have the walls."""
    walls = [wall, *more]
    found = {"process_wall": walls, "process_cpu": [cpu], "peak_rss": [100.0 * MIB], "wall": walls, "cpu": [cpu]}
    return found | ({"warm_wall": [warm], "warm_cpu": [warm]} if warm else {})


RUNS = {
    "gllm-storage": runs_of(9.0, 1.0, 2.0, warm=3.0),
    "obstore": runs_of(4.0, cpu=2.0, warm=4.0),
    "s3fs": runs_of(8.0, cpu=1.6),
    "awscrt": runs_of(0.5, cpu=0.5),
    "floor": runs_of(1.0, warm=2.0),
    "floor, MemoryBIO": runs_of(1.0, warm=1.5),
}


@pytest.fixture
def summaries() -> dict[str, Summary]:
    return summarise(RUNS)


@pytest.fixture
def measured() -> Results:
    """The results of one job over https."""
    found = results.begin({"repeats": 3})
    peers: dict[str, Any] = {
        "s5cmd": {"version": "2", "cannot": {"upload": "a reason"}},
        "fast-s3": {"missing": "cannot be imported"},
    }
    of_job = run.Found(RUNS, failures={"boto3": "Traceback\nRuntimeError: no more"})
    results.add(found, "https", peers, choose_jobs(["upload-1g"])[0], of_job)
    return found


def test_median(summaries: dict[str, Summary]) -> None:
    """The median is the middle run, not the mean."""
    ours = summaries["gllm-storage"]
    assert (ours.medians["process_wall"], ours.least["process_wall"], ours.most["process_wall"], ours.runs) == (
        2.0,
        1.0,
        9.0,
        3,
    )


def test_best_peer(summaries: dict[str, Summary]) -> None:
    """The best peer of each figure is neither this library nor a reference."""
    assert (best(summaries, "process_wall"), best(summaries, "process_cpu")) == (4.0, 1.6)
    assert best({"gllm-storage": summaries["gllm-storage"]}, "process_wall") is None


def test_fastest_floor(summaries: dict[str, Summary]) -> None:
    """The floor is the faster of its two ways to download."""
    found = floor_of(summaries)
    assert found is not None
    assert found.medians["warm_wall"] == 1.5
    assert floor_of(summaries, synced=True) is None


def test_peers_far_behind() -> None:
    """A rival is left out after the first round only if it is far behind in each figure."""
    runs = {
        "obstore": runs_of(1.0),
        "s3fs": runs_of(2.0, cpu=2.0),
        "awscrt": runs_of(3.0, cpu=3.0),
        "boto3": runs_of(9.0, cpu=1.1),
        "floor": runs_of(9.0, cpu=9.0),
    }
    assert far_behind(runs, list(runs)) == ["s3fs", "awscrt"]


def test_order_of_peers() -> None:
    """Each round begins with another peer."""
    assert [order(["a", "b", "c"], turn) for turn in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_choice_of_jobs() -> None:
    """Jobs are chosen by name, by the first words of a name, or by a pattern, for one endpoint."""
    assert [job.name for job in choose_jobs(["latency"])] == ["latency-upload", "latency-exists", "latency-download"]
    assert [job.name for job in choose_jobs(["*load-4g"])] == [
        "upload-4g",
        "download-4g",
        "memory-upload-4g",
        "memory-download-4g",
    ]
    assert not any(job.name.startswith("memory") for job in choose_jobs([]))
    assert {job.count for job in choose_jobs(["upload-16k"], "azure")} == {1000}
    assert {job.name for job in choose_jobs([], "https")} > {job.name for job in choose_jobs([], "http")}
    with pytest.raises(ValueError, match="no job is called 'uplaod'"):
        choose_jobs(["uplaod"])


def test_jobs_without_figures() -> None:
    """Each default job of each endpoint has a peer that is this library and another, and the rivals of an earlier job."""
    for endpoint in ENDPOINTS:
        names = [name for name, entry in PEERS.items() if endpoint in entry.endpoints]
        assert any(PEERS[name].ours for name in names)
        assert any(not PEERS[name].ours for name in names)
        jobs = [job.name for job in choose_jobs([], endpoint)]
        assert all(not job.rivals_of or job.rivals_of in jobs[: jobs.index(job.name)] for job in choose_jobs([], endpoint))


def test_quick_jobs() -> None:
    """Quick jobs are small, and the large ones still need several parts."""
    assert {job.size for job in choose_jobs(["upload-1g", "upload-4g"], quick=True)} == {16 * MIB, 64 * MIB}
    assert all(job.size * job.count < GIB for job in choose_jobs([], quick=True))


def test_peers_of_a_job() -> None:
    """A job has the peers of its endpoint that know its verb; synced downloads and far rivals only where they belong."""
    peers = {name: {"how": {"download": "…"}} for name in (*PEERS, f"gllm-storage{BEFORE}")}
    (download,), (large,) = choose_jobs(["download-1g"]), choose_jobs(["download-4g"])
    assert {"gllm-storage, synced", "floor, synced", "s3fs", f"gllm-storage{BEFORE}"} <= run.able(
        download, "https", peers, None
    ).keys()
    found = run.able(
        large,
        "https",
        peers,
        run.Found({"obstore": runs_of(1.0, cpu=2.0), "s5cmd": runs_of(2.0), "s3fs": runs_of(1.5, cpu=1.5)}),
    ).keys()
    assert {"obstore", "s5cmd", "floor", "gllm-storage"} <= found
    assert not {"gllm-storage, synced", "s3fs", "boto3", "gcsfs", "awscrt"} & found


def test_task_in_json() -> None:
    """A task survives a round trip through JSON."""
    task = Task(Endpoint("http://127.0.0.1:1", "b", "k", "s"), Layout("folder", "prefix"), "upload", 5, 1, MIB, warm=True)
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_table(measured: Results) -> None:
    """The table is sorted by time, has equal rows and no empty column, and gives a reason for each missing peer."""
    table = report.to_markdown(measured)
    lines = [line for line in table.partition("### ")[2].splitlines() if line.startswith("|")]
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows == ["", "awscrt", "floor", "floor, MemoryBIO", "gllm-storage", "obstore", "s3fs"]
    assert len({line.count("|") for line in lines}) == 1
    assert (
        "| gllm-storage | 3 | 2.00 | 1.00–9.00 | 1.00 | 0.50 | 0.62 | 3.000 | 3.000 | 0.75 | 0.75 | 2.00 | 2.00 | 100 |"
        in lines
    )
    assert "handshakes" not in lines[0]
    assert "Not in the table: s5cmd: a reason; boto3: RuntimeError: no more." in table
    assert "- fast-s3: cannot be imported" in table


def test_goals(measured: Results) -> None:
    """Goals compare complete processes with the best peer, and warm jobs with the floor."""
    found = {each.figure: each for each in goals.judge(measured["endpoints"])}
    assert {figure: (each.reached, each.met) for figure, each in found.items()} == {
        "process: wall, to the best peer": (0.5, True),
        "process: CPU, to the best peer": (0.625, True),
        "job: wall, to the floor": (2.0, False),
        "job: CPU, to the floor": (2.0, False),
        "peak RSS, MiB": (100.0, True),
    }
    assert "3 of 5 are met." in report.to_markdown(measured)


def test_goal_of_bandwidth() -> None:
    """On the slow network the goal is a least share of ten connections' bandwidth."""
    (job,) = choose_jobs(["slow-download"])
    found = results.begin({})
    results.add(found, "https", {}, job, run.Found({"gllm-storage": runs_of(2.048 / 0.89)}))
    (goal,) = goals.judge(found["endpoints"])
    assert (round(goal.reached, 3), goal.met) == (0.89, False)


def test_slope(measured: Results) -> None:
    """The jobs on one processor stand beside the same jobs on all; the floor has no complete process there."""
    runs = {"gllm-storage": runs_of(4.0), "floor": runs_of(6.0)}
    results.add(measured, "https", {}, choose_jobs(["one-core-upload"])[0], run.Found(runs))
    measured["endpoints"]["https"]["jobs"]["upload-1g"]["runs"]["floor"] = {"warm_wall": [4.0], "warm_cpu": [1.0]}
    table = report.to_markdown(measured)
    assert "| 1 GiB up | floor | 6.00 | 4.00 | 1.50 |" in table
    assert "| 1 GiB up | gllm-storage | 4.00 | 2.00 | 2.00 |" in table


def test_result_files(measured: Results, tmp_path: Path) -> None:
    """Result files can be merged, and describe the machine without the user's home folder."""
    other = results.begin({"repeats": 3})
    results.add(other, "https", {}, choose_jobs(["upload-16k"])[0], run.Found(RUNS))
    results.add(other, "http", {}, choose_jobs(["upload-16k"], "http")[0], run.Found(RUNS))
    for name, each in (("a", measured), ("b", other)):
        results.save(each, tmp_path / name)
    found = results.merge(results.load(tmp_path / name) for name in ("a", "b"))
    assert {name: list(each["jobs"]) for name, each in found["endpoints"].items()} == {
        "https": ["upload-1g", "upload-16k"],
        "http": ["upload-16k"],
    }
    assert found["endpoints"]["https"]["jobs"]["upload-1g"]["runs"] == RUNS
    assert set(found["machine"]) == {"processor", "cores", "memory_gib", "system", "python", "load_at_start"}
    assert str(Path.home()) not in json.dumps(found)


def test_documentation(measured: Results, tmp_path: Path) -> None:
    """The page has tables and shows the charts, which are well-formed SVG, with two bars for each peer of a job."""
    docs.write(measured, tmp_path)
    page = (tmp_path / "benchmarks-tables.md").read_text()
    bars = {}
    for kind in ("process", "warm"):
        file = f"benchmarks-https-{kind}.svg"
        assert f"]({file})" in page
        root = ET.fromstring((tmp_path / file).read_text())  # noqa: S314 - our own file
        texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"floor", "gllm-storage", "obstore", "1 GiB up"} <= set(texts)
        bars[kind] = [each.get("class") for each in root.iter("{http://www.w3.org/2000/svg}rect")]
    left_out = page.partition("Not measured in these runs:\n\n")[2].partition("\n\n")[0].splitlines()
    assert "- Google Cloud Storage over https: all jobs" in left_out
    (https,) = [each for each in left_out if each.startswith("- S3 over https: ")]
    assert "2000 × 16 KiB up" in https
    assert "1 GiB up;" not in https
    assert https.endswith("s3torchconnector, awscrt")
    assert bars["process"].count("wall") == bars["process"].count("cpu") == 5
    assert sorted(each for each in bars["warm"] if each and "mine" in each) == ["cpu mine", "wall mine"]


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"x" * 100_000)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Log nothing."""


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None, ca: str | None = None) -> Iterator[Endpoint]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Endpoint(f"http{'s' if context else ''}://127.0.0.1:{server.server_port}", "b", "k", "s", ca=ca)
        server.shutdown()
        thread.join()


def time_requests(endpoint: Endpoint, times: int) -> float:
    """Send GET requests on one connection, and return the seconds that they took."""
    host = endpoint.url.partition("://")[2]
    connection = http.client.HTTPConnection(host)
    if endpoint.ca:
        connection = http.client.HTTPSConnection(host, context=ssl.create_default_context(cafile=endpoint.ca))
    start = time.monotonic()
    for _ in range(times):
        connection.request("GET", "/")
        assert len(connection.getresponse().read()) == 100_000
    connection.close()
    return time.monotonic() - start


def test_proxy_counts(tmp_path: Path) -> None:
    """The proxy counts requests, connections and bytes, and delays each response."""
    program = servers.compile_c(servers.SLOWPROXY, str(tmp_path))
    with serving() as web, servers.proxy(program, web, DELAY_MS) as slow:
        assert time_requests(web.at(slow.url), 3) >= 3 * DELAY_MS / 1000
    assert slow.seen["requests"] == {"GET": 3, "HEAD": 0, "PUT": 0, "POST": 0, "DELETE": 0}
    assert slow.seen["connections"] == 1
    assert 300_000 < slow.seen["bytes_down"] < 310_000


def test_proxy_bandwidth(tmp_path: Path) -> None:
    """The proxy limits the bandwidth of each connection, over https too: a handshake costs one more delay."""
    program = servers.compile_c(servers.SLOWPROXY, str(tmp_path))
    ca, certificate, key = servers.make_certificate(str(tmp_path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context, ca) as web, servers.proxy(program, web, DELAY_MS, bandwidth=1_000_000) as narrow:
        assert time_requests(web.at(narrow.url), 2) >= 0.19 + 3 * DELAY_MS / 1000
    assert narrow.seen["connections"] == 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    found.write_bytes(bytes(range(256)) * 4096)
    return found


CONFIGS: dict[str, dict[str, str]] = {
    "gcs": {"bucket_name": "bench", "anonymous": "true", "multipart_threshold": "512KiB", "part_size": "256KiB"},
    "azure": {"container_name": "bench", "account_name": "nullaccount", "multipart_threshold": "512KiB"},
}


@pytest.mark.parametrize("name", CLOUDS)
def test_null_clouds(name: str, file: Path, tmp_path: Path) -> None:
    """The server that stands for a cloud accepts small and large uploads, serves files, and counts handshakes."""
    small, folder = tmp_path / "small", tmp_path / "server"
    small.write_bytes(b"content")
    folder.mkdir()
    with servers.nullclouds(name, str(folder)) as (endpoint, counter):
        key = {"account_key": endpoint.secret_key} if name == "azure" else {}
        with get_storage_client(
            name, {**CONFIGS[name], **key, "endpoint_url": endpoint.url, "ca_bundle": str(endpoint.ca)}
        ) as client:
            client.upload_file(small, "a")
            client.upload_file(file, "b")
            shutil.copy(file, str(endpoint.served))
            client.download_file("file", tmp_path / "got")
            assert not client.file_exists("missing")
        counted = counter.read()
    assert (tmp_path / "got").read_bytes() == file.read_bytes()
    assert 0 < counted["handshakes"] <= counted["connections"]


@pytest.mark.parametrize("chain", [False, True], ids=["keys", "chain"])
@pytest.mark.parametrize("peer", ["gllm-storage", "gllm-storage, command", "boto3", "s3fs", "obstore"])
def test_first_verb(peer: str, chain: bool) -> None:
    """The programs of the first verb are valid Python, and contain the keys only if these are given."""
    endpoint = Endpoint("https://127.0.0.1:1", "bench", "KEY", "SECRET", ca="/ca.pem")
    command = first.command(peer, "/bin/python", endpoint, "a'b", chain=chain)
    assert ("SECRET" in " ".join(command)) == (not chain and "command" not in peer)
    assert "/ca.pem" in " ".join(command)
    if command[1] == "-c":
        compile(command[2], peer, "exec")


@pytest.fixture
def moto() -> Iterator[str]:
    """The URL of a moto server with the bucket ``bench``."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with contextlib.closing(http.client.HTTPConnection(host, port)) as connection:
        connection.request("PUT", "/bench")
        assert connection.getresponse().status == 200
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.slow
def test_complete_command(moto: str, tmp_path: Path) -> None:
    """The command measures this library and its peers on a server that stores objects, and removes its folders."""
    files = {name: tmp_path / f"found.{name}" for name in ("json", "markdown")}
    command = [sys.executable, "-m", "benchmarks", "--venv", "none", "--endpoint-url", moto, "--bucket", "bench", "--quick"]
    command += ["--peers", "gllm-storage", "obstore", "--work", str(tmp_path), "--jobs", "download-16k", "read-random"]
    command += [each for name, path in files.items() for each in (f"--{name}", str(path))]
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | keys, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    jobs = json.loads(files["json"].read_text())["endpoints"]["http"]["jobs"]
    assert {(name, peer) for name, each in jobs.items() for peer in each["runs"]} == {
        ("download-16k", "gllm-storage"),
        ("download-16k", "obstore"),
        ("read-random", "gllm-storage"),
        ("read-random", "obstore"),
    }
    assert not any(each["failures"] for each in jobs.values())
    figures = jobs["download-16k"]["runs"]["obstore"]
    assert 0 < figures["warm_wall"][0] < figures["process_wall"][0]
    assert jobs["read-random"]["counts"]["obstore"]["requests"]["GET"] == 25
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


def test_directories(tmp_path: Path) -> None:
    """A tree has files of its size with contents of their own; the table has a cell for each step, and the failures."""
    tree = folders.Tree(3, MIB + 9)
    tree.make(tmp_path)
    contents = {path.read_bytes() for path in tmp_path.rglob("*.bin")}
    assert (len(contents), {len(each) for each in contents}) == (3, {MIB + 9})

    measured = folders.Found()
    for step in folders.STEPS:
        measured.add("gllm-storage", step, {"process_wall": 1.0, "process_cpu": 0.5})
    measured.add("gllm-storage", "up", {"process_wall": 2.0, "process_cpu": 0.7})
    measured.add("s3fs", "up", {"process_wall": 3.0, "process_cpu": 2.5})
    measured.failures["s3fs"] = "down: did not end in 60 s"
    assert (measured.total("gllm-storage"), measured.total("s3fs")) == (2.5, float("inf"))
    found = results.begin({"repeats": 2, "server": "rclone"})
    peers = {"gllm-storage": {"version": "1", "how": "`client.upload_dir`"}}
    found["endpoints"]["https"] = {"peers": peers, "folders": {tree.title: vars(measured)}}
    table = folders.to_markdown(found)
    assert "| gllm-storage | 2 | 1.50 (0.60) | 1.00 (0.50) | 1.00 (0.50) | 1.00 (0.50) |" in table
    assert "| s3fs | 1 | 3.00 (2.50) | – | – | – |" in table
    assert "Failed: s3fs, down: did not end in 60 s." in table


def test_processes_in_time(tmp_path: Path) -> None:
    """A process that takes too long is killed, and the failure says so."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(run.WorkerError, match="did not end in 0 s"):
        run.run_process(command, os.environ, str(tmp_path), seconds=0.2)


_RESUMES = """
import os, sys, time, urllib.request
url, path = sys.argv[1:]
while not os.path.exists(path) or os.path.getsize(path) < 4_000_000:
    body = urllib.request.urlopen(url).read()
    time.sleep(0.02)
    open(path, "ab").write(body)
"""


def test_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is killed as often as asked, and run until it is complete; the bytes of each of its runs are counted."""
    monkeypatch.setattr(killed, "_PAUSE_SECONDS", 0.0)
    program = servers.compile_c(servers.SLOWPROXY, str(tmp_path))
    with serving() as web, servers.proxy(program, web) as counting:
        command = [sys.executable, "-c", _RESUMES, counting.url, str(tmp_path / "file")]
        repeats = killed.Repeats(command, os.environ, counting, "bytes_down")
        found = repeats.run(4_000_000, 2, random.Random(1))
    assert len(found["bytes"]) == 3
    assert 4_000_000 < sum(found["bytes"]) <= counting.seen["bytes_down"]
    table = killed.to_markdown(
        {
            "about": {"tree": "40 × 1 KiB", "bytes": 40_000, "kills": 2, "seed": 1, "conditional_writes": "auto"},
            "machine": {"cores": 2},
            "killed": {"fetch": {"bytes": [30_000, 5_000, 25_000], "seconds": 3.0}},
        }
    )
    assert "| fetch | 0.000 GiB | 1.500 | 0.0 MiB | 3 |" in table
