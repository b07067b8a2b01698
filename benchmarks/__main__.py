"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import report, results, run, servers, venv
from benchmarks.jobs import choose_jobs
from benchmarks.layout import ENDPOINTS, KIB, MIB, S3, Endpoint, Layout
from benchmarks.peers import BEFORE, PEERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_UNITS = {"GiB": MIB * KIB, "MiB": MIB, "KiB": KIB}
_BEFORE = ("gllm-storage", "gllm-storage, synced", "gllm-storage on GCS", "gllm-storage on Azure")


def _bytes(text: str) -> int:
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure this library beside its peers. By default on nulls3, over https and then over http.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--endpoints",
        nargs="+",
        default=list(S3),
        choices=ENDPOINTS,
        help="servers that cost next to nothing, one after another; gcs and azure are over https",
    )
    where.add_argument("--server", choices=servers.RIG_SERVERS, help="a server of the tests; needs the extra `test`")
    where.add_argument("--endpoint-url", help="any other; keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    parser.add_argument("--nulls3", type=Path, metavar="FILE", default=servers.NULLS3, help="source of the server for S3")
    parser.add_argument("--floor", type=Path, metavar="FILE", default=servers.FLOOR, help="program of the floor")
    parser.add_argument("--before", metavar="PYTHON", help="measure the version of this library in another Python, too")
    parser.add_argument("--bucket", help="with --endpoint-url: a bucket that is there; all this run stores is deleted")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--jobs", nargs="+", default=[], metavar="JOB", help="names, their first words, or patterns")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="PEER")
    parser.add_argument("--repeats", type=int, help="runs of each job by each peer; 5, or 1 with --quick")
    parser.add_argument(
        "--keep-all", action="store_true", help="also peers that are far behind in the first round have all runs"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes over https, to try the command out")
    parser.add_argument("--delay-ms", type=int, default=0, help="every answer comes so much later")
    parser.add_argument("--bandwidth", type=_bytes, default=0, metavar="50MiB", help="per second, connection and direction")
    parser.add_argument("--venv", default=str(venv.VENV), help="where the peers are; `none`: the Python that runs this")
    parser.add_argument("--work", metavar="FOLDER", help="where to make the files; on the disk that is to be measured")
    parser.add_argument("--list", action="store_true", help="only say which jobs there are, and how each peer does them")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="all runs; `python -m benchmarks.docs` makes the documentation from it"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables; they are printed anyway")
    options = parser.parse_args(given)
    if options.endpoint_url and not options.bucket:
        parser.error("--endpoint-url needs --bucket")
    options.repeats = options.repeats if options.repeats is not None else 1 if options.quick else 5
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, not {options.repeats}")
    if options.quick and options.endpoints == list(S3):
        options.endpoints = ["https"]
    if options.endpoint_url or options.server:
        options.endpoints = ["https" if (options.endpoint_url or "").startswith("https:") else "http"]
    return options


@contextlib.contextmanager
def _endpoint(options: argparse.Namespace, name: str, folder: str) -> Iterator[tuple[Endpoint, servers.Counter | None]]:
    """The endpoint, and the counter of its connections; None if they cannot be counted."""
    if options.endpoint_url:
        keys = os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        if not all(keys):
            raise SystemExit("--endpoint-url needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment")
        yield Endpoint(options.endpoint_url, options.bucket, *keys, options.region), None
    elif options.server:
        with servers.rig_server(options.server, folder) as endpoint:
            yield endpoint, None
    elif name in S3:
        if not options.nulls3.is_file():
            raise SystemExit(f"{options.nulls3.name} is not there; name it by --nulls3, or take --server or --endpoint-url")
        with servers.nulls3(options.nulls3, folder, tls=name == "https") as found:
            yield found
    else:
        with servers.nullclouds(name, folder) as found:
            yield found


def _measure(options: argparse.Namespace, name: str, folder: str, pythons: run.Pythons, found: results.Results) -> None:
    jobs = choose_jobs(options.jobs, name, quick=options.quick)
    if not jobs:
        return
    os.makedirs(folder)
    with contextlib.ExitStack() as stack:
        direct, counter = stack.enter_context(_endpoint(options, name, folder))
        proxy = servers.compile_c(servers.SLOWPROXY, folder)
        seen = direct
        if options.delay_ms or options.bandwidth:
            seen = direct.at(stack.enter_context(servers.proxy(proxy, direct, options.delay_ms, options.bandwidth)).url)
        layout = Layout(folder, f"bench-{uuid.uuid4().hex[:12]}")
        bench = run.Bench(pythons, seen, direct, layout, proxy, counter, settle=not options.quick, keep_all=options.keep_all)
        peers = run.describe_peers(pythons, _peers(options, name))
        stack.callback(run.clean_up, bench)
        run.prepare(bench, jobs)
        done: dict[str, run.Found] = {}
        for job in jobs:
            able = run.able(job, name, peers, done.get(job.rivals_of))
            done[job.name] = run.Found()
            try:
                run.run_job(bench, job, able, options.repeats, done[job.name])
            finally:
                # After each job, and after Ctrl-C as well: the results may be those of an hour.
                results.add(found, name, peers, job, done[job.name])
                if options.json:
                    results.save(found, options.json)


def _peers(options: argparse.Namespace, endpoint: str) -> list[str]:
    names = [name for name in options.peers if endpoint in PEERS[name].endpoints]
    return names + [f"{name}{BEFORE}" for name in names if options.before and name in _BEFORE]


def _pythons(options: argparse.Namespace, folder: str) -> run.Pythons:
    code = os.path.join(folder, "code")
    os.makedirs(code)
    os.symlink(Path(__file__).resolve().parent, os.path.join(code, "benchmarks"))
    before = os.path.abspath(options.before) if options.before else None
    return run.Pythons(venv.peers_python(options.venv), before, str(options.floor), code)


def _list(options: argparse.Namespace, pythons: run.Pythons) -> None:
    for name in options.endpoints:
        verbs = {job.name: job.verb for job in choose_jobs(options.jobs, name)}
        print(f"## {report.NAMES[name]}\n\n{report.to_list(verbs, run.describe_peers(pythons, _peers(options, name)))}")


def main(given: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        given: The arguments. Default: the arguments of the process.

    Returns:
        The exit status: 0, 2 for an unknown job, 130 after Ctrl-C.
    """
    options = _arguments(sys.argv[1:] if given is None else given)
    try:
        choose_jobs(options.jobs)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    folder = tempfile.mkdtemp(prefix="gllm-storage-bench-", dir=options.work)
    found = results.begin({name: getattr(options, name) for name in ("repeats", "quick", "delay_ms", "bandwidth", "server")})
    try:
        pythons = _pythons(options, folder)
        if options.list:
            _list(options, pythons)
            return 0
        for name in options.endpoints:
            _measure(options, name, os.path.join(folder, name), pythons, found)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if found["endpoints"]:
            report.show(report.to_markdown(found), options.markdown)
    return 0


if __name__ == "__main__":
    servers.end_on_sigterm()
    sys.exit(main())
