"""Keeps LocalStack's state through its death: what LocalStack's free edition
forgets when it ends is on the disk before a change is answered, and back before
the first request of the next start.

It is loaded from start.d, into LocalStack's own process, before the gateway
listens, and uses what LocalStack 4.14 has for add-ons: handlers of requests and
responses, and the visitor that shows a service's state containers. The image is
left as it is.
"""

import fcntl
import json
import logging
import os
import platform
import threading
import time

from localstack import config, constants
from localstack.aws import handlers
from localstack.aws.api import CommonServiceException
from localstack.aws.protocol.serializer import create_serializer
from localstack.http import Response
from localstack.runtime.shutdown import SHUTDOWN_HANDLERS
from localstack.services.internal import get_internal_apis
from localstack.services.plugins import SERVICE_PLUGINS

from . import baseline, keeper, objects

LOG = logging.getLogger("localstack.sandbox.keep")

# Services whose state is kept, and what they are with others: the tables'
# streams are DynamoDB's.
KEPT = (
    "dynamodb", "ec2", "iam", "kms", "logs", "route53", "s3", "secretsmanager", "sns", "sqs", "ssm", "sts",
)  # fmt: skip
PART_OF = {"dynamodbstreams": "dynamodb"}

# Operations that change nothing begin so.
READING = (
    "BatchGet", "Check", "Decrypt", "Describe", "Encrypt", "Filter", "Generate", "Get", "Head", "List", "Lookup",
    "Query", "Scan", "Search", "Select", "Simulate", "Test", "TransactGet", "Validate", "Verify",
)  # fmt: skip
# … but for these.
CHANGING = {"GenerateCredentialReport", "GetSessionToken", "GetFederationToken"}
# Operations of EC2 with these words may change two regions.
ACROSS = ("Copy", "Peering", "TransitGateway")
# How long a start waits for its predecessor to be gone, in seconds.
LOCK_WAIT = 10


class Keep:
    """All services' keepers, and the handlers that call them."""

    def __init__(self, folder, database):
        self.folder = folder
        self.problems = []
        self.refuses = None  # why nothing may be changed
        header = {"localstack": constants.VERSION, "python": platform.python_version()}
        self.keepers = {}
        for service in KEPT:
            if service == "s3":
                store = objects.ObjectStore(os.path.join(folder, "s3-objects"))
                self.keepers[service] = keeper.S3Keeper(folder, header, store)
            elif service == "dynamodb":
                self.keepers[service] = keeper.DynamoDBKeeper(folder, header, database)
            else:
                # A queue's readers wait for messages, and must not make others wait.
                self.keepers[service] = keeper.Keeper(service, folder, header, serialise=service != "sqs")

    def lock(self):
        """Makes this the only LocalStack on the folder. The lock ends with the
        process, however it ends."""
        self._lock = open(os.path.join(self.folder, "lock"), "w")
        until = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise RuntimeError("another LocalStack uses the same volume") from None
                time.sleep(0.05)

    def load(self):
        for service, each in self.keepers.items():
            if service != "s3" and not os.path.exists(each.journal.path):
                continue
            start = time.perf_counter()
            try:
                each.load()
            except Exception as e:
                LOG.exception("load %s", service)
                each.problems.append(f"{service} was not loaded: {type(e).__name__}: {e}")
                each.refuses = f"what was kept of {service} could not be read: {e}"
            LOG.info("%s loaded in %.0f ms", service, 1e3 * (time.perf_counter() - start))
            if service == "dynamodb":
                # Java takes seconds to start, and may do so while the rest does.
                threading.Thread(target=start_service, args=(service,), daemon=True).start()

    def finish(self):
        """Writes what has changed without a request, such as by a time-out."""
        for each in self.keepers.values():
            if each.opened:
                try:
                    each.commit()
                except keeper.NotKept as e:
                    LOG.error("%s: %s", each.service, e)

    # ---- handlers

    def _keeper(self, context):
        if not context.service or not context.operation:
            return None
        name = context.service.service_name
        return self.keepers.get(PART_OF.get(name, name))

    def on_request(self, _chain, context, _response):
        each = self._keeper(context)
        if each is None or not changes(context.operation.name):
            return
        why = self.refuses or each.refuses
        if why:
            raise refusal(why)
        each.open()
        context.sandbox_changes = each
        context.sandbox_holds = each.begin()

    def on_response(self, _chain, context, response):
        each = context.get("sandbox_changes")
        if each is None:
            return
        self.release(None, context, response)
        if response.status_code >= 400:
            return
        try:
            each.commit(hint(context))
        except keeper.NotKept as e:
            error = refusal(str(e))
            context.service_exception = error
            serializer = create_serializer(context.service, context.protocol)
            response.update_from(
                serializer.serialize_error_to_response(
                    error, context.operation, context.request.headers, context.request_id
                )
            )

    def release(self, _chain, context, _response):
        if context.get("sandbox_holds"):
            context.sandbox_holds = False
            context.sandbox_changes.end()

    def on_status(self, _request):
        body = {
            "refuses": self.refuses,
            "problems": self.problems + [p for k in self.keepers.values() for p in k.problems],
            "services": [k.status() for k in self.keepers.values() if k.journal.cells or k.problems],
        }
        return Response(json.dumps(body), mimetype="application/json")


def start_service(name):
    try:
        SERVICE_PLUGINS.require(name)
    except Exception:
        LOG.exception("start %s", name)  # its first request tries again, and says so


def changes(operation):
    return operation in CHANGING or not operation.startswith(READING)


def hint(context):
    """The part of a service's state that an operation changes, where there is
    much else: a bucket, a region of EC2. None for what may change anything."""
    service, operation = context.service.service_name, context.operation.name
    if service == "s3":
        return (context.service_request or {}).get("Bucket")
    if service == "ec2" and not any(word in operation for word in ACROSS):
        return f"{context.account_id}/{context.region}"
    return None


def refusal(why):
    """Nobody repeats a request for this status by himself: the change may have
    been made in memory."""
    return CommonServiceException("StateNotKept", why, status_code=507)


def install():
    folder = os.path.join(config.dirs.data, "sandbox")
    os.makedirs(folder, exist_ok=True)
    keep = Keep(folder, os.path.join(config.dirs.data, "dynamodb"))
    # First of all: whatever fails from here on must not let a change pass.
    handlers.serve_custom_service_request_handlers.append(keep.on_request)
    handlers.run_custom_response_handlers.append(keep.on_response)
    handlers.run_custom_finalizers.append(keep.release)
    SHUTDOWN_HANDLERS.register(keep.finish)
    get_internal_apis().add("/_localstack/sandbox/keep", keep.on_status)
    try:
        baseline.install()
        keep.lock()
        keep.load()
    except Exception as e:
        LOG.exception("keep")
        keep.refuses = f"what was kept cannot be used: {e}"
        keep.problems.append(keep.refuses)
    return keep
