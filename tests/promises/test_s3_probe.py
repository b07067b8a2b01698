"""The probe of conditional writes while connections break and the store refuses: it then decides and leaves nothing."""

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
    """The probe's requests of an operation."""
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
    no_waits: None,  # noqa: ARG001
) -> Iterator[Faulty]:
    """Each S3 server behind a proxy, not probed yet."""
    monkeypatch.setattr(capabilities, "_found", {})
    with behind_proxy(request.param, servers) as each:
        yield each


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    return path


def create(faulty: Faulty, source: Path) -> None:
    """Upload exclusively, by a client that asks the endpoint first what it can do."""
    faulty.client(conditional_writes="auto").upload_file(source, NAME, check_conflict=True)


def probes(faulty: Faulty) -> list[RequestLog]:
    """The probe's requests so far."""
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
    """A fault that passes is not noticed."""
    faulty.inject(STEPS[step], action, times=3)
    create(faulty, source)
    faulty.assert_holds(CONTENT)


@on_every_step
@pytest.mark.parametrize("action", [Says(503), Refuse()], ids=["503", "refused"])
def test_failed_probe(faulty: Faulty, source: Path, step: str, action: Action | Says) -> None:
    """A probe that fails decides nothing and leaves nothing."""
    faulty.inject(STEPS[step], action, times=5)  # as often as a request is sent
    with pytest.raises(StorageUnavailableError):
        create(faulty, source)
    faulty.assert_holds()
    asked = len(probes(faulty))
    create(faulty, source)
    assert len(probes(faulty)) > asked
    faulty.assert_holds(CONTENT)


@pytest.mark.parametrize("action", [DropResponse(), DropResponse(reset=True)], ids=["fin", "rst"])
def test_first_answer_lost(faulty: Faulty, source: Path, action: Action) -> None:
    """A probe without an answer to its first request leaves nothing."""
    faulty.inject(FIRST_PUT, action, times=5)
    with pytest.raises(StorageUnavailableError):
        create(faulty, source)
    faulty.assert_holds()


@pytest.mark.parametrize("step", ["first put", "second put", "part"])
def test_answer_lost(faulty: Faulty, source: Path, step: str) -> None:
    """A lost answer to the probe changes nothing."""
    faulty.inject(STEPS[step], DropResponse())
    create(faulty, source)
    faulty.assert_holds(CONTENT)


def test_completion_lost(faulty: Faulty, source: Path) -> None:
    """A probe without an answer to its completion leaves nothing, and is made again."""
    faulty.inject(STEPS["complete"], DropResponse(), times=5)
    with pytest.raises(StorageUnavailableError):
        create(faulty, source)
    faulty.assert_holds()
    create(faulty, source)
    faulty.assert_holds(CONTENT)


def test_flipped_bit(faulty: Faulty, source: Path) -> None:
    """A bit that flips in the probe decides nothing."""
    faulty.inject(SECOND_PUT, FlipRequestBit(at=2))
    with suppress(StorageUnavailableError, IntegrityError):
        create(faulty, source)
    faulty.client(conditional_writes="auto").upload_file(source, "other", check_conflict=True)


@on_every_step
def test_denied(faulty: Faulty, source: Path, step: str) -> None:
    """A probe that is refused is named in the error, and leaves nothing."""
    faulty.inject(STEPS[step], Says(403), times=None)
    with pytest.raises(AccessDeniedError, match="probe") as caught:
        create(faulty, source)
    assert "probe" in caught.value.operation
    assert caught.value.status == 403
    faulty.assert_holds()


def test_delete_denied(faulty: Faulty, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Credentials without delete permission can create, and the log names the object that the probe leaves."""
    faulty.inject(of_probe("DeleteObject"), Says(403), times=None)
    create(faulty, source)
    assert faulty.get() == CONTENT
    (left,) = [name for name in faulty.rig.keys() if name != NAME]  # noqa: SIM118 - a method of the rig, not a dict's
    assert left in caplog.text


@pytest.mark.parametrize("status", [400, 501])
def test_conditions_refused(faulty: Faulty, source: Path, status: int) -> None:
    """An endpoint that refuses both conditions gets no object."""
    refused = Answer(status, "NotImplemented")
    faulty.inject(SECOND_PUT, refused, times=None)
    faulty.inject(STEPS["complete"], refused, times=None)
    with pytest.raises(ConflictCheckUnsupportedError):
        create(faulty, source)
    faulty.assert_holds()
