"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from benchmarks import goals, report, run, servers, venv
from benchmarks.figures import summarise
from benchmarks.jobs import choose_jobs
from benchmarks.layout import KIB, MIB, Endpoint, Layout
from benchmarks.peers import PEERS
from benchmarks.picture import to_svg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.jobs import Job

_UNITS = {"GiB": MIB * KIB, "MiB": MIB, "KiB": KIB}


def _bytes(text: str) -> int:
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure this library beside its peers, on one endpoint, in one run. Without an endpoint: on nulls3.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--nulls3", type=Path, metavar="FILE", help="source of the server that costs next to nothing")
    where.add_argument("--server", choices=servers.RIG_SERVERS, help="a server of the tests; needs the extra `test`")
    where.add_argument("--endpoint-url", help="any other; keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    parser.add_argument("--bucket", help="with --endpoint-url: a bucket that is there; all this run stores is deleted")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--jobs", nargs="+", default=[], metavar="JOB", help="names, their first words, or patterns")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="PEER")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the command out")
    parser.add_argument("--delay-ms", type=int, default=0, help="every answer comes so much later")
    parser.add_argument("--bandwidth", type=_bytes, default=0, metavar="50MiB", help="per second, connection and direction")
    parser.add_argument("--venv", default=str(venv.VENV), help="where the peers are; `none`: the Python that runs this")
    parser.add_argument("--work", metavar="FOLDER", help="where to make the files; on the disk that is to be measured")
    parser.add_argument("--list", action="store_true", help="only say which jobs there are, and how each peer does them")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables; they are printed anyway")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all samples")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="the picture")
    options = parser.parse_args(given)
    if options.endpoint_url and not options.bucket:
        parser.error("--endpoint-url needs --bucket")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, not {options.repeats}")
    return options


@contextlib.contextmanager
def _endpoint(options: argparse.Namespace, folder: str) -> Iterator[tuple[str, Endpoint, str | None]]:
    """The name of the endpoint, the endpoint, and the folder that it serves as a bucket; None if it serves none."""
    if options.endpoint_url:
        keys = os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        if not all(keys):
            raise SystemExit("--endpoint-url needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment")
        yield "an endpoint", Endpoint(options.endpoint_url, options.bucket, *keys, options.region), None
    elif options.server:
        with servers.rig_server(options.server, folder) as endpoint:
            yield options.server, endpoint, None
    else:
        source = options.nulls3 or servers.NULLS3
        if not source.is_file():
            raise SystemExit(f"{source.name} is not there; name it by --nulls3, or take --server or --endpoint-url")
        with servers.nulls3(source, folder) as (endpoint, served):
            yield "nulls3", endpoint, served


def _measure(options: argparse.Namespace, jobs: list[Job], python: str, folder: str, stack: contextlib.ExitStack) -> None:
    name, direct, served = stack.enter_context(_endpoint(options, folder))
    seen = direct
    program = servers.compile_c(servers.SLOWPROXY, folder) if direct.url.startswith("http:") else None
    about = {
        "endpoint": name,
        "delay_ms": options.delay_ms,
        "bandwidth": options.bandwidth,
        "repeats": options.repeats,
        "quick": options.quick,
    }
    if options.delay_ms or options.bandwidth:
        if program is None:
            raise SystemExit("--delay-ms and --bandwidth need an http endpoint")
        seen = direct.at(stack.enter_context(servers.proxy(program, direct, options.delay_ms, options.bandwidth)).url)
    layout = Layout(folder, f"bench-{uuid.uuid4().hex[:12]}")
    bench = run.Bench(python, seen, direct, layout, served, program, settle=not options.quick)
    peers = run.describe_peers(python, options.peers)
    outcome = run.Outcome()
    stack.callback(run.clean_up, bench)
    run.prepare(bench, jobs)
    try:
        for job in jobs:
            able = [peer for peer, each in peers.items() if job.verb in each.get("how", {})]
            if job.name.startswith("memory-"):
                able = [peer for peer in able if PEERS[peer].ours]
            run.run_job(bench, job, able, options.repeats, outcome)
    finally:
        # Also after Ctrl-C: the results may be those of an hour.
        if outcome.samples or outcome.failures:
            _report(options, jobs, outcome, peers, about)


def _report(
    options: argparse.Namespace,
    jobs: list[Job],
    outcome: run.Outcome,
    peers: dict[str, dict[str, Any]],
    about: dict[str, Any],
) -> None:
    rivals = [name for name, entry in PEERS.items() if not entry.ours and not entry.reference]
    summaries = summarise(outcome.samples, rivals, {job.name: job.yardstick for job in jobs})
    reached = [] if options.quick else goals.judge(jobs, summaries, outcome.counts)
    tables = report.to_markdown(jobs, summaries, outcome, peers)
    if reached:
        tables += "\n" + goals.to_markdown(reached)
    print(tables)
    if options.markdown:
        options.markdown.write_text(tables)
    if options.json:
        options.json.write_text(json.dumps(report.to_json(jobs, summaries, outcome, peers, about), indent=1) + "\n")
    if options.svg:
        caption = f"Medians of {options.repeats} runs on {about['endpoint']}"
        if options.delay_ms or options.bandwidth:
            caption += f", {options.delay_ms} ms away, {options.bandwidth // MIB} MiB/s for each connection"
        ours = [name for name, entry in PEERS.items() if entry.ours]
        options.svg.write_text(to_svg(jobs, summaries, ours, caption))


def main(given: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        given: The arguments. Default: the arguments of the process.

    Returns:
        The exit status: 0, 2 for an unknown job, 130 after Ctrl-C.
    """
    options = _arguments(sys.argv[1:] if given is None else given)
    try:
        jobs = choose_jobs(options.jobs, quick=options.quick)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    python = venv.peers_python(options.venv)
    if options.list:
        print(report.to_list(jobs, run.describe_peers(python, options.peers)))
        return 0
    folder = tempfile.mkdtemp(prefix="gllm-storage-bench-", dir=options.work)
    try:
        with contextlib.ExitStack() as stack:
            _measure(options, jobs, python, folder, stack)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _end(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # so that the servers end, and the files are deleted
    sys.exit(main())
