"""What a new backend has before anybody has changed anything: the machine images
of a region, and AWS's managed policies, megabytes of them. LocalStack makes them
at every start, so only what has become different is kept.

Some of it has random names (the snapshot of an image, the ID of a policy), and
dates of the start. They are made the same at every start, or what Terraform has
read would change.
"""

import copy
import functools
import importlib
import threading

# Module and name of a container -> dictionaries of its backends to compare, and
# attributes that nobody changes.
COMPARED = {
    ("moto.ec2.models", "ec2_backends"): (("amis", "snapshots"), ()),
    ("moto.iam.models", "iam_backends"): (("managed_policies",), ("aws_managed_policies",)),
}


# The date of what has none of its own: that of LocalStack 4.14.0.
DATE = "2026-02-26T00:00:00.000Z"
DATES = ("creation_date", "start_time")


class _Start:
    """What one backend had at the start."""

    def __init__(self, backend, place, attributes, constant):
        self.place = place  # module, name of the container
        self.constant = constant
        self.entries = {a: dict(getattr(backend, a)) for a in attributes}
        self.vars = {
            a: {key: {n: _copy(v) for n, v in vars(obj).items()} for key, obj in entries.items()}
            for a, entries in self.entries.items()
        }


def _copy(value):
    return copy.copy(value) if isinstance(value, (list, dict, set)) else value


_starts = {}  # id of a backend -> (backend, _Start)
_known = {}  # id of an object of a start -> (object, how it is found again)


def _find(module, name, account, region, attribute, key):
    backend = getattr(importlib.import_module(module), name)[account][region]
    return _starts[id(backend)][1].entries[attribute][key]


def reference(obj):
    known = _known.get(id(obj))
    return None if known is None else known[1]


def install():
    """Has every backend of COMPARED, from now on, its start remembered."""
    from moto.moto_api._internal import mock_random

    local = threading.local()

    class Random(type(mock_random)):
        """Random as ever, but in a thread that makes a backend."""

        def random(self):
            own = getattr(local, "random", None)
            return own.random() if own else super().random()

        def getrandbits(self, k):
            own = getattr(local, "random", None)
            return own.getrandbits(k) if own else super().getrandbits(k)

    plain = type(mock_random)
    mock_random.__class__ = Random
    for place, (attributes, constant) in COMPARED.items():
        _patch(place, attributes, constant, local, plain)


def _patch(place, attributes, constant, local, random_class):
    container = getattr(importlib.import_module(place[0]), place[1])
    cls = container.backend
    plain = cls.__init__

    @functools.wraps(plain)
    def init(self, region_name, account_id):
        outer = getattr(local, "random", None)
        local.random = random_class(f"{place[1]} {account_id} {region_name}")
        try:
            plain(self, region_name, account_id)
        finally:
            local.random = outer
        remember(self, place, account_id, region_name, attributes, constant)

    cls.__init__ = init


def remember(backend, place, account, region, attributes, constant):
    for attribute in attributes:
        for obj in getattr(backend, attribute).values():
            for name in DATES:
                value = vars(obj).get(name)
                if isinstance(value, str) and value > DATE:
                    setattr(obj, name, DATE)
    start = _Start(backend, place, attributes, constant)
    _starts[id(backend)] = (backend, start)
    for attribute, entries in start.entries.items():
        for key, obj in entries.items():
            _known[id(obj)] = (obj, (_find, (*place, account, region, attribute, key)))


def split(backend):
    """What is to be kept of a backend: (its attributes, {attribute: Change})."""
    values = dict(vars(backend))
    values.pop("account_id", None)
    values.pop("region_name", None)
    found = _starts.get(id(backend))
    if found is None:
        return values, {}
    start = found[1]
    for attribute in start.constant:
        values.pop(attribute, None)
    changes = {}
    for attribute, entries in start.entries.items():
        now = values.pop(attribute)
        changed = {}
        for key, was in start.vars[attribute].items():
            is_now = vars(entries[key])
            if is_now != was:
                changed[key] = {n: v for n, v in is_now.items() if n not in was or was[n] is not v and was[n] != v}
        changes[attribute] = {
            "gone": [key for key in entries if key not in now],
            "own": {key: obj for key, obj in now.items() if entries.get(key) is not obj},
            "changed": changed,
        }
    return values, changes


def join(backend, kept):
    """Makes a new backend what split found."""
    values, changes = kept
    start = _starts.get(id(backend))
    stay = {"account_id", "region_name", *changes, *(start[1].constant if start else ())}
    for name in set(vars(backend)) - stay:
        delattr(backend, name)
    vars(backend).update(values)
    for attribute, change in changes.items():
        now = getattr(backend, attribute)
        for key in change["gone"]:
            now.pop(key, None)
        now.update(change["own"])
        for key, attributes in change["changed"].items():
            vars(start[1].entries[attribute][key]).update(attributes)
