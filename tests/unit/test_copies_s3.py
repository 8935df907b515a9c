"""The S3 sink against a real S3 server with object lock; its signatures against AWS's own vectors and botocore."""

from __future__ import annotations

import hashlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as TheirCredentials
from botocore.exceptions import ClientError

from support.copies import GrownLog
from support.objects import CREDENTIALS, REGION, Objects, objects
from vestry.audit.copies import s3
from vestry.audit.copies.comparing import CopyMissing, compare_with_copies
from vestry.audit.copies.s3 import Bucket, S3Sink, versions_of
from vestry.audit.copies.sigv4 import Credentials, authorization, query_of, quoted
from vestry.audit.copies.sink import Item
from vestry.audit.scan import LogDamaged
from vestry.audit.tlog.merkle import EMPTY_ROOT
from vestry.wires import Undelivered, Web

DOCUMENTED = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EMPTY = hashlib.sha256(b"").hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    with objects(tmp_path_factory.mktemp("objects")) as running:
        yield running


def sink_of(url: str, bucket: str, *, seconds: float = 10, credentials: Credentials = CREDENTIALS) -> S3Sink:
    web = Web.at(url, seconds=seconds, permitted=lambda _: True)
    return S3Sink("lock", Bucket(web, REGION, bucket, "audit/", retain_days=1), "server", lambda: credentials)


def test_what_is_delivered_is_locked(tmp_path: Path, server: Objects) -> None:
    """An object a checkpoint, that even an administrator can neither delete nor shorten the lock of."""
    log, bucket = GrownLog(tmp_path / "server"), server.bucket("locked")
    sink = sink_of(server.url, bucket)
    assert sink.newest().notes == ()
    notes = [log.grow(size) for size in (1, 9, 10, 300)]
    for note in notes:
        sink.deliver(Item("checkpoint", note))
    versions = server.versions(bucket)
    assert [int(each["Key"].split("-")[1]) for each in versions] == [300, 10, 9, 1], "the newest stands first"
    assert sink.newest().notes == tuple(reversed(notes))
    one = {"Bucket": bucket, "Key": versions[0]["Key"], "VersionId": versions[0]["VersionId"]}
    assert server.client.get_object(**one)["Body"].read().decode() == notes[-1]
    retention = server.client.get_object_retention(**one)["Retention"]
    assert retention["Mode"] == "COMPLIANCE"
    assert 86_000 < (retention["RetainUntilDate"] - datetime.now(UTC)).total_seconds() <= 86_400
    with pytest.raises(ClientError, match="AccessDenied"):
        server.client.delete_object(**one)
    with pytest.raises(ClientError):
        server.client.put_object_retention(
            **one, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC)}
        )


def test_governance(tmp_path: Path, server: Objects) -> None:
    """The other mode, where it is asked for."""
    log, bucket = GrownLog(tmp_path / "server"), server.bucket("governed")
    web = Web.at(server.url, seconds=10, permitted=lambda _: True)
    S3Sink("lock", Bucket(web, REGION, bucket, mode="GOVERNANCE"), "server", lambda: CREDENTIALS).deliver(
        Item("checkpoint", log.grow(1))
    )
    [version] = server.versions(bucket)
    one = {"Bucket": bucket, "Key": version["Key"], "VersionId": version["VersionId"]}
    assert server.client.get_object_retention(**one)["Retention"]["Mode"] == "GOVERNANCE"


def test_the_registry_is_a_version_each(tmp_path: Path, server: Objects) -> None:
    """A shorter registry does not make the longer one vanish."""
    bucket = server.bucket("registry")
    sink = sink_of(server.url, bucket)
    for note in ("one\ntwo\n", "one\n"):
        sink.deliver(Item("registry", note))
    versions = server.versions(bucket)
    assert [each["Key"] for each in versions] == ["audit/origins"] * 2
    bodies = {
        server.client.get_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])["Body"].read()
        for each in versions
    }
    assert bodies == {b"one\ntwo\n", b"one\n"}


def test_a_rolled_back_log_is_caught(tmp_path: Path, server: Objects) -> None:
    """Also behind a delete marker, which is said; and when the log is gone altogether."""
    log, bucket = GrownLog(tmp_path / "server"), server.bucket("rollback")
    sink = sink_of(server.url, bucket)
    sink.deliver(Item("checkpoint", log.grow(300)))
    back = log.snapshot(tmp_path / "snapshot")
    sink.deliver(Item("checkpoint", log.grow(500)))
    [found] = compare_with_copies(log.home, 500, log.head.root, log.public, [sink])
    assert (found.agrees, found.size, found.doubts) == (True, 500, ())
    server.client.delete_object(Bucket=bucket, Key=server.versions(bucket)[0]["Key"])
    [found] = compare_with_copies(log.home, 500, log.head.root, log.public, [sink])
    assert found.size == 500
    assert "somebody deleted 1 of its newest checkpoints" in found.doubts[0]
    back()
    with pytest.raises(LogDamaged, match="500 records"):
        compare_with_copies(log.home, 300, log.heads[0].root, log.public, [sink])
    shutil.rmtree(log.home)
    with pytest.raises(LogDamaged, match="500 records"):
        compare_with_copies(log.home, 0, EMPTY_ROOT, log.public, [sink])


def test_garbage_in_the_bucket(tmp_path: Path, server: Objects) -> None:
    """Other keys are not looked at; forged ones under a larger size are doubts, and hide nothing."""
    log, bucket = GrownLog(tmp_path / "server"), server.bucket("garbage")
    sink = sink_of(server.url, bucket)
    sink.deliver(Item("checkpoint", log.grow(5)))
    folder = "audit/server/checkpoints/"
    for number, body in enumerate((b"\xff\xfe", b"garbage", log.signer.public.name.encode())):
        key = f"{folder}{number:018d}-{10**18 - number}-{'0' * 16}"
        server.client.put_object(Bucket=bucket, Key=key, Body=body)
    for key in (f"{folder}&lt;odd&gt; <name>", f"{folder}000000000000000000-12", "audit/other"):
        server.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    key = f"{folder}{10**18 - 900:018d}-900-{'0' * 16}"
    server.client.put_object(Bucket=bucket, Key=key, Body=b"garbage of 900 records")
    [found] = compare_with_copies(log.home, 5, log.head.root, log.public, [sink])
    assert (found.agrees, found.size) == (True, 5)
    assert found.doubts
    server.client.put_object(Bucket=bucket, Key=key.replace("900-0", "900-1"), Body=b"x" * 100_000)
    [found] = compare_with_copies(log.home, 5, log.head.root, log.public, [sink])
    assert (found.agrees, found.size) == (True, 5), "one that is too large is passed over as well"


def test_an_object_that_the_bucket_keeps_to_itself_hides_no_rollback(
    tmp_path: Path, server: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with a key of its own, above the newest checkpoint: what stands below speaks against the log all the same.
    Where it does not, the one above may, so the log was not compared.
    """
    log, bucket = GrownLog(tmp_path / "server"), server.bucket("sealed")
    sink = sink_of(server.url, bucket)
    sink.deliver(Item("checkpoint", log.grow(300)))
    back = log.snapshot(tmp_path / "snapshot")
    sink.deliver(Item("checkpoint", log.grow(500)))
    for number in range(2):
        key = f"audit/server/checkpoints/{10**18 - 900:018d}-900-{number:016d}"
        sealed = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
        server.client.put_object(Bucket=bucket, Key=key, Body=b"x", **sealed)
    [found] = compare_with_copies(log.home, 500, log.head.root, log.public, [sink])
    assert (found.agrees, found.size) == (False, 500)
    assert "answers 400" in found.doubts[-1]
    sink.required = True
    with pytest.raises(CopyMissing, match="answers 400"):
        compare_with_copies(log.home, 500, log.head.root, log.public, [sink])
    back()
    with pytest.raises(LogDamaged, match="500 records"):
        compare_with_copies(log.home, 300, log.heads[0].root, log.public, [sink])
    monkeypatch.setattr(s3, "_KEPT", 1)
    with pytest.raises(Undelivered, match="answers 400"):
        sink.newest()


def flood(log: GrownLog, server: Objects, bucket: str, count: int) -> None:
    """Put objects above every checkpoint: forged ones, an old one under another's key, one that was deleted."""
    old = log.signer.sign(log.heads[0].text())
    for number in range(count):
        size, body = 10**15 + number, old if number % 2 else f"{log.public.name}\n{10**15 + number}\nx\n"
        digest = hashlib.sha256(body.encode()).hexdigest()[:16]
        key = f"audit/server/checkpoints/{10**18 - size:018d}-{size}-{digest}"
        server.client.put_object(Bucket=bucket, Key=key, Body=body.encode())
    server.client.delete_object(Bucket=bucket, Key=key)


@pytest.mark.parametrize("per_page", [200, 7])
def test_a_flood_of_forged_objects_hides_no_rollback(
    tmp_path: Path, server: Objects, per_page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock keeps nobody from putting more: the newest is looked for behind them, over pages of the list as well."""
    monkeypatch.setattr(s3, "_PER_PAGE", per_page)
    log, bucket = GrownLog(tmp_path / "server"), server.bucket(f"flood-{per_page}")
    sink = sink_of(server.url, bucket)
    sink._public = log.public
    sink.deliver(Item("checkpoint", log.grow(300)))
    back = log.snapshot(tmp_path / "snapshot")
    sink.deliver(Item("checkpoint", log.grow(500)))
    flood(log, server, bucket, 40)
    [found] = compare_with_copies(log.home, 500, log.head.root, log.public, [sink])
    assert (found.agrees, found.size) == (True, 500)
    back()
    with pytest.raises(LogDamaged, match="500 records"):
        compare_with_copies(log.home, 300, log.heads[0].root, log.public, [sink])
    monkeypatch.setattr(s3, "_MOST", 14)
    monkeypatch.setattr(s3, "_PER_PAGE", 7)
    sink.required = True
    with pytest.raises(CopyMissing, match="14 versions above its newest checkpoint that are none"):
        compare_with_copies(log.home, 300, log.heads[0].root, log.public, [sink])


def test_refusals(tmp_path: Path, server: Objects) -> None:
    """A wrong key, a bucket that is not there, one without object lock: the status, S3's code, and a hint."""
    log = GrownLog(tmp_path / "server")
    item = Item("checkpoint", log.grow(1))
    wrong = Credentials(CREDENTIALS.access_key, "wrong")
    with pytest.raises(Undelivered, match=r"answers 403 \(SignatureDoesNotMatch\)"):
        sink_of(server.url, server.bucket("refusals"), credentials=wrong).deliver(item)
    with pytest.raises(Undelivered, match=r"answers 403"):
        sink_of(server.url, "refusals", credentials=wrong).newest()
    with pytest.raises(Undelivered, match=r"answers 404 \(NoSuchBucket\)"):
        sink_of(server.url, "no-such-bucket").newest()
    with pytest.raises(Undelivered, match="answers 40"):
        sink_of(server.url, "no-such-bucket").deliver(item)
    server.client.create_bucket(Bucket="without-lock")
    with pytest.raises(Undelivered, match=r"answers 400 \(InvalidRequest\): was it made with object lock\?"):
        sink_of(server.url, "without-lock").deliver(item)


@contextmanager
def answering(data: bytes, *, hang: float = 0) -> Iterator[str]:
    """A listener that sends this on every connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    wire, _ = listener.accept()
                except OSError:
                    return
                with wire:
                    time.sleep(hang)
                    wire.recv(65_536)
                    wire.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


BOMB = b'<!DOCTYPE x [<!ENTITY a "%s">]><ListVersionsResult>&a;&a;</ListVersionsResult>' % (b"a" * 1000)


LINES = b"<ListVersionsResult><Version><Key>%s</Key></Version></ListVersionsResult>" % (b"\n" * 4_000_000)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (ok(b"garbage"), "in a form that is not S3's"),
        (ok(b"<html></html>"), "in a form that is not S3's"),
        (ok(BOMB), "in a form that is not S3's"),
        (ok(b"<ListVersionsResult>"), "in a form that is not S3's"),
        (ok(b"<?xml version='1.0' encoding='none'?><ListVersionsResult/>"), "in a form that is not S3's"),
        (ok(LINES), "in a form that is not S3's"),
        (ok(b"x" * (5 << 20)), "answers with more than 4194304 bytes"),
        (b"garbage", "answers what is no HTTP"),
        (b"", "answers what is no HTTP"),
        (b"HTTP/1.1 500 x\r\nContent-Length: 8\r\n\r\n<Code>\x1b[", "answers 500$"),
    ],
)
def test_answers_that_are_none(data: bytes, sentence: str) -> None:
    """Garbage and enormous answers are sentences of our own."""
    with answering(data) as url, pytest.raises(Undelivered, match=sentence):
        sink_of(url, "bucket").newest()


def test_one_that_hangs_or_is_down(tmp_path: Path) -> None:
    """The deadline is for the whole request."""
    log = GrownLog(tmp_path / "server")
    item = Item("checkpoint", log.grow(1))
    with answering(b"", hang=3) as url, pytest.raises(Undelivered, match=r"did not answer within 0\.3 s"):
        sink_of(url, "bucket", seconds=0.3).deliver(item)
    with pytest.raises(Undelivered, match=r"refuses connections|cannot be spoken to"):
        sink_of(url, "bucket").deliver(item)


def test_without_lists_of_versions() -> None:
    """What is read of the list: keys, versions, delete markers, in order, with entities of XML resolved."""
    document = b"""<?xml version="1.0"?><ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
        <Name>b</Name><Version><Key>a&amp;b</Key><VersionId>1</VersionId><Owner><ID>x</ID></Owner></Version>
        <DeleteMarker><Key>c</Key><VersionId>2</VersionId></DeleteMarker>%s</ListVersionsResult>"""
    page = versions_of(document % b"")
    assert [(each.key, each.id, each.deleted) for each in page.versions] == [("a&b", "1", False), ("c", "2", True)]
    assert page.then == {}
    more = b"<IsTruncated>true</IsTruncated>"
    page = versions_of(document % (more + b"<NextKeyMarker>c&amp;</NextKeyMarker>"))
    assert page.then == {"key-marker": "c&"}
    with pytest.raises(ValueError, match="how it goes on"):
        versions_of(document % more)


# Signatures.


@pytest.mark.parametrize(
    ("request_line", "headers", "payload", "signature"),
    [
        (("GET", "/test.txt", ""), {"range": "bytes=0-9"}, EMPTY,
         "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        (("PUT", "/test%24file.text", ""),
         {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
         "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
         "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
        (("GET", "/", query_of({"lifecycle": ""})), {}, EMPTY,
         "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (("GET", "/", query_of({"prefix": "J", "max-keys": "2"})), {}, EMPTY,
         "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)  # fmt: skip
def test_the_examples_of_the_s3_documentation(
    request_line: tuple[str, str, str], headers: dict[str, str], payload: str, signature: str
) -> None:
    """The four worked examples of "Signature Calculations for the Authorization Header"."""
    found = authorization(
        DOCUMENTED,
        region="us-east-1",
        service="s3",
        now=datetime(2013, 5, 24, tzinfo=UTC),
        method=request_line[0],
        path=request_line[1],
        query=request_line[2],
        headers={
            **headers,
            "host": "examplebucket.s3.amazonaws.com",
            "x-amz-content-sha256": payload,
            "x-amz-date": "20130524T000000Z",
        },
        payload=payload,
    )
    assert found.rpartition("=")[2] == signature
    assert found.startswith("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, ")


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        ("", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("Param1=value1&Param2=value2", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
    ],
)
def test_the_suite_of_signature_version_4(query: str, signature: str) -> None:
    """`get-vanilla` and `get-vanilla-query-order-key-case` of AWS's test suite."""
    found = authorization(
        CREDENTIALS,
        region="us-east-1",
        service="service",
        now=datetime(2015, 8, 30, 12, 36, tzinfo=UTC),
        method="GET",
        path="/",
        query=query,
        headers={"Host": "example.amazonaws.com", "X-Amz-Date": "20150830T123600Z"},
        payload=EMPTY,
    )
    assert found.rpartition("=")[2] == signature


@pytest.mark.parametrize("token", ["", "a session token/with+signs="])
@pytest.mark.parametrize("key", ["plain", "with space", "a/b+c~d", "\u00fcmlaut", "100%25", "a//b"])
def test_botocore_signs_the_same(key: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For keys of every kind, with and without a session token."""
    body = b"note"
    digest = hashlib.sha256(body).hexdigest()
    path, query = f"/bucket/{quoted(key, '/')}", query_of({"versionId": "a b/c", "versions": ""})
    theirs = AWSRequest("PUT", f"https://s3.example:8443{path}?{query}", {"x-amz-object-lock-mode": "COMPLIANCE"}, body)
    theirs.context["payload_signing_enabled"] = True
    S3SigV4Auth(TheirCredentials("AKID", "secret", token or None), "s3", "eu-west-1").add_auth(theirs)
    stamp = theirs.headers["X-Amz-Date"]
    headers = {
        "host": "s3.example:8443",
        "x-amz-object-lock-mode": "COMPLIANCE",
        "x-amz-content-sha256": digest,
        "x-amz-date": stamp,
        **({"x-amz-security-token": token} if token else {}),
    }
    ours = authorization(
        Credentials("AKID", "secret", token),
        region="eu-west-1",
        service="s3",
        now=datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
        method="PUT",
        path=path,
        query=query,
        headers=headers,
        payload=digest,
    )
    assert ours == theirs.headers["Authorization"]


def test_credentials_do_not_show() -> None:
    """Neither text form has the secret."""
    assert "secret" not in f"{Credentials('AKID', 'secret', 'token')!r} {Credentials('AKID', 'secret', 'token')}"
