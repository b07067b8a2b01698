"""The direct HTTP client: the frequent requests to S3, without the 0.8 ms of CPU that botocore spends on each of them.

HeadObject, GetObject, PutObject, UploadPart, DeleteObject and HeadBucket go directly to a socket. All other operations go
through boto3, and so do requests with unusual arguments. boto3 also resolves the endpoint and chooses how requests are
signed, unless the endpoint is plain (s3/access.py): then a process that only sends these needs no boto3 client.

The connections are those of `gllm_storage.http`.

From the top down::

    client        the methods of a boto3 client; retries, and the fallback to boto3
    guard         whether other code listens to the boto3 client
    operations    arguments to a request, headers to a result
    model         parameters and headers of each operation
    error_document    error documents to the response of a ClientError
    template      host, path and signing scope of a bucket
    signing       AWS Signature Version 4
"""
