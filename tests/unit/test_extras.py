"""Providers without an installed SDK."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gllm_storage.settings import require_extra


def test_missing_extra() -> None:
    """The error for a missing extra gives the command that installs it."""
    with pytest.raises(ImportError, match=r"pip install '\.\[gcs\]'"):
        require_extra("gcs", "no_such_module_anywhere")
    with pytest.raises(ImportError):
        require_extra("azure", "no_such_parent.module")
    require_extra("gcs", "json", "os.path")


@pytest.mark.parametrize(
    ("provider", "module", "config"),
    [
        ("gcs", "google.auth", {"bucket_name": "models"}),
        ("gcs", "requests", {"bucket_name": "models"}),
        ("azure", "adlfs", {"container_name": "models", "account_name": "acc1"}),
    ],
)
def test_client_without_its_extra(provider: str, module: str, config: dict[str, str]) -> None:
    """Making a client without its extra raises ImportError with the command that installs it."""
    program = f"""
import sys
sys.modules[{module!r}] = None  # as if the module were not installed
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {module!r} else found(name, *rest)
import gllm_storage.settings
gllm_storage.settings.find_spec = importlib.util.find_spec
try:
    gllm_storage.get_storage_client({provider!r}, {config!r})
except ImportError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert f"pip install '.[{provider}]'" in said
