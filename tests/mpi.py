"""How tests start several processes: with the mpiexec that belongs to mpi4py, or not at all, with a reason."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpi4py and mpiexec: pip install -e '.[mpi]' where there are wheels of both",
)
# Each process gets one thread. Open MPI also wants to be asked before it runs as root, or on fewer cores.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def start(n_ranks, *arguments, **settings):
    """`mpiexec -n n_ranks python *arguments`, which can import the package and the tests' own modules; a `Popen`."""
    given = [settings.pop("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]  # the stand-in for CuPy may be there
    path = os.pathsep.join([*filter(None, given), str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [MPIEXEC, "-n", str(n_ranks), sys.executable, *map(str, arguments)],
        env=os.environ | SETTINGS | {"PYTHONPATH": path} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def finish(process):
    """-> exit code, output, messages of what `start` has started; a run that hangs fails."""
    try:
        output, messages = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, output, messages


def run(n_ranks, *arguments, **settings):
    """The output of a run that succeeds."""
    code, output, messages = finish(start(n_ranks, *arguments, **settings))
    assert code == 0, output + messages
    return output
