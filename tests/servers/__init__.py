"""Real S3 servers on loopback, started and stopped by the tests.

Each server is a context manager that takes an empty directory and reserves its own ports. Each represents one
way in which real stores answer a conditional write to an existing object:

=============  =======================  =====================================================
server         PutObject If-None-Match  CompleteMultipartUpload ditto
=============  =======================  =====================================================
``ministack``  412                      412 (like AWS)
``ceph``       412                      overwrites (radosgw 16)
``rclone``     overwrites               overwrites
``seaweedfs``  412                      412, but two writers of a new object can both win
``juicefs``    overwrites               overwrites
``reject``     501                      501
=============  =======================  =====================================================

`test_servers.py` verifies the table. ``localbucket`` also answers 412 to both; it is used because it stores
objects on the disk.
"""

from .azurite import azurite
from .base import AzureServer, GCSServer, S3Server, Server, ServerFactory, ServerUnavailableError, require
from .ceph import ceph, ceph_tls
from .gcs import fake_gcs_server, gcs_fake
from .juicefs import juicefs
from .localbucket import localbucket
from .ministack import ministack, ministack_tls
from .rclone import rclone, rclone_tls
from .reject import reject
from .seaweedfs import seaweedfs

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
    "juicefs",
    "localbucket",
    "ministack",
    "ministack_tls",
    "rclone",
    "rclone_tls",
    "reject",
    "require",
    "seaweedfs",
]
