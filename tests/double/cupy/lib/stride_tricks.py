"""`cupy.lib.stride_tricks`: what is recorded of it."""

import numpy

from cupy import _functions

__getattr__ = _functions.members("lib.stride_tricks", numpy.lib.stride_tricks, globals())
