"""From what a person typed to a folder or file on disk: a path, a preset name, or a name on the hub, nothing else.

``owner/name`` is a repository of the hub, ``owner/name:file`` a file of it, and ``@revision`` behind either a branch, a
tag or a commit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from cogvideox.checkpoints.shipped import shipped_folder, ships
from cogvideox.errors import CheckpointError, few, suggest
from cogvideox.files import short
from cogvideox.presets import PRESETS
from cogvideox.spec import ModelSpec

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE_ENDINGS = (".safetensors", ".gguf", ".pt", ".pth", ".bin", ".ckpt", ".json")
"""What ends so is a file, never a repository."""
COMMIT = re.compile(r"[0-9a-f]{40}")
"""A revision that is a commit, not a branch or tag."""
_REFERENCE = re.compile(rf"({HUB_ID.pattern})(?::([^:@]+))?(?:@([^:@\s]+))?")
OWNER, OLD_OWNER = "zai-org", "THUDM"
"""Who publishes the released models, and the name they were published under until 2025; the hub knows both."""
ALLOWED = ["*.safetensors", "*.json", "*/spiece.model", "spiece.model"]


@dataclass(frozen=True)
class HubReference:
    """A repository of the hub, a file in it (""; all of it), and a revision (None: the newest)."""

    repository: str
    file: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        file, revision = f":{self.file}" if self.file else "", f"@{self.revision}" if self.revision else ""
        return f"{self.repository}{file}{revision}"


def read_reference(text: str | Path) -> HubReference | None:
    """What ``owner/name[:file][@revision]`` names on the hub; None for any other text, and for what stands here."""
    name = str(text)
    matched = _REFERENCE.fullmatch(name) if len(name) <= 400 and "\0" not in name else None
    if matched is None or len(matched[1]) > 200 or matched[1].endswith(FILE_ENDINGS) or exists(Path(name)):
        return None
    paths = [
        PurePosixPath(part or "") for part in matched.group(2, 3)
    ]  # the hub's client makes paths of both
    if any(path.is_absolute() or ".." in path.parts for path in paths):
        return None
    return HubReference(matched[1], matched[2] or "", matched[3])


def as_path(text: str | Path) -> Path:
    """A path whose last words name the same thing: that of a file here, or of one in a repository of the hub."""
    reference = read_reference(text)
    return Path(text) if reference is None else Path(reference.repository, reference.file)


def find_folder(path_or_id: str | Path, revision: str | None = None, *, download: bool = True) -> Path:
    """The folder of a model: a local path first, then a shipped preset, then a preset's or any hub id.

    ``owner/name:file`` is that file of a repository, ``@revision`` behind it stands for ``revision``. The hub is asked
    only for an id that nothing local is near, and once; only safetensors, JSON and the tokenizer model are downloaded,
    and an earlier download is used without a network. download: False looks on this computer only. Raises
    CheckpointError that says which of these failed, and how to get the model.
    """
    name, path = str(path_or_id), Path(path_or_id).expanduser()
    if exists(path):
        if not (path.is_dir() or path.is_file()):
            raise CheckpointError(
                f"{path}: a pipe or a device, not a folder or file of weights; check the path"
            )
        return path
    if name in PRESETS:
        shipped = shipped_folder(name)
        if shipped is not None:
            return shipped
        if PRESETS[name].hub is None:
            raise CheckpointError(
                f"{name}: this model does not come with this installation; train it, or name a folder"
            )
        return _fetch(PRESETS[name].hub or "", revision, name, download)
    if (reference := read_reference(name)) is not None:
        row = released(reference.repository)
        _check_not_near(reference)
        if reference.file:
            return find_file(reference, download=download)
        repository = row.hub if row is not None and row.hub else reference.repository
        return _fetch(repository, revision or reference.revision, name, download)
    known = ", ".join(preset for preset, row in PRESETS.items() if row.hub or ships(preset))
    shown = name if len(name) <= 200 else short(name)
    raise CheckpointError(
        f"{shown}: no such folder, preset or hub id{suggest(name.lower()[:80], PRESETS)}; give a folder, owner/name, "
        f"or one of {known}"
    )


def find_file(reference: HubReference, usual: Sequence[str] = (), *, download: bool = True) -> Path:
    """A file of a hub repository: the one that is named, else one of the ``usual`` names, else its only safetensors.

    JSON files that belong to it (``adapter_config.json``, ``config.json``, one of its own name) are downloaded beside
    it. Raises CheckpointError where there is no such file or are several, and where the hub cannot be asked and nothing
    is here.
    """
    from huggingface_hub import hf_hub_download

    _check_not_near(reference)
    repository, revision = reference.repository, reference.revision
    why = "not on this computer, and nothing is downloaded here"
    if download:
        try:
            names = _files_at_hub(repository, revision)
            file = _chosen(reference, names, usual, "holds")
            beside = (
                str(PurePosixPath(file).with_name(name)) for name in ("adapter_config.json", "config.json")
            )
            own = str(PurePosixPath(file).with_suffix(".json"))
            wanted = [file, *(name for name in dict.fromkeys((own, *beside)) if name in names)]
            return [Path(hf_hub_download(repository, name, revision=revision)) for name in wanted][0]
        except _failures() as error:
            why = f"not available from the hub ({_reason(error)})"
    folder = cached(repository, revision)
    if folder is None:
        raise CheckpointError(_how_to_get(repository, str(reference), why, reference.file))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return folder / _chosen(reference, names, usual, f"{why}; on this computer are of it")


def origin_of(file: Path) -> dict[str, str]:
    """Repository and revision of a file that was downloaded from the hub; {} for any other."""
    for folder in file.parents:
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
            repository = folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
            return {"repository": repository, "revision": folder.name}
    return {}


def released(name: str) -> ModelSpec | None:
    """The preset that is published under a hub id, of the present owner or the old one; None for any other."""
    wanted = name.lower().replace(f"{OLD_OWNER.lower()}/", f"{OWNER}/", 1)
    return next((row for row in PRESETS.values() if row.hub and row.hub.lower() == wanted), None)


def exists(path: Path) -> bool:
    """Whether something stands there; false for what cannot be a path."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long or holds a NUL
        return False


def cached(repository: str, revision: str | None = None) -> Path | None:
    """The folder of an earlier download, under the repository's present owner or the old one; asks nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    old = repository.replace(f"{OWNER}/", f"{OLD_OWNER}/", 1)
    for name in dict.fromkeys((repository, old)):
        try:
            return Path(
                snapshot_download(name, revision=revision, allow_patterns=ALLOWED, local_files_only=True)
            )
        except (LocalEntryNotFoundError, HFValidationError):
            continue
    return None


def _check_not_near(reference: HubReference) -> None:
    """Raises CheckpointError for what is a mistyped path rather than a name on the hub."""
    if released(reference.repository) is None and (near := _near(Path(reference.repository))):
        raise CheckpointError(f"{reference}: no such folder: {near}")


def _chosen(reference: HubReference, names: Sequence[str], usual: Sequence[str], holds: str) -> str:
    """The file of these that is meant. Raises CheckpointError."""
    weights = [name for name in names if name.endswith(".safetensors")]
    if reference.file in names:
        return reference.file
    if not reference.file:
        usually = [name for name in usual if name in names]
        if usually or len(weights) == 1:
            return (usually or weights)[0]
        cure = (
            f"name one, such as {reference.repository}:{weights[0]}" if weights else "name another repository"
        )
        raise CheckpointError(
            f"{reference}: {holds} {len(weights)} safetensors files: {few(weights)}; {cure}"
        )
    raise CheckpointError(
        f"{reference}: no such file{suggest(reference.file, names)}; it {holds} {few(weights or list(names))}"
    )


def _files_at_hub(repository: str, revision: str | None) -> list[str]:
    """The files of a repository, asked for once: the client's own listing tries for half a minute, with a line for each
    try, where the hub does not answer. Raises one of ``_failures``.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    about = HfApi().model_info(repository, revision=revision, timeout=HF_HUB_ETAG_TIMEOUT)
    return [each.rfilename for each in about.siblings or []]


def _failures() -> tuple[type[BaseException], ...]:
    """All that the hub's client and the network under it raise."""
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, OSError, ValueError, RuntimeError)


def _reason(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120]


def _near(path: Path) -> str:
    """Why a name is taken for a mistyped path: what stands where it would be; '' when nothing does."""
    parent = path.parent
    if exists(parent):
        return f"{parent}/ exists and does not hold it{suggest(path.name, _names(parent))}; check the path"
    like = get_close_matches(parent.name, _names(parent.parent), n=1, cutoff=0.75)
    if like and (parent.parent / like[0]).is_dir():
        return f"nor {parent}/ (did you mean {like[0]}/{path.name}?); check the path"
    return ""


def _names(folder: Path) -> list[str]:
    try:
        return [child.name for child in folder.iterdir()][:10_000] if folder.is_dir() else []
    except OSError:
        return []


def _fetch(repository: str, revision: str | None, name: str, download: bool) -> Path:
    """The snapshot of a hub repository, downloaded where that is wanted; CheckpointError when it cannot be had."""
    from huggingface_hub import snapshot_download

    if not download:
        if (found := cached(repository, revision)) is not None:
            return found
        raise CheckpointError(
            _how_to_get(repository, name, "not on this computer, and nothing is downloaded here")
        )
    try:
        if revision is not None and COMMIT.fullmatch(revision):  # the client lists the files of these at once
            _files_at_hub(repository, revision)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=ALLOWED))
    except _failures() as error:
        if (found := cached(repository, revision)) is not None:
            return found
        why = f"no such folder, and not available from the hub ({_reason(error)})"
        raise CheckpointError(_how_to_get(repository, name, why)) from None


def _how_to_get(repository: str, name: str, why: str, file: str = "") -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    row = released(repository)
    size = f", about {row.download_gb:g} GB," if row is not None and row.download_gb else ""
    local = repository.split("/")[-1]
    return (
        f"{name}: {why}; looked for {repository}{size} in {HF_HUB_CACHE}: where there is a network, run "
        f"`hf download {repository}{f' {file}' if file else ''} --local-dir {local}`, copy that folder here and pass "
        "its path"
    )
