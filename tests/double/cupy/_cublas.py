"""`cupy.cuda.cublas`: batched products of matrices that lie column by column, given by their addresses, as cuBLAS's.

Of cuBLAS's math modes CuPy 13.6 and 14 name the default, not TF32, which is 3: its products round their factors here.
"""

import ctypes

import numpy

CUBLAS_DEFAULT_MATH = 0
_TF32 = 3
modes = []  # what `setMathMode` was told, call by call


def setMathMode(handle, mode):
    """Note it."""
    modes.append(mode)


def _at(address, dtype, shape, strides):
    """NumPy's view of memory: `shape` and `strides`, in entries, from `address` on."""
    n = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides))
    memory = (ctypes.c_char * (n * dtype.itemsize)).from_address(address)
    return numpy.ndarray(shape, dtype, memory, strides=[stride * dtype.itemsize for stride in strides])


def _rounded(x):
    """float32 with 10 bits after the leading one."""
    return ((x.view("uint32") + numpy.uint32(0x1000)) & numpy.uint32(0xFFFFE000)).view("float32")


def _gemm(name):
    dtype = numpy.dtype(name)

    def gemm(
        handle, transa, transb, m, n, k, alpha, A, lda, strideA, B, ldb, strideB, beta, C, ldc, strideC, batchCount
    ):
        """C = alpha op(A) op(B) + beta C: (m, k), (k, n) and (m, n), `ld` entries from column to column."""
        assert lda >= (k if transa else m) and ldb >= (n if transb else k) and ldc >= m
        assert _at(alpha, dtype, (), ()) == 1 and _at(beta, dtype, (), ()) == 0
        a = _at(A, dtype, (batchCount, k, m), (strideA, *((1, lda) if transa else (lda, 1))))  # transposed: (k, m)
        b = _at(B, dtype, (batchCount, n, k), (strideB, *((1, ldb) if transb else (ldb, 1))))
        if modes[-1:] == [_TF32] and name == "float32":
            a, b = map(_rounded, (a, b))
        numpy.matmul(b, a, out=_at(C, dtype, (batchCount, n, m), (strideC, ldc, 1)))

    return gemm


sgemmStridedBatched, dgemmStridedBatched = _gemm("float32"), _gemm("float64")
