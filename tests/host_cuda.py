"""Kernels of `cuda.py` on a machine without a GPU: compiled to PTX by the nvrtc wheel, and run by the host's compiler.

`Module` takes the place of `cupy.RawModule` on the double. It compiles the same text as C++, for warps of four lanes: a
lane runs until it has something to exchange with the others, and then the next one does.
"""

import ctypes
import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np


def find_compiler(system):
    """A C++ compiler for `os.name`, or None: a system that is not POSIX lacks ucontext.h."""
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None) if system == "posix" else None


COMPILER = find_compiler(os.name)

_BEFORE = """
#define _XOPEN_SOURCE 700  // ucontext.h asks for it on macOS
#include <cmath>
#include <ucontext.h>
#define LANES 4
using std::exp;
struct Index { long long x; };
struct Lane { Index block, thread; ucontext_t context; char stack[65536]; double sent[2]; int n_sent; };
static Lane lane_of_warp[LANES];
static Index blockDim;
static int current;
static void next_lane() {
    Lane &here = lane_of_warp[current];
    current = (current + 1) % LANES;
    swapcontext(&here.context, &lane_of_warp[current].context);
}
static double exchange(double x, int step) {
    const int me = current, slot = lane_of_warp[me].n_sent++ % 2;
    lane_of_warp[me].sent[slot] = x;
    next_lane();  // comes back when every lane has sent as much
    return lane_of_warp[me ^ step].sent[slot];
}
#define __shfl_xor_sync(mask, x, step) exchange(x, step)
#define __global__
#define __device__ static
#define blockIdx lane_of_warp[current].block
#define threadIdx lane_of_warp[current].thread
"""

_AFTER = """
typedef long long L;  // addresses and numbers alike: a kernel takes as many as it has parameters
typedef void (*Kernel)(L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L);
static Kernel kernel;
static L n_blocks, *a;
static ucontext_t outside;
static void run_lane() {
    const int me = current;
    for (L block = 0; block < n_blocks; block++)
        for (L thread = me; thread < blockDim.x; thread += LANES) {
            blockIdx.x = block;
            threadIdx.x = thread;
            kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15],
                   a[16], a[17], a[18], a[19]);
        }
    next_lane();
    setcontext(&outside);  // the first lane, when all are done
}
extern "C" void launch(Kernel of_kernel, L of_blocks, L n_threads, L *arguments) {
    kernel = of_kernel; n_blocks = of_blocks; blockDim.x = n_threads; a = arguments;
    for (Lane &one : lane_of_warp) {
        getcontext(&one.context);
        one.context.uc_stack.ss_sp = one.stack;
        one.context.uc_stack.ss_size = sizeof one.stack;
        one.n_sent = 0;
        makecontext(&one.context, run_lane, 0);
    }
    current = 0;
    swapcontext(&outside, &lane_of_warp[0].context);
}
"""


class Module:
    """As `cupy.RawModule(code=...)`; `started` lists the names of all kernels that were launched."""

    started = []

    def __init__(self, code):
        self.library = _compiled(code)

    def get_function(self, name):
        kernel = getattr(self.library, name)

        def start(grid, block, args):
            self.started.append(name)
            values = [int(one) if isinstance(one, np.int64) else one.data.ptr for one in args]
            assert len(values) <= 20 and len(grid) == len(block) == 1
            n_blocks, n_threads = map(ctypes.c_longlong, grid + block)
            self.library.launch(kernel, n_blocks, n_threads, (ctypes.c_longlong * 20)(*values))

        return start


@functools.cache
def _compiled(code):
    with tempfile.TemporaryDirectory() as folder:
        text, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        text.write_text(_BEFORE + code + _AFTER, encoding="utf-8")
        subprocess.run([COMPILER, "-O1", "-std=c++11", "-w", "-shared", "-fPIC", text, "-o", library], check=True)
        return ctypes.CDLL(str(library))


def find_nvrtc():
    """The library of an installed nvrtc wheel, or None."""
    found = importlib.util.find_spec("nvidia")
    for folder in found.submodule_search_locations if found else ():
        for path in sorted(Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(path))


def ptx(code, architecture):
    """`code` compiled for an architecture such as "compute_80"; RuntimeError with the compiler's words."""
    nvrtc, program, size = find_nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 2)(f"--gpu-architecture={architecture}".encode(), b"--std=c++11")
    failed = nvrtc.nvrtcCompileProgram(program, len(options), options)
    what = "ProgramLog" if failed else "PTX"
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(text.value.decode())
    return text.value.decode()
