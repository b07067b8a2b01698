"""`abort_uploads`, beside other processes and on stores whose listings are late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from gllm_storage.s3.unfinished import abort_uploads
from tests.unit.s3.test_probe import failed

UPLOADS = [("data/a", "1"), ("data/a", "2"), ("data/b", "3")]


class Uploads:
    """The client of a store with unfinished uploads.

    Args:
        gone: Those that another process ends as soon as they were listed.
        is_late: Whether the store lists aborted uploads for ever.
        failure: The answer to each request to abort.
    """

    def __init__(self, gone: set[str], *, is_late: bool, failure: ClientError | None = None) -> None:
        self.left = dict.fromkeys(UPLOADS, "")
        self.aborted: list[tuple[str, str]] = []
        self._gone = gone
        self._is_late = is_late
        self._failure = failure

    def list_multipart_uploads(self, **parameters: Any) -> Any:
        assert parameters == {"Bucket": "models", "Prefix": "data/"}
        found = UPLOADS if self._is_late else list(self.left)
        self.left = {each: "" for each in self.left if each[1] not in self._gone}
        return {"Uploads": [{"Key": key, "UploadId": upload_id} for key, upload_id in found]}

    def abort_multipart_upload(self, **parameters: Any) -> None:
        if self._failure is not None:
            raise self._failure
        name = parameters["Key"], parameters["UploadId"]
        self.aborted.append(name)
        if name not in self.left:
            raise failed(404, "NoSuchUpload")
        del self.left[name]

    def abort(self) -> None:
        client: Any = self
        connection: Any = SimpleNamespace(client=client, parameters=lambda _: {})
        abort_uploads(connection, "models", "data/")


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("gone", [set(), {"1"}, {"2", "3"}, {"1", "2", "3"}])
def test_abort(gone: set[str], is_late: bool) -> None:
    """Each upload is aborted once, also if another process ends some, or the store still lists them afterwards."""
    uploads = Uploads(gone, is_late=is_late)
    uploads.abort()
    assert not uploads.left
    assert sorted(uploads.aborted) == UPLOADS


def test_refused() -> None:
    """Another answer to the request to abort is an error."""
    with pytest.raises(ClientError, match="AccessDenied"):
        Uploads(set(), is_late=False, failure=failed(403, "AccessDenied")).abort()
