"""Every code block of README.md and docs/ runs as it stands, or says why it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from moto.server import ThreadedMotoServer

from tests.docs.page import Block, Page, PageError, blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SLOW = {"README.md", "docs/cli.md", "docs/s3fs.md", "docs/versions.md"}
"""Pages that take more than three seconds: their blocks import pandas and s3fs, or start many commands."""
RUNNABLE = {"python", "console", "json", "toml", "ini", "bash", "sh", "shell"}


@pytest.fixture(scope="module")
def s3_environment() -> Iterator[dict[str, str]]:
    """Variables that point boto3 and s3fs at a server in this process, which has the bucket that the pages use."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    key, secret, region = "docs", "docs-secret", "us-east-1"
    client = boto3.client("s3", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret, region_name=region)
    client.create_bucket(Bucket="models")
    yield {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": region,
    }
    server.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the pages take for granted."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}", encoding="utf-8")
    weights = {"embed.weight": np.arange(4096, dtype=np.float32), "head.bias": np.zeros(8)}
    safetensors.numpy.save_file(weights, tmp_path / "model.safetensors")
    pd.DataFrame({"step": range(10), "loss": np.linspace(11.0, 1.7, 10)}).to_parquet(tmp_path / "loss.parquet")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for page in PAGES
        for name in [str(page.relative_to(ROOT))]
    ],
)
def test_snippets(page: Path, folder: Path, s3_environment: dict[str, str]) -> None:
    """The blocks of a page run from top to bottom, and show what the page shows."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR", "TZ") if name in os.environ}
    environment = {
        **kept,
        **s3_environment,
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.page", str(page)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_pages_have_snippets() -> None:
    """The pages that users copy from do have blocks that run: the parser finds them."""
    for name in ("README.md", "docs/quickstart.md", "docs/errors.md", "docs/cli.md"):
        blocks = blocks_of((ROOT / name).read_text(encoding="utf-8"))
        assert [block for block in blocks if block.language in RUNNABLE and not block.mark], name


@pytest.mark.parametrize(
    ("block", "message"),
    [
        pytest.param(Block(1, "python", "1 + 1  # -> 3\n"), "the result is", id="wrong-result"),
        pytest.param(Block(1, "python", "x = 1  # -> 1\n"), "behind an expression", id="shown-assignment"),
        pytest.param(Block(1, "console", "$ false\n"), "exits with 1", id="failing-command"),
        pytest.param(Block(1, "console", "$ echo a\nb\n"), "the result is", id="wrong-output"),
        pytest.param(Block(1, "console", "echo a\n"), "begins with", id="no-prompt"),
        pytest.param(Block(1, "", "x\n"), "name one of", id="no-language"),
        pytest.param(Block(1, "bash", "true\n"), "name one of", id="unknown-language"),
        pytest.param(Block(1, "python", "x\n", "not yet", "gllm_storage:StorageError"), "remove the mark", id="old-mark"),
        pytest.param(Block(1, "python", "x\n", "skip", ""), "no reason", id="no-reason"),
    ],
)
def test_wrong_blocks(block: Block, message: str) -> None:
    """A block that does not do what the page shows is an error."""
    with pytest.raises(PageError, match=message):
        Page("page.md").run(block)


def test_marks() -> None:
    """A mark belongs to the next block, and to no other text."""
    text = "<!-- snippet: skip, it needs a server -->\n```python\n1/0\n```\n\n```python\n2\n```\n"
    first, second = blocks_of(text)
    assert (first.mark, first.reason, first.line) == ("skip", "it needs a server", 3)
    assert (second.mark, second.code, second.line) == ("", "2\n", 7)
    with pytest.raises(PageError, match="belongs to no block"):
        list(blocks_of("<!-- snippet: skip, why -->\ntext\n"))
    with pytest.raises(PageError, match="not closed"):
        list(blocks_of("```python\n1\n"))
