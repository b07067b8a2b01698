"""Other names of config keys: those of the SDKs, of fsspec's filesystems, and of the other providers.

A config is often written from memory of another tool, or for another provider: ``bucket_name`` for Azure, ``key`` and
``secret`` for S3. By its letters the first is nearest to ``account_name``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SURE = 0.85
"""So alike that one is a misspelling of the other."""
_ALIKE = 0.6

# One line for each idea; a name may stand for several, of which a provider mostly has one: the first one counts.
_GROUPS = tuple(
    line.split()
    for line in """
    bucket_name container_name bucket container root
    endpoint_url endpoint endpoint_override api_endpoint base_url host url account_url blob_endpoint account_host
    region_name region aws_region aws_default_region location
    aws_access_key_id access_key_id access_key aws_access_key key_id key username
    aws_secret_access_key secret_access_key secret_key aws_secret_key secret password
    aws_session_token session_token security_token token
    profile_name profile aws_profile
    account_name account storage_account storage_account_name
    account_key account_access_key storage_key shared_key access_key key credential
    sas_token sas sas_key token shared_access_signature
    connection_string connection_str conn_str
    tenant_id tenant
    client_id application_id
    client_secret secret
    token credentials credential credentials_file credentials_path google_application_credentials service_account
        service_account_file service_account_path key_file keyfile
    project project_id google_cloud_project
    anonymous anon unsigned no_sign_request skip_signature
    verify_tls verify verify_ssl ssl_verify insecure
    ca_bundle aws_ca_bundle ca_file cafile ca_certs ca_cert cacert
    root path folder directory dir base_path base_dir root_dir root_path
    prefix path folder directory base_path key_prefix root
    addressing_style s3_addressing_style force_path_style path_style
    requester_pays request_payer user_project
    server_side_encryption sse encryption
    sse_kms_key_id ssekms_key_id kms_key_id kms_key kms_key_name
    kms_key_name kms_key kms_key_id sse_kms_key_id
    sse_customer_key ssec_key encryption_key cpk
    storage_class access_tier
    access_tier storage_class tier blob_tier standard_blob_tier
    part_size chunk_size chunksize block_size blocksize multipart_chunksize max_block_size
    multipart_threshold max_single_put_size
    max_concurrency concurrency max_workers threads max_pool_connections
    max_attempts retries max_retries total_max_attempts retry_total
    read_timeout timeout
    connect_timeout connection_timeout timeout
    """.replace("\n        ", " ").splitlines()
    if line.strip()
)


def nearest_key(given: object, known: Iterable[str]) -> str | None:
    """The config key that the author of a config means.

    Args:
        given: The unknown key.
        known: The known keys.

    Returns:
        A known key; None if there is none like it.

    Examples:
        >>> nearest_key("bucket_name", ["account_name", "container_name"])
        'container_name'
        >>> nearest_key("acount_name", ["account_name", "container_name"])
        'account_name'
    """
    import difflib  # only an error needs it

    plain, possible = _plain(str(given)), list(known)
    meanings = {_plain(each): each for each in possible}
    for other, key in _meanings(possible):
        meanings.setdefault(other, key)
    if plain in meanings:
        return meanings[plain]
    if sure := difflib.get_close_matches(plain, meanings, n=1, cutoff=_SURE):
        return meanings[sure[0]]
    named = {_plain(each) for group in _GROUPS for each in group}
    # A name with a meaning that no key has, such as `profile` for GCS, is not a misspelt `prefix`.
    others = [each for each in possible if plain not in named or _plain(each) not in named]
    alike = difflib.get_close_matches(str(given), others, n=1, cutoff=_ALIKE)
    return alike[0] if alike else None


def _meanings(known: list[str]) -> Iterator[tuple[str, str]]:
    """Other names, each with the known key that it stands for."""
    for group in _GROUPS:
        key = next((each for each in group if each in known), None)
        if key is not None:
            yield from ((_plain(other), key) for other in group)


def _plain(name: str) -> str:
    """A name as it is compared: ``bucketName`` and ``bucket-name`` are ``bucket_name``."""
    return name.lower().replace("-", "").replace("_", "")
