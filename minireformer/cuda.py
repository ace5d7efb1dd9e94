"""What a GPU is given in place of many small steps: a few kernels in CUDA, and cuBLAS's batched product.

`fused.py` says in NumPy what each kernel computes. CuPy compiles them when they are first asked for. No function here
waits for the device, and none copies a matrix because it is transposed.

A kernel works row by row: the lanes of a warp share a row's entries and put their sums together. The text is plain
C++ but for its index variables, so that tests can run it where there is no GPU.
"""

import functools
import os

import numpy as np

_C_TYPES = {"float32": "float", "float64": "double"}
_THREADS, _LANES = 128, 32
_DEFAULT_MATH, _TF32_MATH = 0, 3  # of cuBLAS's `cublasMath_t`: CuPy has no name for the second

_SOURCE = r"""
#ifndef LANES
#define LANES 32
#endif
typedef int place;  // a token's position; that of a key that nobody may see is -1
typedef long long whole;  // every number that is passed

__device__ real of_all_lanes(real x) {  // the sum
    for (int step = LANES / 2; step; step /= 2) x += __shfl_xor_sync(0xffffffff, x, step);
    return x;
}

__device__ real largest_of_all_lanes(real x) {
    for (int step = LANES / 2; step; step /= 2) {
        const real other = __shfl_xor_sync(0xffffffff, x, step);
        x = other > x ? other : x;
    }
    return x;
}

__device__ whole row_of_warp() { return (whole)blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES; }

// A tile has a row for each slot of its chunks: (g, n, C, W C). Where in (g, (n + W - 1) C) a row's window begins.
__device__ whole window_of(whole row, whole n, whole chunk_len, whole width) {
    const whole group = row / (n * chunk_len), chunk = row / chunk_len % n;
    return group * ((n - 1) * chunk_len + width) + chunk * chunk_len;
}

__device__ bool seen(place query, place key, whole causal, whole exclude_self) {
    return key >= 0 && (!causal || key <= query) && (!exclude_self || key != query);
}

__device__ real exp_up_to_one(real x) { return exp(x > 0 ? (real)0 : x); }  // what is not seen may be large; NaN stays

extern "C" __global__ void weigh(
    real* scores, const place* queries, const place* keys, const real* weights, const whole* tokens, real* reference,
    real* total, real* shrink, whole n_rows, whole n, whole chunk_len, whole width, whole causal, whole exclude_self,
    whole is_weighted) {
    const whole row = row_of_warp();
    if (row >= n_rows) return;
    const int lane = threadIdx.x % LANES;
    const place* key = keys + window_of(row, n, chunk_len, width);
    real* score = scores + row * width;
    const real* weight = weights + row * width;
    const real before = reference[tokens[row]];
    real now = before;
    for (whole j = lane; j < width; j += LANES)
        if (seen(queries[row], key[j], causal, exclude_self) && !(is_weighted && weight[j] == 0))
            now = score[j] > now ? score[j] : now;
    now = largest_of_all_lanes(now);
    real sum = 0;
    for (whole j = lane; j < width; j += LANES) {
        real w = 0;
        if (seen(queries[row], key[j], causal, exclude_self)) w = exp_up_to_one(score[j] - now);
        if (is_weighted) w *= weight[j];
        score[j] = w;
        sum += w;
    }
    sum = of_all_lanes(sum);
    if (lane == 0) {
        shrink[row] = exp(before - now);
        reference[tokens[row]] = now;
        total[tokens[row]] = total[tokens[row]] * shrink[row] + sum;
    }
}

extern "C" __global__ void gradient(
    real* p, real* ds, const place* keys, const place* queries, const real* lse, const real* delta,
    const real* weights, const real* keep, whole n_rows, whole n, whole chunk_len, whole width, whole causal,
    whole exclude_self, whole is_weighted, whole drops) {
    const whole row = row_of_warp();
    if (row >= n_rows) return;
    const whole window = window_of(row, n, chunk_len, width);
    for (whole j = threadIdx.x % LANES; j < width; j += LANES) {
        const whole i = row * width + j, slot = window + j;
        real w = 0;
        if (seen(queries[slot], keys[row], causal, exclude_self)) w = exp_up_to_one(p[i] - lse[slot]);
        if (is_weighted) w *= weights[i];
        const real kept = drops ? keep[i] : (real)1;
        ds[i] = (ds[i] * kept - delta[slot]) * w;
        p[i] = w * kept;
    }
}

extern "C" __global__ void add(
    real* totals, const whole* tokens, const real* values, const real* shrink, whole n_rows, whole n_slots,
    whole row_len, whole group_len, whole shrinks) {
    const whole row = row_of_warp();
    if (row >= n_rows) return;
    real* total = totals + tokens[row] * row_len;
    const real* value = values + row / n_slots * group_len + row % n_slots * row_len;
    const real factor = shrinks ? shrink[row] : (real)1;
    for (whole i = threadIdx.x % LANES; i < row_len; i += LANES) total[i] = total[i] * factor + value[i];
}

extern "C" __global__ void row_dot(const real* a, const real* b, real* out, whole n_rows, whole row_len) {
    const whole row = row_of_warp();
    if (row >= n_rows) return;
    real sum = 0;
    for (whole i = threadIdx.x % LANES; i < row_len; i += LANES) sum += a[row * row_len + i] * b[row * row_len + i];
    sum = of_all_lanes(sum);
    if (threadIdx.x % LANES == 0) out[row] = sum;
}
"""


def compiles(xp):
    """Whether module `xp` compiles kernels: CuPy does. NumPy, and a stand-in for CuPy, take the steps one by one."""
    return hasattr(xp, "RawModule")


def source(dtype):
    """The text of all kernels for floats of a dtype, "float32" or "float64"."""
    return f"typedef {_C_TYPES[dtype]} real;\n{_SOURCE}"


@functools.cache
def _module(xp, dtype):
    return xp.RawModule(code=source(dtype))


def launch(xp, name, n_rows, arrays, numbers):
    """Start the kernel `name` on `n_rows` rows. `arrays` are its pointers, `numbers` the integers after `n_rows`."""
    if not n_rows:
        return
    kernel = _module(xp, arrays[0].dtype.name).get_function(name)
    n_blocks = -(-n_rows * _LANES // _THREADS)
    kernel((n_blocks,), (_THREADS,), (*arrays, *map(np.int64, (n_rows, *numbers))))


def row_dot(xp, a, b):
    """`basic.row_dot`: CuPy's einsum would make a matrix product of every row."""
    out = xp.empty(a.shape[:-1], a.dtype)
    launch(xp, "row_dot", out.size, (*map(xp.ascontiguousarray, (a, b)), out), (a.shape[-1],))
    return out


def batched_matmul(xp, a, b, out):
    """`threads.batched_matmul` by cuBLAS: one batch of products where strides allow, else one for each g.

    cuBLAS stores columns one after the other, so what it is asked for is out' = b' a'. It works in full float32; the
    environment variable CUPY_TF32=1, which is CuPy's own, lets it round float32 factors to TF32.
    """
    cublas, handle = xp.cuda.cublas, xp.cuda.get_cublas_handle()
    gemm = {"float32": cublas.sgemmStridedBatched, "float64": cublas.dgemmStridedBatched}[out.dtype.name]
    one, zero = np.ones((), out.dtype), np.zeros((), out.dtype)
    (transpose_a, row_a), (transpose_b, row_b) = _lie(a), _lie(b)
    n_groups, n_matrices, n_rows, n_columns = out.shape
    tf32 = out.dtype.name == "float32" and os.environ.get("CUPY_TF32", "0") not in ("", "0")
    if tf32:
        cublas.setMathMode(handle, _TF32_MATH)
    if all(x.strides[0] == n_matrices * x.strides[1] for x in (a, b, out)):
        n_groups, n_matrices = 1, n_groups * n_matrices
    for g in range(n_groups):
        first_a, first_b, first_out = (x.data.ptr + g * x.strides[0] for x in (a, b, out))
        step_a, step_b, step_out = (x.strides[1] // x.itemsize for x in (a, b, out))
        sizes = n_columns, n_rows, a.shape[-1]
        left, right = (first_b, row_b, step_b), (first_a, row_a, step_a)
        result = first_out, n_columns, step_out
        alpha, beta = one.ctypes.data, zero.ctypes.data
        gemm(handle, transpose_b, transpose_a, *sizes, alpha, *left, *right, beta, *result, n_matrices)
    if tf32:
        cublas.setMathMode(handle, _DEFAULT_MATH)
    return out


def _lie(matrices):
    """How matrices (..., i, j) lie in memory: whether transposed (0 or 1), and the entries from row to row."""
    row, column = (stride // matrices.itemsize for stride in matrices.strides[-2:])
    n_rows, n_columns = matrices.shape[-2:]
    if column == 1 or n_columns == 1:
        return 0, max(row, n_columns)
    if row == 1 or n_rows == 1:
        return 1, max(column, n_rows)
    raise ValueError(f"matrices: expected rows or columns without gaps; got strides {matrices.strides}")
