"""Settings by option and environment, errors in one line, exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from gllm_storage.cli.app import cli
from gllm_storage.cli.commands.cache import cache
from gllm_storage.cli.exits import MEANINGS
from tests.cli.support import environment, ok, run, run_anew, run_python, url_of
from tests.conftest import make_rig
from tests.rig import Rig, server_rig

if TYPE_CHECKING:
    from tests.conftest import Servers

CONTENT = b"some weights\n"
DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.fixture
def store(servers: Servers) -> Rig:
    """A store that verifies signatures, with an object."""
    rig = server_rig("ceph", servers.s3("ceph"))
    rig.second.put(rig.key("a.bin"), CONTENT)
    return rig


def options(rig: Rig) -> list[str]:
    return [part for key, value in rig.config.items() if key != "bucket_name" for part in ("--config", f"{key}={value}")]


def test_sources(store: Rig) -> None:
    """Settings come from options, and from variables with or without the provider's name."""
    plain = {f"GLLM_STORAGE_{key.upper()}": value for key, value in store.config.items()}

    assert ok("cat", url_of(store, "a.bin"), *options(store)).out == CONTENT.decode()
    assert ok("cat", url_of(store, "a.bin"), env=environment(store)).out == CONTENT.decode()
    assert ok("cat", url_of(store, "a.bin"), env=plain).out == CONTENT.decode()


def test_option_first(store: Rig) -> None:
    """An option comes before the environment."""
    wrong = {**environment(store), "GLLM_STORAGE_ENDPOINT_URL": "http://127.0.0.1:1", "GLLM_STORAGE_S3_ENDPOINT_URL": ""}

    assert run("exists", url_of(store, "a.bin"), "-c", "max_attempts=1", env=wrong).code == 9
    assert ok("exists", url_of(store, "a.bin"), "--endpoint-url", store.config["endpoint_url"], env=wrong).out == ""


@pytest.mark.parametrize("name", ["ENDPONT_URL", "S3_ENDPONT_URL", "AZURE_ACOUNT_NAME", "REGION"])
def test_misspelt_variable(store: Rig, name: str) -> None:
    """A variable that no provider knows, and that resembles a key, is a usage error."""
    done = run("exists", url_of(store, "a.bin"), env={**environment(store), f"GLLM_STORAGE_{name}": "x"})
    assert done.code == 2
    assert f"GLLM_STORAGE_{name}; did you mean GLLM_STORAGE_" in done.err


def test_variable_of_another_tool(store: Rig) -> None:
    """The suggested variable is the one with the meaning, and not one with similar letters."""
    for name, meant in (("ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"), ("S3_SECRET_KEY", "S3_AWS_SECRET_ACCESS_KEY")):
        done = run("exists", url_of(store, "a.bin"), env={**environment(store), f"GLLM_STORAGE_{name}": "x"})
        assert (done.code, done.out) == (2, "")
        assert f"GLLM_STORAGE_{name}; did you mean GLLM_STORAGE_{meant}?" in done.err


@pytest.mark.parametrize("name", ["ACCOUNT_NAME", "FSSPEC_ENDPONT_URL", "COLOUR", "PREFIX", "GCS_TOKEN"])
def test_foreign_variable(store: Rig, name: str) -> None:
    """A variable of another provider, or of another program, is ignored."""
    ok("exists", url_of(store, "a.bin"), env={**environment(store), f"GLLM_STORAGE_{name}": "x"})


def test_unknown_setting(store: Rig) -> None:
    """A setting that no store of the command knows is a usage error."""
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
def test_shared_endpoint(option: list[str], tmp_path: Path) -> None:
    """One endpoint for the stores of two providers is refused."""
    azure = {"GLLM_STORAGE_AZURE_ACCOUNT_NAME": "acc1"}
    for command in (["cp", "s3://models/x", "az://models/x"], ["cat", "az://models/x", "s3://models/x"]):
        done = run(*command, *option, env=azure)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert "-c azure.endpoint_url=" in done.err

    # One provider, with one store or two.
    (tmp_path / "x").write_bytes(b"x")
    quick = ["-c", "max_attempts=1", "-c", "anonymous=true"]
    for command in (["cp", str(tmp_path / "x"), "s3://models/x"], ["cp", "s3://models/x", "s3a://others/x"]):
        assert run(*command, *option, *quick).code == 9


def test_shared_endpoint_env() -> None:
    """The variable for the endpoint of all providers is refused for stores of two."""
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


def test_wrong_variable() -> None:
    """An error about a value from the environment names the variable."""
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
def test_folder_url(command: str, url: str) -> None:
    """The URL of a bucket or folder is refused where an object is needed."""
    done = run(command, url)

    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert url.removesuffix("/") in done.err
    assert "name an object in it" in done.err


@pytest.mark.parametrize("command", ["cat", "stat", "exists", "ls", "check"])
def test_web_server_down(command: str) -> None:
    """A web server that does not answer is unavailable, not a missing object."""
    done = run(command, "http://127.0.0.1:1/x")

    assert done.code == 9
    assert "does not exist" not in done.err
    assert "the network" in done.err


def test_unknown_variable(store: Rig) -> None:
    """A variable with a key that the provider does not know is ignored."""
    assert ok("exists", url_of(store, "a.bin"), env={**environment(store), "GLLM_STORAGE_ACCOUNT_NAME": "acc1"}).out == ""


def test_exit_codes(store: Rig, tmp_path: Path) -> None:
    """Each kind of error has its exit code and prints one line."""
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


def test_unsupported(servers: Servers, tmp_path: Path) -> None:
    """A store that cannot create exclusively is refused before anything is written."""
    (tmp_path / "file").write_bytes(b"x")
    rig = server_rig("rclone", servers.s3("rclone"))

    done = run("cp", "-n", tmp_path / "file", url_of(rig, "x"), env=environment(rig))

    assert (done.code, rig.keys()) == (8, [])
    assert "--no-clobber" in done.err
    assert "check_conflict" not in done.err


def test_usage_errors() -> None:
    """Usage errors name `--help`."""
    for arguments in (["cp"], ["nonsense"], ["ls"], ["ls", "--nonsense", "s3://b"]):
        done = run(*arguments)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "--help" in done.err


def test_nearest_command() -> None:
    """A misspelt command names the one that is meant."""
    assert "No such command 'verfy' (did you mean 'verify'?); see" in run("verfy").err
    assert "did you mean" not in run("qqq").err


def test_choices_in_a_line() -> None:
    """A missing argument with choices lists them as text, without control characters."""
    assert "Choose from: bash, zsh, fish; see" in run("completion").err


@pytest.mark.parametrize("group", [cli, cache], ids=["gllm-storage", "cache"])
def test_summaries(group: click.Group) -> None:
    """The list of commands shows each summary completely, on a terminal with 80 columns."""
    shown = CliRunner().invoke(group, ["--help"], prog_name="gllm-storage", env={"COLUMNS": "80"}, terminal_width=80).output
    commands = shown.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(commands) == len(group.list_commands(click.Context(group)))
    assert [each for each in commands if each.endswith("...")] == []


def test_no_credentials(tmp_path: Path) -> None:
    """Without credentials, the error says where they can be set."""
    env = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    done = run("ls", "s3://models", "--endpoint-url", "http://127.0.0.1:1", env=env)
    assert done.code == 5
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or --profile" in done.err


@pytest.mark.parametrize("target", ["~/x", "~"])
def test_home_folder(target: str, tmp_path: Path) -> None:
    """A ``~`` that the shell did not expand is refused, and makes no folder of that name."""
    (tmp_path / "a.bin").write_bytes(CONTENT)
    done = run("cp", tmp_path / "a.bin", target)
    assert done.code == 2
    assert f"the path '{target}' begins with '~', which is not expanded; give the complete path, or './{target}'" in done.err
    assert not Path("~").exists()


FOLDER_COMMANDS = [
    (("cp", "{url}", "{local}"), "give --recursive"),
    (("mv", "{url}", "{local}"), "give --recursive"),
    (("rm", "{url}"), "give --recursive"),
    (("cat", "{url}"), "name an object in it"),
    (("stat", "{url}"), "name an object in it"),
]


@pytest.mark.parametrize(("arguments", "advice"), FOLDER_COMMANDS, ids=[each[0][0] for each in FOLDER_COMMANDS])
@pytest.mark.parametrize("server", ["file", "ceph"])
def test_folder_without_slash(
    server: str, arguments: tuple[str, ...], advice: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The name of a folder in place of an object is an error that says so: wrong usage if it is known without a request."""
    rig = make_rig(server, request)
    rig.second.put(rig.key("folder/a.bin"), CONTENT)
    url = url_of(rig, "folder")
    given = [each.format(url=url, local=tmp_path / "local") for each in arguments]
    done = run(*given, env=environment(rig))
    code = 2 if server == "file" and arguments[0] in {"cp", "mv"} else 3
    name = url.removeprefix("file://") if code == 2 else url
    assert (done.code, done.out, done.err) == (code, "", f"gllm-storage: {name} is a folder; {advice}\n")
    assert rig.keys() == ["folder/a.bin"]
    missing = run(
        *(each.format(url=url_of(rig, "none"), local=tmp_path / "local") for each in arguments), env=environment(rig)
    )
    assert missing.code == 3
    assert "is a folder" not in missing.err


def test_debug(store: Rig) -> None:
    """`--debug` adds the traceback, without secrets."""
    secret = "a-secret-that-stays-hidden"
    arguments = ("exists", url_of(store, "a.bin"), "-c", f"aws_secret_access_key={secret}", "--debug")

    done = run(*arguments, env=environment(store))

    assert done.code == 5
    assert "Traceback" in done.err
    assert secret not in done.err


def test_bug() -> None:
    """An unexpected error is one line that names `--debug`."""
    code = """
import importlib
def broken(*_, **__): raise RuntimeError("a bug")
importlib.import_module("gllm_storage.cli.commands.exists").require_object = broken
sys.exit(run(["exists", "file:///x"]))
"""
    done = run_python(code)

    assert (done.code, done.err.count("\n")) == (70, 1)
    assert "--debug" in done.err


def test_missing_click() -> None:
    """Without click, the error names the extra."""
    code = "import sys\nsys.modules['click'] = None\nimport gllm_storage.settings\n"
    code += "gllm_storage.settings.find_spec = lambda name: None\nfrom gllm_storage.cli import main\nmain()"
    done = run_anew([sys.executable, "-c", code])

    assert done.code == 11
    assert "pip install '.[cli]'" in done.err


def test_exit_codes_documented() -> None:
    """Help and documentation list the exit codes of the code."""
    shown = ok("--help").out
    documented = dict(re.findall(r"^\| `(\d+)` \| (.*?) \|$", DOCS.read_text(), re.MULTILINE))

    assert documented == {str(code.value): meaning for code, meaning in MEANINGS.items()}
    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ *{code.value}  {re.escape(meaning)}$", shown, re.MULTILINE)


def test_options_documented() -> None:
    """The documentation names every command and option."""
    text = DOCS.read_text()
    commands = re.findall(r"^  (\w+)  ", ok("--help").out.partition("Commands:")[2], re.MULTILINE)

    assert set(commands) >= {"cp", "ls", "stat", "cat", "rm", "exists", "providers", "check", "completion"}
    for command in commands:
        assert f"`{command}" in text, command
        for option in re.findall(r"--[a-z][a-z-]+", ok(command, "--help").out):
            assert option in text or option == "--help", f"{command} {option}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    """There is a completion script for each shell."""
    assert "_GLLM_STORAGE_COMPLETE" in ok("completion", shell).out


def test_completion_words() -> None:
    """Completion offers commands, schemes and keys of settings."""

    def complete(words: str, index: int) -> list[str]:
        env = {"_GLLM_STORAGE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
        return [line.partition(",")[2] for line in run(env=env).lines]

    assert "cp" in complete("gllm-storage c", 1)
    assert "s3://" in complete("gllm-storage ls s", 2)
    assert "endpoint_url=" in complete("gllm-storage ls --config end", 3)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("exists", "s3://no-such-bucket-here/x"), 6),
        (("cp", "-n", "model.bin", "s3://models/{}"), 4),
        (("cp", "s3://models/{}-none", "copy"), 3),
        (("rm", "models/v1"), 2),
        ((), 2),
        (("cp",), 2),
    ],
    ids=["bucket", "clobber", "missing", "path", "nothing", "usage"],
)
@pytest.mark.parametrize("target", ["/dev/full", "closed"])
def test_stderr_full(arguments: tuple[str, ...], code: int, target: str, store: Rig, tmp_path: Path) -> None:
    """The exit code does not depend on where messages go."""
    (tmp_path / "model.bin").write_bytes(b"other")
    words = " ".join(f"'{each.format(store.key('a.bin'))}'" for each in arguments)
    stderr = "2>/dev/full" if target == "/dev/full" else "2>&-"
    program = f"'{sys.executable}' -m gllm_storage.cli {words} {stderr}"
    done = subprocess.run(["/bin/sh", "-c", program], env={**os.environ, **environment(store)}, cwd=tmp_path, check=False)
    assert done.returncode == code


@pytest.mark.parametrize("arguments", [("f.txt",), ("-r", "f.txt")], ids=["plain", "recursive"])
def test_no_target(arguments: tuple[str, ...]) -> None:
    """`cp` of one path says that the target is missing."""
    done = run("cp", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "Missing argument 'TARGET'" in done.err


@pytest.mark.parametrize("arguments", [("ls", "s3//models"), ("cat", "gs//b/x"), ("cp", "az//c/x", "y"), ("rm", "s3//b/x")])
def test_no_colon(arguments: tuple[str, ...]) -> None:
    """A URL without its colon is a usage error, not a local path."""
    done = run(*arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"{arguments[1][:2]}://" in done.err
