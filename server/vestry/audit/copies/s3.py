"""S3 with object lock: what was written can be neither changed nor deleted before its date, by nobody (COMPLIANCE), or
by nobody without a special right (GOVERNANCE).

    PREFIX ORIGIN/checkpoints/999999999999983616-16384-9f86d081884c7d65    18 digits, the size, digest of the note
    PREFIX origins                                                         the registry of origins; a version each

The 18 digits fall as sizes rise, because S3 lists in ascending order only: the newest checkpoint stands first, and is
found with one request however many there are. Versions are listed, not keys: whoever has the credentials can hide a
key behind a delete marker, but not its versions, which the lock protects.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal
from xml.parsers import expat

from msgspec import Struct

from vestry.audit.copies.sigv4 import Credentials, authorization, query_of, quoted
from vestry.audit.copies.sink import NOTE_LIMIT, Held, Item, Reading
from vestry.audit.tlog.notes import PublicKey
from vestry.wires import Answer, Undelivered, Web

_LIST_LIMIT = 4 << 20
_ANSWER_LIMIT = 1 << 20
_PER_PAGE = 200
_MOST = 1000
"""After so many versions of which none is a checkpoint of the log, the bucket has not answered."""
_KEPT = 20
"""So many of these may be kept from us; after more the bucket has not answered either."""
_HIGHEST = 10**18
_FILE = re.compile(r"[0-9]{18}-(0|[1-9][0-9]{0,15})-[0-9a-f]{16}")
_SIZE = re.compile(r"[0-9]{1,16}")
_MARKERS = {"NextKeyMarker": "key-marker", "NextVersionIdMarker": "version-id-marker"}
_LONGEST = 4096
"""Characters; keys and the names of versions have 1024 bytes at most."""
_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")


class Bucket(Struct, frozen=True):
    """Where, and how long. `web` is the endpoint; with `path_style` the bucket stands in the path, else in its name."""

    web: Web
    region: str
    name: str
    prefix: str = ""
    mode: Literal["COMPLIANCE", "GOVERNANCE"] = "COMPLIANCE"
    retain_days: int = 3650
    path_style: bool = True

    @property
    def path(self) -> str:
        return f"{self.web.path}/{self.name}" if self.path_style else self.web.path


class Version(Struct, frozen=True):
    """A version of an object, as ListObjectVersions has it."""

    key: str
    id: str
    deleted: bool
    """A delete marker."""
    large: bool = False
    """Larger than a note that is taken."""


class Page(Struct, frozen=True):
    """One answer of ListObjectVersions; where more follow, `then` is what asks for them."""

    versions: list[Version]
    then: dict[str, str]


class S3Sink:
    """sink.Sink over a bucket with object lock. `credentials` is asked for every request; it may raise Undelivered.

    `public` is the log's own key; without it every checkpoint that stands under its right key is taken for the log's.
    """

    keeps_registry = True

    def __init__(
        self,
        name: str,
        bucket: Bucket,
        origin: str,
        credentials: Callable[[], Credentials],
        *,
        required: bool = False,
        public: PublicKey | None = None,
    ) -> None:
        self.name, self.required = name, required
        self._public = public
        self.where = f"the bucket {bucket.name} at {bucket.web.peer}"
        self._bucket, self._credentials = bucket, credentials
        self._folder = f"{bucket.prefix}{origin}/checkpoints/"

    def deliver(self, item: Item) -> None:
        data = item.note.encode()
        key = f"{self._bucket.prefix}origins" if item.kind == "registry" else self._key(item.head().size, item.note)
        until = datetime.now(UTC) + timedelta(days=self._bucket.retain_days)
        lock = {
            "content-type": "text/plain; charset=utf-8",
            "content-md5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
            "x-amz-object-lock-mode": self._bucket.mode,
            "x-amz-object-lock-retain-until-date": f"{until:%Y-%m-%dT%H:%M:%SZ}",
        }
        answer = self._ask("PUT", key, {}, body=data, headers=lock, limit=_ANSWER_LIMIT)
        if answer.status != 200:
            raise Undelivered(self._refusal(answer))

    def _key(self, size: int, note: str) -> str:
        """Where a checkpoint stands."""
        return f"{self._folder}{_HIGHEST - size:018d}-{size}-{hashlib.sha256(note.encode()).hexdigest()[:16]}"

    def newest(self) -> Held:
        """The versions that stand first, read back; and whether any was hidden.

        Further down as well, until one is the log's own: the lock does not keep anybody from putting others above it,
        but however many there are, it is found, or the bucket has not answered.
        """
        reading = Reading(self._public, self._key)
        hidden: set[str] = set()
        kept: list[str] = []
        for page in self._pages():
            hidden.update(each.key for each in page if each.deleted)
            for each in page:
                if not each.deleted and not reading.enough:
                    note = None if each.large else self._read(each, kept)
                    reading.take(each.key, note, f"{each.key} is no checkpoint that can be read")
            if reading.enough:
                break
        said = f"somebody deleted {len(hidden)} of its newest checkpoints; their versions are still there"
        doubts = (*([said] if hidden else []), *reading.doubts)
        return Held(notes=tuple(reading.notes), doubts=doubts, unread=kept[0] if kept else "")

    def _read(self, version: Version, kept: list[str]) -> str | None:
        """A version's text; None for what is none, and for what the bucket keeps to itself, as what is archived or
        encrypted with another's key: why is added to `kept`.
        """
        answer = self._ask("GET", version.key, {"versionId": version.id} if version.id else {}, limit=NOTE_LIMIT)
        if 400 <= answer.status < 500 and len(kept) < _KEPT:
            kept.append(f"{self._refusal(answer)} for {version.key}")
            return None
        if answer.status != 200:
            raise Undelivered(self._refusal(answer))
        try:
            return answer.body.decode()
        except UnicodeDecodeError:
            return None

    def _pages(self) -> Iterator[list[Version]]:
        """Checkpoints of the greatest sizes, a page at a time, whose keys are our own."""
        then: dict[str, str] = {}
        for _ in range(_MOST // _PER_PAGE):
            parameters = {"versions": "", "prefix": self._folder, "max-keys": str(_PER_PAGE), **then}
            answer = self._ask("GET", "", parameters, limit=_LIST_LIMIT)
            if answer.status != 200:
                raise Undelivered(self._refusal(answer))
            try:
                page = versions_of(answer.body)
            except ValueError as error:
                raise Undelivered(f"{self.where} lists its versions in a form that is not S3's") from error
            ours = (each for each in page.versions if each.key.startswith(self._folder))
            yield [each for each in ours if _FILE.fullmatch(each.key.removeprefix(self._folder))]
            then = page.then
            if not then:
                return
        raise Undelivered(f"{self.where} holds {_MOST} versions above its newest checkpoint that are none")

    def _ask(
        self,
        method: str,
        key: str,
        parameters: Mapping[str, str],
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """One signed request."""
        bucket, credentials = self._bucket, self._credentials()
        now = datetime.now(UTC)
        digest = hashlib.sha256(body).hexdigest()
        sent = {
            **(headers or {}),
            "x-amz-content-sha256": digest,
            "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
            **({"x-amz-security-token": credentials.token} if credentials.token else {}),
        }
        target = f"{bucket.path.removeprefix(bucket.web.path)}/{quoted(key, '/')}"
        query = query_of(parameters)
        proof = authorization(
            credentials,
            region=bucket.region,
            service="s3",
            now=now,
            method=method,
            path=bucket.web.path + target,
            query=query,
            headers={**sent, "host": bucket.web.authority},
            payload=digest,
        )
        wanted = f"{target}?{query}" if query else target
        return bucket.web.ask(method, wanted, limit=limit, headers={**sent, "Authorization": proof}, body=body)

    def _refusal(self, answer: Answer) -> str:
        code = _CODE.search(answer.body)
        said = f" ({code[1].decode()})" if code else ""
        asked = ": was it made with object lock?" if code and code[1] == b"InvalidRequest" else ""
        return f"{self.where} answers {answer.status}{said}{asked}"


def versions_of(document: bytes) -> Page:
    """The versions and delete markers of a ListVersionsResult, in order. Raises ValueError for what is none.

    Document types are refused, and with them every entity that a document could make of its own.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(document, True)
    except (expat.ExpatError, LookupError) as error:  # the latter for an encoding that nobody knows
        raise ValueError("it is no XML") from error
    if reader.root != "ListVersionsResult":
        raise ValueError("it is no list of versions")
    then = {ours: reader.above[theirs] for theirs, ours in _MARKERS.items() if reader.above.get(theirs)}
    if reader.above.get("IsTruncated") != "true":
        return Page(reader.found, {})
    if not then:
        raise ValueError("it does not say how it goes on")
    return Page(reader.found, then)


class _Reader:
    """Gathers the elements that matter; expat calls it."""

    def __init__(self) -> None:
        self.root = ""
        self.found: list[Version] = []
        self.above: dict[str, str] = {}
        self._path: list[str] = []
        self._fields: dict[str, str] = {}

    def doctype(self, *_: object) -> None:
        raise ValueError("it has a document type")

    def start(self, name: str, _: object) -> None:
        plain = name.rpartition(":")[2]
        self.root = self.root or plain
        self._path.append(plain)
        if len(self._path) == 2:
            self._fields = {}

    def text(self, text: str) -> None:
        if len(self._path) == 2:
            name = self._path[1]
            if name in {"IsTruncated", *_MARKERS}:
                self._more(self.above, name, text)
        elif len(self._path) == 3:
            self._more(self._fields, self._path[2], text)

    @staticmethod
    def _more(texts: dict[str, str], name: str, text: str) -> None:
        """A text comes in pieces, a line each at most: to join a page of nothing else would take minutes."""
        texts[name] = texts.get(name, "") + text
        if len(texts[name]) > _LONGEST:
            raise ValueError("it has a text that is longer than any of S3's")

    def end(self, _: str) -> None:
        name = self._path.pop()
        if len(self._path) == 1 and name in {"Version", "DeleteMarker"}:
            key, version, size = (self._fields.get(each, "") for each in ("Key", "VersionId", "Size"))
            large = _SIZE.fullmatch(size) is not None and int(size) > NOTE_LIMIT
            self.found.append(Version(key, version, name == "DeleteMarker", large))
