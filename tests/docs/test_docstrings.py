"""The examples in docstrings: each is run, in the order of the file."""

from __future__ import annotations

import ast
import doctest
import re
import secrets
from importlib import import_module
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import gllm_storage
from gllm_storage import CloudStorageRegistry, MemoryStorageClient
from gllm_storage.versions import fetch, publish, set_alias

PACKAGE = Path(gllm_storage.__file__).parent
NOT_RUN = {
    "gllm_storage.azure.filesystem": "a container of Azure",
    "gllm_storage.cli.failures": "a loop over names that are not defined",
    "gllm_storage.s3.client": "a bucket of AWS",
    "gllm_storage.testing.suite": "a class that pytest collects; tests/docs/test_extending.py runs such a class",
}
"""Modules whose examples need more than this machine, and the reason."""
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def with_examples() -> list[str]:
    """The modules of the package that have examples."""
    found = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in found]


def published() -> MemoryStorageClient:
    """A client with version v3 of the model models/llama-ft, and the alias latest; a cache, and a key pair that signs."""
    client = MemoryStorageClient({"bucket_name": f"examples-{secrets.token_hex(4)}"})
    Path("out").mkdir()
    Path("out/config.json").write_text("{}", encoding="utf-8")
    publish(client, "out", "models/llama-ft", version="v3", metadata={"loss": 0.7})
    set_alias(client, "models/llama-ft", "latest", "v3")
    fetch(client, "models/llama-ft", "latest", cache="cache")
    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    Path("key.pem").write_bytes(private)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    Path("key.pub").write_bytes(public)
    return client


@pytest.mark.parametrize("module", sorted(set(with_examples()) - NOT_RUN.keys()))
def test_examples(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All examples of a module work, with a file `model.safetensors` in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CloudStorageRegistry, "_registered", {})  # an example registers a client
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    names = vars(import_module(module))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    found = doctest.DocTestFinder(exclude_empty=True).find(import_module(module), globs=names)
    shared = dict(names)  # an example may use the names that an earlier one has defined
    if module.startswith("gllm_storage.versions"):
        shared["client"] = published()
    for each in sorted(found, key=lambda each: each.lineno or 0):
        each.globs = shared
        runner.run(each, clear_globs=False)
    assert runner.tries > 0
    assert runner.failures == 0


def test_section_of_examples() -> None:
    """The section is "Examples:". mkdocstrings takes "Example:" for a note, in which ``>>>`` is a quotation."""
    wrong = [
        f"{path.relative_to(PACKAGE)}: {getattr(node, 'name', 'the module')}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, _DOCUMENTED) and re.search(r"^\s*Example:\s*$", ast.get_docstring(node) or "", re.MULTILINE)
    ]
    assert wrong == []
