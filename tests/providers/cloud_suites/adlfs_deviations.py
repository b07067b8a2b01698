"""The tests of adlfs with another outcome for this library's class, and the reasons. docs/adlfs.md documents them, too."""

from __future__ import annotations

LEFT_OUT: dict[str, str] = {
    "test_spec.py::test_large_upload_overflow": "it holds 3 GB in memory, and appends",
}
"""Tests that are not run."""

_CLIENT = "it replaces the SDK's asynchronous client, by which our requests do not go"
_INIT = "it compares the arguments with which adlfs makes the SDK's client; ours come from our connection"
_FIELDS = "it looks into fields of adlfs's file, which ours has not"
_APPEND = "`ab` is refused: objects are written completely"
_VERSIONS = "it replaces the SDK's client, which answers for a version; Azurite has no versions"
_RMDIR = "`rmdir` of a container with content is refused; adlfs deletes the content, too"
_RM = "`rm` of a folder without `recursive=True` is an error; adlfs does nothing"

DEVIATIONS: dict[str, str] = {
    "test_connect_client.py::test_connect_initializer": _INIT,
    "test_connect_client.py::test_connect_connection_str": _INIT,
    "test_spec.py::test_anon_off": _INIT,
    "test_spec.py::test_anon_off_conn_str[env_vars1-storage_options1]": _INIT,
    "test_spec.py::test_anon_true": _INIT,
    "test_fetch_range.py::test_fetch_entire_blob": _FIELDS,
    "test_fetch_range.py::test_fetch_length_is_none": _FIELDS,
    "test_spec.py::test_block_size": _FIELDS,
    "test_spec.py::test_lazy_metadata_cached": _FIELDS,
    "test_spec.py::test_lazy_metadata_fetched_on_access": _FIELDS,
    "test_spec.py::test_lazy_metadata_write_mode": _FIELDS,
    "test_spec.py::test_open_file": _FIELDS,
    "test_spec.py::test_cat_file_timeout": _CLIENT,
    "test_spec.py::test_get_file_timeout": _CLIENT,
    "test_spec.py::test_pipe_file_timeout": _CLIENT,
    "test_spec.py::test_put_file_timeout": _CLIENT,
    "test_spec.py::test_rm_recursive": _CLIENT,
    "test_spec.py::test_uses_block_size_for_partitioned_uploads": _CLIENT,
    "test_spec.py::test_write_does_not_populate_version_id_when_not_version_aware": _CLIENT,
    "test_spec.py::test_write_populates_version_id_when_version_aware": _CLIENT,
    "test_spec.py::test_cp_file_versioned": _VERSIONS,
    "test_spec.py::test_exists_versioned": _VERSIONS,
    "test_spec.py::test_isfile_versioned": _VERSIONS,
    "test_spec.py::test_ls_versioned": _VERSIONS,
    "test_spec.py::test_rm_file_versioned_blob": _VERSIONS,
    "test_spec.py::test_content_settings_append": _APPEND,
    "test_spec.py::test_large_blob": _APPEND,
    "test_spec.py::test_content_settings_accepts_object": _RMDIR,
    "test_spec.py::test_content_settings_open": _RMDIR,
    "test_spec.py::test_content_settings_pipe_file": _RMDIR,
    "test_spec.py::test_content_settings_put_file": _RMDIR,
    "test_spec.py::test_dask_parquet": _RM,
    "test_uri_format.py::test_dask_parquet": _RM,
    "test_spec.py::test_deep_paths": "`find` in a container that does not exist raises, and does not return an empty list",
    "test_spec.py::test_glob": "`glob` names a folder without a slash at its end, as s3fs and gcsfs do",
    "test_spec.py::test_glob_full_uri": "a URL of another account than the filesystem's is refused",
    "test_spec.py::test_info": "`info` of a container has no time",
    "test_spec.py::test_metadata_write": "our write-id and checksums are in the user metadata (promises B, C)",
}
"""Tests that are expected to fail: a function with all its parameters, or one parametrized test."""
