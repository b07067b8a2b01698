"""Settings by option and environment, errors in one line, exit codes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gllm_storage.cli.exits import MEANINGS
from tests.cli.support import environment, ok, run, run_anew, run_python, url_of
from tests.rig import Rig, server_rig

if TYPE_CHECKING:
    from tests.conftest import Servers

CONTENT = b"some weights\n"
DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.fixture
def store(servers: Servers) -> Rig:
    """A store that checks signatures, with an object."""
    rig = server_rig("ceph", servers.s3("ceph"))
    rig.second.put(rig.key("a.bin"), CONTENT)
    return rig


def options(rig: Rig) -> list[str]:
    return [part for key, value in rig.config.items() if key != "bucket_name" for part in ("--config", f"{key}={value}")]


def test_settings_come_from_options_and_from_the_environment(store: Rig) -> None:
    plain = {f"GLLM_STORAGE_{key.upper()}": value for key, value in store.config.items()}

    assert ok("cat", url_of(store, "a.bin"), *options(store)).out == CONTENT.decode()
    assert ok("cat", url_of(store, "a.bin"), env=environment(store)).out == CONTENT.decode()
    assert ok("cat", url_of(store, "a.bin"), env=plain).out == CONTENT.decode()


def test_an_option_comes_before_the_environment(store: Rig) -> None:
    wrong = {**environment(store), "GLLM_STORAGE_ENDPOINT_URL": "http://127.0.0.1:1", "GLLM_STORAGE_S3_ENDPOINT_URL": ""}

    assert run("exists", url_of(store, "a.bin"), "-c", "max_attempts=1", env=wrong).code == 9
    assert ok("exists", url_of(store, "a.bin"), "--endpoint-url", store.config["endpoint_url"], env=wrong).out == ""


def test_a_setting_for_another_provider_or_of_nobody_is_an_error(store: Rig) -> None:
    url = url_of(store, "a.bin")
    for setting, told in (
        ("endpont_url=http://x", "did you mean 'endpoint_url'"),
        ("azure.account_name=acc", "no store of 'azure'"),
        ("bucket_name=other", "the URL sets"),
        ("nonsense", "KEY=VALUE"),
        ("part_size=1KiB", "between 5MiB"),
    ):
        done = run("exists", url, "--config", setting, env=environment(store))
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), setting
        assert told in done.err


@pytest.mark.parametrize(
    "option", [["--endpoint-url", "http://127.0.0.1:1"], ["-c", "endpoint_url=http://127.0.0.1:1"]], ids=lambda each: each[0]
)
def test_one_endpoint_url_for_two_providers_is_refused(option: list[str], tmp_path: Path) -> None:
    azure = {"GLLM_STORAGE_AZURE_ACCOUNT_NAME": "acc1"}
    for command in (["cp", "s3://models/x", "az://models/x"], ["cat", "az://models/x", "s3://models/x"]):
        done = run(*command, *option, env=azure)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert "-c azure.endpoint_url=" in done.err

    # One side, one provider, or two stores of one provider.
    (tmp_path / "x").write_bytes(b"x")
    quick = ["-c", "max_attempts=1", "-c", "anonymous=true"]
    for command in (["cp", str(tmp_path / "x"), "s3://models/x"], ["cp", "s3://models/x", "s3a://others/x"]):
        assert run(*command, *option, *quick).code == 9


def test_one_endpoint_url_of_the_environment_for_two_providers_is_refused() -> None:
    both = {"GLLM_STORAGE_AZURE_ACCOUNT_NAME": "acc1", "GLLM_STORAGE_ENDPOINT_URL": "http://127.0.0.1:1"}
    quick = ["-c", "max_attempts=1", "-c", "anonymous=true"]

    done = run("cat", "az://models/x", "s3://models/x", env=both)

    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "GLLM_STORAGE_AZURE_ENDPOINT_URL" in done.err
    own = {"GLLM_STORAGE_AZURE_ENDPOINT_URL": "http://127.0.0.1:2/acc1"}
    assert run("cat", *quick, "az://models/x", "s3://models/x", env={**both, **own}).code == 9
    said = ["-c", "azure.endpoint_url=http://127.0.0.1:2/acc1"]
    assert run("cat", *quick, *said, "az://models/x", "s3://models/x", env=both).code == 9
    assert run("cat", *quick, "s3://models/x", env=both).code == 9


def test_a_wrong_value_from_the_environment_names_its_variable() -> None:
    wrong = {"GLLM_STORAGE_S3_PART_SIZE": "1", "GLLM_STORAGE_READ_TIMEOUT": "soon", "GLLM_STORAGE_MAX_ATTEMPTS": "3"}

    done = run("exists", "s3://models/x", env=wrong)
    overridden = run("exists", "s3://models/x", "-c", "read_timeout=later", env=wrong)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert (
        "The environment sets part_size by GLLM_STORAGE_S3_PART_SIZE, read_timeout by GLLM_STORAGE_READ_TIMEOUT" in done.err
    )
    assert "GLLM_STORAGE_S3_PART_SIZE" in overridden.err
    assert "GLLM_STORAGE_READ_TIMEOUT" not in overridden.err
    assert "MAX_ATTEMPTS" not in done.err


@pytest.mark.parametrize("command", ["cat", "stat", "exists", "rm"])
@pytest.mark.parametrize("url", ["s3://models", "s3://models/", "s3://models/folder/"])
def test_a_url_of_no_object_is_named(command: str, url: str) -> None:
    done = run(command, url)

    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert url.removesuffix("/") in done.err
    assert "name an object in it" in done.err


@pytest.mark.parametrize("command", ["cat", "stat", "exists", "ls", "check"])
def test_a_web_server_that_does_not_answer_is_unavailable(command: str) -> None:
    done = run(command, "http://127.0.0.1:1/x")

    assert done.code == 9
    assert "does not exist" not in done.err
    assert "Check the network" in done.err


def test_a_variable_that_the_provider_does_not_know_is_ignored(store: Rig) -> None:
    assert ok("exists", url_of(store, "a.bin"), env={**environment(store), "GLLM_STORAGE_ACCOUNT_NAME": "acc1"}).out == ""


def test_each_kind_of_error_has_a_code_and_one_line(store: Rig, tmp_path: Path) -> None:
    env, url = environment(store), url_of(store, "a.bin")
    (tmp_path / "file").write_bytes(b"x")
    cases = {
        2: ("exists", "nonsense://x/y"),
        3: ("cp", url_of(store, "nothing"), str(tmp_path / "x")),
        4: ("cp", "-n", str(tmp_path / "file"), url),
        5: ("exists", url, "-c", "aws_secret_access_key=not-the-right-one"),
        6: ("exists", "s3://no-such-bucket/x"),
        9: ("exists", url, "--endpoint-url", "http://127.0.0.1:1", "-c", "max_attempts=1"),
        10: ("cp", url, str(tmp_path / "file" / "x")),
    }
    for code, arguments in cases.items():
        done = run(*arguments, env=env)
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), done
        assert done.err.startswith("gllm-storage: ")
        assert "Traceback" not in done.err
        assert "not-the-right-one" not in done.err
    assert store.keys() == ["a.bin"]


def test_a_store_that_cannot_create_exclusively_has_a_code(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    rig = server_rig("rclone", servers.s3("rclone"))

    done = run("cp", "-n", tmp_path / "file", url_of(rig, "x"), env=environment(rig))

    assert (done.code, rig.keys()) == (8, [])
    assert "--no-clobber" in done.err
    assert "check_conflict" not in done.err


def test_usage_errors_name_the_help() -> None:
    for arguments in (["cp"], ["nonsense"], ["ls"], ["ls", "--nonsense", "s3://b"]):
        done = run(*arguments)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "--help" in done.err


def test_debug_shows_how_it_came_and_no_secret(store: Rig) -> None:
    secret = "a-secret-that-nobody-sees"
    arguments = ("exists", url_of(store, "a.bin"), "-c", f"aws_secret_access_key={secret}", "--debug")

    done = run(*arguments, env=environment(store))

    assert done.code == 5
    assert "Traceback" in done.err
    assert secret not in done.err


def test_a_bug_is_one_line_that_asks_for_debug() -> None:
    code = """
import importlib
def broken(*_, **__): raise RuntimeError("of our own")
importlib.import_module("gllm_storage.cli.commands.exists").require_object = broken
sys.exit(run(["exists", "file:///x"]))
"""
    done = run_python(code)

    assert (done.code, done.err.count("\n")) == (70, 1)
    assert "--debug" in done.err


def test_without_click_the_extra_is_named() -> None:
    code = "import sys\nsys.modules['click'] = None\nimport gllm_storage.settings\n"
    code += "gllm_storage.settings.find_spec = lambda name: None\nfrom gllm_storage.cli import main\nmain()"
    done = run_anew([sys.executable, "-c", code])

    assert done.code == 11
    assert "pip install 'gllm-storage[cli]'" in done.err


def test_exit_codes_in_help_and_docs_are_those_of_the_code() -> None:
    shown = ok("--help").out
    documented = dict(re.findall(r"^\| `(\d+)` \| (.*?) \|$", DOCS.read_text(), re.MULTILINE))

    assert documented == {str(code.value): meaning for code, meaning in MEANINGS.items()}
    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ *{code.value}  {re.escape(meaning)}$", shown, re.MULTILINE)


def test_every_command_and_option_is_documented() -> None:
    text = DOCS.read_text()
    commands = re.findall(r"^  (\w+)  ", ok("--help").out.partition("Commands:")[2], re.MULTILINE)

    assert set(commands) >= {"cp", "ls", "stat", "cat", "rm", "exists", "providers", "check", "completion"}
    for command in commands:
        assert f"`{command}" in text, command
        for option in re.findall(r"--[a-z][a-z-]+", ok(command, "--help").out):
            assert option in text or option == "--help", f"{command} {option}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_completion_for(shell: str) -> None:
    assert "_GLLM_STORAGE_COMPLETE" in ok("completion", shell).out


def test_completion_knows_commands_schemes_and_settings() -> None:
    def complete(words: str, index: int) -> list[str]:
        env = {"_GLLM_STORAGE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
        return [line.partition(",")[2] for line in run(env=env).lines]

    assert "cp" in complete("gllm-storage c", 1)
    assert "s3://" in complete("gllm-storage ls s", 2)
    assert "endpoint_url=" in complete("gllm-storage ls --config end", 3)
