"""The virtual environment with the peers."""

from __future__ import annotations

import configparser
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-bench"
_HERE = Path(__file__).parent
_READY = VENV / "ready"
_INSTALLED = VENV / "installed"
_DESCRIPTION = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
_SOURCES = (_HERE / "requirements.txt", _HERE / "overrides.txt", ROOT / "setup.cfg")


def peers_python(venv: str) -> str:
    """The Python in which the peers and this library are installed.

    The default environment is made if it is missing or outdated; this library is installed anew if its source is newer.

    Args:
        venv: Folder of a virtual environment; ``none`` for the Python of this process.
    """
    if venv == "none":
        return sys.executable
    if Path(venv) != VENV:
        return os.path.join(venv, "bin", "python")
    _unless_unchanged(_READY, _SOURCES, _make)
    _unless_unchanged(_INSTALLED, sorted((ROOT / "gllm_storage").rglob("*.py")), lambda: install(_python()))
    return _python()


def _unless_unchanged(mark: Path, sources: Iterable[Path], make: Callable[[], None]) -> None:
    """Make something of source files, if it was not made of the same before; `mark` keeps a digest of them."""
    digest = hashlib.sha256()
    for path in sources:
        digest.update(str(path).encode() + path.read_bytes())
    if not mark.exists() or mark.read_text() != digest.hexdigest():
        make()
        mark.write_text(digest.hexdigest())


def install(python: str) -> None:
    """Install this library into an environment of its users: not editable, compiled, and without the files beside it.

    An editable installation would add an import hook to each start. From a copy, because a build in the work tree leaves
    modules there that were deleted since.

    Args:
        python: The Python of the environment.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in ("gllm_storage", *_DESCRIPTION):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, os.path.join(folder, name))
        command = [
            _uv(),
            "pip",
            "install",
            "--quiet",
            "--python",
            python,
            "--no-deps",
            "--reinstall-package",
            "gllm-storage",
        ]
        subprocess.run([*command, folder], check=True)
    show = "import gllm_storage, os; print(os.path.dirname(gllm_storage.__file__))"
    installed = subprocess.run([python, "-c", show], cwd="/", check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([python, "-m", "compileall", "-q", installed], check=True)


def awscli_program() -> str:
    """The program ``aws``, in an environment of its own, because it asks for another botocore than s3fs."""
    program = VENV / "awscli" / "bin" / "aws"
    if not program.exists():
        print("benchmarks: installing awscli", file=sys.stderr)
        folder = program.parents[1]
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        command = [_uv(), "pip", "install", "--quiet", "--compile-bytecode", "--python", str(folder / "bin" / "python")]
        subprocess.run([*command, "awscli"], check=True)
    return str(program)


def _python() -> str:
    return str(VENV / "bin" / "python")


def _make() -> None:
    print(f"benchmarks: installing the peers into {VENV.name}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    command = [_uv(), "pip", "install", "--quiet", "--python", _python(), "--override", str(_HERE / "overrides.txt")]
    # Bytecode is compiled now, so that no run of a job spends time on it.
    command.append("--compile-bytecode")
    done = subprocess.run([*command, "--requirement", str(_HERE / "requirements.txt")], cwd=ROOT, check=False)
    if done.returncode:
        # One peer that cannot be installed must not prevent the others. Its worker will report the missing package.
        subprocess.run([*command, ".[azure,cli,gcs]"], cwd=ROOT, check=True)
        for requirement in _peers():
            subprocess.run([*command, requirement], cwd=ROOT, check=False)


def _uv() -> str:
    beside = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)))
    found = shutil.which("uv", path=beside)
    if found is None:
        pip = [str(VENV / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "uv"]
        subprocess.run(pip, check=True)
        found = str(VENV / "bin" / "uv")
    return found


def _peers() -> list[str]:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    lines = metadata["options.extras_require"]["bench"].splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("%")]
