"""As much of `cupy.cuda` as a program needs that has one device: is it there, wait for it, follow its memory."""

from types import SimpleNamespace

from cupy import _cublas as cublas  # noqa: F401
from cupy._interface import look_up
from cupy._memory import counts, hooks


class CUDARuntimeError(RuntimeError):
    """What a missing driver raises."""


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: 1,
    getDeviceProperties=lambda device: {"name": b"Stand-in", "major": 0, "minor": 0},
    memGetInfo=lambda: (1 << 34, 1 << 34),
    driverGetVersion=lambda: 12080,
    runtimeGetVersion=lambda: 12080,
)


def get_cublas_handle():
    """There is one."""
    return 1


def is_available():
    """There is a device."""
    return True


class MemoryHook:
    """A context manager whose methods are called when memory is given out and given back."""

    name = "MemoryHook"

    def __enter__(self):
        if self.name in hooks:
            raise KeyError(f"memory hook {self.name} already exists")
        hooks[self.name] = self
        return self

    def __exit__(self, *_):
        del hooks[self.name]

    def malloc_postprocess(self, **kwargs):
        """Nothing, unless a subclass does."""

    def free_postprocess(self, **kwargs):
        """Nothing, unless a subclass does."""


class Stream:
    """All work is done at once, so there is nothing to wait for; but it counts."""

    def synchronize(self):
        """Count a wait."""
        counts["synchronize"] += 1


class Device(Stream):
    """The device."""

    def __init__(self, device=0):
        self.id = device

    def use(self):
        """Nothing: it is the only one."""


Stream.null = Stream()


def alloc_pinned_memory(size):
    """Host memory; as CuPy does, it may give more than was asked for."""
    return memoryview(bytearray(size + 512))


def get_current_stream():
    """The one stream."""
    return Stream.null


def __getattr__(name):
    look_up("cuda", name)
    raise AttributeError(f"module 'cupy.cuda' has no attribute {name!r}: the double lacks it")
