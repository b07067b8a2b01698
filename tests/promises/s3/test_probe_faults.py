"""The probe of conditional writes while connections break and the store refuses: it then decides and leaves nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import AccessDeniedError, ConflictCheckUnsupportedError, IntegrityError, StorageUnavailableError
from gllm_storage.s3 import probe as capabilities
from tests.faults import Action, Answer, DropResponse, FlipRequestBit, Match, Refuse, RequestLog
from tests.promises.s3.faulty import DENIED, NAME, SLOW_DOWN, Faulty, behind_proxy, content_of, no_waits

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


@pytest.fixture(params=["ceph", "ministack"])
def faulty(request: pytest.FixtureRequest, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    no_waits(monkeypatch)
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


def test_an_endpoint_is_probed_once(faulty: Faulty, source: Path) -> None:
    create(faulty, source)
    faulty.assert_holds(content=CONTENT)
    asked = len(probes(faulty))
    assert asked > 0
    faulty.client(conditional_writes="auto").upload_file(source, "other", check_conflict=True)
    assert len(probes(faulty)) == asked


@on_every_step
@pytest.mark.parametrize("action", [SLOW_DOWN, Refuse()], ids=["503", "refused"])
def test_a_fault_that_passes_is_not_noticed(faulty: Faulty, source: Path, step: str, action: Action) -> None:
    faulty.inject(STEPS[step], action, times=3)
    create(faulty, source)
    faulty.assert_holds(content=CONTENT)


@on_every_step
@pytest.mark.parametrize("action", [SLOW_DOWN, Refuse()], ids=["503", "refused"])
def test_a_probe_that_fails_decides_nothing_and_leaves_nothing(
    faulty: Faulty, source: Path, step: str, action: Action
) -> None:
    faulty.inject(STEPS[step], action, times=5)  # as often as a request is sent
    with pytest.raises(StorageUnavailableError):
        create(faulty, source)
    faulty.assert_holds()
    asked = len(probes(faulty))
    create(faulty, source)
    assert len(probes(faulty)) > asked
    faulty.assert_holds(content=CONTENT)


@pytest.mark.parametrize("action", [DropResponse(), DropResponse(reset=True)], ids=["fin", "rst"])
def test_a_probe_whose_first_answer_never_comes_leaves_nothing(faulty: Faulty, source: Path, action: Action) -> None:
    faulty.inject(FIRST_PUT, action, times=5)
    with pytest.raises(StorageUnavailableError):
        create(faulty, source)
    faulty.assert_holds()


@pytest.mark.parametrize("step", ["first put", "second put", "part"])
def test_a_lost_answer_to_the_probe_changes_nothing(faulty: Faulty, source: Path, step: str) -> None:
    faulty.inject(STEPS[step], DropResponse())
    create(faulty, source)
    faulty.assert_holds(content=CONTENT)


def test_a_probe_whose_completion_is_not_answered_leaves_nothing_and_is_made_again(faulty: Faulty, source: Path) -> None:
    faulty.inject(STEPS["complete"], DropResponse(), times=5)
    with pytest.raises(StorageUnavailableError):
        create(faulty, source)
    faulty.assert_holds()
    create(faulty, source)
    faulty.assert_holds(content=CONTENT)


def test_a_bit_that_flips_in_the_probe_decides_nothing(faulty: Faulty, source: Path) -> None:
    faulty.inject(SECOND_PUT, FlipRequestBit(at=2))
    with suppress(StorageUnavailableError, IntegrityError):
        create(faulty, source)
    faulty.client(conditional_writes="auto").upload_file(source, "other", check_conflict=True)


@on_every_step
def test_a_probe_that_is_refused_is_named_and_leaves_nothing(faulty: Faulty, source: Path, step: str) -> None:
    faulty.inject(STEPS[step], DENIED, times=None)
    with pytest.raises(AccessDeniedError, match="probe") as caught:
        create(faulty, source)
    assert "probe" in caught.value.operation
    assert caught.value.status == 403
    faulty.assert_holds()


def test_who_may_not_delete_can_create_and_is_told_what_stays(
    faulty: Faulty, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faulty.inject(of_probe("DeleteObject"), DENIED, times=None)
    create(faulty, source)
    assert faulty.get() == CONTENT
    (left,) = [name for name in faulty.rig.keys() if name != NAME]  # noqa: SIM118 - a method of the rig, not a dict's
    assert left in caplog.text


@pytest.mark.parametrize("status", [400, 501])
def test_an_endpoint_that_refuses_both_conditions_gets_no_object(faulty: Faulty, source: Path, status: int) -> None:
    refused = Answer(status, "NotImplemented")
    faulty.inject(SECOND_PUT, refused, times=None)
    faulty.inject(STEPS["complete"], refused, times=None)
    with pytest.raises(ConflictCheckUnsupportedError):
        create(faulty, source)
    faulty.assert_holds()
