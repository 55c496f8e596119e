"""The verbs of the job server: serve the API, or the API with the page of the studio; manage keys."""

from __future__ import annotations

import functools
import inspect
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli.flags import (
    ENHANCE,
    ENHANCE_MODEL,
    Debug,
    Device,
    Dtype,
    Json,
    Memory,
    MemoryLimit,
    Products,
    Storage,
    TextCache,
    TextDevice,
    flag,
)
from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.errors import ConfigError, DependencyError
from cogvideox.progress import say

if TYPE_CHECKING:
    from cogvideox.studio.studio import Studio

SERVER, MODELS, SAFETY = "Server", "Models", "Safety"
PORT = 8750
TERMINATED = 143
Out = Annotated[str, flag("folder of the queue, videos and uploads; the same folder goes on", SERVER)]

keys = typer.Typer(help="Keys of the people who use a server from elsewhere.", no_args_is_help=True)


@verb
def serve(
    model: Annotated[
        list[str] | None,
        flag(
            "folder, hub id or preset; repeatable, the first is the default; default: the shipped ones",
            MODELS,
        ),
    ] = None,
    lora: Annotated[
        list[str] | None, flag("adapter that clients may ask for, NAME=PATH; repeatable", MODELS)
    ] = None,
    lora_alpha: Annotated[float | None, flag("alpha of adapters whose file does not say it", MODELS)] = None,
    enhance: Annotated[str, flag(f"{ENHANCE}, when somebody asks for it; or none", MODELS)] = "rules",
    enhance_model: Annotated[str | None, flag(ENHANCE_MODEL, MODELS)] = None,
    tiny_vae: Annotated[str | None, flag("tiny autoencoder (taecvx) for previews", MODELS)] = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = "auto",
    memory_limit: MemoryLimit = None,
    storage: Storage = "auto",
    products: Products = "full",
    text_device: TextDevice = None,
    text_cache: TextCache = "off",
    workers: Annotated[
        int | None, flag("processes that make videos; default: one per GPU, one without", SERVER, min=1)
    ] = None,
    engine: Annotated[
        str, flag("where workers live: local, or ray (actors of a cluster, one per GPU)", SERVER)
    ] = "local",
    out: Out = "studio",
    host: Annotated[
        str, flag("address to listen on; any but this machine's own needs keys (see: cogvideox keys)", SERVER)
    ] = "127.0.0.1",
    port: Annotated[int, flag("0 for any free one", SERVER, min=0, max=65535)] = PORT,
    allow_host: Annotated[
        list[str] | None,
        flag("name it may be reached by through a tunnel or proxy, with a key; repeatable", SAFETY),
    ] = None,
    webhook_host: Annotated[
        list[str] | None, flag("host that may be told of ended videos; repeatable", SAFETY)
    ] = None,
    limit: Annotated[
        list[str] | None, flag("a limit, such as steps=50 or disk_bytes=2e9; repeatable", SAFETY)
    ] = None,
    c2pa_certificate: Annotated[
        str | None, flag("certificate chain (PEM) that signs every video", SAFETY)
    ] = None,
    c2pa_key: Annotated[str | None, flag("its private key (PEM, ES256)", SAFETY)] = None,
    debug: Debug = False,
) -> None:
    """Serve videos to any OpenAI-style client, from one durable queue."""
    run_server({**locals()})


def with_serve_flags(function: Callable[..., None]) -> Callable[..., None]:
    """A decorator that gives a command the flags of ``serve`` and its own; it receives those of serve as ``flags``."""
    shared = inspect.signature(serve, eval_str=True).parameters
    own = dict(inspect.signature(function, eval_str=True).parameters)
    del own["flags"]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        function({name: values.get(name) for name in shared}, **{name: values[name] for name in own})

    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in [*shared.values(), *own.values()]
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect.signature looks for
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


@verb
@with_serve_flags
def studio(
    flags: dict[str, Any],
    open_browser: Annotated[bool, flag("open the page in the browser", SERVER, "--open")] = False,
) -> None:
    """Make videos on a page in the browser: type a sentence, watch the video appear, keep it."""
    run_server(flags, page=True, open_browser=open_browser)


def _worker_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """What workers are told, from the flags of ``serve``. Raises ConfigError."""
    from cogvideox.studio.worker_settings import WorkerSettings

    if (flags["c2pa_certificate"] is None) != (flags["c2pa_key"] is None):
        raise ConfigError("c2pa: a certificate and its key belong together; give both")
    if flags["lora_alpha"] is not None and not flags["lora"]:
        raise ConfigError(f"lora-alpha {flags['lora_alpha']:g}: has no effect without --lora; give both")
    plain = {name: flags[name] for name in WorkerSettings.model_fields if name in flags}
    plain["enhance"] = None if flags["enhance"] == "none" else flags["enhance"]
    return {"models": tuple(flags["model"] or ()), "adapters": _named(flags["lora"] or []), **plain}


def run_server(flags: dict[str, Any], page: bool = False, open_browser: bool = False) -> None:
    """Serve until the process is told to stop; then running videos may end, and the others wait for the next start.

    flags: those of ``serve``. page: with the page of the studio at ``/``.
    """
    worker = _worker_settings(flags)
    out, host, port = Path(flags["out"]), flags["host"], flags["port"]
    _check_installed()
    from cogvideox.studio.app import studio_app
    from cogvideox.studio.keys import has_keys
    from cogvideox.studio.limits import StudioLimits
    from cogvideox.studio.studio import StudioSettings, opened
    from cogvideox.web.connection_limits import ConnectionLimits
    from cogvideox.web.guard import allowed_names
    from cogvideox.web.listening import address, listen
    from cogvideox.web.listening import serve as answer

    hosts, hooks = (sorted(allowed_names(flags[name] or ())) for name in ("allow_host", "webhook_host"))
    settings = StudioSettings(
        root=out, worker=worker, workers=flags["workers"], engine=flags["engine"],
        webhook_hosts=tuple(hooks),
        limits=StudioLimits().override(flags["limit"] or []),
    )  # fmt: skip
    local = is_loopback(host)
    if host in ("0.0.0.0", "::") and not hosts:
        raise ConfigError(f"host {host}: by which name is it reached? give it with --allow-host")
    _raise_file_limit()
    signal.signal(signal.SIGTERM, _terminate)
    with listen(port, host) as server, opened(settings) as running:
        if not has_keys(running.queue) and (not local or hosts):
            raise ConfigError(
                f"host {host if not local else hosts[0]}: others can reach it, so it needs a key; make one first: "
                f"cogvideox keys create NAME --out {out}"
            )
        app = studio_app(running, local=local, hosts=[*hosts, *([] if local else [host])], page=page)
        result(address(server))
        what = "the page; API" if page else "API"
        say(f"{what}: {address(server)}v1, described at {address(server)}docs; Ctrl-C stops it")
        if open_browser:
            _open_in_browser(address(server))
        with _watched(running):
            limits = ConnectionLimits(connections=settings.limits.connections)
            answer(app, server, limits, running.workers.stopping.set)


def _check_installed() -> None:
    try:
        import fastapi
        import python_multipart
        import uvicorn
    except ImportError:
        raise DependencyError(
            "fastapi, uvicorn and python-multipart are not installed; install cogvideox[studio]"
        ) from None
    assert fastapi.__version__ and uvicorn.__version__ and python_multipart.__version__, "they are here"


def _open_in_browser(url: str) -> None:
    """Open a page in the user's browser, beside the server that answers it."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _named(texts: list[str]) -> dict[str, str]:
    """``NAME=PATH`` each. Raises ConfigError."""
    named: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name or not path or name in named:
            raise ConfigError(f"lora {text!r}: write NAME=PATH, each name once")
        named[name] = path
    return named


def _raise_file_limit() -> None:
    """As many open files as the system lets this process have: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _terminate(number: int, frame: Any) -> None:
    """SIGTERM ends the server as Ctrl-C does: what is open is closed on the way."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(TERMINATED)


class _watched:
    """Stops the server when its workers cannot start at all; the reason is raised when the block ends."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def __enter__(self) -> None:
        import threading

        self.ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.ended.wait(0.2):
            if self.studio.workers.failure is not None:
                signal.raise_signal(signal.SIGTERM)
                return

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.ended.set()
        if self.studio.workers.failure is not None:
            raise self.studio.workers.failure


@keys.command("create")
@verb
def create(
    name: Annotated[str, typer.Argument(help="who the key is for")],
    out: Out = "studio",
    queued: Annotated[int, flag("videos that may wait", None, min=1)] = 64,
    disk: Annotated[str, flag("disk space for videos and uploads, such as 5GB")] = "10GB",
    debug: Debug = False,
) -> None:
    """Make a key and print it: this once, only its digest is kept."""
    from cogvideox.files.paths import shown
    from cogvideox.studio.keys import check_holder, create_key

    size = _bytes(disk)
    check_holder(name, queued, size)  # before there is a folder
    result(shown(create_key(_queue(Path(out)), name, queued, size)))


@keys.command("list")
@verb
def list_all(out: Out = "studio", as_json: Json = False, debug: Debug = False) -> None:
    """Who has a key, with its quota; revoked ones too."""
    from dataclasses import asdict

    from cogvideox.studio.keys import list_keys

    found = list_keys(_queue(Path(out))) if _is_studio(Path(out)) else []
    if not found:
        say(f"{out}: nobody has a key yet; cogvideox keys create NAME --out {out}")
    for each in found:
        if as_json:
            result_json(asdict(each))
        else:
            state = "revoked" if each.revoked else "good"
            result(f"{each.name}  {state}  {each.queued} waiting, {each.bytes / 1e9:.3g} GB")


@keys.command("revoke")
@verb
def revoke(
    name: Annotated[str, typer.Argument(help="whose key is refused from now on")],
    out: Out = "studio",
    debug: Debug = False,
) -> None:
    """Refuse a key from now on, also on a server that runs."""
    from cogvideox.studio.keys import revoke_key

    if not _is_studio(Path(out)):
        raise ConfigError(f"out {out}: no folder of a studio; give the one that the server has")
    revoke_key(_queue(Path(out)), name)
    say(f"{name}: revoked")


def _is_studio(out: Path) -> bool:
    from cogvideox.studio.folder import StudioFolder

    return StudioFolder(out).database.is_file()


def _queue(out: Path) -> Any:
    from cogvideox.studio.folder import StudioFolder
    from cogvideox.studio.queue import VideoQueue

    folder = StudioFolder(out)
    folder.make()
    return VideoQueue(folder.database)


def _bytes(text: str) -> int:
    """Bytes from text such as 5GB. Raises ConfigError."""
    import re

    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB|TB)", text.strip(), re.IGNORECASE)
    if found is None:
        raise ConfigError(f"disk {text!r}: not a size; write 5GB or 900MB")
    return int(float(found[1]) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[found[2].upper()])
