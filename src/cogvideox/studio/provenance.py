"""C2PA: a signed manifest in a video that says a model made it; whoever has the certificate can check it.

The mark of the tags (``manifest``) is in every video; this one is signed, with a certificate of the operator's.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from cogvideox.errors import ConfigError, DependencyError, OutputError
from cogvideox.files.atomic import atomic_file
from cogvideox.files.text import read_small_bytes
from cogvideox.video import Video
from cogvideox.video.saving import AI_MADE

ALGORITHMS = {"ES256": b"es256", "PS256": b"ps256", "ED25519": b"ed25519"}
ASSERTION = {
    "claim_generator_info": [{"name": "cogvideox"}],
    "format": "video/mp4",
    "assertions": [
        {
            "label": "c2pa.actions.v2",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": AI_MADE}]},
        }
    ],
}


def sign(video: Path, certificate: Path, key: Path) -> None:
    """Put a signed manifest into an mp4 file, whole or not at all.

    certificate: a chain in PEM whose first one signs; key: its private key in PEM (ES256). Raises DependencyError
    without c2pa-python, ConfigError for a certificate that cannot sign, OutputError.
    """
    try:
        import c2pa
    except ImportError:
        raise DependencyError("c2pa-python is not installed; install cogvideox[c2pa]") from None
    chain, private = (read_small_bytes(each, error=ConfigError) for each in (certificate, key))
    info = c2pa.C2paSignerInfo(ALGORITHMS["ES256"], chain, private, None)
    try:
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(ASSERTION)) as builder,
            atomic_file(video, overwrite=True) as temporary,
        ):
            builder.sign_file(str(video), str(temporary), signer)
    except c2pa.C2paError as error:
        raise ConfigError(f"{certificate}: cannot sign a video ({error}); see docs/serving.md") from None
    except OSError as error:
        raise OutputError(f"{video}: cannot be signed ({error.strerror}); free some space") from None


def check_signing(certificate: Path, key: Path) -> None:
    """Sign a video of one frame and read it back: what cannot sign is said before a video is made. Raises as ``sign``
    and ``manifest_of`` do."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial.mp4"
        Video(np.zeros((1, 16, 16, 3), np.uint8), 8.0).save(trial)
        sign(trial, certificate, key)
        manifest_of(trial)


def manifest_of(video: Path) -> dict[str, object]:
    """The C2PA manifests of a file, as c2pa-python reads them.

    Raises DependencyError without c2pa-python, ConfigError where there is no manifest.
    """
    try:
        import c2pa
    except ImportError:
        raise DependencyError("c2pa-python is not installed; install cogvideox[c2pa]") from None
    try:
        with c2pa.Reader(str(video)) as reader:
            return json.loads(reader.json())
    except c2pa.C2paError as error:
        raise ConfigError(f"{video}: holds no C2PA manifest ({error})") from None
