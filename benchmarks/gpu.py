"""Minutes on an NVIDIA GPU: what the paper measured (Tables 7 and 8), what the card allows, and what goes wrong there.

python benchmarks/gpu.py --seconds 540               every figure goes at once into gpu.jsonl in $OUT, out/gpu or --out
python benchmarks/gpu.py --from out/gpu/gpu.jsonl    the GPU section of docs/records/performance.md is made of it
python benchmarks/gpu.py --only decode               some parts; --list names all, with the seconds each should take
python benchmarks/gpu.py --small --seconds 60        all parts at a tiny size on a CPU or a small card
python benchmarks/gpu.py --profile                   the kernels of a step, of decoding and of training, by their time

Parts run one after the other in a second process. What raises is noted and the next one runs; a CUDA error that leaves
the process useless, a crash or a part that takes too long ends that process, and a new one goes on behind that part.
What does not fit into the seconds that are left is skipped by name. Weights are random and drawn on the device.

torch 2.11 and Python 3.12 are enough, the package need not be installed and PyAV is not needed. Where pydantic is not
installed either, carry its four wheels and give their folder with --wheels (unpacked or not; pydantic-core is compiled,
so take it for the Python and the processor of the machine with the card):

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 -d FOLDER \\
        pydantic==2.14.4 pydantic-core==2.50.5 annotated-types typing-inspection

Times are medians after a warm-up, between two waits for the device. A video is carried on from a few steps. The
roofline share is the time that the counted products would take at the rates measured here (matrices, and attention of
that size), over the time they took.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import gpu_page
from gpu_page import Records

HERE = Path(__file__).resolve()
PARTS: dict[str, float] = {
    "smoke": 30,
    "products": 8,
    "attention": 15,
    "decode": 15,
    "convolutions": 5,
    "step-5b-eager": 12,
    "step-5b-compiled": 45,
    "step-5b-triton": 15,
    "memory-resident": 25,
    "memory-phases": 35,
    "memory-stream": 35,
    "step-5b-large": 40,
    "step-2b": 30,
    "training-5b": 30,
    "training-5b-whole": 30,
    "smoke-compiled": 45,
    "training-5b-compiled": 45,
    "step-5b-small": 8,
    "step-5b-split": 20,
    "text": 10,
    "attention-flex": 25,
    "training-packed": 15,
    "weights-in-8-bits": 15,
    "video-5b-whole": 90,
}
"""Parts in the order of their worth -> seconds expected on an H200, starts and warm-ups included: guesses, and high."""
PATIENCE = 4
"""A part is ended when it takes so many times what it was expected to take, and SLACK seconds more."""
SLACK, SMALL_SLACK = 60, 300
"""The second for ``--small``, which a busy CPU runs too."""


def use_wheels(folder: Path | None) -> None:
    """Put what lies in ``folder`` on the path: packages, folders of unpacked wheels, wheels (unpacked first).

    And the package beside this script, where it is not installed.
    """
    if importlib.util.find_spec("cogvideox") is None:
        sys.path.insert(0, str(HERE.parents[1] / "src"))
    if folder is None:
        return
    wheels = sorted(folder.glob("*.whl"))
    if wheels:
        unpacked = tempfile.mkdtemp(prefix="wheels-")
        for wheel in wheels:
            zipfile.ZipFile(wheel).extractall(unpacked)
        sys.path.insert(0, unpacked)
    sys.path[:0] = [
        str(each) for each in sorted(folder.iterdir()) if each.is_dir() and any(each.glob("*.dist-info"))
    ]
    sys.path.insert(0, str(folder))


def supervise(
    expected: Mapping[str, float],
    records: Records,
    command: Callable[[list[str]], Sequence[str]],
    deadline: float,
    slack: float = SLACK,
) -> None:
    """Run the parts (name -> seconds expected) in processes of ``command(parts)`` until ``deadline`` (``time.time``).

    A process notes what it begins and ends. When it dies, or overstays in a part, that part is noted as failed and
    another process goes on behind it.
    """
    waiting = list(expected)
    while waiting and time.time() < deadline:
        already = len(records.lines())
        process = subprocess.Popen(command(waiting))
        why = _watch(process, expected, records, already, deadline, slack)
        lines = records.lines()[already:]
        over = {line["part"] for line in lines if line["kind"] in ("end", "skipped")}
        begun = [line["part"] for line in lines if line["kind"] == "begin" and line["part"] not in over]
        if not over and not begun:  # not even started: it would not the next time either
            records.add("failure", part=waiting[0], error=f"the process that measures did not start: {why}")
            break
        for name in begun:
            records.add("failure", part=name, error=why)
        waiting = [name for name in waiting if name not in over and name not in begun]
    for name in waiting:
        records.add("skipped", part=name, why="no time was left")


def _watch(
    process: subprocess.Popen,
    expected: Mapping[str, float],
    records: Records,
    already: int,
    deadline: float,
    slack: float,
) -> str:
    """Wait for the process, or end it when a part or all of them take too long; why it is over."""
    current, since = "", time.time()
    while process.poll() is None:
        time.sleep(0.1)
        begun = [line["part"] for line in records.lines()[already:] if line["kind"] == "begin"]
        if begun and begun[-1] != current:
            current, since = begun[-1], time.time()
        allowed = slack + PATIENCE * expected.get(current, 0)
        for limit, why in (
            (deadline, "the time was over"),
            (since + allowed, f"ended after {allowed:.0f} s"),
        ):
            if time.time() > limit:
                process.kill()
                process.wait()
                return why
    return f"its process ended with code {process.returncode}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=540, help="time for everything (default 540)")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", "out/gpu")), help="folder of gpu.jsonl"
    )
    parser.add_argument("--only", action="append", metavar="PART", help="a part; repeatable")
    parser.add_argument(
        "--list", action="store_true", help="name the parts and what each is expected to take"
    )
    parser.add_argument("--small", action="store_true", help="tiny size, any device")
    parser.add_argument("--repeats", type=int, default=3, help="runs behind each median")
    parser.add_argument("--profile", action="store_true", help="write FOLDER/gpu-profile.txt instead")
    parser.add_argument("--wheels", type=Path, help="folder of packages that are not installed here")
    parser.add_argument(
        "--from", dest="sources", type=Path, action="append", metavar="FILE", help="make the page"
    )
    parser.add_argument("--page", type=Path, default=gpu_page.PAGE, help="the page that --from changes")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)  # the process that measures
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    return parser


def _measure(
    args: argparse.Namespace, records: Records, expected: Mapping[str, float], deadline: float
) -> int:
    """What the process with torch does; its exit code."""
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # before torch is loaded
    use_wheels(args.wheels)
    import gpu_parts

    bench = gpu_parts.Bench.here(records, args.small, args.repeats)
    if bench.device.type == "cpu" and not args.small:
        records.add(
            "failure",
            part="all",
            error="no NVIDIA GPU is here; --small runs the same at a tiny size on a CPU",
        )
        print("no NVIDIA GPU is here; --small runs the same at a tiny size on a CPU", file=sys.stderr)
        return 2
    if args.profile:
        gpu_parts.profile(bench, args.out / "gpu-profile.txt")
        return 0
    return gpu_parts.run_parts(bench, expected, deadline)


def main() -> None:
    """Measure, or make the page of what was measured."""
    parser = _parser()
    args = parser.parse_args()
    if args.sources:
        gpu_page.write_page(args.sources, args.page)
        print(args.page)
        return
    deadline = args.deadline or time.time() + args.seconds
    if args.list:
        for name, seconds in PARTS.items():
            print(f"{name:22} {seconds:4.0f} s")
        return
    unknown = set(args.only or ()) - set(PARTS)
    if unknown:
        parser.error(f"--only {', '.join(sorted(unknown))}: unknown; --list names the parts")
    expected = {name: seconds / (30 if args.small else 1) for name, seconds in PARTS.items()}
    expected = {name: seconds for name, seconds in expected.items() if not args.only or name in args.only}
    records = Records(args.out / "gpu.jsonl")
    if args.work or args.profile:
        sys.exit(_measure(args, records, expected, deadline))
    flags = [flag for flag, given in (("--small", args.small),) if given]
    flags += ["--out", str(args.out), "--repeats", str(args.repeats), "--deadline", str(deadline)]
    flags += ["--wheels", str(args.wheels)] if args.wheels else []

    def command(names: list[str]) -> list[str]:
        return [
            sys.executable,
            str(HERE),
            "--work",
            *flags,
            *(word for name in names for word in ("--only", name)),
        ]

    supervise(expected, records, command, deadline, SMALL_SLACK if args.small else SLACK)
    print(
        f"{records.path}: {sum(line['kind'] == 'figure' for line in records.lines())} figures",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
