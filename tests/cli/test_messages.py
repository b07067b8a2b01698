"""The description of errors: remedies as options of the command line, and unchanged messages."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from gllm_storage.cli.app import cli
from gllm_storage.cli.exits import Exit, advice, code_of, message_of
from gllm_storage.errors import (
    ConflictCheckUnsupportedError,
    ErrorDetails,
    ObjectExistsError,
    ObjectNotFoundError,
    Remedy,
    StorageError,
    StorageUnavailableError,
)

URL = "s3://bucket/model.bin"
DETAILS = ErrorDetails("s3", URL, "upload")
# Arguments of Python functions and keys of settings, as in "check_conflict=False" and "Check endpoint_url".
ARGUMENT = re.compile(r"[a-z]+_[a-z_]+")
ARGUMENTS = {
    "check_conflict",
    "conditional_writes",
    "preserve_etag",
    "part_size",
    "sse_kms_key_id",
    "endpoint_url",
    "region_name",
}


@pytest.mark.parametrize("remedy", [each for each in Remedy if ARGUMENT.search(each.value)], ids=lambda each: each.name)
def test_advice(remedy: Remedy) -> None:
    """A remedy that names an argument for callers of the library names an option for users of the command line."""
    words = advice(remedy)

    assert words != remedy.value
    assert ARGUMENT.findall(re.sub(r"--config [a-z_]+=", "", words)) == []
    assert not words.endswith(".")


def test_arguments_found() -> None:
    """The pattern finds all arguments that remedies name."""
    assert set(ARGUMENT.findall(" ".join(each.value for each in Remedy))) >= ARGUMENTS


def test_advised_options() -> None:
    """All options in remedies exist."""
    commands = {"--one-machine": "gc", "--cache": "fetch", "--include": "fetch", "--exclude": "sync", "--force": "sync"}

    advised = set(re.findall(r"--[a-z-]+", " ".join(advice(each) for each in Remedy)))
    assert advised == {
        "--anonymous",
        "--ca-bundle",
        "--config",
        "--endpoint-url",
        "--no-clobber",
        "--profile",
        "--region",
        *commands,
    }
    for option in advised:
        shown = CliRunner().invoke(cli, [commands.get(option, "cp"), "--help"], prog_name="gllm-storage").output
        assert re.search(rf"{option}\b", shown)


@pytest.mark.parametrize("remedy", [Remedy.UPLOAD_AGAIN, Remedy.CHECK_CREDENTIALS, Remedy.CREATE_CONTAINER])
def test_library_advice(remedy: Remedy) -> None:
    """A remedy without arguments has the words of the library."""
    assert advice(remedy) == remedy.value


@pytest.mark.parametrize("kind", [StorageError, StorageUnavailableError, ObjectNotFoundError, ObjectExistsError])
def test_message(kind: type[StorageError]) -> None:
    """The description is the message, the attempts with the time, and the remedy."""
    details = ErrorDetails("s3", URL, "upload", attempts=3, elapsed=2.5)

    error = kind(f"{URL}: something happened", details, Remedy.CHECK_NETWORK)

    assert message_of(error) == (
        f"{URL}: something happened (3 attempts, 2.5 s). Check the network and --endpoint-url, then repeat the command"
    )


def test_message_without_remedy() -> None:
    """Without a remedy, the description is the message of the error."""
    assert message_of(StorageError(f"{URL}: no. Check endpoint_url", DETAILS)) == f"{URL}: no. Check endpoint_url"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            ObjectExistsError,
            f"{URL} exists and was not changed. Choose another name, or leave out --no-clobber to replace it",
        ),
        (
            ConflictCheckUnsupportedError,
            f"{URL}: the store cannot create exclusively. Leave out --no-clobber, or use another store",
        ),
    ],
)
def test_conflict_without_remedy(kind: type[StorageError], expected: str) -> None:
    """Conflicts from other packages have a sentence for users of the command line, without the advice in the message."""
    assert message_of(kind("Pass check_conflict=False", DETAILS)) == expected


def test_local_error() -> None:
    """An `OSError` about a local file is its name and its cause."""
    assert message_of(PermissionError(13, "Permission denied", "/models/x")) == "/models/x: Permission denied"
    assert code_of(PermissionError(13, "Permission denied", "/models/x")) is Exit.DENIED


def test_usage_message() -> None:
    """A usage error names the help of its command."""
    with pytest.raises(click.UsageError) as raised:
        cli.main(["cp"], prog_name="gllm-storage", standalone_mode=False)

    assert code_of(raised.value) is Exit.USAGE
    assert message_of(raised.value) == "Missing argument 'SOURCE... TARGET'; see 'gllm-storage cp --help'"


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ("publish", "Missing arguments 'DIRECTORY', 'MODEL' and 'VERSION' (the order is DIRECTORY MODEL VERSION)"),
        ("publish out", "Missing arguments 'MODEL' and 'VERSION' (the order is DIRECTORY MODEL VERSION)"),
        ("publish out s3://b/m", "Missing argument 'VERSION'"),
        ("fetch", "Missing arguments 'MODEL' and 'NAME' (the order is MODEL NAME [DIRECTORY])"),
        ("diff s3://b/m", "Missing arguments 'OLD' and 'NEW' (the order is MODEL OLD NEW)"),
        ("resolve", "Missing arguments 'MODEL' and 'NAME' (the order is MODEL NAME)"),
        ("copy-version m v1", "Missing argument 'TARGET_MODEL'"),
        ("delete-version", "Missing arguments 'MODEL' and 'VERSION...' (the order is MODEL VERSION...)"),
        ("alias", "Missing argument 'MODEL'"),
        ("cache list", "Missing argument 'DIRECTORY'"),
    ],
)
def test_missing_arguments(arguments: str, missing: str) -> None:
    """All missing arguments are named, so that they do not take one run each to find."""
    with pytest.raises(click.UsageError) as raised:
        cli.main(arguments.split(), prog_name="gllm-storage", standalone_mode=False)

    command = " ".join(arguments.split()[: 2 if arguments.startswith("cache") else 1])
    assert message_of(raised.value) == f"{missing}; see 'gllm-storage {command} --help'"
