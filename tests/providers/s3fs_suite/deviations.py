"""The tests of s3fs with another outcome for this library's class, and the reasons. docs/s3fs.md documents them, too."""

from __future__ import annotations

LEFT_OUT: dict[str, str] = {
    "test_s3fs.py::test_async_close": "it asks Amazon itself, over the internet",
}
"""Tests that are not run."""

_FRESH = "listings are not kept, and `info` is always asked from the store (promise E), so the test finds no cache"
_STREAM = "it looks into the buffer and the parts of s3fs's file; ours sends parts in the background and has neither"
_BOTO3 = "it replaces methods of aiobotocore's client, or `_call_s3`, by which our requests do not go"

DEVIATIONS: dict[str, str] = {
    "test_s3fs.py::test_info": _FRESH,
    "test_s3fs.py::test_checksum": _FRESH,
    "test_s3fs.py::test_isdir": _FRESH,
    "test_s3fs.py::test_versions_dircached": _FRESH,
    "test_s3fs.py::test_copy_file_without_etag": _FRESH,
    "test_s3fs.py::test_normal_ls_and_find_still_populate_dircache": _FRESH,
    "test_s3fs.py::test_write_blocks": _STREAM,
    "test_s3fs.py::test_multipart_upload_blocksize": _STREAM,
    "test_s3fs.py::test_autocommit_mpu": _STREAM,
    "test_s3fs.py::test_upload_parts": _STREAM,
    "test_s3fs.py::test_upload_part_with_prime_pads": _STREAM,
    "test_s3fs.py::test_list_del_multipart": "6 MiB are no multipart upload yet; ours begins one above multipart_threshold",
    "test_s3fs.py::test_errors_cause_preservings": _BOTO3,
    "test_s3fs.py::test_requester_pays_makedirs_uses_object_listing": _BOTO3,
    "test_s3fs.py::test_listing_retries_transient_errors": _BOTO3,
    "test_s3fs.py::test_set_session_closed_sessions_rebuilds_once": _BOTO3,
    "test_s3fs.py::test_errors": "an exception inside `with open(…, 'wb')` takes the write back (promise D)",
    "test_s3fs.py::test_same_name_but_no_exact": "`exists('x/')` is False where only the object `x` exists",
    "test_s3fs.py::test_with_size": "open(size=...) is not believed: the object is looked at, and pinned to what was seen",
    "test_s3fs.py::test_xattr_setxattr_in_write_mode": "a file that is written has no setxattr, not even one that refuses",
    "test_s3fs.py::test_append": "our write-id and checksum are in the user metadata of what we wrote (promises B, C)",
    "test_s3fs.py::test_version_sizes": "pipe_file returns nothing, as fsspec's; s3fs returns S3's answer for small objects",
}
"""Tests that are expected to fail: a function with all its parameters, or one parametrized test."""

BETTER: dict[str, str] = {
    "derived/s3fs_test.py::TestS3fsOpen::test_open_exclusive": "open(…, 'xb') looks at once, and not at the close only",
}
"""Tests that s3fs expects to fail, and that pass."""
