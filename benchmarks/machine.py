"""The machine that a benchmark runs on: how many threads, how much memory, and everything else a result depends on.

Shared by both folders: `speed/contest.py` and `paper/recording.py` put this folder on Python's path and import it.
"""

import os
import platform
import sys
from datetime import date
from importlib import metadata
from pathlib import Path

PROC = Path("/proc")  # Linux alone has it
N_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def surroundings():
    """What a result depends on: machine, versions, date."""
    versions = {}
    for name in ("numpy", "torch", "transformers", "reformer-pytorch", "minireformer"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    machine = {"processor": _processor(), "architecture": platform.machine(), "threads": N_THREADS}
    return {"date": date.today().isoformat(), "python": platform.python_version()} | versions | machine


def require_proc():
    """End the script with an explanation on a system where `memory` cannot work."""
    if not (PROC / "self" / "status").exists():
        sys.exit(
            f"{Path(sys.argv[0]).name}: this script reads the memory of its processes from /proc, which only Linux "
            "has. On Windows run it in WSL, on macOS in a Linux container."
        )


def memory(field):
    """A memory field of this process, in bytes: "VmRSS" (now) or "VmHWM" (the highest so far)."""
    lines = (PROC / "self" / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def begin_new_peak():
    """Let "VmHWM" count from now on."""
    (PROC / "self" / "clear_refs").write_text("5", encoding="utf-8")


def _processor():
    path = PROC / "cpuinfo"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
