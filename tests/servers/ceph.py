"""Ceph's radosgw from Debian: a real S3 server with real signatures and an atomic conditional PutObject.

Release 16 ignores the precondition of a CompleteMultipartUpload and overwrites. The cluster has one monitor, one OSD
that keeps its data in memory, and one gateway; it has no manager, no cephx and no systemd.
"""

import secrets
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .base import S3Server
from .process import (
    LOOPBACK,
    Certificate,
    answers,
    clean_environment,
    endpoint,
    find_program,
    listens,
    make_certificate,
    reserved_ports,
    run,
    run_until_it_works,
    running,
)

INSTALL = "apt-get install -y --no-install-recommends radosgw ceph-mon ceph-osd ceph-common"
PROGRAMS = ("monmaptool", "ceph-mon", "ceph-osd", "ceph", "radosgw-admin", "radosgw")
OSD_PORTS = 4  # for clients, for other OSDs, and for the heartbeats of both

# The unusual settings are the result of measurements. Without the short paxos intervals, a start takes 13.6 s instead of
# 1.3 s. Without [osd] monmap and the two "update on start", 3 of 12 starts failed with "wrong fsid". Without tcp_nodelay,
# the server answers 21 small GETs per second instead of 400. Without the gc settings, deleted data stays in memory for two
# hours. Without the settings of threads, shards and one gc object in [client.rgw], an idle cluster takes 2.2 % of a
# processor instead of 0.6 %, and each of four test processes keeps one. The admin socket is disabled because its path could
# exceed the limit of 107 bytes. The cluster log is disabled because it goes to /var/log/ceph for any value of "log file".
# Without the "crit", a monitor ends with 28 (ENOSPC) where less than 5 % of the disk is free, whatever its size.
CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = v1:{loopback}:{mon_port}
mon initial members = a
public addr = {loopback}
cluster addr = {loopback}
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon tick interval = 1
mon data avail crit = -1
paxos propose interval = 0.02
paxos min wait = 0.01
osd crush chooseleaf type = 0
run dir = {directory}
admin socket =
pid file =
log file = {directory}/$name.log
mon cluster log to file = false
crash dir = {directory}

[mon.a]
mon data = {directory}/mon.a

[osd]
monmap = {directory}/monmap
osd crush update on start = false
osd class update on start = false
osd data = {directory}/osd.0
osd objectstore = memstore
memstore device bytes = 6442450944
osd memory target = 1073741824
ms bind port min = {osd_port_min}
ms bind port max = {osd_port_max}

[client.rgw]
rgw frontends = beast {frontend} tcp_nodelay=1
rgw data = {directory}/rgw
rgw dynamic resharding = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw run sync thread = false
rgw objexp hints num shards = 1
rgw objexp gc interval = 86400
rgw gc max objs = 1
rgw gc obj min wait = 2
rgw gc processor period = 3
rgw gc processor max time = 3
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = {kms_key}=MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=
"""
KMS_KEY = "testkey-1"
"""The id of a key in the gateway's key management."""


@contextmanager
def ceph(directory: Path) -> Iterator[S3Server]:
    """Run a cluster with a gateway for http."""
    with _serve(directory, None) as server:
        yield server


@contextmanager
def ceph_tls(directory: Path) -> Iterator[S3Server]:
    """Run a cluster with a gateway for https."""
    with _serve(directory, make_certificate(directory)) as server:
        yield server


@contextmanager
def _serve(directory: Path, certificate: Certificate | None) -> Iterator[S3Server]:
    monmaptool, mon, osd, ceph_tool, rgw_admin, rgw = (find_program(name, INSTALL) for name in PROGRAMS)
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    fsid, osd_id = str(uuid.uuid4()), str(uuid.uuid4())
    log = directory / "ceph.log"
    with ExitStack() as stack:
        mon_port, rgw_port, *osd_ports = stack.enter_context(reserved_ports(2 + OSD_PORTS))
        configuration = directory / "ceph.conf"
        configuration.write_text(
            CONFIGURATION.format(
                directory=directory,
                fsid=fsid,
                kms_key=KMS_KEY,
                frontend=_frontend(rgw_port, certificate),
                loopback=LOOPBACK,
                mon_port=mon_port,
                osd_port_min=osd_ports[0],
                osd_port_max=osd_ports[-1],
            )
        )
        for data in ("mon.a", "osd.0", "rgw"):
            (directory / data).mkdir()
        environment = clean_environment(directory) | {"CEPH_CONF": str(configuration)}
        monmap = str(directory / "monmap")
        address = f"[v1:{LOOPBACK}:{mon_port}]"
        pids = []

        run([monmaptool, "--create", "--fsid", fsid, "--addv", "a", address, monmap], log, environment)
        run([mon, "--mkfs", "-i", "a", "--monmap", monmap], log, environment)
        # All daemons run in the foreground (-f): a daemon in the background would outlive this process.
        pids.append(stack.enter_context(running([mon, "-f", "-i", "a"], log, environment, lambda: listens(mon_port))))
        # On a busy machine the monitor listens before it can answer: "EPERM: problem getting command descriptions".
        run_until_it_works([ceph_tool, "osd", "new", osd_id, "0"], log, environment)
        crush = ["osd", "crush", "add", "osd.0", "1.0", "host=localhost", "root=default"]
        run_until_it_works([ceph_tool, *crush], log, environment)
        run([osd, "-i", "0", "--mkfs", "--osd-uuid", osd_id], log, environment)
        pids.append(stack.enter_context(running([osd, "-f", "-i", "0"], log, environment, lambda: listens(osd_ports[0]))))
        # This also waits until the OSD has joined, because it writes.
        user = ["--uid=test", "--display-name=test", f"--access-key={access_key}", f"--secret-key={secret_key}"]
        run([rgw_admin, "user", "create", *user], log, environment)
        gateway = running([rgw, "-f", "-n", "client.rgw"], log, environment, lambda: answers(rgw_port, certificate))
        pids.append(stack.enter_context(gateway))
        yield S3Server(
            "ceph",
            endpoint(rgw_port, certificate),
            access_key,
            secret_key,
            certificate.authority if certificate else None,
            tuple(pids),
            str(configuration),
        )


def _frontend(port: int, certificate: Certificate | None) -> str:
    if certificate:
        return f"ssl_endpoint={LOOPBACK}:{port} ssl_certificate={certificate.both}"
    return f"endpoint={LOOPBACK}:{port}"
