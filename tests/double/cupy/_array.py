"""The double's `ndarray`: a NumPy array in a box that opens only where CuPy's would."""

from types import SimpleNamespace

import numpy

from cupy._interface import CLASSES, check_call, check_kind, look_up
from cupy._memory import Memory, counts

_NO_ARRAY = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)
_PLAIN = ("shape", "dtype", "ndim", "size", "itemsize", "nbytes", "strides", "flags")
_VIEWS = ("T", "real", "imag")


class ndarray:
    """Computes with NumPy, and has of CuPy's attributes and methods those that are recorded."""

    __module__ = "cupy"
    __slots__ = ("_host", "_memory", "base", "__weakref__")
    __array_ufunc__ = None  # NumPy's functions and operators leave it alone
    __hash__ = None

    def __init__(self, shape, dtype=float):
        _fill(self, numpy.empty(shape, dtype), ())

    # Ways to the host: refused, or counted

    def __array__(self, dtype=None, copy=None):
        raise TypeError(_NO_ARRAY)

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} of a CuPy array. {_NO_ARRAY}")

    def get(self, *args, **kwargs):
        check_call("ndarray.get", CLASSES["ndarray"]["get"], args, kwargs)
        host = self._read().copy()
        out = kwargs.get("out")
        if out is None:
            return host
        if (out.shape, out.dtype) != (host.shape, host.dtype) or not out.flags.c_contiguous:
            raise TypeError("out: expected a contiguous array of the same shape and dtype")
        out[...] = host
        return out

    def item(self):
        return self._read().item()

    def tolist(self):
        return self._read().tolist()

    def tobytes(self, order="C"):
        return self._read().tobytes(order)

    def _read(self):
        counts["to_host"] += 1
        counts["synchronize"] += 1
        return self._host

    def __bool__(self):
        return bool(self._read())

    def __int__(self):
        return int(self._one())

    def __float__(self):
        return float(self._one())

    def __complex__(self):
        return complex(self._one())

    def __repr__(self):
        return repr(self._read())

    def __str__(self):
        return str(self._read())

    def __format__(self, spec):
        return format(self._read()[()], spec)

    def _one(self):
        return self._read().reshape(()) if self.size == 1 else self._host  # NumPy's error for more

    @property
    def data(self):
        """Where its memory is."""
        return SimpleNamespace(ptr=self._host.ctypes.data)

    # Entries

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        index = _wrapped(self.shape, _index(self, index))
        if any(isinstance(part, numpy.ndarray) and part.dtype == bool for part in index):
            counts["synchronize"] += 1  # how many entries there will be
        return wrap(self._host[index], self)

    def __setitem__(self, index, value):
        index = _wrapped(self.shape, _index(self, index))
        _refuse_duplicates(self.shape, index)
        self._host[index] = unwrap_operand(value)

    # Copies and casts

    def copy(self, order="C"):
        return wrap(self._host.copy(order))

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy("K")

    def __reduce__(self):
        return asarray, (self.get(),)

    def set(self, arr, stream=None):
        counts["to_device"] += 1
        self._host[...] = arr

    def reshape(self, *shape, order="C"):
        return wrap(self._host.reshape(*shape, order=order), self)

    def transpose(self, *axes):
        return wrap(self._host.transpose(*axes), self)

    # All the rest: what is recorded, done by NumPy

    def __getattr__(self, name):
        parameters = look_up("ndarray", name, "classes")
        if name in _PLAIN:
            return getattr(self._host, name)
        if name in _VIEWS:
            return wrap(getattr(self._host, name), self)
        if name.startswith("_") or not hasattr(self._host, name):
            raise AttributeError(f"'ndarray' object has no attribute {name!r} (the double lacks it)")

        def method(*args, **kwargs):
            check_call(f"ndarray.{name}", parameters, args, kwargs)
            check_kind(name, kwargs)
            if name == "nonzero":
                counts["synchronize"] += 1
            return wrap(getattr(self._host, name)(*unwrap(args), **unwrap(kwargs)), self, args, kwargs)

        return method


def wrap(result, *sources):
    """NumPy's results as the double's: arrays of the memory that they lie in, numbers as 0-d arrays."""
    if isinstance(result, (numpy.ndarray, numpy.generic)):
        return _fill(object.__new__(ndarray), numpy.asarray(result), sources)
    if isinstance(result, list):
        return [wrap(part, *sources) for part in result]
    return tuple(wrap(part, *sources) for part in result) if isinstance(result, tuple) else result


def _fill(array, host, sources):
    array._host = host
    root = _root(host)
    for source in _arrays(sources):
        if source._host is host or _root(source._host) is root:  # a view: of the array that owns the memory
            array._memory, array.base = source._memory, source if source.base is None else source.base
            return array
    array._memory, array.base = Memory(getattr(root, "nbytes", host.nbytes)), None
    return array


def _root(host):
    """What owns the memory of a NumPy array."""
    while getattr(host, "base", None) is not None:
        host = host.base
    return host


def _arrays(values):
    """All of the double's arrays in nested arguments."""
    if isinstance(values, ndarray):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _arrays(value)
    elif isinstance(values, dict):
        yield from _arrays(tuple(values.values()))


def unwrap(value):
    """Arguments of a CuPy function as NumPy's. TypeError for NumPy's arrays: CuPy takes none but in `asarray`."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, numpy.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if type(value) in (tuple, list):
        return type(value)(map(unwrap, value))
    if isinstance(value, dict):
        return {key: unwrap(part) for key, part in value.items()}
    return value


def unwrap_operand(value):
    """The same for an operand of arithmetic or assignment: an array of CuPy's, or a number."""
    if isinstance(value, (tuple, list)):
        raise TypeError(f"Unsupported type {type(value)}")
    return unwrap(value)


def asarray(a, dtype=None, order=None, copy=None):
    """An array of the double's from anything: the one way in from the host."""
    if isinstance(a, ndarray):
        if copy is None and dtype in (None, a.dtype) and order is None:
            return a
        return wrap(numpy.array(a._host, dtype, copy=copy, order=order or "K"), a)
    if not isinstance(a, numpy.ndarray) and any(True for _ in _arrays(a)):
        return wrap(numpy.array(unwrap(a), dtype, order=order or "K"))
    counts["to_device"] += 1
    return wrap(numpy.array(a, dtype, order=order or "K"))


def _index(array, index):
    """An index as NumPy's, with an Ellipsis: then single entries are views too, as CuPy's are."""
    index = unwrap(index if isinstance(index, tuple) else (index,))
    index = tuple(numpy.asarray(part) if isinstance(part, list) else part for part in index)
    return index if any(part is Ellipsis for part in index) else (*index, Ellipsis)


def _wrapped(shape, index):
    """`index` with arrays of integers modulo the length of their axis: CuPy's way with those out of range."""
    return tuple(part % length if length else part for part, length in _picked(shape, index))


def _refuse_duplicates(shape, index):
    """ValueError where an entry is assigned twice: on a GPU, nobody knows which of the two values stays."""
    keys = [(part, length) for part, length in _picked(shape, index) if length]
    if keys:
        place = 0
        for key, length in keys:
            place = place * length + key.astype("int64")
        if len(numpy.unique(place)) < place.size:
            raise ValueError("duplicate indices in an assignment: which value stays is undefined in CuPy")


def _picked(shape, index):
    """Each part of `index`; and of an array of integers, the length of the axis that it picks from, else None."""
    used = sum(0 if part is None or part is Ellipsis else _n_axes(part) for part in index)
    axis = 0
    for part in index:
        picks = isinstance(part, numpy.ndarray) and part.dtype != bool
        yield part, shape[axis] if picks else None
        axis += len(shape) - used if part is Ellipsis else 0 if part is None else _n_axes(part)


def _n_axes(part):
    return part.ndim if isinstance(part, numpy.ndarray) and part.dtype == bool else 1


def _operator(name):
    in_place = name.startswith("__i") and name not in ("__invert__",)

    def operate(self, *others):
        others = tuple(map(unwrap_operand, others))
        result = getattr(self._host, name)(*others)
        if result is NotImplemented:
            return result
        return self if in_place else wrap(result)

    return operate


_OPERATORS = "add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift".split()
for _name in [
    *(f"__{prefix}{name}__" for prefix in ("", "r", "i") for name in _OPERATORS),
    *(f"__{name}__" for name in "lt le eq ne gt ge neg pos abs invert".split()),
]:
    if _name in CLASSES["ndarray"]:
        setattr(ndarray, _name, _operator(_name))
