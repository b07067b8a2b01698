"""The virtual environment with the peers."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-bench"
_HERE = Path(__file__).parent
_READY = VENV / "ready"
_SOURCES = (_HERE / "requirements.txt", _HERE / "overrides.txt", ROOT / "setup.cfg")


def peers_python(venv: str) -> str:
    """The Python in which the peers are installed. The default environment is made if it is missing or outdated.

    Args:
        venv: Folder of a virtual environment; ``none`` for the Python of this process.
    """
    if venv == "none":
        return sys.executable
    if Path(venv) != VENV:
        return os.path.join(venv, "bin", "python")
    if not _READY.exists() or any(each.stat().st_mtime > _READY.stat().st_mtime for each in _SOURCES):
        _make()
    return str(VENV / "bin" / "python")


def _make() -> None:
    print(f"benchmarks: installing the peers into {VENV.name}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    options = ["--quiet", "--python", str(VENV / "bin" / "python"), "--override", str(_HERE / "overrides.txt")]
    install = [_uv(), "pip", "install", *options]
    # Bytecode is compiled now, so that no run of a job spends time on it.
    every = subprocess.run(
        [*install, "--compile-bytecode", "--requirement", str(_HERE / "requirements.txt")], cwd=ROOT, check=False
    )
    if every.returncode:
        # One peer that cannot be installed must not prevent the others. Its worker will report the missing package.
        subprocess.run([*install, "--editable", str(ROOT)], cwd=ROOT, check=True)
        for requirement in _peers():
            subprocess.run([*install, "--compile-bytecode", requirement], cwd=ROOT, check=False)
    _READY.touch()


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
    return [line.strip() for line in lines if line.strip()]
