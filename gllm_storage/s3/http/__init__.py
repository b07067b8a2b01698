"""The direct engine: S3's hot requests without botocore's price per request, which is about 0.8 ms of CPU.

HeadObject, GetObject, PutObject, UploadPart and DeleteObject go straight to a socket; all else, and all that is unusual,
goes through boto3, which also says where a bucket is and how requests to it are signed (template.py). It is Python over the
kernel's own sockets: nothing of it has to be stopped before a fork, and its memory is what we give it.
"""
