"""What is kept on disk between runs, and nothing that a run has to believe: a torn or foreign file is as good as none.

PoCL and NVIDIA's driver keep what they build by themselves. For other drivers built programs are kept here, below
`~/.cache/clgrad` (or `$XDG_CACHE_HOME/clgrad`), each with a digest of itself in front. Files appear whole or not at
all.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from pathlib import Path

DIGEST = 32  # bytes of a SHA-256
MENDED = 128  # programs of PoCL's that are looked at


def base_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"))


def folder() -> Path:
    return base_folder() / "clgrad"


def pocl_folder() -> Path:
    return Path(os.environ.get("POCL_CACHE_DIR") or base_folder() / "pocl" / "kcache")


def write(path: Path, data: bytes) -> None:
    """Make the file `path` with `data`, whole or not at all. Where nothing can be written, nothing is kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
    except OSError:
        pass


def read_program(key: str) -> bytes | None:
    """The binary kept under `key`, if it is all there."""
    try:
        data = _program_path(key).read_bytes()
    except OSError:
        return None
    binary = data[DIGEST:]
    return binary if binary and hashlib.sha256(binary).digest() == data[:DIGEST] else None


def write_program(key: str, binary: bytes) -> None:
    write(_program_path(key), hashlib.sha256(binary).digest() + binary)


def _program_path(key: str) -> Path:
    return folder() / "programs" / hashlib.sha256(key.encode()).hexdigest()


def mend_pocl() -> None:
    """Remove what is cut short in PoCL's own cache, as a full disk or a lost power supply leaves it.

    PoCL maps these files without a look, and dies. What is missing it builds again. Only the programs used last are
    looked at, so that a large cache costs a moment.
    """
    programs = [path for path in pocl_folder().glob("??/*") if path.is_dir()]
    for program in sorted(programs, key=_last_used, reverse=True)[:MENDED]:
        for path in (*program.glob("program.bc"), *program.glob("*/*/*.so")):
            try:
                if not (_whole_library if path.suffix == ".so" else _whole_bitcode)(path):
                    path.unlink()
            except OSError:  # gone, or not ours to touch
                continue


def _last_used(program: Path) -> float:
    try:
        return (program / "last_accessed").stat().st_mtime
    except OSError:
        return 0.0


def _whole_library(path: Path) -> bool:
    """Whether an ELF file reaches to the end of its table of sections, which is the last thing in it."""
    with path.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:5] != b"\x7fELF\x02":
        return False
    (table,), (entry, count) = struct.unpack_from("<Q", header, 0x28), struct.unpack_from("<HH", header, 0x3A)
    return path.stat().st_size >= table + entry * count


def _whole_bitcode(path: Path) -> bool:
    """Whether a file of LLVM bitcode ends where its last block does. A block's second word is its length in words."""
    size, at = path.stat().st_size, 4
    with path.open("rb") as file:
        if file.read(4) != b"BC\xc0\xde":
            return False
        while at + 8 <= size:
            file.seek(at + 4)
            at += 8 + 4 * struct.unpack("<I", file.read(4))[0]
    return at == size
