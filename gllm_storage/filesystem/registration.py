"""`register_filesystems`: fsspec's URLs of this process go through our filesystems."""

from __future__ import annotations

from importlib import import_module

from gllm_storage.extras import require_extra

_S3 = ("gllm_storage.s3.filesystem", "S3FileSystem", "s3", ("s3fs",))
_GCS = ("gllm_storage.gcs.filesystem", "GCSFileSystem", "gcs", ("gcsfs",))
_AZURE = ("gllm_storage.azure.filesystem", "AzureBlobFileSystem", "azure", ("adlfs", "azure.storage.blob"))
_CLASSES = {"s3": _S3, "s3a": _S3, "gs": _GCS, "gcs": _GCS, "az": _AZURE, "abfs": _AZURE, "abfss": _AZURE}
"""Module and class of each protocol, and the extra that brings what they need."""


def register_filesystems(*protocols: str) -> list[str]:
    """Let ``fsspec.open``, pandas, torch, dask, … open URLs through our filesystems, in this process.

    Nothing changes for other processes, but for those that are forked afterwards: call it in each worker that is started
    otherwise. Filesystems that were made before stay what they are.

    Args:
        *protocols: Which: ``"s3"``, ``"s3a"``, ``"gs"``, ``"gcs"``, ``"az"``, ``"abfs"``, ``"abfss"``. Default: all whose
            extra is installed.

    Returns:
        The protocols that are registered now.

    Raises:
        ValueError: If we have no filesystem for a protocol that is named.
        ImportError: If the extra of a protocol that is named is not installed; it says how to install it.
    """
    for protocol in protocols:
        if protocol not in _CLASSES:
            raise ValueError(f"there is no filesystem of ours for {protocol!r}, only for {', '.join(_CLASSES)}")
        _require(protocol)
    chosen = protocols or tuple(filter(_is_installed, _CLASSES))
    for protocol in chosen:
        _register(protocol)
    return list(chosen)


def _register(protocol: str) -> None:
    from fsspec import register_implementation  # noqa: PLC0415 - importing this module loads no SDK

    module, name, _, _ = _CLASSES[protocol]
    register_implementation(protocol, getattr(import_module(module), name), clobber=True)


def _require(protocol: str) -> None:
    _, _, extra, modules = _CLASSES[protocol]
    require_extra(extra, *modules)


def _is_installed(protocol: str) -> bool:
    try:
        _require(protocol)
    except ImportError:
        return False
    return True
