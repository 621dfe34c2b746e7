"""What services have comes back in another process: it runs where LocalStack is
installed, in its image."""

import json
import os
import pickle
import queue as queue_module
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections import defaultdict

os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"  # as LocalStack's provider does
INIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "init")
sys.path.insert(0, INIT)

from keep import baseline, cells, pickling  # noqa: E402

ACCOUNT, REGION = "000000000000", "us-east-1"


def container(service):
    import importlib

    if service in ("s3", "sqs", "sns", "kms"):
        module = importlib.import_module(f"localstack.services.{service}.models")
        return cells.of(getattr(module, f"{service}_stores"))
    return cells.of(getattr(importlib.import_module(f"moto.{service}.models"), f"{service}_backends"))


def there(service, look):
    """Runs look, text of an expression of `b`, the backend of a new process that
    has loaded what this one has, and returns its value."""
    kept = {name: cells.dump(value) for name, value in container(service).cells()}
    with tempfile.NamedTemporaryFile() as f:
        f.write(pickle.dumps(kept))
        f.flush()
        out = subprocess.run([sys.executable, __file__, service, f.name, look], capture_output=True, text=True)
    if out.returncode:
        raise AssertionError(out.stderr)
    return json.loads(out.stdout.splitlines()[-1])


def main(service, path, look):
    baseline.install()
    c = container(service)
    with open(path, "rb") as f:
        kept = pickle.load(f)
    for name, data in kept.items():
        c.load(name, cells.load(data))
    region = "aws" if service == "iam" else REGION
    print(json.dumps(eval(look, {"b": c.container[ACCOUNT][region]})))


class CellsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        baseline.install()

    def backend(self, service):
        return container(service).container[ACCOUNT]["aws" if service == "iam" else REGION]

    def fast(self, service, limit):
        """Dumps a service's cells and checks how large and how slow that is."""
        c = container(service)
        took = []
        for _ in range(5):
            start = time.perf_counter()
            size = sum(len(cells.dump(value)) for _, value in c.cells())
            took.append(time.perf_counter() - start)
        print(f"\nmeasured: {service}: {size / 1e3:.0f} kB in {min(took) * 1e3:.1f} ms")
        self.assertLess(size, limit)

    def test_ec2(self):
        b = self.backend("ec2")
        vpc = b.create_vpc("10.7.0.0/16")
        subnet = b.create_subnet(vpc.id, "10.7.1.0/24", availability_zone=REGION + "a")
        group = b.create_security_group("web", "for tests", vpc_id=vpc.id)
        image, other = list(b.amis)[:2]
        b.deregister_image(other)
        b.amis[image].launch_permissions.append({"UserId": "111111111111"})
        self.assertEqual(
            there(
                "ec2",
                f"[b.vpcs['{vpc.id}'].cidr_block, b.subnets[{subnet.availability_zone!r}]['{subnet.id}'].cidr_block,"
                f" b.get_security_group_from_id('{group.id}').name, b.vpcs['{vpc.id}'].ec2_backend is b,"
                f" '{other}' in b.amis, b.amis['{image}'].launch_permissions[-1]['UserId'],"
                f" b.amis['{image}'].ebs_snapshot.id, b.amis['{image}'].ebs_snapshot is b.snapshots[b.amis['{image}'].ebs_snapshot.id],"
                " b.default_vpc.id]",
            ),
            ["10.7.0.0/16", "10.7.1.0/24", "web", True, False, "111111111111", b.amis[image].ebs_snapshot.id, True, b.default_vpc.id],
        )
        self.fast("ec2", 500_000)

    def test_iam(self):
        b = self.backend("iam")
        b.create_role("r", "{}", "/", None, None, [], 3600)
        arn = "arn:aws:iam::aws:policy/ReadOnlyAccess"
        b.attach_role_policy(arn, "r")
        self.assertEqual(
            there(
                "iam",
                f"[b.get_role('r').managed_policies['{arn}'] is b.managed_policies['{arn}'],"
                f" b.managed_policies['{arn}'].attachment_count, b.managed_policies['{arn}'].id, len(b.managed_policies),"
                f" b.account_summary._iam_backend is b]",
            ),
            [True, 1, b.managed_policies[arn].id, len(b.managed_policies), True],
        )
        self.fast("iam", 100_000)

    def test_others(self):
        self.backend("secretsmanager").create_secret(
            "s", "hidden", None, "", [], None, None, [], False
        )
        self.assertEqual(there("secretsmanager", "b.get_secret_value('s', None, None)['SecretString']"), "hidden")
        b = self.backend("ssm")
        b.put_parameter("/a/b", "", "v", "String", None, None, False, [], "text", None, None)
        self.assertEqual(there("ssm", "[b._parameters['/a/b'][-1].value, b._resource_tags['x']['y']]"), ["v", {}])

    def test_queue(self):
        from localstack.services.sqs.models import StandardQueue

        store = container("sqs").container[ACCOUNT][REGION]
        queue = StandardQueue("q", REGION, ACCOUNT)
        store.queues["q"] = queue

        def wait():
            try:
                queue.visible.get(timeout=2)
            except queue_module.Empty:
                pass

        threading.Thread(target=wait, daemon=True).start()
        self.assertEqual(there("sqs", "[b.queues['q'].arn, b.queues['q'].visible.qsize()]"), [queue.arn, 0])

    def test_what_did_not_change_is_the_same(self):
        self.backend("ec2").create_vpc("10.9.0.0/16")
        c = container("ec2")
        first, second = ({name: cells.dump(value) for name, value in c.cells()} for _ in range(2))
        self.assertEqual(first, second)

    def test_what_pickle_cannot_do(self):
        for make in (threading.Lock, threading.RLock, threading.Condition, threading.Event):
            self.assertIsInstance(pickling.loads(pickling.dumps(make(), lambda _: None)), type(make()))
        with self.assertRaises(pickle.PicklingError):
            exec("made = lambda: 1", scope := {})
            pickling.dumps(defaultdict(scope["made"]), lambda _: None)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        main(*sys.argv[1:])
    else:
        unittest.main()
