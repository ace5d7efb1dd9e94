"""What a GPU runs instead of many small steps: a few CUDA kernels, and cuBLAS's batched matrix product.

A GPU computes faster than it reads, so one kernel does all steps between two matrix products in one pass over memory.
`kernel.py` has the same steps in NumPy, in functions of the same names. CuPy compiles the kernels when they are first
used. No function here waits for the device, and none copies a matrix just because it is transposed.

A kernel works row by row: the lanes of a warp share a row's entries and combine their sums. Apart from its index
variables, the source is plain C++, so the tests can run it without a GPU.
"""

import functools
import math
import os

import numpy as np

_THREADS, _LANES = 128, 32
_SHARE, _LEAST_BYTES = 4, 1 << 20  # a tile takes up to `_SHARE` times the bytes of all queries, or `_LEAST_BYTES`
_DEFAULT_MATH, _TF32_MATH = 0, 3  # values of cuBLAS's `cublasMath_t`; CuPy has no name for the second

_SOURCE = r"""
#ifndef LANES
#define LANES 32
#endif
typedef int int32;  // a token's position, or -1 for a key that no query may see
typedef long long int64;  // all numbers passed to a kernel

__device__ real sum_of_lanes(real x) {
    for (int step = LANES / 2; step; step /= 2) x += __shfl_xor_sync(0xffffffff, x, step);
    return x;
}

__device__ real max_of_lanes(real x) {
    for (int step = LANES / 2; step; step /= 2) {
        const real other = __shfl_xor_sync(0xffffffff, x, step);
        x = other > x ? other : x;
    }
    return x;
}

__device__ int64 row_of_warp() { return (int64)blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES; }

// A tile has a row for each slot of its chunks: (g, n, C, W C). Finds where in (g, (n + W - 1) C) its window begins.
__device__ int64 window_of(int64 row, int64 n, int64 chunk_len, int64 width) {
    const int64 group = row / (n * chunk_len), chunk = row / chunk_len % n;
    return group * ((n - 1) * chunk_len + width) + chunk * chunk_len;
}

__device__ bool seen(int32 query, int32 key, int64 causal, int64 exclude_self) {
    return key >= 0 && (!causal || key <= query) && (!exclude_self || key != query);
}

__device__ real exp_up_to_one(real x) { return exp(x > 0 ? (real)0 : x); }  // hidden logits may be large; NaN stays NaN

extern "C" __global__ void running_softmax(
    real* S, const int32* queries, const int32* keys, const real* weights, const int64* rows, real* m, real* l,
    real* rescale, int64 n_rows, int64 n, int64 chunk_len, int64 width, int64 causal, int64 exclude_self) {
    const int64 row = row_of_warp();
    if (row >= n_rows) return;
    const int lane = threadIdx.x % LANES;
    const int32* key = keys + window_of(row, n, chunk_len, width);
    real* logit = S + row * width;
    const real* weight = weights ? weights + row * width : weights;
    const real m_old = m[rows[row]];
    real m_new = m_old;
    for (int64 j = lane; j < width; j += LANES)
        if (seen(queries[row], key[j], causal, exclude_self) && !(weight && weight[j] == 0))
            m_new = logit[j] > m_new ? logit[j] : m_new;
    m_new = max_of_lanes(m_new);
    real sum = 0;
    for (int64 j = lane; j < width; j += LANES) {
        real p = 0;
        if (seen(queries[row], key[j], causal, exclude_self)) p = exp_up_to_one(logit[j] - m_new);
        if (weight) p *= weight[j];
        logit[j] = p;
        sum += p;
    }
    sum = sum_of_lanes(sum);
    if (lane == 0) {
        rescale[row] = exp(m_old - m_new);
        m[rows[row]] = m_new;
        l[rows[row]] = l[rows[row]] * rescale[row] + sum;
    }
}

extern "C" __global__ void softmax_gradient(
    real* S, real* dP, const int32* keys, const int32* queries, const real* m, const real* delta,
    const real* weights, const real* keep, int64 n_rows, int64 n, int64 chunk_len, int64 width, int64 causal,
    int64 exclude_self) {
    const int64 row = row_of_warp();
    if (row >= n_rows) return;
    const int64 window = window_of(row, n, chunk_len, width);
    for (int64 j = threadIdx.x % LANES; j < width; j += LANES) {
        const int64 i = row * width + j, slot = window + j;
        real p = 0;
        if (seen(queries[slot], keys[row], causal, exclude_self)) p = exp_up_to_one(S[i] - m[slot]);
        if (weights) p *= weights[i];
        const real kept = keep ? keep[i] : (real)1;
        dP[i] = (dP[i] * kept - delta[slot]) * p;
        S[i] = p * kept;
    }
}

extern "C" __global__ void scatter_add(
    real* table, const int64* rows, const real* values, const real* rescale, int64 n_rows, int64 n_slots,
    int64 row_len, int64 group_len) {
    const int64 row = row_of_warp();
    if (row >= n_rows) return;
    real* sum = table + rows[row] * row_len;
    const real* value = values + row / n_slots * group_len + row % n_slots * row_len;
    const real factor = rescale ? rescale[row] : (real)1;
    for (int64 i = threadIdx.x % LANES; i < row_len; i += LANES) sum[i] = sum[i] * factor + value[i];
}

extern "C" __global__ void row_dot(const real* a, const real* b, real* out, int64 n_rows, int64 row_len) {
    const int64 row = row_of_warp();
    if (row >= n_rows) return;
    real sum = 0;
    for (int64 i = threadIdx.x % LANES; i < row_len; i += LANES) sum += a[row * row_len + i] * b[row * row_len + i];
    sum = sum_of_lanes(sum);
    if (threadIdx.x % LANES == 0) out[row] = sum;
}
"""


def compiles(xp):
    """Whether module `xp` compiles kernels: CuPy does. NumPy, and a stand-in for CuPy, take the steps one by one."""
    return xp is not np and hasattr(xp, "RawModule")


def source(dtype):
    """The source of all kernels for floats of a dtype, "float32" or "float64"."""
    return f"typedef {'float' if dtype == 'float32' else 'double'} real;\n{_SOURCE}"


@functools.cache
def _module(xp, dtype):
    return xp.RawModule(code=source(dtype))


def launch(xp, name, n_rows, arrays, numbers):
    """Start the kernel `name` on `n_rows` rows. `arrays` are its pointers (None: null), `numbers` follow `n_rows`."""
    if n_rows:
        kernel = _module(xp, arrays[0].dtype.name).get_function(name)
        pointers = (np.int64(0) if array is None else array for array in arrays)
        n_blocks = -(-n_rows * _LANES // _THREADS)
        kernel((n_blocks,), (_THREADS,), (*pointers, *map(np.int64, (n_rows, *numbers))))


@functools.cache  # asking the driver is slow
def device_bytes(xp):
    """The total memory of the current GPU, in bytes."""
    return xp.cuda.runtime.memGetInfo()[1]


def logits_per_tile(queries, window_len):
    """How many logits a tile may have if memory is to grow only linearly with the length. `queries`: a `HeadTable`."""
    itemsize = queries.dtype.itemsize
    room = max(_SHARE * math.prod(queries.shape) * queries.d_head * itemsize, _LEAST_BYTES)
    room = min(room, device_bytes(queries.xp) // 16)
    gathered = 12 * queries.d_head / window_len  # numbers in gathered vectors, per logit; P and dS add two more
    return max(1, int(room / itemsize / (2 + gathered)))


def running_softmax(s, S, m, l, chunk, window, weights):
    """`kernel.running_softmax`, for a schedule `s` by queries."""
    queries, keys = _positions(s, chunk, window)
    rows = s.xp.ascontiguousarray(s.query_rows[:, chunk], dtype=s.xp.int64)
    rescale = s.xp.empty(rows.shape, S.dtype)
    _launch_on_tile(s, "running_softmax", S, queries, keys, *_contiguous(s.xp, weights), rows, m, l, rescale)
    return S, rescale


def softmax_gradient(s, S, dP, m, delta, chunk, window, weights, keep):
    """`kernel.softmax_gradient`, for a schedule `s` by keys; m and delta are those of the window's slots."""
    queries, keys = _positions(s, window, chunk)
    _launch_on_tile(s, "softmax_gradient", S, dP, keys, queries, *_contiguous(s.xp, m, delta, weights, keep))
    return S, dP


def scatter_add(xp, table, rows, values, rescale=None):
    """`Scratch.scatter_add` for values (g, slots, d) in which each head's slots lie one after another."""
    arrays = table, xp.ascontiguousarray(rows, dtype=xp.int64), values, rescale
    launch(xp, "scatter_add", rows.size, arrays, (rows.shape[1], table[0].size, values.strides[0] // values.itemsize))


def _positions(s, queries, keys):
    """Positions (g, slots) of a tile's queries and keys as int32, with -1 for hidden keys."""
    query, key = s.query[:, queries].astype("int32"), s.key[:, keys].astype("int32")
    if s.hidden is not None:
        key = s.xp.where(s.hidden[:, keys], s.xp.int32(-1), key)
    return _contiguous(s.xp, *(s.xp.broadcast_to(x, (len(s.heads), x.shape[1])) for x in (query, key)))


def _contiguous(xp, *arrays):
    """`arrays` made contiguous, as kernels read them. None stays None."""
    return [array if array is None else xp.ascontiguousarray(array) for array in arrays]


def _launch_on_tile(s, name, S, *arrays):
    """Start a kernel on the rows of a tile's logits S (g, n, C, W C), its first argument."""
    launch(s.xp, name, S.size // S.shape[3], (S, *arrays), (*S.shape[1:], s.options.causal, s.plan.exclude_self))


def row_dot(xp, a, b):
    """`backend.row_dot`: CuPy's einsum would turn every row into a matrix product."""
    out = xp.empty(a.shape[:-1], a.dtype)
    launch(xp, "row_dot", out.size, (*_contiguous(xp, a, b), out), (a.shape[-1],))
    return out


def batched_matmul(xp, a, b, out):
    """`threads.batched_matmul` with cuBLAS: one batch of products if the strides allow it, else one batch for each g.

    cuBLAS stores matrices column by column, so we ask it for out' = b' a'. It works in full float32, unless CuPy's
    environment variable CUPY_TF32=1 lets it round float32 factors to TF32.
    """
    cublas, handle = xp.cuda.cublas, xp.cuda.get_cublas_handle()
    single, one, zero = out.dtype == "float32", np.ones((), out.dtype), np.zeros((), out.dtype)
    gemm = cublas.sgemmStridedBatched if single else cublas.dgemmStridedBatched
    (transpose_a, row_a), (transpose_b, row_b) = _blas_layout(a), _blas_layout(b)
    n_groups, n_matrices, n_rows, n_columns = out.shape
    tf32 = single and os.environ.get("CUPY_TF32", "0") not in ("", "0")
    if tf32:
        cublas.setMathMode(handle, _TF32_MATH)
    if all(x.strides[0] == n_matrices * x.strides[1] for x in (a, b, out)):
        n_groups, n_matrices = 1, n_groups * n_matrices
    for g in range(n_groups):
        left, right, result = (  # where they begin, and how many entries lie from row to row and from matrix to matrix
            (x.data.ptr + g * x.strides[0], row, x.strides[1] // x.itemsize)
            for x, row in ((b, row_b), (a, row_a), (out, n_columns))
        )
        operations, sizes = (transpose_b, transpose_a), (n_columns, n_rows, a.shape[-1])
        alpha, beta = one.ctypes.data, zero.ctypes.data
        gemm(handle, *operations, *sizes, alpha, *left, *right, beta, *result, n_matrices)
    if tf32:
        cublas.setMathMode(handle, _DEFAULT_MATH)
    return out


def _blas_layout(matrices):
    """The layout of matrices (..., i, j): whether they are transposed (0 or 1), and the entries from row to row."""
    row, column = (stride // matrices.itemsize for stride in matrices.strides[-2:])
    n_rows, n_columns = matrices.shape[-2:]
    if column == 1 or n_columns == 1:
        return 0, max(row, n_columns)
    if row == 1 or n_rows == 1:
        return 1, max(column, n_rows)
    raise ValueError(f"matrices: expected rows or columns without gaps; got strides {matrices.strides}")
