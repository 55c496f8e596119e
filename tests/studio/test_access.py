"""Who is let in: loopback without a key, keys from elsewhere, our own page, nobody else; and what answers give away."""

from __future__ import annotations

import re
import sqlite3

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from cogvideox.errors import ConfigError  # noqa: E402
from cogvideox.studio.access import COOKIE, TOKEN  # noqa: E402
from cogvideox.studio.app import PUBLIC  # noqa: E402
from cogvideox.studio.keys import create_key, list_keys, revoke_key  # noqa: E402
from support.studio_app import idle_studio  # noqa: E402

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
NO_VIDEO = "video_" + "0" * 32
BODY = {"prompt": "a ball", "cogvideox": {"steps": 2}}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with idle_studio(tmp_path_factory.mktemp("local")) as client:
        yield client


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A server that others reach, with the keys of ann and ben."""
    with idle_studio(tmp_path_factory.mktemp("remote"), local=False, hosts=("video.example",)) as client:
        client.ann, client.ben = (create_key(client.studio.queue, name, 3, 10**9) for name in ("ann", "ben"))
        yield client


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def all_routes(client):
    """Every route of the application, whatever the documents say."""

    def walk(routes):
        for each in routes:
            if hasattr(each, "path"):
                yield re.sub(r"\{video_id\}", NO_VIDEO, each.path)
            inner = getattr(each, "original_router", None) or getattr(each, "routes", None)
            if inner is not None:
                yield from walk(getattr(inner, "routes", inner))

    return sorted(set(walk(client.app.routes)))


def test_every_route_needs_a_key_from_elsewhere_whatever_the_method(remote):
    routes = all_routes(remote)
    assert len(routes) > 15 and f"/v1/videos/{NO_VIDEO}/content" in routes
    for path in routes:
        for method in METHODS:
            for headers in (
                {},
                bearer("wrong"),
                bearer(""),
                {"Authorization": remote.ann},
                {"Cookie": f"{COOKIE}=x"},
            ):
                answer = remote.request(method, f"{path}?key={remote.ann}", headers=headers)
                allowed = path in PUBLIC and method in ("GET",)
                session = path == "/v1/session" and method in ("POST", "DELETE")
                assert answer.status_code != 200 or allowed or (session and method == "DELETE"), (
                    method,
                    path,
                )
                if not allowed and not session:
                    assert answer.status_code in (401, 403, 405), (method, path, answer.status_code)


def test_on_loopback_everybody_is_local_and_a_dummy_key_does_no_harm(local):
    for headers in ({}, bearer("none")):
        assert local.get("/v1/session", headers=headers).json()["user"] == "local"


def test_a_server_that_has_another_name_needs_a_key_by_whatever_name_it_is_asked(tmp_path):
    """Proxies write a Host of their own: nginx that of the server behind it, 127.0.0.1."""
    with idle_studio(tmp_path, hosts=("video.example",)) as client:
        key = create_key(client.studio.queue, "ann", 3, 10**9)
        for host in ("video.example", "127.0.0.1:8750", "localhost"):
            assert client.get("/v1/videos", headers={"Host": host}).status_code == 401, host
            assert client.get("/v1/videos", headers={"Host": host, **bearer(key)}).status_code == 200, host
        assert client.get("/v1/videos", headers=bearer("cvx_wrong")).status_code == 401


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "CF-Connecting-IP"])
def test_what_a_tunnel_passes_on_under_our_own_name_needs_a_key(local, name):
    assert local.get("/v1/videos").status_code == 200
    assert local.get("/v1/videos", headers={name: "203.0.113.9"}).status_code == 401
    assert local.post("/v1/videos", json=BODY, headers={name: ""}).status_code == 401


def test_names_are_known_as_browsers_write_them(tmp_path):
    names = ("2001:DB8:0::5", "Video.Example.", "box.local:8750", "192.168.1.5")
    with idle_studio(tmp_path, local=False, hosts=names) as client:
        for host in ("[2001:db8::5]:8750", "VIDEO.example", "box.local", "192.168.1.5:1", "127.0.0.2:8750"):
            assert client.get("/v1/videos", headers={"Host": host}).status_code == 401, host
        for host in ("[2001:db8::6]", "2001:db8::5", "127.0.0.2.example", "127.1"):
            assert client.get("/v1/videos", headers={"Host": host}).status_code == 421, host
    for index, name in enumerate(["https://video.example", "a b", "", "[::z]", "x@y"]):
        with pytest.raises(ConfigError, match="is no name"):
            idle_studio(tmp_path / str(index), hosts=(name,)).__enter__()


def test_keys_are_kept_as_digests_and_can_be_revoked(remote):
    key = create_key(remote.studio.queue, "eve", 3, 10**9)
    assert remote.get("/v1/session", headers=bearer(key)).json()["user"] == "eve"
    with sqlite3.connect(remote.studio.folder.database) as db:
        assert key not in "\n".join(db.iterdump())
    with pytest.raises(ConfigError, match="eve: has a key already"):
        create_key(remote.studio.queue, "eve", 3, 1)
    for name in ("", "local", "a b", "../x", "x" * 65):
        with pytest.raises(ConfigError, match="use letters"):
            create_key(remote.studio.queue, name, 3, 1)
    revoke_key(remote.studio.queue, "eve")
    assert remote.get("/v1/session", headers=bearer(key)).status_code == 401
    with pytest.raises(ConfigError, match="no key that could be revoked"):
        revoke_key(remote.studio.queue, "eve")
    assert [each.name for each in list_keys(remote.studio.queue) if each.revoked] == ["eve"]


@pytest.mark.parametrize(("queued", "size"), [(0, 1), (1, 0), (10**23, 1), (1, 10**30)])
def test_a_quota_is_a_number_that_can_be_kept(remote, queued, size):
    with pytest.raises(ConfigError, match="both must be 1 to 1e"):
        create_key(remote.studio.queue, "max", queued, size)


def test_users_do_not_see_each_other(remote):
    video = remote.post("/v1/videos", json=BODY, headers=bearer(remote.ann)).json()
    assert remote.get(f"/v1/videos/{video['id']}", headers=bearer(remote.ann)).status_code == 200
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("POST", "/favourite"),
        ("GET", "/content"),
    ):
        answer = remote.request(method, f"/v1/videos/{video['id']}{path}", headers=bearer(remote.ben))
        assert answer.status_code == 404, (method, path)
    assert remote.get("/v1/videos", headers=bearer(remote.ben)).json()["data"] == []
    body = {"prompt": "x", "cogvideox": {"inputs": {"video": video["id"]}}}
    assert remote.post("/v1/videos", json=body, headers=bearer(remote.ben)).status_code == 400


def test_a_quota_holds_for_each_key(remote):
    codes = [remote.post("/v1/videos", json=BODY, headers=bearer(remote.ben)) for _ in range(4)]
    assert [each.status_code for each in codes] == [200, 200, 200, 429]
    assert codes[-1].json()["error"]["code"] == "queue_full" and codes[-1].headers["retry-after"] == "10"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil"},
        {"Host": ""},
        {"Host": "2130706433"},
    ],
)
def test_other_names_are_refused(local, headers):
    answer = local.get("/v1/videos", headers=headers)
    assert answer.status_code == 421 and answer.json()["error"]["code"] == "wrong_host"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:81"},
        {"Origin": "https://127.0.0.1.evil:80"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
def test_other_pages_are_refused(local, headers, method):
    answer = local.request(method, f"/v1/videos/{NO_VIDEO}", headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_what_a_browser_changes_needs_the_token_of_our_page(local):
    own = {"Origin": "http://127.0.0.1:80", "Host": "127.0.0.1:80"}
    assert local.post("/v1/videos", json=BODY, headers=own).status_code == 403
    assert local.post("/v1/videos", json=BODY, headers={**own, TOKEN: "wrong"}).status_code == 403
    token = local.get("/v1/session").json()["token"]
    assert local.post("/v1/videos", json=BODY, headers={**own, TOKEN: token}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/mixed"])
def test_other_kinds_of_body_are_refused(local, kind):
    assert local.post("/v1/videos", content=b"{}", headers={"content-type": kind}).status_code == 415


def test_a_session_of_a_browser_needs_key_and_token(remote):
    assert remote.post("/v1/session", json={"key": "wrong"}).status_code == 401
    answer = remote.post("/v1/session", json={"key": remote.ann})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and remote.ann.lower() not in cookie
    remote.cookies.set(COOKIE, answer.cookies[COOKIE])
    try:
        assert remote.get("/v1/session").json()["user"] == "ann"
        assert remote.post(f"/v1/videos/{NO_VIDEO}/cancel").status_code == 403
        token = {TOKEN: answer.json()["token"]}
        assert remote.post(f"/v1/videos/{NO_VIDEO}/cancel", headers=token).status_code == 404
        assert remote.delete("/v1/session", headers=token).status_code == 200
        assert remote.get("/v1/session").status_code == 401
    finally:
        remote.cookies.clear()


def test_many_sessions_of_one_user_end_none_of_another(remote):
    access = remote.app.state.access
    value, _ = access.begin_session(remote.ben)
    values = [access.begin_session(remote.ann)[0] for _ in range(60)]
    kept = [each for each in values if each in access._sessions]
    assert kept == values[-20:] and value in access._sessions


def test_every_answer_has_the_headers_and_gives_nothing_away(local):
    for path in (*all_routes(local), "/nothing", "/../../etc/passwd"):
        answer = local.get(path) if "events" not in path else local.post(path)
        policy = answer.headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert (
            answer.headers["x-content-type-options"] == "nosniff"
            and answer.headers["cache-control"] == "no-store"
        )
        assert not {"server", "etag", "last-modified", "access-control-allow-origin"} & set(answer.headers)
        assert answer.status_code < 500, path
        assert str(local.studio.folder.root) not in answer.text and "Traceback" not in answer.text


def test_the_pages_ask_nobody_else_and_run_nothing(local):
    page = local.get("/docs").text
    assert "<script" not in page and not re.search(r"(?:src|href)\s*=\s*['\"]?(?:https?:)?//", page)
    described = local.get("/openapi.json").json()
    assert {"/v1/videos", "/v1/videos/{video_id}", "/v1/plan", "/v1/models"} <= set(described["paths"])
    body = described["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    extension = body["properties"]["cogvideox"]["properties"]
    assert "guidance" in extension and not {"image", "reuse_table", "attention", "anyway"} & set(extension)


TRAVERSALS = [
    "..",
    "../studio.sqlite",
    "..%2fstudio.sqlite",
    "%2e%2e/studio.sqlite",
    "....//",
    "/etc/passwd",
    "\\..\\x",
    "video_",
    "video_" + "0" * 31 + "/",
    "video_" + "G" * 32,
    "video_" + "0" * 33,
    "%00",
    "video_" + "0" * 31 + "%00",
    "~root",
    "file:///etc/passwd",
    "con",
    "a" * 5000,
    "%ff%fe",
    "VIDEO_" + "0" * 32,
    "input_" + "0" * 32,
]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_no_name_leads_out_of_the_folder(local, name):
    for path in (f"/v1/videos/{name}", f"/v1/videos/{name}/content", f"/v1/videos/{name}/preview"):
        assert local.get(path).status_code in (400, 404, 405), path
    assert local.get(f"/v1/inputs/{name}/content").status_code in (400, 404, 405)
    for inputs in ({"image": name}, {"video": name}, {"mask": name}):
        answer = local.post("/v1/videos", json={"prompt": "x", "cogvideox": {"inputs": inputs}})
        assert answer.status_code == 400, name


HOSTILE = {
    "nothing": b"",
    "no object": b"[]",
    "cut": b'{"prompt": "x"',
    "NaN": b'{"prompt": "x", "seconds": NaN}',
    "twice": b'{"prompt": "x", "prompt": "y"}',
    "deep": b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "half a character": rb'{"prompt": "\ud800"}',
    "not UTF-8": b'{"prompt": "\xff"}',
    "NUL": rb'{"prompt": "a\u0000b"}',
    "huge number": b'{"prompt": "x", "seconds": ' + b"9" * 5000 + b"}",
    "big": b'{"prompt": "' + b"a" * (2 << 20) + b'"}',
    "long": b'{"prompt": "' + b"a" * 9000 + b'"}',
    "no text": b'{"prompt": {"a": 1}}',
    "empty": b'{"prompt": "x", "": 1}',
}
WRONG = [
    {"size": "1x1x1"},
    {"size": "99999x99999"},
    {"size": 5},
    {"seconds": "soon"},
    {"seconds": "-1"},
    {"seconds": 1e300},
    {"seconds": 10**390},
    {"seconds": True},
    {"model": "sora-2"},
    {"model": ["tiny"]},
    {"n": 2},
    {"cogvideox": "x"},
    {"cogvideox": {"step": 2}},
    {"cogvideox": {"steps": 0}},
    {"cogvideox": {"steps": 1000}},
    {"cogvideox": {"steps": "many"}},
    {"cogvideox": {"steps": True}},
    {"cogvideox": {"frames": 10**9}},
    {"cogvideox": {"guidance": "inf"}},
    {"cogvideox": {"cache": "a" * 5000}},
    {"cogvideox": {"attention": "hub:evil/kernel"}},
    {"cogvideox": {"reuse_table": "/etc/passwd"}},
    {"cogvideox": {"image": "/etc/passwd"}},
    {"cogvideox": {"anyway": True}},
    {"cogvideox": {"seed": -1}},
    {"cogvideox": {"adapters": {"x": 1}}},
    {"cogvideox": {"inputs": {"image": "/etc/passwd"}}},
    {"cogvideox": {"inputs": {"evil": "x"}}},
    {"cogvideox": {"keyframes": {"x": "y"}}},
    {"cogvideox": {"webhook": "http://127.0.0.1/"}},
    {"cogvideox": {"webhook": "file:///etc/passwd"}},
    {"cogvideox": {"height": 10**6, "width": 10**6}},
    {"cogvideox": {"vae_coding": "tiny"}},
    {"size": "64x64", "cogvideox": {"width": 64}},
    {"input_reference": {"image_url": "http://169.254.169.254/"}},
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_are_refused_by_name(local, name):
    answer = local.post("/v1/videos", content=HOSTILE[name], headers={"content-type": "application/json"})
    assert answer.status_code in (400, 413), answer.text[:300]
    assert (
        set(answer.json()["error"]) == {"message", "type", "param", "code"}
        and answer.json()["error"]["message"]
    )


@pytest.mark.parametrize("fields", WRONG, ids=[str(each)[:50] for each in WRONG])
def test_wrong_values_are_refused_by_name(local, fields):
    answer = local.post("/v1/videos", json={"prompt": "x", **fields})
    assert answer.status_code == (404 if "model" in fields else 400), answer.text[:300]
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and len(error["message"]) < 500


@pytest.mark.parametrize(
    "scale", [10**390, True, None, [1], "1e999", 1e300], ids=["huge", "true", "null", "list", "text", "1e300"]
)
def test_no_strength_is_refused_by_name(tmp_path, scale):
    with idle_studio(tmp_path, worker={"adapters": {"ink": "ink.safetensors"}}) as client:
        answer = client.post("/v1/videos", json={"prompt": "x", "cogvideox": {"adapters": {"ink": scale}}})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "cogvideox.adapters.ink"


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_webhook_has_a_port_that_there_is(tmp_path, port):
    with idle_studio(tmp_path, webhook_hosts=("h.example",)) as client:
        fields = {"prompt": "x", "cogvideox": {"webhook": f"https://h.example:{port}/"}}
        answer = client.post("/v1/videos", json=fields)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "cogvideox.webhook"


OPERATORS = ["attention", "compile", "reuse", "reuse_table", "anyway", "check_numerics", "flow"]
OPERATORS += ["control_net", "control_preprocessor"]
"""Options that no client may set: paths, code that is downloaded, and what is the operator's to decide."""


def test_each_option_is_offered_or_kept_from_clients(local):
    """A new option fails here until somebody has thought about it: no path and no code may come from a client."""
    from cogvideox.generation.options import GenerateOptions
    from cogvideox.studio.request import INPUTS, SETTINGS

    decided = [*SETTINGS, *INPUTS, *OPERATORS, "prompt", "keyframe"]
    assert sorted(decided) == sorted(GenerateOptions.model_fields)


FORMS = {
    "no boundary": (b"x", "multipart/form-data"),
    "not a form": (b"x" * 100, "multipart/form-data; boundary=b"),
    "cut": (
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx',
        "multipart/form-data; boundary=b",
    ),
    "no name": (
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        "multipart/form-data; boundary=b",
    ),
    "twice": (
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n' * 2 + b"--b--\r\n",
        "multipart/form-data; boundary=b",
    ),
    "many fields": (
        b"".join(b'--b\r\nContent-Disposition: form-data; name="a%d"\r\n\r\nx\r\n' % n for n in range(200))
        + b"--b--\r\n",
        "multipart/form-data; boundary=b",
    ),
    "long header": (
        b'--b\r\nContent-Disposition: form-data; name="' + b"a" * 100_000 + b'"\r\n\r\nx\r\n--b--\r\n',
        "multipart/form-data; boundary=b",
    ),
    "big field": (
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + b"a" * (3 << 20) + b"\r\n--b--\r\n",
        "multipart/form-data; boundary=b",
    ),
    "strange name": (
        b'--b\r\nContent-Disposition: form-data; name="cogvideox[[x"\r\n\r\nx\r\n--b--\r\n',
        "multipart/form-data; boundary=b",
    ),
}


@pytest.mark.parametrize(
    "inner",
    [
        '{"negative_prompt": "\\ud800"}',
        '{"seed": NaN}',
        '{"seed": 1, "seed": 2}',
        "[" * 99 + "]" * 99,
        '{"seed": ' + "9" * 500 + "}",
    ],
    ids=["half a character", "NaN", "twice", "deep", "huge number"],
)
def test_json_in_a_field_of_a_form_is_read_as_a_body_is(local, inner):
    answer = local.post("/v1/videos", files=[("prompt", (None, "a")), ("cogvideox", (None, inner))])
    assert answer.status_code == 400 and answer.json()["error"]["message"].isprintable()


@pytest.mark.parametrize("name", FORMS)
def test_hostile_forms_are_refused_and_leave_nothing(local, name):
    body, kind = FORMS[name]
    answer = local.post("/v1/videos", content=body, headers={"content-type": kind})
    assert answer.status_code in (400, 413), answer.text[:300]
    assert list((local.studio.folder.root / "incoming").iterdir()) == []


def test_nested_fields_of_a_form_are_an_object(local):
    fields = {"prompt": "a ball", "cogvideox[guidance]": "3", "cogvideox[times][]": ["900", "500", "100"]}
    parts = [
        (name, (None, each))
        for name, values in fields.items()
        for each in ([values] if name[-2] != "[" else values)
    ]
    settings = local.post("/v1/videos", files=parts).json()["cogvideox"]["settings"]
    assert (settings["guidance"], settings["times"]) == (3.0, [900, 500, 100])


def test_a_video_can_only_be_told_of_to_listed_hosts(tmp_path):
    with idle_studio(tmp_path, webhook_hosts=("hooks.example",)) as client:
        for url, status in (
            ("https://hooks.example/x?y=1", 200),
            ("https://evil.example/", 400),
            ("https://hooks.example.evil/", 400),
            ("https://hooks.example@evil/", 400),
            ("ftp://hooks.example/", 400),
            ("https://hooks.example/\r\nX: y", 400),
        ):
            body = {"prompt": "x", "cogvideox": {"webhook": url}}
            assert client.post("/v1/videos", json=body).status_code == status, url


def test_an_idempotency_key_holds_and_another_request_with_it_is_refused(local):
    headers = {"Idempotency-Key": "k1"}
    first, second = (local.post("/v1/videos", json=BODY, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    other = local.post("/v1/videos", json={**BODY, "prompt": "another"}, headers=headers)
    assert other.status_code == 409 and other.json()["error"]["code"] == "idempotency_conflict"
    assert local.post("/v1/videos", json=BODY, headers={"Idempotency-Key": "x" * 300}).status_code == 400


def test_a_full_disk_is_said_clearly(tmp_path):
    with idle_studio(tmp_path) as client:
        client.studio.workers.paused = "videos take all"
        answer = client.post("/v1/videos", json=BODY)
        assert answer.status_code == 507 and answer.json()["error"]["code"] == "disk_full"
        assert client.get("/v1/queue").json()["paused"]
        assert client.get("/v1/videos").status_code == 200


def test_what_is_kept_for_pollers_follows_every_change(remote):
    """The JSON of a video is rendered once until something of it changes, for its owner alone."""
    studio = remote.studio
    name = remote.post("/v1/videos", json=BODY, headers=bearer(remote.ann)).json()["id"]

    def shown(key=remote.ann):
        return remote.get(f"/v1/videos/{name}", headers=bearer(key))

    while studio.queue.get(name).state == "queued":
        taken = studio.queue.take()
        studio.board.begin(taken.id)
    assert shown().json()["progress"] == 0
    studio.board.report(name, percent=40, stage="denoise")
    assert shown().json()["progress"] == 40 and shown(remote.ben).status_code == 404
    studio.queue.end(name, "failed", error={"code": "x", "message": "y"})
    studio.board.end(name)
    assert shown().json()["status"] == "failed" and shown(remote.ben).status_code == 404
    remote.post(f"/v1/videos/{name}/favourite", headers=bearer(remote.ann))
    assert shown().json()["cogvideox"]["favourite"]
    remote.delete(f"/v1/videos/{name}", headers=bearer(remote.ann))
    assert shown().status_code == 404
    remote.post(f"/v1/videos/{name}/restore", headers=bearer(remote.ann))
    assert shown().status_code == 200


def test_a_failure_of_the_server_is_answered_without_its_reason(local, monkeypatch):
    monkeypatch.setattr(type(local.studio), "shown", lambda *values: 1 / 0)
    answer = local.get(f"/v1/videos/{NO_VIDEO}")
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"
    assert "division" not in answer.text and answer.headers["content-security-policy"]
