"""Thousands of hostile settings, model files, adapters, captions and tables through the code that reads them.

python benchmarks/hostile.py --count 10000

Each case is made from its number alone, read in a child with a clock (5 s of processor, 20 s of waiting) and a memory
limit (1 GB above what the loaded libraries take), and ends as *read*, *refused* (an error of this package), *hung*,
*exhausted* or *unexpected* (any other exception, or a dead child). Files outside of the folder of results must not
change: they are compared.
The last line is JSON: counts by kind. The exit code is 1 when any case hung, was exhausted or unexpected, or changed
a file.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

SECONDS = 5.0  # of processor time, so that other work on the machine makes no finding
WAITING = 20.0  # by the clock: what waits for a pipe uses no processor
BYTES = 1 << 30
Reader = Callable[[Path], Any]

NASTY: list[Any] = [
    *(0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(2**63), 1.5, -0.0, 1e308, 1e-308, True, False, None),
    *(
        "",
        " ",
        "\0",
        "a" * 100_000,
        "1",
        "true",
        "inf",
        "../../../etc/passwd",
        "/dev/zero",
        "/etc/passwd",
        "~",
    ),
    *(
        "$HOME",
        "{x}",
        "%s%s%n",
        "<script>alert(1)</script>",
        "(a+)+$",
        "((a*)*)*",
        "\ud800",
        "\u202e",
        "\u2028",
    ),
    *(
        "é" * 50,
        "CON",
        ".",
        "..",
        [],
        {},
        [[]],
        [0] * 1000,
        {"a": {"a": {"a": 1}}},
        list(range(50)),
        ["x"] * 5000,
    ),
    *({"type": "x"}, {"__class__": "os.system"}, float("inf"), float("nan"), [None], [[1, 2], [3]]),
]
PIECES = [
    *(
        "a cat",
        "a dog, seen from above",
        '"',
        "'",
        ",",
        ";",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\0",
        "\ufeff",
        "\\",
        "{",
    ),
    *(
        "}",
        "[",
        "]",
        ":",
        "- ",
        "&a ",
        "*a ",
        "<<: *a",
        "!!python/object:os.system",
        "? ",
        "| ",
        "> ",
        "#",
        "%",
        "@",
    ),
    *(
        "file_name",
        "text",
        "0.mp4",
        "1.mp4",
        "2.mp4",
        "/etc/passwd",
        "../x.mp4",
        "NaN",
        "Infinity",
        "1e999",
        "-",
        "--",
    ),
    *("0x", "1:30", "\u2028", "\u202e", "\x85", "é", "日本", "=", "==", "x" * 3000),
]


def nasty(rng: random.Random, depth: int = 0) -> Any:
    """A value that no one expects."""
    if depth < 3 and rng.random() < 0.15:
        return {str(rng.choice(NASTY))[:40]: nasty(rng, depth + 1) for _ in range(rng.randrange(4))}
    if rng.random() < 0.02:
        value: Any = 1
        for _ in range(rng.choice([40, 100, 3000])):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value
    return rng.choice(NASTY)


def spoil(value: Any, rng: random.Random, share: float = 0.15) -> Any:
    """A structure with some of its values, keys and entries replaced, doubled or removed."""
    if isinstance(value, dict):
        items = [(key, spoil(inner, rng, share)) for key, inner in value.items()]
        items = [item for item in items if rng.random() > share / 4]
        if rng.random() < share:
            items.append((str(rng.choice(PIECES)), nasty(rng)))
        return dict(items)
    if isinstance(value, list):
        return [spoil(inner, rng, share) for inner in value] * (1 if rng.random() > share / 4 else 100)
    return nasty(rng) if rng.random() < share else value


def as_json(value: Any, rng: random.Random) -> bytes:
    """JSON, sometimes damaged: doubled keys, cut, deep, another encoding."""
    try:
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    except (RecursionError, ValueError):
        text = "[" * 5000
    kind = rng.randrange(12)
    if kind == 0 and text.startswith("{") and len(text) > 2:
        text = "{" + text[1:-1] + "," + text[1:-1] + "}"
    elif kind == 1:
        text = text[: rng.randrange(len(text) + 1)]
    elif kind == 2:
        text = "[" * rng.choice([50, 5000, 200_000]) + text
    elif kind == 3:
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(PIECES) + text[place:]
    return damaged(
        text.encode(rng.choice(["utf-8"] * 8 + ["utf-16", "utf-8-sig", "cp1252"]), "replace"), rng, 0.1
    )


def as_yaml(value: Any, rng: random.Random) -> bytes:
    """YAML: the JSON of a value, a dump of it, or pieces and bombs."""
    import yaml

    kind = rng.randrange(5)
    if kind == 0:
        return as_json(value, rng)
    if kind == 1:
        names = "abcdefghij"[: rng.randrange(3, 11)]
        wide = rng.randrange(2, 12)
        lines = [f"{names[0]}: &{names[0]} [{','.join(['x'] * wide)}]"]
        lines += [
            f"{new}: &{new} [{','.join(['*' + old] * wide)}]"
            for old, new in zip(names, names[1:], strict=False)
        ]
        lines += [f"task: *{names[-1]}"] if rng.random() < 0.7 else []
        return "\n".join(lines).encode()
    if kind == 2:
        return "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 60))).encode("utf-8", "replace")
    if kind == 3:
        return ("a: " + rng.choice(["[", "{a: ", "- "]) * rng.choice([10, 900, 100_000])).encode()
    try:
        return damaged(yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "replace"), rng, 0.3)
    except (yaml.YAMLError, RecursionError):
        return b"a: &a [*a]"


def damaged(data: bytes, rng: random.Random, share: float = 1.0) -> bytes:
    """Bytes with bits flipped, holes, repeats or an end too early, in ``share`` of the cases."""
    if rng.random() > share or not data:
        return data
    out = bytearray(data)
    kind, low = rng.randrange(5), rng.randrange(len(out))
    if kind == 0:
        return bytes(out[:low])
    if kind == 1:
        for _ in range(rng.randrange(1, 20)):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        out[low : low + rng.randrange(1, 300)] = b""
    elif kind == 3:
        out[low:low] = out[low : low + rng.randrange(1, 3000)]
    else:
        out[low : low + 4] = rng.choice(
            [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\x80"]
        )
    return bytes(out)


def odd_file(path: Path, rng: random.Random) -> None:
    """A pipe, a link out, a link to itself, a folder, an endless or a very large file where a text belongs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = rng.randrange(7)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to(rng.choice(["/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/environ", "/"]))
    elif kind == 2:
        path.symlink_to(path.name)
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        with open(path, "wb") as file:
            file.truncate(rng.choice([3 << 30, 40 << 30]))
    elif kind == 5:
        path.write_bytes(rng.randbytes(rng.randrange(2000)))
    else:
        path.write_text(rng.choice(PIECES) * rng.randrange(50), encoding="utf-8", errors="replace")


class Cases:
    """Makers of cases and the readers they are for; ``seeds`` holds whole files that are spoilt."""

    def __init__(self, seeds: Path) -> None:
        self.seeds = seeds
        self.kinds: dict[str, tuple[Callable[[Path, random.Random], Path], Reader]] = {
            "recipe": (self.make_recipe, read_recipe),
            "settings": (self.make_settings, read_settings),
            "curation recipe": (self.make_curation, read_curation),
            "model folder": (self.make_model, read_model),
            "weights": (self.make_weights, read_inspect),
            "pickle": (self.make_pickle, read_inspect),
            "adapter": (self.make_adapter, read_adapter),
            "captions": (self.make_captions, read_clips),
            "table": (self.make_table, read_clips),
            "archive": (self.make_archive, read_clips),
            "scored folder": (self.make_captions, read_scored),
            "batch": (self.make_batch, read_batch),
        }

    def make_recipe(self, folder: Path, rng: random.Random) -> Path:
        from cogvideox.training.recipes import recipe

        base = recipe(
            rng.choice(["world-vae", "world-t2v", "lora", "finetune", "world-stages", "world-text"])
        )
        file = folder / "recipe.yaml"
        file.write_bytes(as_yaml(spoil(base.model_dump(mode="json"), rng, 0.06), rng))
        return file

    def make_settings(self, folder: Path, rng: random.Random) -> Path:
        keys = [
            "steps",
            "task.start",
            "task.data.folder",
            "optim.lr",
            "seed",
            "task.transformer.num_layers",
            "out",
        ]
        keys += ["task", "optim", "task.accumulation", "a.b.c", "task.data.size.frames", "precision", ""]
        lines = []
        for _ in range(rng.randrange(1, 4)):
            value = (
                nasty(rng)
                if rng.random() < 0.6
                else as_yaml({"x": nasty(rng)}, rng).decode("utf-8", "replace")
            )
            lines.append(f"{rng.choice(keys)}={value if isinstance(value, str) else short_json(value)}")
        file = folder / "settings.json"
        file.write_text(json.dumps(lines))
        return file

    def make_curation(self, folder: Path, rng: random.Random) -> Path:
        from cogvideox.curation.recipe import tiny

        file = folder / "recipe.yaml"
        file.write_bytes(as_yaml(spoil(tiny().model_dump(mode="json"), rng, 0.05), rng))
        return file

    def make_model(self, folder: Path, rng: random.Random) -> Path:
        place = folder / "model"
        shutil.copytree(self.seeds / "model", place)
        configs = [p for p in sorted(place.rglob("*.json")) if rng.random() < 0.4] or [
            place / "model_index.json"
        ]
        for file in configs:
            if rng.random() < 0.08:
                file.unlink()
                odd_file(file, rng)
            else:
                file.write_bytes(as_json(spoil(json.loads(file.read_text()), rng), rng))
        return place

    def make_weights(self, folder: Path, rng: random.Random) -> Path:
        whole = (self.seeds / "model/transformer/diffusion_pytorch_model.safetensors").read_bytes()
        file = folder / "weights.safetensors"
        size = struct.unpack("<Q", whole[:8])[0]
        if rng.random() < 0.6:
            header = spoil(json.loads(whole[8 : 8 + size]), rng, 0.02)
            text = as_json(header, rng)
            whole = struct.pack("<Q", rng.choice([len(text)] * 9 + [2**63, 0])) + text + whole[8 + size :]
        else:
            whole = damaged(whole, rng)
        file.write_bytes(whole)
        return file

    def make_pickle(self, folder: Path, rng: random.Random) -> Path:
        import torch

        tensors: Any = {f"layer.{i}": torch.zeros(4, 4) for i in range(rng.randrange(1, 5))}
        kind = rng.randrange(5)
        if kind == 0:
            tensors["layer.0"] = torch.zeros(4).as_strided((1 << 20, 1 << 20), (0, 0))
        elif kind == 1:
            tensors = spoil({"module": tensors, "step": 3, "lr": [1, 2]}, rng, 0.2)
        elif kind == 2:
            tensors = {"a": torch.sparse_coo_tensor([[0], [0]], [1.0], (10**9, 10**9)), **tensors}
        elif kind == 3:
            tensors = {rng.choice(PIECES): value for value in tensors.values()}
        file = folder / rng.choice(["mp_rank_00_model_states.pt", "pytorch_model.bin", "3d-vae.pt"])
        try:
            torch.save(tensors, file)
        except RecursionError:  # values nested too deep to be written
            torch.save({}, file)
        file.write_bytes(damaged(file.read_bytes(), rng, 0.6))
        return file

    def make_adapter(self, folder: Path, rng: random.Random) -> Path:
        import torch
        from safetensors.torch import save_file

        layers = [
            "transformer_blocks.0.attn1.to_q",
            "transformer_blocks.1.attn1.to_k",
            "patch_embed.proj",
            "proj_out",
        ]
        prefixes = [
            "",
            "transformer.",
            "lora_unet_",
            "lora_unet__",
            "base_model.model.",
            "module.",
            "x" * 2000,
            "(a+)+",
        ]
        halves = [
            ("lora_A.weight", "lora_B.weight"),
            ("lora_down.weight", "lora_up.weight"),
            ("lora.down.weight", "lora.up.weight"),
        ]
        tensors: dict[str, torch.Tensor] = {}
        for layer in rng.sample(layers, rng.randrange(1, 4)):
            down, up = rng.choice(halves)
            prefix = rng.choice(prefixes)
            rank = rng.choice([1, 4, 4, 4, 0, 300])
            dtype = rng.choice([torch.float32, torch.float16, torch.int8, torch.int64])
            name = prefix + (layer.replace(".", "_") if "lora" in prefix else layer)
            tensors[f"{name}.{down}"] = torch.zeros(rank, rng.choice([32, 32, 7]), dtype=dtype)
            tensors[f"{name}.{up}"] = torch.zeros(32, rng.choice([rank, rank, rank + 1]), dtype=dtype)
            if rng.random() < 0.4:
                tensors[f"{name}.alpha"] = torch.tensor(
                    rng.choice([1.0, float("nan"), float("inf"), -1.0, 0.0])
                )
            if rng.random() < 0.2:
                tensors[
                    f"{name}.{rng.choice(['dora_scale', 'lora_magnitude_vector', 'hada_w1_a', 'diff', 'bias'])}"
                ] = torch.zeros(3)
        meta = {
            rng.choice(
                ["lora_adapter_metadata", "ss_network_args", "alpha", "format", "rank_pattern"]
            ): short_json(nasty(rng))
        }
        if rng.random() < 0.5:
            pattern = {
                "transformer.r": 4,
                "transformer.rank_pattern": {"(a+)+$" * 5: 3},
                "transformer.alpha_pattern": {"(x+x+)+y": 8},
            }
            meta["lora_adapter_metadata"] = short_json(spoil(pattern, rng))
        file = folder / "adapter.safetensors"
        clean = {key: value for key, value in meta.items() if isinstance(value, str)}
        save_file(
            tensors, file, {key: value.encode("utf-8", "replace").decode() for key, value in clean.items()}
        )
        file.write_bytes(damaged(file.read_bytes(), rng, 0.2))
        return file

    def put_clips(self, folder: Path, count: int = 3) -> list[Path]:
        """Some small films."""
        folder.mkdir(parents=True, exist_ok=True)
        return [
            Path(shutil.copy(self.seeds / "clip.mp4", folder / f"{number}.mp4")) for number in range(count)
        ]

    def make_captions(self, folder: Path, rng: random.Random) -> Path:
        place = folder / "clips"
        films = self.put_clips(place / rng.choice(["", "", "videos", "a/b"]))
        for film in films:
            beside = [
                film.with_suffix(".txt"),
                film.with_suffix(".json"),
                place / "labels" / f"{film.stem}.txt",
            ]
            for file in rng.sample(beside, rng.randrange(1, 3)):
                odd_file(file, rng)
        names = [
            "prompts.txt",
            "prompt.txt",
            "videos.txt",
            "captions.txt",
            "metadata.jsonl",
            "metadata.csv",
            "metadata.json",
            "train.csv",
        ]
        for name in rng.sample(names, rng.randrange(0, 3)):
            odd_file(place / name, rng)
        kind = rng.randrange(6)
        if kind == 0:
            with open(os.path.join(os.fsencode(place), b"caf\xe9.mp4"), "wb") as file:
                file.write(b"x")
        elif kind == 1:
            (place / "loop").symlink_to(place)
        elif kind == 2:
            (place / "self.mp4").symlink_to("self.mp4")
        elif kind == 3:
            os.mkfifo(place / "pipe.mp4")
        return place

    def make_table(self, folder: Path, rng: random.Random) -> Path:
        place = folder / "clips"
        names = [film.name for film in self.put_clips(place)]
        rows: list[Any] = [
            {
                rng.choice(["file_name", "path", "video", "file_path", "file"]): name,
                rng.choice(["text", "caption", "prompt"]): "a cat, seen",
            }
            for name in names
        ]
        rows = [spoil(row, rng, 0.2) for row in rows]
        ending = rng.choice(["csv", "jsonl", "json", "txt"])
        stem = rng.choice(["metadata", "metadata", "train", "OpenVid"])
        if ending == "csv":
            text = io.StringIO()
            out = csv.writer(
                text, delimiter=rng.choice(",,,;\t|"), quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
            )
            out.writerow(list(rows[0]))
            for row in rows:
                out.writerow([as_cell(value) for value in row.values()])
            data = text.getvalue().encode("utf-8", "replace")
            place_at = rng.randrange(len(data) + 1)
            data = (
                data[:place_at]
                + rng.choice(PIECES).encode("utf-8", "replace") * rng.randrange(3)
                + data[place_at:]
            )
            (place / f"{stem}.csv").write_bytes(damaged(data, rng, 0.3))
        elif ending == "json":
            (place / f"{stem}.json").write_bytes(as_json(rows, rng))
        elif ending == "jsonl":
            (place / f"{stem}.jsonl").write_bytes(b"\n".join(as_json(row, rng) for row in rows))
        else:
            (place / "videos.txt").write_bytes(damaged("\n".join(names).encode(), rng, 0.3))
            lines = "\n".join(rng.choice(PIECES) for _ in range(rng.randrange(6)))
            (place / rng.choice(["prompt.txt", "prompts.txt", "captions.txt"])).write_text(
                lines, "utf-8", "replace"
            )
        return place

    def make_archive(self, folder: Path, rng: random.Random) -> Path:
        place = folder / "clips"
        place.mkdir()
        data = io.BytesIO()
        film = (self.seeds / "clip.mp4").read_bytes()
        with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for number in range(rng.randrange(1, 5)):
                name = rng.choice(
                    [
                        f"{number}",
                        f"../{number}",
                        f"/etc/{number}",
                        f"a/{number}",
                        "x" * 300,
                        rng.choice(PIECES),
                    ]
                )
                name = name.replace("\0", "0") or "empty"
                for ending, content in (
                    (".mp4", film),
                    (".txt", b"a cat"),
                    (".json", as_json({"caption": nasty(rng)}, rng)),
                ):
                    member = tarfile.TarInfo((name + ending).encode("utf-8", "replace").decode())
                    member.size = len(content)
                    if rng.random() < 0.1:
                        member.pax_headers = {"size": rng.choice(["-1", "99999999999999", "x"])}
                    if rng.random() < 0.1:
                        member.type, member.linkname = (
                            rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]),
                            "/etc/passwd",
                        )
                    tar.addfile(member, io.BytesIO(content))
        (place / "shard-0.tar").write_bytes(damaged(data.getvalue(), rng, 0.5))
        if rng.random() < 0.3:
            whole = (self.seeds / "table.parquet").read_bytes()
            (place / "metadata.parquet").write_bytes(damaged(whole, rng))
        return place

    def make_batch(self, folder: Path, rng: random.Random) -> Path:
        file = folder / rng.choice(["batch.jsonl", "batch.txt", "batch.csv"])
        if rng.random() < 0.15:
            odd_file(file, rng)
            return file
        line = {"prompt": "a red circle moves to the right", "seed": 3, "steps": 2, "name": "a"}
        lines = [as_json(spoil(line, rng, 0.2), rng) for _ in range(rng.randrange(1, 5))]
        file.write_bytes(b"\n".join(lines))
        return file


def as_cell(value: Any) -> str:
    """A value as a table's cell; one that is too deep for Python to write is a word."""
    try:
        return str(value)[:5000].replace("\0", "")
    except RecursionError:
        return "deep"


def short_json(value: Any) -> str:
    """JSON where a value has one, else its text."""
    try:
        return json.dumps(value)
    except (RecursionError, ValueError):
        return "[" * 3000


def read_recipe(path: Path) -> None:
    """As ``cogvideox train FILE --dry-run`` does."""
    from cogvideox.training.recipes import run_file

    run_file(str(path)).to_yaml()


def read_settings(path: Path) -> None:
    """As ``cogvideox train lora KEY=VALUE --dry-run`` does."""
    from cogvideox.training.recipes import recipe

    recipe("lora").override(json.loads(path.read_text())).to_yaml()


def read_curation(path: Path) -> None:
    """As ``cogvideox curate . --recipe FILE --dry-run`` does."""
    from cogvideox.curation.recipe import find_recipe

    find_recipe(str(path)).to_yaml()


def read_model(path: Path) -> None:
    """As ``inspect``, ``plan`` and ``load`` do."""
    from cogvideox import load
    from cogvideox.checkpoints import find_spec, inspect

    inspect(path, check=True).to_text()
    find_spec(path)
    load(path, device="cpu")


def read_inspect(path: Path) -> None:
    """As ``inspect --check`` and ``convert`` do."""
    from cogvideox.checkpoints import convert, inspect

    inspect(path, check=True).to_text()
    convert(path, path.parent / "out" / "converted", "diffusers")


_TINY: list[Any] = []


def read_adapter(path: Path) -> None:
    """As ``inspect`` and ``generate --lora`` do."""
    from cogvideox.checkpoints import inspect, load_lora, unload_lora

    inspect(path, check=True).to_text()
    load_lora(_TINY[0], path)
    unload_lora(_TINY[0])


def read_clips(path: Path) -> None:
    """As ``data doctor --quick`` does; with a caption for clips that have none in every second folder."""
    from cogvideox.data.clips import ClipSize
    from cogvideox.data.doctor import diagnose

    report = diagnose(path, ClipSize(fps=8, frames=9, least_frames=9, short_side=16), decode=False)
    report.to_text()
    json.dumps(report.to_json()) if not isinstance(report.to_json(), str) else None


def read_scored(path: Path) -> None:
    """As ``evaluate FOLDER`` and ``rate serve`` do before they decode."""
    from cogvideox.evaluation.video_folder import open_videos

    open_videos(path)


def read_batch(path: Path) -> None:
    """As ``generate --batch`` does before it loads a model."""
    from typer.testing import CliRunner

    from cogvideox.cli.app import app

    words = [
        "generate",
        "--model",
        "tiny",
        "--batch",
        str(path),
        "--out",
        str(path.parent / "out"),
        "--dry-run",
    ]
    done = CliRunner().invoke(app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code not in (0, 1, 2, 3):
        raise RuntimeError(f"exit code {done.exit_code}: {done.output[-300:]}")


def make_seeds(folder: Path) -> None:
    """Whole files to spoil: a small model, a film, a table."""
    import numpy as np
    import pyarrow
    from pyarrow import parquet

    from cogvideox.checkpoints import save_model
    from cogvideox.video import Video
    from support.models import small_model

    save_model(small_model("2b"), folder / "model")
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
    Video(frames, 8).save(folder / "clip.mp4", metadata=False)
    rows = {"file_name": [f"{n}.mp4" for n in range(50)], "text": ["a cat"] * 50}
    parquet.write_table(pyarrow.table(rows), folder / "table.parquet")


def digest(folder: Path) -> str:
    """Names, kinds and contents of everything below a folder, ``out`` left out; large and odd files by size alone."""
    parts = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "out")
        for name in sorted([*files, *folders]):
            path = os.path.join(root, name)
            status = os.lstat(path)
            content = b""
            if os.path.isfile(path) and not os.path.islink(path) and status.st_size < 1 << 22:
                content = Path(path).read_bytes()
            size = status.st_size if not os.path.isdir(path) or os.path.islink(path) else 0
            parts.append(
                f"{os.fsencode(path)!r} {status.st_mode} {size} {hashlib.sha256(content).hexdigest()}"
            )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def work(pipe: Any, seeds: Path, scratch: Path) -> None:
    """The child: make a case, tell that it is made, read it, tell how that ended."""
    import warnings

    import torch

    from cogvideox import load
    from cogvideox.errors import CogVideoXError

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    _TINY.append(load(seeds / "model", device="cpu"))
    cases = Cases(seeds)
    warm = scratch / f"warm-{os.getpid()}"
    warm.mkdir()
    (warm / "batch.txt").write_text("a red circle moves to the right\n")
    read_batch(warm / "batch.txt")  # loading the libraries is no case's fault
    shutil.rmtree(warm)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    sink = io.StringIO()
    while (case := pipe.recv()) is not None:
        kind, number = case
        make, read = cases.kinds[kind]
        folder = scratch / f"{number}"
        folder.mkdir()
        path = make(folder, random.Random(f"{kind} {number}"))
        before = digest(folder)
        pipe.send("made")
        sink.seek(0)
        sink.truncate()
        sys.stdout = sys.stderr = sink
        outcome, detail = "read", ""
        try:
            read(path)
        except CogVideoXError as error:
            outcome, detail = "refused", str(error)
            if len(detail) > 2000 or "\n" in detail.strip():
                outcome, detail = (
                    "unexpected",
                    f"a message of {len(detail)} characters, {detail.count(chr(10))} line ends",
                )
        except MemoryError:
            outcome, detail = "exhausted", traceback.format_exc()[-900:]
        except Exception as error:  # whatever else comes is the finding
            outcome, detail = "unexpected", f"{type(error).__name__}: {traceback.format_exc()[-900:]}"
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        if outcome in ("read", "refused") and digest(folder) != before:
            outcome, detail = "changed", f"files beside out ({detail})"
        pipe.send((outcome, detail))


def processor_seconds(process: int) -> float:
    """What a process has used so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Child:
    """A child that reads cases; started anew after a death."""

    def __init__(self, seeds: Path, scratch: Path) -> None:
        self.seeds, self.scratch = seeds, scratch
        self.process: Any = None

    def run(self, kind: str, number: int) -> tuple[str, str, float]:
        """How one case ended, why, and the seconds it took."""
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.pipe, end = context.Pipe()
            self.process = context.Process(target=work, args=(end, self.seeds, self.scratch), daemon=True)
            self.process.start()
            end.close()
        try:
            self.pipe.send((kind, number))
            if not self.pipe.poll(120):
                raise RuntimeError(f"{kind} {number}: the case itself could not be made")
            self.pipe.recv()
            started = time.monotonic()
            begun = processor_seconds(self.process.pid)
            while not self.pipe.poll(0.5):
                spent = processor_seconds(self.process.pid) - begun
                if spent > SECONDS or time.monotonic() - started > WAITING:
                    self.process.kill()
                    self.process.join()
                    return "hung", f"{spent:.1f} s of processor time", SECONDS
            outcome, detail = self.pipe.recv()
            return outcome, detail, time.monotonic() - started
        except (EOFError, BrokenPipeError):
            self.process.join()
            return "unexpected", f"the child died ({self.process.exitcode})", 0.0


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", action="append", help="only these kinds")
    parser.add_argument("--show", type=int, default=3, help="findings of a kind that are printed whole")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        seeds, scratch, keep = folder / "seeds", folder / "scratch", folder / "keep"
        for each in (seeds, scratch, keep):
            each.mkdir()
        make_seeds(seeds)
        (keep / "mine.txt").write_text("mine")
        outside = digest(seeds) + digest(keep)
        child = Child(seeds, scratch)
        kinds = chosen.kind or list(Cases(seeds).kinds)
        table: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
        slowest: dict[str, float] = dict.fromkeys(kinds, 0.0)
        for number in range(chosen.first, chosen.first + chosen.count):
            kind = kinds[number % len(kinds)]
            outcome, detail, seconds = child.run(kind, number)
            table[kind][outcome] += 1
            slowest[kind] = max(slowest[kind], round(seconds, 2))
            if outcome not in ("read", "refused") and table[kind][outcome] <= chosen.show:
                print(f"{kind} {number}: {outcome}: {detail}", flush=True)
            shutil.rmtree(scratch / f"{number}", ignore_errors=True)
        if child.process is not None and child.process.is_alive():
            child.pipe.send(None)
        same = digest(seeds) + digest(keep) == outside
    bad = sum(counts[name] for counts in table.values() for name in counts if name not in ("read", "refused"))
    print(
        json.dumps(
            {
                "cases": chosen.count,
                "bad": bad,
                "files outside changed": not same,
                "kinds": table,
                "slowest": slowest,
            }
        )
    )
    sys.exit(1 if bad or not same else 0)


if __name__ == "__main__":
    main()
