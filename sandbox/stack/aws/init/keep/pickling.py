"""Pickles the state of a service, fast: by the pickler in C, with what it cannot
do by itself.

LocalStack's own pickler (dill) is written in Python, and takes everything that
can be reached by value: a subnet takes its backend, and that all machine images
of a region. Here a backend, and what every backend has from the start, is a
reference, which is looked up when the pickle is read.
"""

import _thread
import importlib
import inspect
import io
import pickle
import queue
import threading
import types
from collections import defaultdict

LOCK = type(threading.Lock())
RLOCK = type(threading.RLock())


def _event(is_set):
    event = threading.Event()
    if is_set:
        event.set()
    return event


def _default_dict(cls, factory):
    made = cls.__new__(cls)  # its __init__ may want more than we know
    made.default_factory = factory
    return made


def _reduce_default_dict(obj):
    state = vars(obj) if hasattr(obj, "__dict__") else None
    return _default_dict, (type(obj), obj.default_factory), state, None, iter(dict.items(obj))


def _codes(code, qualname):
    """The code objects below code that have that name, in order."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            if constant.co_qualname == qualname:
                yield constant
            yield from _codes(constant, qualname)


def _outermost(module, qualname):
    """The code of the function of a module that a nested one is in."""
    found = importlib.import_module(module)
    for name in qualname.split(".<locals>.")[0].split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    if isinstance(found, property):
        found = found.fget
    return inspect.unwrap(found).__code__


def _nested_function(module, qualname, number, defaults, values):
    code = list(_codes(_outermost(module, qualname), qualname))[number]
    cells = tuple(types.CellType(v) for v in values)
    scope = vars(importlib.import_module(module))
    return types.FunctionType(code, scope, qualname.rsplit(".", 1)[1], defaults, cells)


def _reduce_function(f):
    """A function that has a name is a name. A lambda in a method, such as the
    default of a defaultdict, is the place in the source where it is made."""
    module, qualname = f.__module__, f.__qualname__
    if "<locals>" not in qualname:
        return NotImplemented
    try:
        codes = list(_codes(_outermost(module, qualname), qualname))
        number = codes.index(f.__code__)
    except (AttributeError, ValueError) as e:
        raise pickle.PicklingError(f"function {module}.{qualname} is not found again: {e}") from None
    values = tuple(c.cell_contents for c in f.__closure__ or ())
    return _nested_function, (module, qualname, number, f.__defaults__, values)


REDUCERS = {
    LOCK: lambda obj: (_thread.allocate_lock, ()),
    RLOCK: lambda obj: (threading.RLock, ()),
    # Who waits now, waits no more when this is read.
    threading.Condition: lambda obj: (threading.Condition, (obj._lock,)),
    threading.Event: lambda obj: (_event, (obj.is_set(),)),
    queue.SimpleQueue: lambda obj: (queue.SimpleQueue, ()),
    types.FunctionType: _reduce_function,
    types.MappingProxyType: lambda obj: (types.MappingProxyType, (dict(obj),)),
}


class Pickler(pickle.Pickler):
    """reference(obj) returns how obj is found again, as pickle's __reduce__
    does, or None for what is to be pickled by value."""

    def __init__(self, file, reference):
        super().__init__(file, protocol=5)
        self._reference = reference

    def reducer_override(self, obj):
        reducer = REDUCERS.get(type(obj))
        if reducer is not None:
            return reducer(obj)
        found = self._reference(obj)
        if found is not None:
            return found
        if isinstance(obj, defaultdict):
            return _reduce_default_dict(obj)
        return NotImplemented


def dumps(obj, reference):
    file = io.BytesIO()
    Pickler(file, reference).dump(obj)
    return file.getvalue()


loads = pickle.loads
