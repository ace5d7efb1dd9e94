"""`cupy.linalg`: what is recorded of it."""

import numpy

from cupy import _functions

__getattr__ = _functions.members("linalg", numpy.linalg, globals())
