"""The cryptography of kept content: RFC 9180's vector, an independent implementation, and whatever was altered."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from support import hpke
from vestry.audit.content.sealing import (
    Context,
    NotOpened,
    Sealed,
    Sealer,
    commitment,
    keyed_hash,
    new_private,
    tenant_key,
    unseal,
)
from vestry.auditor import AuditorKey, NoAuditorKey, parse_secret, secret_text

# From the CFRG's test vectors of RFC 9180: mode base, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, sequence 0.
INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
EPHEMERAL = bytes.fromhex("179d4b53b6365c45b600c4163b61d95cbc2f4d9e36f1695558dce265ab8bab11")
PUBLIC = bytes.fromhex("430f4b9859665145a6b1ba274024487bd66f03a2dd577d7753c68d7d7d00c00c")
PRIVATE = bytes.fromhex("497b4502664cfea5d5af0b39934dac72242a74f8480451e1aee7d6a53320333d")
ENC = bytes.fromhex("6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256")
AAD = bytes.fromhex("436f756e742d30")
PLAIN = bytes.fromhex("4265617574792069732074727574682c20747275746820626561757479")
CIPHERTEXT = bytes.fromhex("e5d84cd531cfb583096e7cfa9641bd3079cf3a91cda813c52deb5f512be9931980a41de125a925cdad859d5b7a")

CONTEXT = Context("radiology", "alice", "req_1", "prompt")
SALT = b"s" * 32


def test_the_reference_is_rfc_9180() -> None:
    """What the tests hold the library to makes the RFC's ciphertext of the RFC's keys, and opens it."""
    assert hpke.seal(EPHEMERAL, PUBLIC, INFO, AAD, PLAIN) == (ENC, CIPHERTEXT)
    assert hpke.unseal(PRIVATE, ENC, INFO, AAD, CIPHERTEXT) == PLAIN
    with pytest.raises(InvalidTag):
        hpke.unseal(PRIVATE, ENC, INFO + b"x", AAD, CIPHERTEXT)


def test_what_is_sealed_opens_by_the_rfc_alone() -> None:
    """The wrapped key is HPKE's, and under it lies AES-256-GCM of salt and content."""
    sealed = Sealer(AuditorKey(PUBLIC)).seal(SALT, b"content", CONTEXT)
    assert len(sealed.wrapped) == 80
    key = hpke.unseal(PRIVATE, sealed.wrapped[:32], CONTEXT.encode(), b"", sealed.wrapped[32:])
    plain = AESGCM(key).decrypt(bytes(12), sealed.ciphertext, CONTEXT.encode())
    assert plain == SALT + b"content"


def test_what_the_rfc_alone_seals_opens() -> None:
    """And the other way round."""
    key = b"k" * 32
    enc, wrapped = hpke.seal(EPHEMERAL, PUBLIC, CONTEXT.encode(), b"", key)
    ciphertext = AESGCM(key).encrypt(bytes(12), SALT + b"content", CONTEXT.encode())
    assert unseal(PRIVATE, Sealed(ciphertext, enc + wrapped), CONTEXT) == (SALT, b"content")


@given(content=st.binary(max_size=4096), subject=st.text(max_size=128), tenant=st.text(max_size=63))
def test_what_is_sealed_comes_back(content: bytes, subject: str, tenant: str) -> None:
    """Any content of anybody; and never twice the same ciphertext."""
    if any("\ud800" <= each <= "\udfff" for each in subject + tenant):
        return  # records hold none: they are escaped
    private, public = new_private()
    context = Context(tenant, subject, "req_1", "answer")
    sealer = Sealer(public)
    sealed = sealer.seal(SALT, content, context)
    assert unseal(private, sealed, context) == (SALT, content)
    again = sealer.seal(SALT, content, context)
    assert again.ciphertext != sealed.ciphertext
    assert again.wrapped[:32] != sealed.wrapped[:32]
    assert len(content) < 8 or content not in sealed.ciphertext


@pytest.mark.parametrize("field", ["tenant", "subject", "request_id", "kind"])
def test_it_belongs_to_one_call(field: str) -> None:
    """It does not open as another tenant's, person's, call's, or as the answer for the prompt."""
    private, public = new_private()
    sealed = Sealer(public).seal(SALT, b"content", CONTEXT)
    with pytest.raises(NotOpened):
        unseal(private, sealed, replace(CONTEXT, **{field: "other"}))


def test_another_key_does_not_open_it() -> None:
    """The sentence says so."""
    sealed = Sealer(new_private()[1]).seal(SALT, b"content", CONTEXT)
    with pytest.raises(NotOpened, match="private key does not open it"):
        unseal(new_private()[0], sealed, CONTEXT)


def flips(content: bytes) -> Iterator[bytes]:
    """The content with one bit flipped, for each of its bits."""
    for at in range(8 * len(content)):
        altered = bytearray(content)
        altered[at // 8] ^= 1 << at % 8
        yield bytes(altered)


def test_a_flipped_bit_is_found() -> None:
    """Any of the ciphertext or of the wrapped key; that X25519 ignores one of a public key makes no difference."""
    private, public = new_private()
    sealed = Sealer(public).seal(SALT, b"content", CONTEXT)
    for ciphertext in flips(sealed.ciphertext):
        with pytest.raises(NotOpened):
            unseal(private, Sealed(ciphertext, sealed.wrapped), CONTEXT)
    for wrapped in flips(sealed.wrapped):
        with pytest.raises(NotOpened):
            unseal(private, Sealed(sealed.ciphertext, wrapped), CONTEXT)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 79])
def test_a_wrapped_key_that_was_cut_is_refused(size: int) -> None:
    """And so is an erased one, which is zeros."""
    private, public = new_private()
    sealed = Sealer(public).seal(SALT, b"content", CONTEXT)
    for wrapped in (sealed.wrapped[:size], bytes(80)):
        with pytest.raises(NotOpened):
            unseal(private, Sealed(sealed.ciphertext, wrapped), CONTEXT)


def test_a_public_key_of_small_order_is_refused() -> None:
    """Nobody has a private key to it, and all would have the shared secret."""
    for point in (bytes(32), b"\x01" + bytes(31)):
        with pytest.raises(ValueError):
            Sealer(AuditorKey(point))


def test_commitments_and_keyed_hashes_are_what_they_are_called() -> None:
    """Anybody can compute them with a standard library; tenants have keys that say nothing of each other."""
    assert commitment(SALT, b"content") == hashlib.sha256(SALT + b"content").hexdigest()
    one, other = tenant_key(b"secret" * 6, "radiology"), tenant_key(b"secret" * 6, "research")
    assert len(one) == 32
    assert one != other
    assert keyed_hash(one, b"text") == hmac.new(one, b"text", "sha256").hexdigest()
    # RFC 5869, section 2: extract with a salt of zeros, expand with the label and the tenant's name.
    extracted = hmac.digest(bytes(32), b"secret" * 6, "sha256")
    assert one == hmac.digest(extracted, b"vestry content hash v1\nradiology\x01", "sha256")


@given(st.binary(min_size=32, max_size=32))
def test_keys_survive_as_text(key: bytes) -> None:
    """Both halves, each as its own line."""
    assert AuditorKey.parse(str(AuditorKey(key))) == AuditorKey(key)
    assert parse_secret(f"# a comment\n\n{secret_text(key)}\n") == key
    assert len(AuditorKey(key).id) == 16


@pytest.mark.parametrize(
    "text", ["", "x", "vestry-auditor-", "vestry-auditor-" + "A" * 48, "vestry-auditor-" + "é" * 48]
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    """With a sentence, and nothing else."""
    with pytest.raises(NoAuditorKey):
        AuditorKey.parse(text)


@given(st.data())
def test_a_slip_of_the_pen_is_found(data: st.DataObject) -> None:
    """One character that is another, anywhere."""
    public = str(AuditorKey(data.draw(st.binary(min_size=32, max_size=32))))
    at = data.draw(st.integers(len("vestry-auditor-"), len(public) - 1))
    other = data.draw(st.sampled_from("ABCxyz019_-"))
    if other != public[at]:
        with pytest.raises(NoAuditorKey, match="checksum"):
            AuditorKey.parse(public[:at] + other + public[at + 1 :])


def test_the_halves_are_not_mistaken_for_each_other() -> None:
    """A private key in the settings, or a public one in its place, is named as what it is; and never repeated."""
    secret = secret_text(b"k" * 32)
    with pytest.raises(NoAuditorKey, match="other half") as told:
        AuditorKey.parse(secret)
    assert secret not in str(told.value)
    with pytest.raises(NoAuditorKey, match="other half"):
        parse_secret(str(AuditorKey(b"k" * 32)))
    for text in ("", f"{secret}\n{secret}"):
        with pytest.raises(NoAuditorKey, match="one line"):
            parse_secret(text)
