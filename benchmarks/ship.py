"""Put trained models into the package: weights in float16, what they share once, beside ``tiny``.

    python benchmarks/ship.py tiny runs/tiny/7-steps-8/model
    python benchmarks/ship.py tiny-base runs/tiny/4-t2v/model     the autoencoder and text encoder must be those of tiny
    python benchmarks/ship.py tiny-i2v runs/tiny/5-i2v/model --runs runs/tiny

Replaces that folder of src/cogvideox/shipped. Models compute in float32 whatever their files hold. With --runs,
training records say "runs" in place of that folder. An autoencoder or text encoder that is that of before keeps its own
record.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cogvideox.checkpoints.record import RECORD
from cogvideox.checkpoints.shipped import LENDER, SHARED, SHIPPED
from cogvideox.files.digest import sha256_of_file

TRAINING = "training.json"


def ship(name: str, trained: Path, runs: Path | None = None, shipped: Path = SHIPPED[0]) -> Path:
    """The folder ``name`` of the package, made from a trained model. Raises SystemExit where parts are not tiny's."""
    new = shipped / f".{name}.new"
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(trained, new)
    for file in new.glob("*/*.safetensors"):
        tensors = load_file(file)
        if file.parent.name != "text_encoder":  # small, and read by everything
            tensors = {key: value.to(torch.float16) for key, value in tensors.items()}
        save_file(tensors, file, metadata={"format": "pt"})
    record = json.loads((new / RECORD).read_text())
    files = {
        path.relative_to(new).as_posix(): sha256_of_file(path) for path in sorted(new.glob("*/*.safetensors"))
    }
    record |= {"preset": name, "dtype": "float32", "files": files}
    if name != LENDER:
        lent = json.loads((shipped / LENDER / RECORD).read_text())["files"]
        for file, digest in files.items():
            if file.split("/")[0] in SHARED and lent.get(file) != digest:
                raise SystemExit(
                    f"{trained}/{file}: not that of {LENDER}; ship {LENDER} of the same chain first"
                )
        for part in SHARED:
            shutil.rmtree(new / part)
    else:
        _keep_records(shipped / name, new, files)
    (new / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    for training in new.rglob(TRAINING) if runs is not None else ():
        training.write_text(training.read_text().replace(str(runs), "runs"))
    shutil.rmtree(shipped / name, ignore_errors=True)
    return new.rename(shipped / name)


def _keep_records(old: Path, new: Path, files: dict[str, str]) -> None:
    """Records of the training of parts whose weights are the same as before."""
    before = json.loads((old / RECORD).read_text())["files"]
    for file, digest in files.items():
        record = old / file.split("/")[0] / TRAINING
        if before.get(file) == digest and record.is_file():
            shutil.copy(record, new / record.relative_to(old))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=(LENDER, "tiny-base", "tiny-i2v"))
    parser.add_argument("trained", type=Path)
    parser.add_argument("--runs", type=Path, help="folder of the runs, called runs in their records")
    print(ship(**vars(parser.parse_args())))
