"""Training with several processes is training with one: real runs of mpiexec, kills and failures included."""

import os
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

import minireformer as mr
import mpi
from arrays import xp
from minireformer.training import parallel
from minireformer.training.accumulate import loss_and_grads, rows_of_parts
from mpi import ROOT, needs_mpi
from runs import CONFIG, json_lines, without_clock

DROPOUT = {"dropout": 0.3, "attention_dropout": 0.2}

# What the processes run. `pause`: seconds that a step takes longer, so that a kill finds the run still going.
TRAIN = """
import os, sys, time
import numpy as np
import minireformer as mr
from runs import CONFIG

def batches(step, n_rows=5, pause=0.0):
    time.sleep(pause)
    tokens, targets, mask = mr.data.duplicate_task(step, n_rows, length=16, n_symbols=11)
    mask[1] = False  # a process may have no target at all
    return tokens, targets, mask

def train(comm, steps=50, n_rows=5, pause=0.0, batches=batches, make=mr.Adam, **settings):
    model = mr.Reformer(CONFIG, seed=3 if comm is None or comm.rank == 0 else 4, dtype="float64")
    settings = {"clip": 1.0, "progress": False} | settings
    log = mr.train(
        model, lambda step: batches(step, n_rows, pause), make(model.params, lr=0.02), steps, comm=comm, **settings
    )
    return model, log
"""
OF_RANK = TRAIN + "from mpi4py import MPI\nworld = MPI.COMM_WORLD\nrank = world.rank\n"


def alone(**settings):
    """The same run in this process alone."""
    names = {}
    exec(TRAIN, names)
    return names["train"](None, **settings)


def assert_same(params, model, tolerance=1e-12):
    for name, param in model.params.items():
        assert abs(params[name] - mr.backend.to_numpy(param)).max() < tolerance, name


def saved(path):
    """The parameters in a checkpoint."""
    arrays = safetensors.numpy.load_file(path)
    return {name.removeprefix("params."): array for name, array in arrays.items() if name.startswith("params.")}


# Without MPI: the shares of a batch


@pytest.mark.parametrize("n_ranks, n_parts", [(2, 1), (3, 2), (7, 1), (4, 3)])
def test_shares_of_a_batch_add_up_to_its_gradient(n_ranks, n_parts, tiny_model):
    """Whether its 5 rows divide or not, and if there are fewer rows than ranks, too."""
    model = tiny_model(**DROPOUT)
    draws = np.random.default_rng(0)
    tokens, targets = (xp.asarray(draws.integers(0, 11, (5, 14))) for _ in range(2))
    mask = xp.asarray(draws.random((5, 14)) < 0.3)
    whole_loss, whole = model.loss_and_grads(tokens, targets, seed=3, mask=mask)
    shares = [loss_and_grads(model, tokens, targets, mask, 3, n_parts, rank, n_ranks) for rank in range(n_ranks)]
    assert abs(float(whole_loss) - sum(float(loss) for loss, _ in shares)) < 1e-12
    for name, gradient in whole.items():
        total = sum(grads[name] for _, grads in shares if name in grads)
        assert abs(total - gradient).max() < 1e-12 * max(float(abs(gradient).max()), 1e-3), name


def test_no_share_is_larger_than_that_of_the_first():
    for n_rows in range(1, 9):
        sizes = [part.stop - part.start for part in rows_of_parts(n_rows, 5)]
        assert sum(sizes) == n_rows and max(sizes) == sizes[0] <= min(sizes) + 1


def test_without_a_communicator_there_is_one_process_and_nothing_moves():
    ranks, grads = parallel.Ranks(), {"w": xp.ones(3)}
    assert ranks.sum(2.0, grads, grads) == (2.0, grads) and (ranks.rank, ranks.size) == (0, 1)
    with pytest.raises(KeyError), ranks.ending_together():
        raise KeyError


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="comm: expected a communicator of mpi4py, such as MPI.COMM_WORLD; got int"):
        alone_with_comm(2)
    with pytest.raises(TypeError, match="cuda_aware: expected True or False; got 1"):
        alone(cuda_aware=1)


def alone_with_comm(comm):
    model = mr.Reformer(CONFIG)
    return mr.train(model, lambda step: None, mr.Adam(model.params), 1, comm=comm)


# With MPI

EQUAL = (
    OF_RANK
    + """
import zlib
group = {size: world.Split(rank < size, rank) for size in (2, 4)}
for size in (2, 4):
    if rank < size:
        model, log = train(group[size], accumulate=2)
        factored, _ = train(group[size], steps=10, n_rows=3, make=mr.Adafactor)
        if rank == 0:
            model.save(f"{sys.argv[1]}/adam_{size}.safetensors")
            factored.save(f"{sys.argv[1]}/adafactor_{size}.safetensors")
bits = zlib.crc32(b"".join(param.tobytes() for param in model.params.values()))
same = world.allgather((bits, log))
print("same bits and log" if same == [same[0]] * 4 and len(log) == 5 else "different")
"""
)


@needs_mpi
def test_1_2_and_4_processes_end_with_the_same_parameters(tmp_path):
    """After 50 steps in float64, with dropout, masks, and batches that don't divide or have fewer rows than ranks."""
    output = mpi.run(4, "-c", EQUAL, tmp_path, MINIREFORMER_BACKEND="numpy")
    assert output.replace("\n", "") == 4 * "same bits and log"  # processes may print on the same line
    for name, more in ("adam", {}), ("adafactor", {"steps": 10, "n_rows": 3, "make": mr.Adafactor}):
        model, _ = alone(**more)
        start, _ = alone(**more | {"steps": 1})
        for size in 2, 4:
            params = saved(tmp_path / f"{name}_{size}.safetensors")
            assert_same(params, model)
            assert all((params[key] != mr.backend.to_numpy(param)).any() for key, param in start.params.items())


GPU = (
    OF_RANK
    + """
gpu = mr.training.use_own_gpu(world)
model, log = train(world, steps=5, progress=True)
import cupy
print(f"on {type(model.params['head.bias']).__module__.partition('.')[0]} {gpu} {len(log)}")
if rank == 0:
    mr.backend.use("numpy")
    one, _ = train(None, steps=5)
    print("apart", max(float(abs(model.params[name].get() - param).max()) for name, param in one.params.items()))
"""
)


@needs_mpi
def test_cupy_goes_through_pinned_memory_and_says_so():
    double = str(ROOT / "tests" / "double")
    code, output, messages = mpi.finish(mpi.start(2, "-c", GPU, PYTHONPATH=double, MINIREFORMER_BACKEND="cupy"))
    assert code == 0, messages
    assert output.count("on cupy 0 1") == 2 and float(output.partition("apart ")[2]) < 1e-12
    assert "2 processes; gradients go from the GPU to MPI through pinned host memory" in messages


class Recorder:
    """A communicator of two ranks with the same gradients, which keeps what it was given."""

    given = ()

    def Get_rank(self):
        return 0

    def Get_size(self):
        return 2

    def Allreduce(self, in_place, array):
        self.given += (array,)
        array += array


@pytest.mark.parametrize("cuda_aware", [False, True])
def test_a_cuda_aware_mpi_gets_arrays_of_the_gpu_once_they_are_computed(cuda_aware, cupy, counts):
    pytest.importorskip("mpi4py.MPI")
    mr.backend.use("cupy")
    params = {"a": cupy.ones((2, 3)), "b": cupy.ones(4)}
    comm = Recorder()
    ranks = parallel.Ranks(comm, cuda_aware)
    loss, grads = cupy.asarray(7.0), {"a": cupy.full((2, 3), 5.0)}
    counts.clear()
    loss, sums = ranks.sum(loss, grads, params)
    (given,) = comm.given  # one call for everything
    assert isinstance(given, cupy.ndarray if cuda_aware else np.ndarray) and given.size == 11
    moved = counts["to_device"], counts["to_host"], counts["synchronize"]
    assert moved == ((0, 0, 1) if cuda_aware else (1, 1, 1)), counts
    assert float(loss) == 14 and (sums["a"] == 10).all() and (sums["b"] == 0).all() and not grads
    assert ("CUDA-aware" in str(ranks)) == cuda_aware


@needs_mpi
def test_arguments_that_differ_end_the_run_and_are_named():
    code, _, messages = mpi.finish(mpi.start(2, "-c", OF_RANK + "train(world, steps=50 + rank)"))
    assert code != 0 and "ValueError: steps: expected that of rank 0, 50; got 51 on rank 1" in messages
    assert "Rank 1 of 2 failed, so the whole run ends." in messages


# Failures and kills

INTERRUPTED = (
    OF_RANK
    + """
path, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with open(f"{path}.{rank}.pid", "w", encoding="utf-8") as file:
    file.write(str(os.getpid()))

def failing(step, *more):
    if rank == 1 and step == int(sys.argv[4]):
        raise OSError("no more data")
    return batches(step, *more)

path = path if rank == 0 else "no_such_folder/run.safetensors"  # the others never look
train(world, steps, 5, pause, failing, log_every=4, checkpoint=path, checkpoint_every=3)
"""
)


def interrupted(n_ranks, path, steps=40, pause=0.0, fails_at=-1):
    return mpi.start(n_ranks, "-c", INTERRUPTED, path, steps, pause, fails_at)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@needs_mpi
def test_a_run_that_fails_on_one_rank_or_is_killed_there_goes_on_with_other_numbers_of_processes(tmp_path):
    path = tmp_path / "run.safetensors"
    code, _, messages = mpi.finish(interrupted(2, path, fails_at=7))
    assert code != 0 and "OSError: no more data" in messages
    assert "Rank 1 of 2 failed, so the whole run ends." in messages
    assert [row["step"] for row in json_lines(path)] == [4]
    mr.Reformer.load(path)

    process = interrupted(4, path, pause=0.05)
    seen, until = path.stat().st_mtime_ns, time.monotonic() + 60
    while path.stat().st_mtime_ns == seen and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    pids = [int((tmp_path / f"run.safetensors.{rank}.pid").read_text(encoding="utf-8")) for rank in range(4)]
    os.kill(pids[2], 9)
    code, _, messages = mpi.finish(process)
    assert code != 0
    until = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, pids))
    mr.Reformer.load(path)

    process = interrupted(2, path)
    assert mpi.finish(process)[0] == 0
    whole, log = alone(steps=40, log_every=4)
    assert_same(saved(path), whole)
    resumed = without_clock(json_lines(path))
    assert [row["step"] for row in resumed] == [row["step"] for row in log]
    for row, expected in zip(resumed, log):
        assert abs(row["loss"] - expected["loss"]) < 1e-12


@needs_mpi
def test_a_model_of_bytes_is_trained_by_two_processes_from_the_command_line(tmp_path):
    (tmp_path / "text.txt").write_text("What is written twice is learned once. " * 200, encoding="utf-8")
    settings = ["--length", 64, "--batch", 3, "--text", tmp_path / "text.txt", "--checkpoint-every", 5]
    command = ["-m", "minireformer.training", tmp_path / "run.safetensors", *settings, "--steps"]
    first = mpi.run(2, *command, 10)
    more = mpi.run(1, *command, 40)  # goes on, in one process
    bits = [float(text.split()[3]) for text in (first, more)]
    assert first.startswith("after 10 steps") and more.startswith("after 40 steps") and bits[1] < bits[0] < 8
    assert [row["step"] for row in json_lines(tmp_path / "run.safetensors")] == [10, 20, 30, 40]


def test_processes_that_do_not_see_each_other_are_not_trained(monkeypatch):
    module = pytest.importorskip("minireformer.training.__main__")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delenv("PMI_SIZE", raising=False)
    assert module.communicator() is None
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(SystemExit, match="mpiexec started 2 processes, but Python sees 1"):
        module.communicator()
