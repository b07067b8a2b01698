"""The parts of botocore's model of S3 that the direct client needs: parameters and headers of its operations.

botocore reads the model from a file of 1.3 MB, which takes 0.1 s at the start of a process. This copy takes 0.1 ms;
tests/unit/s3/http/test_model.py compares it with the installed botocore. Parameters that are missing here go through boto3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Model:
    """One operation.

    Attributes:
        name: Its name, such as ``"HeadObject"``.
        method: HTTP method.
        inputs: The place of each parameter in the request (botocore's ``location``; empty for the body), and its name there.
        outputs: The field of the result for each header of an answer, and the type of the field.
        query: The query of all its requests, such as ``"uploads"``.
        elements: The fields of the result that are elements of the answer's document, and texts. Those of a listing are in
            listing_document.py.
    """

    name: str
    method: str
    inputs: Mapping[str, tuple[str, str]]
    outputs: Mapping[str, tuple[str, str]]
    query: str = ""
    elements: frozenset[str] = frozenset()

    @property
    def has_key(self) -> bool:
        """Whether it is about an object, not about a bucket."""
        return "Key" in self.inputs

    @property
    def has_metadata(self) -> bool:
        """Whether the result has the user metadata of an object."""
        return self.name in {"HeadObject", "GetObject"}


def _model(
    name: str,
    method: str,
    parameters: str,
    headers: str,
    *,
    others: Mapping[str, tuple[str, str]] | None = None,
    query: str = "",
    elements: str = "",
) -> Model:
    inputs = {each: _PARAMETERS[each] for each in parameters.split()} | dict(others or {})
    outputs = {each: _HEADERS[each] for each in headers.split()}
    return Model(name, method, inputs, outputs, query, frozenset(elements.split()))


_PARAMETERS = {
    "ACL": ("header", "x-amz-acl"),
    "Body": ("", "Body"),
    "Bucket": ("uri", "Bucket"),
    "BucketKeyEnabled": ("header", "x-amz-server-side-encryption-bucket-key-enabled"),
    "BypassGovernanceRetention": ("header", "x-amz-bypass-governance-retention"),
    "CacheControl": ("header", "cache-control"),
    "ChecksumAlgorithm": ("header", "x-amz-sdk-checksum-algorithm"),
    "ChecksumCRC32": ("header", "x-amz-checksum-crc32"),
    "ChecksumCRC32C": ("header", "x-amz-checksum-crc32c"),
    "ChecksumCRC64NVME": ("header", "x-amz-checksum-crc64nvme"),
    "ChecksumMD5": ("header", "x-amz-checksum-md5"),
    "ChecksumMode": ("header", "x-amz-checksum-mode"),
    "ChecksumSHA1": ("header", "x-amz-checksum-sha1"),
    "ChecksumSHA256": ("header", "x-amz-checksum-sha256"),
    "ChecksumSHA512": ("header", "x-amz-checksum-sha512"),
    "ChecksumType": ("header", "x-amz-checksum-type"),
    "ChecksumXXHASH128": ("header", "x-amz-checksum-xxhash128"),
    "ChecksumXXHASH3": ("header", "x-amz-checksum-xxhash3"),
    "ChecksumXXHASH64": ("header", "x-amz-checksum-xxhash64"),
    "ContentDisposition": ("header", "content-disposition"),
    "ContentEncoding": ("header", "content-encoding"),
    "ContentLanguage": ("header", "content-language"),
    "ContentLength": ("header", "content-length"),
    "ContentMD5": ("header", "content-md5"),
    "ContentType": ("header", "content-type"),
    "ContinuationToken": ("querystring", "continuation-token"),
    "Delimiter": ("querystring", "delimiter"),
    "EncodingType": ("querystring", "encoding-type"),
    "ExpectedBucketOwner": ("header", "x-amz-expected-bucket-owner"),
    "Expires": ("header", "expires"),
    "FetchOwner": ("querystring", "fetch-owner"),
    "GrantFullControl": ("header", "x-amz-grant-full-control"),
    "GrantRead": ("header", "x-amz-grant-read"),
    "GrantReadACP": ("header", "x-amz-grant-read-acp"),
    "GrantWriteACP": ("header", "x-amz-grant-write-acp"),
    "IfMatch": ("header", "if-match"),
    "IfMatchInitiatedTime": ("header", "x-amz-if-match-initiated-time"),
    "IfMatchLastModifiedTime": ("header", "x-amz-if-match-last-modified-time"),
    "IfMatchSize": ("header", "x-amz-if-match-size"),
    "IfModifiedSince": ("header", "if-modified-since"),
    "IfNoneMatch": ("header", "if-none-match"),
    "IfUnmodifiedSince": ("header", "if-unmodified-since"),
    "Key": ("uri", "Key"),
    "MFA": ("header", "x-amz-mfa"),
    "MaxKeys": ("querystring", "max-keys"),
    "Metadata": ("headers", "x-amz-meta-"),
    "MpuObjectSize": ("header", "x-amz-mp-object-size"),
    "MultipartUpload": ("", "CompleteMultipartUpload"),
    "ObjectLockEventHold": ("header", "x-amz-object-lock-event-hold"),
    "ObjectLockEventHoldDurationDays": ("header", "x-amz-object-lock-event-hold-duration-days"),
    "ObjectLockEventHoldDurationYears": ("header", "x-amz-object-lock-event-hold-duration-years"),
    "ObjectLockLegalHoldStatus": ("header", "x-amz-object-lock-legal-hold"),
    "ObjectLockMode": ("header", "x-amz-object-lock-mode"),
    "ObjectLockRetainUntilDate": ("header", "x-amz-object-lock-retain-until-date"),
    "OptionalObjectAttributes": ("header", "x-amz-optional-object-attributes"),
    "PartNumber": ("querystring", "partNumber"),
    "Prefix": ("querystring", "prefix"),
    "Range": ("header", "range"),
    "RequestPayer": ("header", "x-amz-request-payer"),
    "ResponseCacheControl": ("querystring", "response-cache-control"),
    "ResponseContentDisposition": ("querystring", "response-content-disposition"),
    "ResponseContentEncoding": ("querystring", "response-content-encoding"),
    "ResponseContentLanguage": ("querystring", "response-content-language"),
    "ResponseContentType": ("querystring", "response-content-type"),
    "ResponseExpires": ("querystring", "response-expires"),
    "SSECustomerAlgorithm": ("header", "x-amz-server-side-encryption-customer-algorithm"),
    "SSECustomerKey": ("header", "x-amz-server-side-encryption-customer-key"),
    "SSECustomerKeyMD5": ("header", "x-amz-server-side-encryption-customer-key-md5"),
    "SSEKMSEncryptionContext": ("header", "x-amz-server-side-encryption-context"),
    "SSEKMSKeyId": ("header", "x-amz-server-side-encryption-aws-kms-key-id"),
    "ServerSideEncryption": ("header", "x-amz-server-side-encryption"),
    "StartAfter": ("querystring", "start-after"),
    "StorageClass": ("header", "x-amz-storage-class"),
    "Tagging": ("header", "x-amz-tagging"),
    "UploadId": ("querystring", "uploadId"),
    "VersionId": ("querystring", "versionId"),
    "WebsiteRedirectLocation": ("header", "x-amz-website-redirect-location"),
    "WriteOffsetBytes": ("header", "x-amz-write-offset-bytes"),
}
_HEADERS = {
    "accept-ranges": ("AcceptRanges", "string"),
    "cache-control": ("CacheControl", "string"),
    "content-disposition": ("ContentDisposition", "string"),
    "content-encoding": ("ContentEncoding", "string"),
    "content-language": ("ContentLanguage", "string"),
    "content-length": ("ContentLength", "long"),
    "content-range": ("ContentRange", "string"),
    "content-type": ("ContentType", "string"),
    "etag": ("ETag", "string"),
    "expires": ("Expires", "timestamp"),
    "last-modified": ("LastModified", "timestamp"),
    "x-amz-abort-date": ("AbortDate", "timestamp"),
    "x-amz-abort-rule-id": ("AbortRuleId", "string"),
    "x-amz-access-point-alias": ("AccessPointAlias", "boolean"),
    "x-amz-archive-status": ("ArchiveStatus", "string"),
    "x-amz-bucket-arn": ("BucketArn", "string"),
    "x-amz-bucket-location-name": ("BucketLocationName", "string"),
    "x-amz-bucket-location-type": ("BucketLocationType", "string"),
    "x-amz-bucket-region": ("BucketRegion", "string"),
    "x-amz-checksum-algorithm": ("ChecksumAlgorithm", "string"),
    "x-amz-checksum-crc32": ("ChecksumCRC32", "string"),
    "x-amz-checksum-crc32c": ("ChecksumCRC32C", "string"),
    "x-amz-checksum-crc64nvme": ("ChecksumCRC64NVME", "string"),
    "x-amz-checksum-md5": ("ChecksumMD5", "string"),
    "x-amz-checksum-sha1": ("ChecksumSHA1", "string"),
    "x-amz-checksum-sha256": ("ChecksumSHA256", "string"),
    "x-amz-checksum-sha512": ("ChecksumSHA512", "string"),
    "x-amz-checksum-type": ("ChecksumType", "string"),
    "x-amz-checksum-xxhash128": ("ChecksumXXHASH128", "string"),
    "x-amz-checksum-xxhash3": ("ChecksumXXHASH3", "string"),
    "x-amz-checksum-xxhash64": ("ChecksumXXHASH64", "string"),
    "x-amz-delete-marker": ("DeleteMarker", "boolean"),
    "x-amz-expiration": ("Expiration", "string"),
    "x-amz-missing-meta": ("MissingMeta", "integer"),
    "x-amz-mp-parts-count": ("PartsCount", "integer"),
    "x-amz-object-lock-event-hold": ("ObjectLockEventHold", "string"),
    "x-amz-object-lock-event-hold-duration-days": ("ObjectLockEventHoldDurationDays", "integer"),
    "x-amz-object-lock-event-hold-duration-years": ("ObjectLockEventHoldDurationYears", "integer"),
    "x-amz-object-lock-legal-hold": ("ObjectLockLegalHoldStatus", "string"),
    "x-amz-object-lock-mode": ("ObjectLockMode", "string"),
    "x-amz-object-lock-retain-until-date": ("ObjectLockRetainUntilDate", "timestamp"),
    "x-amz-object-size": ("Size", "long"),
    "x-amz-replication-status": ("ReplicationStatus", "string"),
    "x-amz-request-charged": ("RequestCharged", "string"),
    "x-amz-restore": ("Restore", "string"),
    "x-amz-server-side-encryption": ("ServerSideEncryption", "string"),
    "x-amz-server-side-encryption-aws-kms-key-id": ("SSEKMSKeyId", "string"),
    "x-amz-server-side-encryption-bucket-key-enabled": ("BucketKeyEnabled", "boolean"),
    "x-amz-server-side-encryption-context": ("SSEKMSEncryptionContext", "string"),
    "x-amz-server-side-encryption-customer-algorithm": ("SSECustomerAlgorithm", "string"),
    "x-amz-server-side-encryption-customer-key-md5": ("SSECustomerKeyMD5", "string"),
    "x-amz-storage-class": ("StorageClass", "string"),
    "x-amz-tagging-count": ("TagCount", "integer"),
    "x-amz-version-id": ("VersionId", "string"),
    "x-amz-website-redirect-location": ("WebsiteRedirectLocation", "string"),
}
MODELS = {
    "head_object": _model(
        "HeadObject",
        "HEAD",
        (
            "Bucket IfMatch IfModifiedSince IfNoneMatch IfUnmodifiedSince Key Range ResponseCacheControl "
            "ResponseContentDisposition ResponseContentEncoding ResponseContentLanguage ResponseContentType "
            "ResponseExpires VersionId SSECustomerAlgorithm SSECustomerKey SSECustomerKeyMD5 RequestPayer PartNumber "
            "ExpectedBucketOwner ChecksumMode"
        ),
        (
            "x-amz-delete-marker accept-ranges x-amz-expiration x-amz-restore x-amz-archive-status last-modified "
            "content-length x-amz-checksum-crc32 x-amz-checksum-crc32c x-amz-checksum-crc64nvme x-amz-checksum-sha1 "
            "x-amz-checksum-sha256 x-amz-checksum-sha512 x-amz-checksum-md5 x-amz-checksum-xxhash64 "
            "x-amz-checksum-xxhash3 x-amz-checksum-xxhash128 x-amz-checksum-type etag x-amz-missing-meta x-amz-version-id "
            "cache-control content-disposition content-encoding content-language content-type content-range expires "
            "x-amz-website-redirect-location x-amz-server-side-encryption x-amz-server-side-encryption-customer-algorithm "
            "x-amz-server-side-encryption-customer-key-md5 x-amz-server-side-encryption-aws-kms-key-id "
            "x-amz-server-side-encryption-bucket-key-enabled x-amz-storage-class x-amz-request-charged "
            "x-amz-replication-status x-amz-mp-parts-count x-amz-tagging-count x-amz-object-lock-mode "
            "x-amz-object-lock-retain-until-date x-amz-object-lock-legal-hold x-amz-object-lock-event-hold "
            "x-amz-object-lock-event-hold-duration-days x-amz-object-lock-event-hold-duration-years"
        ),
    ),
    "get_object": _model(
        "GetObject",
        "GET",
        (
            "Bucket IfMatch IfModifiedSince IfNoneMatch IfUnmodifiedSince Key Range ResponseCacheControl "
            "ResponseContentDisposition ResponseContentEncoding ResponseContentLanguage ResponseContentType "
            "ResponseExpires VersionId SSECustomerAlgorithm SSECustomerKey SSECustomerKeyMD5 RequestPayer PartNumber "
            "ExpectedBucketOwner ChecksumMode"
        ),
        (
            "x-amz-delete-marker accept-ranges x-amz-expiration x-amz-restore last-modified content-length etag "
            "x-amz-checksum-crc32 x-amz-checksum-crc32c x-amz-checksum-crc64nvme x-amz-checksum-sha1 "
            "x-amz-checksum-sha256 x-amz-checksum-sha512 x-amz-checksum-md5 x-amz-checksum-xxhash64 "
            "x-amz-checksum-xxhash3 x-amz-checksum-xxhash128 x-amz-checksum-type x-amz-missing-meta x-amz-version-id "
            "cache-control content-disposition content-encoding content-language content-range content-type expires "
            "x-amz-website-redirect-location x-amz-server-side-encryption x-amz-server-side-encryption-customer-algorithm "
            "x-amz-server-side-encryption-customer-key-md5 x-amz-server-side-encryption-aws-kms-key-id "
            "x-amz-server-side-encryption-bucket-key-enabled x-amz-storage-class x-amz-request-charged "
            "x-amz-replication-status x-amz-mp-parts-count x-amz-tagging-count x-amz-object-lock-mode "
            "x-amz-object-lock-retain-until-date x-amz-object-lock-legal-hold x-amz-object-lock-event-hold "
            "x-amz-object-lock-event-hold-duration-days x-amz-object-lock-event-hold-duration-years"
        ),
    ),
    "put_object": _model(
        "PutObject",
        "PUT",
        (
            "ACL Body Bucket CacheControl ContentDisposition ContentEncoding ContentLanguage ContentLength ContentMD5 "
            "ContentType ChecksumAlgorithm ChecksumCRC32 ChecksumCRC32C ChecksumCRC64NVME ChecksumSHA1 ChecksumSHA256 "
            "ChecksumSHA512 ChecksumMD5 ChecksumXXHASH64 ChecksumXXHASH3 ChecksumXXHASH128 Expires IfMatch IfNoneMatch "
            "GrantFullControl GrantRead GrantReadACP GrantWriteACP Key WriteOffsetBytes Metadata ServerSideEncryption "
            "StorageClass WebsiteRedirectLocation SSECustomerAlgorithm SSECustomerKey SSECustomerKeyMD5 SSEKMSKeyId "
            "SSEKMSEncryptionContext BucketKeyEnabled RequestPayer Tagging ObjectLockMode ObjectLockRetainUntilDate "
            "ObjectLockLegalHoldStatus ObjectLockEventHold ObjectLockEventHoldDurationDays "
            "ObjectLockEventHoldDurationYears ExpectedBucketOwner"
        ),
        (
            "x-amz-expiration etag x-amz-checksum-crc32 x-amz-checksum-crc32c x-amz-checksum-crc64nvme "
            "x-amz-checksum-sha1 x-amz-checksum-sha256 x-amz-checksum-sha512 x-amz-checksum-md5 x-amz-checksum-xxhash64 "
            "x-amz-checksum-xxhash3 x-amz-checksum-xxhash128 x-amz-checksum-type x-amz-server-side-encryption "
            "x-amz-version-id x-amz-server-side-encryption-customer-algorithm "
            "x-amz-server-side-encryption-customer-key-md5 x-amz-server-side-encryption-aws-kms-key-id "
            "x-amz-server-side-encryption-context x-amz-server-side-encryption-bucket-key-enabled x-amz-object-size "
            "x-amz-request-charged"
        ),
    ),
    "upload_part": _model(
        "UploadPart",
        "PUT",
        (
            "Body Bucket ContentLength ContentMD5 ChecksumAlgorithm ChecksumCRC32 ChecksumCRC32C ChecksumCRC64NVME "
            "ChecksumSHA1 ChecksumSHA256 ChecksumSHA512 ChecksumMD5 ChecksumXXHASH64 ChecksumXXHASH3 ChecksumXXHASH128 "
            "Key PartNumber UploadId SSECustomerAlgorithm SSECustomerKey SSECustomerKeyMD5 RequestPayer "
            "ExpectedBucketOwner"
        ),
        (
            "x-amz-server-side-encryption etag x-amz-checksum-crc32 x-amz-checksum-crc32c x-amz-checksum-crc64nvme "
            "x-amz-checksum-sha1 x-amz-checksum-sha256 x-amz-checksum-sha512 x-amz-checksum-md5 x-amz-checksum-xxhash64 "
            "x-amz-checksum-xxhash3 x-amz-checksum-xxhash128 x-amz-server-side-encryption-customer-algorithm "
            "x-amz-server-side-encryption-customer-key-md5 x-amz-server-side-encryption-aws-kms-key-id "
            "x-amz-server-side-encryption-bucket-key-enabled x-amz-request-charged"
        ),
    ),
    "create_multipart_upload": _model(
        "CreateMultipartUpload",
        "POST",
        (
            "ACL Bucket CacheControl ContentDisposition ContentEncoding ContentLanguage ContentType Expires "
            "GrantFullControl GrantRead GrantReadACP GrantWriteACP Key Metadata ServerSideEncryption StorageClass "
            "WebsiteRedirectLocation "
            "SSECustomerAlgorithm SSECustomerKey SSECustomerKeyMD5 SSEKMSKeyId SSEKMSEncryptionContext BucketKeyEnabled "
            "RequestPayer Tagging ObjectLockMode ObjectLockRetainUntilDate ObjectLockLegalHoldStatus ObjectLockEventHold "
            "ObjectLockEventHoldDurationDays ObjectLockEventHoldDurationYears ExpectedBucketOwner ChecksumType"
        ),
        (
            "x-amz-abort-date x-amz-abort-rule-id x-amz-server-side-encryption "
            "x-amz-server-side-encryption-customer-algorithm x-amz-server-side-encryption-customer-key-md5 "
            "x-amz-server-side-encryption-aws-kms-key-id x-amz-server-side-encryption-context "
            "x-amz-server-side-encryption-bucket-key-enabled x-amz-request-charged x-amz-checksum-algorithm "
            "x-amz-checksum-type"
        ),
        others={"ChecksumAlgorithm": ("header", "x-amz-checksum-algorithm")},
        query="uploads",
        elements="Bucket Key UploadId",
    ),
    "complete_multipart_upload": _model(
        "CompleteMultipartUpload",
        "POST",
        (
            "Bucket Key MultipartUpload UploadId ChecksumCRC32 ChecksumCRC32C ChecksumCRC64NVME ChecksumSHA1 ChecksumSHA256 "
            "ChecksumSHA512 ChecksumMD5 ChecksumXXHASH64 ChecksumXXHASH3 ChecksumXXHASH128 ChecksumType MpuObjectSize "
            "RequestPayer ExpectedBucketOwner IfMatch IfNoneMatch SSECustomerAlgorithm SSECustomerKey SSECustomerKeyMD5"
        ),
        (
            "x-amz-expiration x-amz-server-side-encryption x-amz-version-id x-amz-server-side-encryption-aws-kms-key-id "
            "x-amz-server-side-encryption-bucket-key-enabled x-amz-request-charged"
        ),
        elements=(
            "Location Bucket Key ETag ChecksumCRC32 ChecksumCRC32C ChecksumCRC64NVME ChecksumSHA1 ChecksumSHA256 "
            "ChecksumSHA512 ChecksumMD5 ChecksumXXHASH64 ChecksumXXHASH3 ChecksumXXHASH128 ChecksumType"
        ),
    ),
    "abort_multipart_upload": _model(
        "AbortMultipartUpload",
        "DELETE",
        "Bucket Key UploadId RequestPayer ExpectedBucketOwner IfMatchInitiatedTime",
        "x-amz-request-charged",
    ),
    "delete_object": _model(
        "DeleteObject",
        "DELETE",
        (
            "Bucket Key MFA VersionId RequestPayer BypassGovernanceRetention ExpectedBucketOwner IfMatch "
            "IfMatchLastModifiedTime IfMatchSize"
        ),
        ("x-amz-delete-marker x-amz-version-id x-amz-request-charged"),
    ),
    "list_objects_v2": _model(
        "ListObjectsV2",
        "GET",
        (
            "Bucket Delimiter EncodingType MaxKeys Prefix ContinuationToken FetchOwner StartAfter RequestPayer "
            "ExpectedBucketOwner OptionalObjectAttributes"
        ),
        "x-amz-request-charged",
        query="list-type=2",
    ),
    "head_bucket": _model(
        "HeadBucket",
        "HEAD",
        ("Bucket ExpectedBucketOwner"),
        (
            "x-amz-bucket-arn x-amz-bucket-location-type x-amz-bucket-location-name x-amz-bucket-region "
            "x-amz-access-point-alias"
        ),
    ),
}
"""The operations of the direct client, by the name of boto3's method."""
