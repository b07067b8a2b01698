"""Real S3 servers on loopback, started and stopped by the tests.

Each is a context manager over an empty directory of its own, on ports nobody else has, and each stands for one
way in which the stores of this world treat a conditional write:

=============  =======================  ==============================
server         PutObject If-None-Match  CompleteMultipartUpload ditto
=============  =======================  ==============================
``ministack``  412                      412 (what AWS does)
``ceph``       412                      overwrites (radosgw 16)
``rclone``     overwrites               overwrites
``reject``     501                      501
=============  =======================  ==============================

`test_servers.py` holds them to that table. ``localbucket`` answers 412 to both, too; it is here because it
stores on the disk.
"""

from .azurite import azurite
from .base import AzureServer, GCSServer, S3Server, Server, ServerFactory, ServerUnavailableError, require
from .ceph import ceph, ceph_tls
from .gcs import fake_gcs_server, gcs_fake
from .localbucket import localbucket
from .ministack import ministack, ministack_tls
from .rclone import rclone, rclone_tls
from .reject import reject

__all__ = [
    "AzureServer",
    "GCSServer",
    "S3Server",
    "Server",
    "ServerFactory",
    "ServerUnavailableError",
    "azurite",
    "ceph",
    "ceph_tls",
    "fake_gcs_server",
    "gcs_fake",
    "localbucket",
    "ministack",
    "ministack_tls",
    "rclone",
    "rclone_tls",
    "reject",
    "require",
]
