"""The probe of conditional writes, with broken connections and refusals: it draws no conclusion, and cleans up."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import AccessDeniedError, ConflictCheckUnsupportedError, IntegrityError, StorageUnavailableError
from gllm_storage.s3 import probe as capabilities
from gllm_storage.testing.faults import Action, Answer, DropResponse, FlipRequestBit, Match, Refuse, RequestLog
from tests.promises.faulty import CEPH, MINISTACK, NAME, Faulty, Says, behind_proxy, content_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers

CONTENT = content_of(1000)
PROBE = ".gllm-probe-"


def of_probe(operation: str) -> Match:
    """Match the probe's requests of an operation."""
    return Match(operation=operation, path=PROBE)


FIRST_PUT = of_probe("PutObject")
SECOND_PUT = Match(operation="PutObject", path=PROBE, header=("if-none-match", "*"))
STEPS = {
    "first put": FIRST_PUT,
    "second put": SECOND_PUT,
    "create": of_probe("CreateMultipartUpload"),
    "part": of_probe("UploadPart"),
    "complete": of_probe("CompleteMultipartUpload"),
}
on_every_step = pytest.mark.parametrize("step", STEPS)


@pytest.fixture(params=[CEPH, MINISTACK], ids=str)
def faulty(
    request: pytest.FixtureRequest,
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    no_waits: None,
) -> Iterator[Faulty]:
    """Each S3 server behind a proxy, before any probe."""
    monkeypatch.setattr(capabilities, "_found", {})
    with behind_proxy(request.param, servers) as each:
        yield each


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    return path


def create(faulty: Faulty, source: Path) -> None:
    """Create the object exclusively, with a client that probes the endpoint first."""
    faulty.client(conditional_writes="auto").upload_file(source, NAME, check_conflict=True)


def probes(faulty: Faulty) -> list[RequestLog]:
    """The probe's requests that the proxy has received."""
    return [entry for entry in faulty.proxy.requests if PROBE in entry.path]


def test_probed_once(faulty: Faulty, source: Path) -> None:
    """An endpoint is probed once."""
    create(faulty, source)
    faulty.assert_holds(CONTENT)
    asked = len(probes(faulty))
    assert asked > 0
    faulty.client(conditional_writes="auto").upload_file(source, "other", check_conflict=True)
    assert len(probes(faulty)) == asked


@on_every_step
@pytest.mark.parametrize("action", [Says(503), Refuse()], ids=["503", "refused"])
def test_passing_fault(faulty: Faulty, source: Path, step: str, action: Action | Says) -> None:
    """The library retries after a temporary fault, and the call succeeds."""
    faulty.inject(STEPS[step], action, times=3)
    create(faulty, source)
    faulty.assert_holds(CONTENT)


@on_every_step
@pytest.mark.parametrize("action", [Says(503), Refuse()], ids=["503", "refused"])
def test_failed_probe(faulty: Faulty, source: Path, step: str, action: Action | Says) -> None:
    """A failed probe draws no conclusion and leaves no object and no open upload."""
    faulty.inject(STEPS[step], action, times=5)  # all attempts of one request
    with pytest.raises(StorageUnavailableError):
        create(faulty, source)
    faulty.assert_holds()
    asked = len(probes(faulty))
    create(faulty, source)
    assert len(probes(faulty)) > asked
    faulty.assert_holds(CONTENT)


@pytest.mark.parametrize("action", [DropResponse(), DropResponse(reset=True)], ids=["fin", "rst"])
def test_first_answer_lost(faulty: Faulty, source: Path, action: Action) -> None:
    """If the answer to the probe's first request is lost, the probe leaves nothing behind."""
    faulty.inject(FIRST_PUT, action, times=5)
    with pytest.raises(StorageUnavailableError):
        create(faulty, source)
    faulty.assert_holds()


@pytest.mark.parametrize("step", ["first put", "second put", "part"])
def test_answer_lost(faulty: Faulty, source: Path, step: str) -> None:
    """A lost answer to the probe does not change its result."""
    faulty.inject(STEPS[step], DropResponse())
    create(faulty, source)
    faulty.assert_holds(CONTENT)


def test_completion_lost(faulty: Faulty, source: Path) -> None:
    """If the answer to its CompleteMultipartUpload is lost, the probe leaves nothing behind and is repeated."""
    faulty.inject(STEPS["complete"], DropResponse(), times=5)
    with pytest.raises(StorageUnavailableError):
        create(faulty, source)
    faulty.assert_holds()
    create(faulty, source)
    faulty.assert_holds(CONTENT)


def test_flipped_bit(faulty: Faulty, source: Path) -> None:
    """After a flipped bit in one of its requests, the probe draws no wrong conclusion."""
    faulty.inject(SECOND_PUT, FlipRequestBit(at=2))
    with suppress(StorageUnavailableError, IntegrityError):
        create(faulty, source)
    faulty.client(conditional_writes="auto").upload_file(source, "other", check_conflict=True)


@on_every_step
def test_denied(faulty: Faulty, source: Path, step: str) -> None:
    """If the probe is denied, the error mentions the probe, and the probe leaves nothing behind."""
    faulty.inject(STEPS[step], Says(403), times=None)
    with pytest.raises(AccessDeniedError, match="probe") as caught:
        create(faulty, source)
    assert "probe" in caught.value.operation
    assert caught.value.status == 403
    faulty.assert_holds()


def test_refused_at_once(faulty: Faulty, source: Path) -> None:
    """If the store refuses the first write of the probe, no object is deleted, and no warning names one."""
    faulty.inject(FIRST_PUT, Says(403), times=None)
    with pytest.raises(AccessDeniedError):
        create(faulty, source)
    assert faulty.sent("DeleteObject") == []


def test_delete_denied(faulty: Faulty, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without delete permission, a create succeeds, and the log names the object that the probe left."""
    faulty.inject(of_probe("DeleteObject"), Says(403), times=None)
    create(faulty, source)
    assert faulty.get() == CONTENT
    (left,) = [name for name in faulty.rig.keys() if name != NAME]  # noqa: SIM118 - a method of the rig, not a dict's
    assert left in caplog.text


@pytest.mark.parametrize("status", [400, 501])
def test_conditions_refused(faulty: Faulty, source: Path, status: int) -> None:
    """If the endpoint refuses both preconditions, no object is created."""
    refused = Answer(status, "NotImplemented")
    faulty.inject(SECOND_PUT, refused, times=None)
    faulty.inject(STEPS["complete"], refused, times=None)
    with pytest.raises(ConflictCheckUnsupportedError):
        create(faulty, source)
    faulty.assert_holds()
