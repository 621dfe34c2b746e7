"""What a service's state consists of: cells, each of which is written when it
has changed.

LocalStack keeps state in two kinds of containers: moto's, one backend per
account and region, and its own, one store per account and region, with some
attributes that all regions of an account share, and some that all accounts do.
"""

import functools
import importlib
import sys

from moto.core.base_backend import AccountSpecificBackend, BackendDict, BaseBackend

from localstack.services.stores import AccountRegionBundle, BaseStore, RegionBundle

from . import baseline, pickling

# ---- references: how what is not pickled by value is found again


def _container(module, name):
    return getattr(importlib.import_module(module), name)


def _entry(module, name, *keys):
    found = _container(module, name)
    for key in keys:
        found = found[key]
    return found


_names = {}  # id of a container -> (container, module, name)


def _name_of(container, modules):
    """The (module, name) of the global variable that holds container."""
    known = _names.get(id(container))
    if known is not None and known[0] is container:
        return known[1:]
    for module in modules:
        for name, value in list(vars(module).items()):
            if value is container:
                _names[id(container)] = (container, module.__name__, name)
                return module.__name__, name
    raise LookupError(f"no module has the container of {container.service_name}")


def _modules(prefix):
    return [m for name, m in list(sys.modules.items()) if name.startswith(prefix) and m is not None]


def _moto_container(backend):
    """The BackendDict that a backend is in."""
    for container in list(BackendDict._instances):
        if isinstance(backend, container.backend):
            return container
    raise LookupError(f"{type(backend).__name__} is in no container")


@functools.cache
def _store_container(service):
    for module in _modules("localstack.services."):
        for value in list(vars(module).values()):
            if isinstance(value, AccountRegionBundle) and value.service_name == service:
                return value
    raise LookupError(f"no store is named {service}")


_KINDS = (BaseBackend, AccountSpecificBackend, BackendDict, BaseStore, RegionBundle, AccountRegionBundle)
_is_kind = functools.cache(lambda cls: issubclass(cls, _KINDS))


def reference(obj):
    """pickling.Pickler's reference: containers and what is directly in them, and
    what a backend has from the start."""
    known = baseline.reference(obj)
    if known is not None:
        return known
    if not _is_kind(type(obj)):
        return None
    if isinstance(obj, BaseBackend):
        container = _moto_container(obj)
        keys = (obj.account_id, obj.region_name)
    elif isinstance(obj, AccountSpecificBackend):
        container = next(c for c in BackendDict._instances if dict.get(c, obj.account_id) is obj)
        keys = (obj.account_id,)
    elif isinstance(obj, BaseStore):
        container = _store_container(obj._service_name)
        keys = (obj._account_id, obj._region_name)
    elif isinstance(obj, RegionBundle):
        container, keys = _store_container(obj.service_name), (obj.account_id,)
    else:
        container, keys = obj, ()
    prefix = "moto." if isinstance(container, BackendDict) else "localstack.services."
    return _entry, (*_name_of(container, _modules(prefix)), *keys)


# ---- containers as cells


class Moto:
    """The cells of a moto container: ACCOUNT/REGION has a backend."""

    def __init__(self, container):
        self.container = container
        self.name = "moto:" + container.service_name

    def cells(self, hint=None):
        """Yields (name, what to pickle). hint, if not None, is a set of
        ACCOUNT/REGION that may have changed; others are not yielded."""
        for account, region, backend in list(self.container.iter_backends()):
            if hint is None or f"{account}/{region}" in hint:
                yield f"{self.name}/{account}/{region}", baseline.split(backend)

    def gone(self, _known, _hint):
        return []  # a backend, once there, stays

    def load(self, name, value):
        account, region = name.split("/")[1:]
        baseline.join(self.container[account][region], value)


class Stores:
    """The cells of LocalStack's own: "all" has what accounts share, ACCOUNT what
    its regions share, ACCOUNT/REGION a store."""

    # Attributes of an account that are dictionaries, each of whose values is a
    # cell ACCOUNT//ATTRIBUTE/KEY: a bucket does not grow with its neighbours.
    SPLIT = {"s3": "buckets"}

    def __init__(self, container):
        self.container = container
        self.name = "stores:" + container.service_name
        self.split = self.SPLIT.get(container.service_name)

    def cells(self, hint=None):
        """hint, if not None, is the set of keys of the split attribute that may
        have changed; others are not yielded."""
        yield f"{self.name}/all", self.container._universal
        for account, regions in list(self.container.items()):
            shared = dict(regions._global)
            parts = shared.pop(self.split, {}) if self.split else {}
            for key, part in list(parts.items()):
                if hint is None or key in hint:
                    yield f"{self.name}/{account}//{self.split}/{key}", part
            yield f"{self.name}/{account}", shared
            for region, store in list(regions.items()):
                local = {k: v for k, v in list(vars(store).items()) if k.startswith("attr_")}
                yield f"{self.name}/{account}/{region}", local

    def gone(self, known, hint):
        """Which of the known cells are no more."""
        if not self.split:
            return []
        out = []
        for name in known:
            account, _, rest = name.removeprefix(self.name + "/").partition("//")
            if not rest or not name.startswith(self.name + "/"):
                continue
            key = rest.partition("/")[2]
            if hint is not None and key not in hint:
                continue
            regions = dict.get(self.container, account)
            if regions is None or key not in regions._global.get(self.split, {}):
                out.append(name)
        return out

    def load(self, name, value):
        path = name.removeprefix(self.name + "/")
        account, _, rest = path.partition("//")
        if rest:
            attribute, _, key = rest.partition("/")
            self.container[account]._global.setdefault(attribute, {})[key] = value
        elif path == "all":
            self.container._universal.update(value)
        elif "/" not in path:
            self.container[account]._global.update(value)
        else:
            account, region = path.split("/")
            vars(self.container[account][region]).update(value)


def of(container):
    """How a container is kept, or None for what is none."""
    if isinstance(container, BackendDict):
        return Moto(container)
    if isinstance(container, AccountRegionBundle):
        return Stores(container)
    return None


def dump(value):
    return pickling.dumps(value, reference)


def load(data):
    return pickling.loads(data)
