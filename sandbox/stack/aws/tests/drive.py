"""Drives a LocalStack from inside of its container, for the test in Go that
kills it:

    drive.py fill          makes something in every service that is kept
    drive.py world         prints all there is, as JSON
    drive.py write SEED    writes until it is killed; prints what was answered
    drive.py check         reads what was answered, and says what is missing
    drive.py latency N     prints how long changes take, N of each
"""

import concurrent.futures
import itertools
import json
import random
import statistics
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ENDPOINT = "http://127.0.0.1:4566"
session = boto3.Session("test", "test", region_name="us-east-1")
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})
ALLOW = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})


def client(service, region=None):
    config = Config(retries={"max_attempts": 1}, read_timeout=60, s3={"addressing_style": "path"})
    return session.client(service, region_name=region, endpoint_url=ENDPOINT, config=config)


def fill():
    s3 = client("s3")
    s3.create_bucket(Bucket="kept")
    s3.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_tagging(Bucket="kept", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    for body in b"one", b"two", b"":
        s3.put_object(Bucket="kept", Key="dir/ä key", Body=body, Metadata={"x": "y"}, Tagging="t=1")
    s3.delete_object(Bucket="kept", Key="dir/ä key")
    s3.put_object(Bucket="kept", Key="large", Body=bytes(range(256)) * 8192)
    s3.copy_object(Bucket="kept", Key="copy", CopySource={"Bucket": "kept", "Key": "large"})
    s3.create_bucket(Bucket="plain")
    for body in b"old", b"new":
        s3.put_object(Bucket="plain", Key="k", Body=body)
    s3.copy_object(
        Bucket="plain", Key="k", CopySource={"Bucket": "plain", "Key": "k"}, Metadata={"m": "n"}, MetadataDirective="REPLACE"
    )
    s3.put_object(Bucket="plain", Key="gone", Body=b"x")
    s3.delete_object(Bucket="plain", Key="gone")
    upload = s3.create_multipart_upload(Bucket="plain", Key="parts")["UploadId"]
    parts = []
    for n in 1, 2:
        tag = s3.upload_part(Bucket="plain", Key="parts", UploadId=upload, PartNumber=n, Body=bytes([n]) * (5 << 20))["ETag"]
        parts.append({"PartNumber": n, "ETag": tag})
    s3.complete_multipart_upload(Bucket="plain", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    unfinished = s3.create_multipart_upload(Bucket="plain", Key="unfinished")["UploadId"]
    s3.upload_part(Bucket="plain", Key="unfinished", UploadId=unfinished, PartNumber=1, Body=b"part")

    db = client("dynamodb")
    db.create_table(
        TableName="kept",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        Tags=[{"Key": "a", "Value": "b"}],
    )
    for i in range(5):
        db.put_item(TableName="kept", Item={"id": {"S": str(i)}, "v": {"N": str(i * i)}})
    db.delete_item(TableName="kept", Key={"id": {"S": "3"}})
    db.update_time_to_live(TableName="kept", TimeToLiveSpecification={"Enabled": True, "AttributeName": "until"})

    secrets = client("secretsmanager")
    secrets.create_secret(Name="prod/db", SecretString="first", Tags=[{"Key": "a", "Value": "b"}])
    secrets.put_secret_value(SecretId="prod/db", SecretString="second")

    iam = client("iam")
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST)
    iam.put_role_policy(RoleName="r", PolicyName="inline", PolicyDocument=ALLOW)
    arn = iam.create_policy(PolicyName="p", PolicyDocument=ALLOW)["Policy"]["Arn"]
    iam.attach_role_policy(RoleName="r", PolicyArn=arn)
    iam.create_instance_profile(InstanceProfileName="ip")
    iam.add_role_to_instance_profile(InstanceProfileName="ip", RoleName="r")
    iam.create_user(UserName="u")
    iam.create_access_key(UserName="u")

    ec2 = client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=[
        {"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "v"}]}])["Vpc"]["VpcId"]  # fmt: skip
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    group = ec2.create_security_group(GroupName="web", Description="d", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpProtocol="tcp", FromPort=80, ToPort=80, CidrIp="0.0.0.0/0")
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address)
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    ec2.run_instances(
        ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=2, SubnetId=subnet, SecurityGroupIds=[group],
        IamInstanceProfile={"Name": "ip"},
    )  # fmt: skip
    client("ec2", "eu-central-1").create_vpc(CidrBlock="10.9.0.0/16")

    ssm = client("ssm")
    for value in "one", "two":
        ssm.put_parameter(Name="/app/x", Value=value, Type="SecureString", Overwrite=True)
    queue = client("sqs").create_queue(QueueName="q")["QueueUrl"]
    client("sqs").send_message(QueueUrl=queue, MessageBody="hello")
    fifo = client("sqs").create_queue(QueueName="q.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    client("sqs").send_message(QueueUrl=fifo, MessageBody="hello", MessageGroupId="g", MessageDeduplicationId="d")
    topic = client("sns").create_topic(Name="t")["TopicArn"]
    client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:000000000000:q")
    client("sns").publish(TopicArn=topic, Message="hello")
    key = client("kms").create_key()["KeyMetadata"]["KeyId"]
    client("kms").create_alias(AliasName="alias/k", TargetKeyId=key)
    client("logs").create_log_group(logGroupName="/app")
    client("logs").create_log_stream(logGroupName="/app", logStreamName="s")
    client("route53").create_hosted_zone(Name="example.org", CallerReference="1")
    client("sts").assume_role(RoleArn="arn:aws:iam::000000000000:role/r", RoleSessionName="session")
    sealed = client("kms").encrypt(KeyId=key, Plaintext=b"hidden")["CiphertextBlob"]
    s3.put_object(Bucket="plain", Key="sealed", Body=sealed)


def world():
    s3, db, ec2, iam = client("s3"), client("dynamodb"), client("ec2"), client("iam")
    sqs, sns, secrets, ssm, kms = client("sqs"), client("sns"), client("secretsmanager"), client("ssm"), client("kms")
    out = {"buckets": s3.list_buckets()["Buckets"]}
    for b in out["buckets"]:
        name = b["Name"]
        found = out[f"bucket {name}"] = {"versioning": s3.get_bucket_versioning(Bucket=name).get("Status")}
        for kind in "Versions", "DeleteMarkers":
            found[kind] = s3.list_object_versions(Bucket=name).get(kind, [])
        for v in found["Versions"]:
            got = s3.get_object(Bucket=name, Key=v["Key"], VersionId=v["VersionId"])
            body = got["Body"].read()
            v["Got"] = [len(body), hash_of(body), got["Metadata"], got.get("TagCount"), got["ETag"]]
        found["uploads"] = s3.list_multipart_uploads(Bucket=name).get("Uploads", [])
        for u in found["uploads"]:
            u["Parts"] = s3.list_parts(Bucket=name, Key=u["Key"], UploadId=u["UploadId"]).get("Parts", [])
    out["tables"] = db.list_tables()["TableNames"]
    for t in out["tables"]:
        described = db.describe_table(TableName=t)["Table"]
        out[f"table {t}"] = [
            described["TableArn"], described["TableId"], described["KeySchema"],
            db.describe_time_to_live(TableName=t)["TimeToLiveDescription"],
            db.list_tags_of_resource(ResourceArn=described["TableArn"]).get("Tags"),
            sorted(db.scan(TableName=t)["Items"], key=str),
        ]  # fmt: skip
    out["secrets"] = [
        [s["Name"], s["ARN"], s.get("Tags"), s["SecretVersionsToStages"], secrets.get_secret_value(SecretId=s["Name"])["SecretString"]]
        for s in secrets.list_secrets()["SecretList"]
    ]
    out["roles"] = [
        [r, iam.list_role_policies(RoleName=r["RoleName"])["PolicyNames"],
         iam.list_attached_role_policies(RoleName=r["RoleName"])["AttachedPolicies"]]
        for r in iam.list_roles()["Roles"]
    ]  # fmt: skip
    out["policies"] = iam.list_policies(Scope="Local")["Policies"]
    out["profiles"] = iam.list_instance_profiles()["InstanceProfiles"]
    out["users"] = [[u, iam.list_access_keys(UserName=u["UserName"])["AccessKeyMetadata"]] for u in iam.list_users()["Users"]]
    for region in "us-east-1", "eu-central-1":
        regional = client("ec2", region)
        for what in (
            "vpcs", "subnets", "internet_gateways", "route_tables", "security_groups", "security_group_rules", "addresses",
            "nat_gateways", "instances", "network_interfaces", "volumes", "network_acls", "iam_instance_profile_associations",
        ):  # fmt: skip
            answer = getattr(regional, f"describe_{what}")()
            answer.pop("ResponseMetadata")
            out[f"{region} {what}"] = answer
    out["images"] = ec2.describe_images(Owners=["amazon"])["Images"][:20]
    out["parameters"] = ssm.get_parameter_history(Name="/app/x", WithDecryption=True)["Parameters"] if filled(ssm) else None
    out["queues"] = [
        [u, {k: v for k, v in sqs.get_queue_attributes(QueueUrl=u, AttributeNames=["All"])["Attributes"].items()}]
        for u in sqs.list_queues().get("QueueUrls", [])
    ]
    out["topics"] = [sns.list_topics()["Topics"], sns.list_subscriptions()["Subscriptions"]]
    out["keys"] = [[k, kms.describe_key(KeyId=k["KeyId"])["KeyMetadata"]] for k in kms.list_keys()["Keys"]]
    out["aliases"] = [a for a in kms.list_aliases()["Aliases"] if a["AliasName"] == "alias/k"]
    if any(b["Name"] == "plain" for b in out["buckets"]):
        sealed = s3.get_object(Bucket="plain", Key="sealed")["Body"].read()
        out["unsealed"] = kms.decrypt(CiphertextBlob=sealed)["Plaintext"].decode()
    out["logs"] = client("logs").describe_log_groups()["logGroups"]
    out["zones"] = client("route53").list_hosted_zones()["HostedZones"]
    print(json.dumps(out, default=str, sort_keys=True, indent=1))


def filled(ssm):
    return any(p["Name"] == "/app/x" for p in ssm.describe_parameters()["Parameters"])


def hash_of(body):
    import hashlib

    return hashlib.sha256(body).hexdigest()[:16]


# ---- writing until killed


def writers(seed):
    """Each is a function of a number that writes and returns what must then be
    there: [kind, …], which present() looks for."""
    s3, db, secrets, ec2, iam, ssm = (client(s) for s in ("s3", "dynamodb", "secretsmanager", "ec2", "iam", "ssm"))

    def put(i):
        body = random.Random(i).randbytes(random.Random(i).choice([0, 10, 50_000, 600_000]))
        version = s3.put_object(Bucket="kept", Key=f"w{i % 7}", Body=body)["VersionId"]
        return ["object", f"w{i % 7}", version, hash_of(body)]

    def overwrite(i):
        s3.put_object(Bucket="plain", Key=f"w/{seed}/{i}", Body=b"before")
        s3.put_object(Bucket="plain", Key=f"w/{seed}/{i}", Body=f"after {i}".encode())
        return ["plain", f"w/{seed}/{i}", f"after {i}"]

    def item(i):
        db.put_item(TableName="kept", Item={"id": {"S": f"{seed}-{i}"}, "v": {"S": "x" * (i % 100)}})
        return ["item", f"{seed}-{i}", i % 100]

    def secret(i):
        return ["secret", secrets.create_secret(Name=f"w/{seed}/{i}", SecretString=str(i))["ARN"], str(i)]

    def vpc(i):
        name = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=name, CidrBlock="10.1.1.0/24")["Subnet"]["SubnetId"]
        return ["subnet", subnet, name]

    def role(i):
        return ["role", iam.create_role(RoleName=f"w-{seed}-{i}", AssumeRolePolicyDocument=TRUST)["Role"]["RoleId"], f"w-{seed}-{i}"]

    def parameter(i):
        ssm.put_parameter(Name=f"/w/{seed}/{i}", Value=str(i), Type="String")
        return ["parameter", f"/w/{seed}/{i}", str(i)]

    return put, overwrite, item, secret, vpc, role, parameter


def write(seed):
    def run(writer):
        for i in itertools.count(seed * 1_000_000):
            try:
                done = writer(i)
            except (ClientError, BotoCoreError):
                continue
            print(json.dumps(done), flush=True)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(run, writers(seed)))


def check():
    s3, db, secrets, ec2, iam, ssm = (client(s) for s in ("s3", "dynamodb", "secretsmanager", "ec2", "iam", "ssm"))
    present = {
        "object": lambda key, version, digest: hash_of(s3.get_object(Bucket="kept", Key=key, VersionId=version)["Body"].read()) == digest,
        "plain": lambda key, body: s3.get_object(Bucket="plain", Key=key)["Body"].read().decode() == body,
        "item": lambda key, n: len(db.get_item(TableName="kept", Key={"id": {"S": key}})["Item"]["v"]["S"]) == n,
        "secret": lambda arn, value: secrets.get_secret_value(SecretId=arn)["SecretString"] == value,
        "subnet": lambda subnet, vpc: ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"] == vpc,
        "role": lambda rid, name: iam.get_role(RoleName=name)["Role"]["RoleId"] == rid,
        "parameter": lambda name, value: ssm.get_parameter(Name=name)["Parameter"]["Value"] == value,
    }
    counts, missing = {}, []
    for line in sys.stdin:
        if not line.endswith("\n"):
            continue  # its writer was killed
        kind, *what = json.loads(line)
        counts[kind] = counts.get(kind, 0) + 1
        try:
            there = present[kind](*what)
        except (ClientError, KeyError) as e:
            there, what = False, [*what, str(e)]
        if not there:
            missing.append([kind, *what])
    print(json.dumps({"checked": counts, "missing": missing}))


def latency(n):
    tag = str(time.time_ns())
    names = ("s3", "dynamodb", "secretsmanager", "iam", "ec2", "ssm", "sqs")
    s3, db, secrets, iam, ec2, ssm, sqs = map(client, names)
    s3.create_bucket(Bucket=tag)
    db.create_table(
        TableName=tag,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )
    secrets.create_secret(Name=tag, SecretString="0")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    queue = sqs.create_queue(QueueName=tag)["QueueUrl"]
    operations = {
        "s3": lambda i: s3.put_object(Bucket=tag, Key="k", Body=b"x" * 20_000),
        "dynamodb": lambda i: db.put_item(TableName=tag, Item={"id": {"S": str(i)}, "v": {"S": "x" * 200}}),
        "secretsmanager": lambda i: secrets.put_secret_value(SecretId=tag, SecretString=str(i)),
        "iam": lambda i: iam.create_role(RoleName=f"{tag}-{i}", AssumeRolePolicyDocument=TRUST),
        "ec2": lambda i: ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{i}.0/24"),
        "ssm": lambda i: ssm.put_parameter(Name="/" + tag, Value=str(i), Type="String", Overwrite=True),
        "sqs": lambda i: sqs.send_message(QueueUrl=queue, MessageBody=str(i)),
    }
    out = {}
    for name, operation in operations.items():
        took = []
        operation(n)
        for i in range(n):
            start = time.perf_counter()
            operation(i)
            took.append(1e3 * (time.perf_counter() - start))
        out[name] = round(statistics.median(took), 2)
    print(json.dumps(out))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"fill": fill, "world": world, "write": write, "check": check, "latency": latency}[command](*map(int, arguments))
