"""Kernels of the hub: only by name, only of trusted publishers, only what computes attention.

A repository in the hub's layout lies on disk, and the real package ``kernels`` loads it through its own variable
LOCAL_KERNELS, which needs no network.
"""

from __future__ import annotations

import json
import sys

import pytest
import torch
import torch.nn.functional as F

from cogvideox.errors import ConfigError, DependencyError
from cogvideox.generation.job import Job, parse_options, prepare
from cogvideox.transformer import Layout, TokenGrid, Transformer
from cogvideox.transformer.attention import attend_per_clip
from cogvideox.transformer.hub_kernels import (
    TRUST_VARIABLE,
    check_hub_kernels,
    load_hub_kernel,
    read_hub_name,
)
from cogvideox.transformer.kernels import Fastest, Named, get_attention_fn, read_attention, use_kernel
from support.models import small_preset

FLASH = "hub:kernels-community/flash-attn3"
ATTENTION = """
import torch
import torch.nn.functional as F

CALLS = []

def flash_attn_func(q, k, v, softmax_scale=None, causal=False):
    CALLS.append(tuple(q.shape))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2), None

def flash_attn_varlen_func(q, k, v, starts_q, starts_k, longest_q, longest_k):
    parts = []
    for start, end in zip(starts_q[:-1].tolist(), starts_q[1:].tolist()):
        each = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(*each)[0].transpose(0, 1))
    return torch.cat(parts)
"""
SAGE = """
import torch.nn.functional as F

def sageattn(q, k, v, tensor_layout="HND", is_causal=False):
    rounded = (q * 32).round() / 32
    return F.scaled_dot_product_attention(rounded, k, v)
"""
NAN = ATTENTION.replace(".transpose(1, 2), None", ".transpose(1, 2) * float('nan'), None")
CAUSAL = ATTENTION.replace("attention(q, k, v).transpose", "attention(q, k, v, is_causal=True).transpose")
NO_GRADIENT = ATTENTION.replace("x.transpose(1, 2) for", "(x.detach() + 0 * x).transpose(1, 2) for")
HALF_ONLY = ATTENTION.replace(
    "    CALLS", "    assert q.dtype == torch.bfloat16, 'half precision only'\n    CALLS"
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """``hub(source, repository)`` puts a kernel on this machine's hub; returns its name."""
    pytest.importorskip("kernels")
    from kernels.load import _parse_local_kernel_overrides

    known = {}

    def put(source, repository="kernels-community/flash-attn3", variant="torch-cpu"):
        folder = tmp_path / repository.replace("/", "--")
        build = folder / "build" / variant
        build.mkdir(parents=True)
        (build / "__init__.py").write_text(source)
        identity = f"{repository.split('/')[1]}_{tmp_path.name}".replace("-", "_")
        facts = {
            "id": identity,
            "name": "attention",
            "version": 1,
            "license": "Apache-2.0",
            "python-depends": [],
        }
        (build / "metadata.json").write_text(
            json.dumps({**facts, "backend": {"type": variant.split("-")[1]}})
        )
        known[repository] = folder
        monkeypatch.setenv("LOCAL_KERNELS", ":".join(f"{name}={path}" for name, path in known.items()))
        _parse_local_kernel_overrides.cache_clear()
        return f"hub:{repository}"

    for cached in (load_hub_kernel, get_attention_fn):
        cached.cache_clear()
    yield put
    for cached in (load_hub_kernel, get_attention_fn):
        cached.cache_clear()
    _parse_local_kernel_overrides.cache_clear()


def heads(tokens=10):
    return [torch.randn(2, 3, tokens, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def test_flash_attention_of_the_hub_gives_torchs_numbers(hub):
    attn_fn = get_attention_fn(hub(ATTENTION))
    assert isinstance(attn_fn, Named)
    q, k, v = heads()
    torch.testing.assert_close(attn_fn(q, k, v, None), F.scaled_dot_product_attention(q, k, v))
    assert attn_fn.used == {FLASH}


def test_a_whole_network_runs_on_it_packed_and_plain(hub):
    torch.manual_seed(0)
    network = Transformer(small_preset("5b").transformer).eval()
    config = network.config
    x, text = torch.randn(1, config.in_channels, 3, 4, 6), torch.randn(1, 5, config.text_embed_dim)
    with torch.no_grad():
        plain = network(x, text, torch.tensor([500]))
        use_kernel(network, hub(ATTENTION))
        torch.testing.assert_close(network(x, text, torch.tensor([500])), plain, atol=1e-5, rtol=1e-5)
    layout = Layout.packed([3, 2], [TokenGrid(1, 2, 3), TokenGrid(2, 2, 2)])
    q, k, v = heads(layout.tokens)
    attn_fn = get_attention_fn(FLASH)
    alone = attend_per_clip(lambda q, k, v, clip: F.scaled_dot_product_attention(q, k, v), q, k, v, layout)
    torch.testing.assert_close(attn_fn.packed(q, k, v, layout), alone)


def test_its_gradients_are_compared_before_it_trains(hub):
    right, wrong = hub(ATTENTION), hub(NO_GRADIENT, "kernels-community/detached")
    q, k, v = (x.requires_grad_() for x in heads())
    assert load_hub_kernel(right).usable(q)
    with pytest.warns(UserWarning, match="its gradient of q is not torch's"):
        assert not load_hub_kernel(wrong).usable(q)
    assert load_hub_kernel(wrong).usable(q.detach())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (NAN, "its output is not torch's, on cpu in float32 with heads of 8"),
        (CAUSAL, "its output is not torch's"),
        (HALF_ONLY, r"fails on cpu in float32 \(half precision only"),
    ],
)
def test_what_is_not_attention_is_refused_and_torch_stands_in(hub, source, said):
    name = hub(source)
    q, k, v = heads()
    with pytest.warns(UserWarning, match=said):
        out = get_attention_fn(name)(q, k, v, None)
    assert torch.equal(out, F.scaled_dot_product_attention(q, k, v))
    with pytest.raises(ConfigError, match="cannot be used on cpu in float32 with heads of 8"):
        check_hub_kernels([name], torch.device("cpu"), torch.float32, 8)


def test_dtypes_it_can_take_are_found_out(hub):
    kernel = load_hub_kernel(hub(HALF_ONLY))
    assert kernel.usable(torch.zeros(1, 1, 1, 8, dtype=torch.bfloat16))


def test_it_competes_only_where_it_is_named(hub):
    name = hub(SAGE, "kernels-community/sage")
    assert name not in {one.name for one in get_attention_fn("fastest").kernels}
    attn_fn = get_attention_fn(f"fastest,{name}")
    assert isinstance(attn_fn, Fastest) and attn_fn.kernels[-1].name == name
    assert attn_fn.approximate and attn_fn.kernels[-1].approximate
    q, k, v = (x.half() for x in heads())
    assert attn_fn.choose(q, k, v).usable(q)
    assert not attn_fn.kernels[-1].usable(q.requires_grad_())  # its scores in 8 bits have no gradient


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hub:flash-attn3", "not a kernel of the hub; write hub:kernels-community/flash-attn3"),
        ("hub:a/b/c", "not a kernel of the hub"),
        (
            "hub:evil/flash-attn3",
            f"only that of kernels-community is run; to trust it set {TRUST_VARIABLE}=evil",
        ),
        ("torch,hub:kernels-community/flash-attn3", "one kernel, or fastest,hub:OWNER/NAME"),
        ("fastest,torch", "one kernel, or fastest,hub:OWNER/NAME"),
    ],
)
def test_names_that_are_refused(text, said, monkeypatch):
    monkeypatch.setattr("cogvideox.transformer.hub_kernels.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=said):
        read_attention(text)


def test_another_publisher_has_to_be_trusted_by_name(hub, monkeypatch):
    name = hub(ATTENTION, "somebody/attention")
    with pytest.raises(ConfigError, match="compiled code of 'somebody'"):
        get_attention_fn(name)
    monkeypatch.setenv(TRUST_VARIABLE, "others, somebody")
    assert get_attention_fn(name).kernel.name == name


def test_versions_and_revisions(monkeypatch):
    monkeypatch.setattr("cogvideox.transformer.hub_kernels.find_spec", lambda name: object())
    assert read_hub_name(FLASH).revision == 1
    assert read_hub_name(f"{FLASH}@2").revision == 2
    assert read_hub_name(f"{FLASH}@refs/pr/7").revision == "refs/pr/7"


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("cogvideox.transformer.hub_kernels.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"pip install 'cogvideox\[kernels\]'"):
        read_attention(FLASH)


def test_a_kernel_without_a_build_for_this_machine_says_so(hub):
    name = hub(ATTENTION, variant="torch-cuda")
    if torch.cuda.is_available():
        pytest.skip("there is a build for this machine")
    with pytest.raises(ConfigError, match=f"cannot be had for torch {torch.__version__.split('+')[0]}"):
        get_attention_fn(name)


def test_a_module_without_attention_says_what_it_has(hub):
    with pytest.raises(ConfigError, match="neither flash_attn_func nor sageattn; its module has relu"):
        get_attention_fn(hub("def relu(x):\n    return x\n"))


def test_generation_refuses_a_bad_kernel_before_weights_are_loaded(hub):
    name = hub(NAN)
    options = parse_options({"prompt": "a red circle moves to the right", "attention": name, "frames": 5})
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match="cannot be used on cpu"):
        prepare(Job(device="cpu"), options)
    assert "kernels" in sys.modules


def test_a_video_made_by_it_names_it_in_its_record(hub):
    from cogvideox.generation.job import load, make

    name = hub(ATTENTION)
    options = parse_options({
        "prompt": "a red circle moves to the right", "attention": name, "frames": 5, "steps": 1, "seed": 0,
    })  # fmt: skip
    prepared = prepare(Job(device="cpu"), options)
    made = make(load(prepared.job, prepared.folder, policy=prepared.policy), prepared, "test")
    assert made.record.engine.to_dict()["attention"] == {"asked": name, "used": [name]}
