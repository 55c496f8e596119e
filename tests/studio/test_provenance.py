"""C2PA: what is signed says that a model made it, and a changed file does not pass."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys

import numpy as np
import pytest

c2pa = pytest.importorskip("c2pa")
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

from cogvideox.errors import ConfigError  # noqa: E402
from cogvideox.studio.provenance import check_signing, manifest_of, sign  # noqa: E402
from cogvideox.video import Video, read_video  # noqa: E402


def certificate(folder):
    """A certificate for signing under a root of its own, as files in PEM: chain and key."""
    now = datetime.datetime.now(datetime.UTC)

    def named(text):
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)])

    def issued(name, issuer, key, by, ca):
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign")
        usage = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, **usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False
            )
        )
        if not ca:
            use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(use, critical=False)
        return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain = issued("signer", "root", key, root, False) + issued("root", "root", root, root, True)
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    return folder / "chain.pem", folder / "key.pem"


def test_a_signed_video_says_who_made_it_and_still_plays(tmp_path):
    chain, key = certificate(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    path = Video(frames, 8.0, {"kind": "generate", "config": {"prompt": "a ball"}}).save(tmp_path / "v.mp4")
    before = read_video(path).frames
    sign(path, chain, key)
    assert np.array_equal(read_video(path).frames, before)
    text = json.dumps(manifest_of(path))
    assert "trainedAlgorithmicMedia" in text and "c2pa.created" in text
    assert not any("mismatch" in code for code in codes(path)), codes(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 40
    data[at] ^= 0xFF
    path.write_bytes(data)
    assert any("mismatch" in code for code in codes(path))


def codes(path):
    found = manifest_of(path).get("validation_status") or []
    return [each["code"] for each in found]


def test_a_certificate_that_cannot_sign_is_named_and_the_video_stays(tmp_path):
    path = Video(np.zeros((1, 16, 16, 3), np.uint8), 8.0).save(tmp_path / "v.mp4")
    before = path.read_bytes()
    for name in ("chain.pem", "key.pem"):
        (tmp_path / name).write_text("nothing")
    with pytest.raises(ConfigError, match=r"chain.pem: cannot sign a video"):
        sign(path, tmp_path / "chain.pem", tmp_path / "key.pem")
    with pytest.raises(ConfigError, match="missing.pem"):
        sign(path, tmp_path / "missing.pem", tmp_path / "key.pem")
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match="no C2PA manifest"):
        manifest_of(path)


def test_what_cannot_sign_is_said_before_a_video_is_made(tmp_path):
    for name in ("ann", "ben"):
        (tmp_path / name).mkdir()
    (chain, key), (_, other) = (certificate(tmp_path / name) for name in ("ann", "ben"))
    check_signing(chain, key)
    for pair in ((chain, other), (key, chain), (chain, tmp_path)):
        with pytest.raises(ConfigError, match="cannot sign a video|cannot be read"):
            check_signing(*pair)


def test_a_server_with_another_key_than_its_certificate_does_not_start(tmp_path):
    for name in ("ann", "ben"):
        (tmp_path / name).mkdir()
    (chain, _), (_, other) = (certificate(tmp_path / name) for name in ("ann", "ben"))
    flags = ["--c2pa-certificate", str(chain), "--c2pa-key", str(other), "--out", str(tmp_path / "studio")]
    ended = subprocess.run(
        [sys.executable, "-m", "cogvideox", "serve", "--port", "0", *flags],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode not in (0, 143) and "cannot sign a video" in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
