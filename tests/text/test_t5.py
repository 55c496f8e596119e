"""Our T5 encoder against transformers': same weights, same numbers."""

from __future__ import annotations

import pytest
import torch

from cogvideox.checkpoints.text import load_text, write_text
from cogvideox.text import T5Config, T5Encoder, TextEncoder, train_tokenizer
from cogvideox.text.t5 import SelfAttention, buckets

CONFIG = T5Config(vocab_size=96, d_model=24, d_kv=6, d_ff=40, num_layers=3, num_heads=4)
IDS = torch.randint(0, 96, (2, 50), generator=torch.Generator().manual_seed(0))


def ours(seed: int = 0) -> T5Encoder:
    return T5Encoder(CONFIG).initialise(torch.Generator().manual_seed(seed)).eval()


def theirs(model: T5Encoder, **settings):
    from transformers import T5Config as PeerConfig
    from transformers import T5EncoderModel

    peer = T5EncoderModel(PeerConfig(**CONFIG.model_dump(), **settings)).eval()
    peer.load_state_dict(model.state_dict(), strict=False)
    assert set(peer.state_dict()) - set(model.state_dict()) <= {"encoder.embed_tokens.weight"}
    return peer


def text(model: T5Encoder) -> TextEncoder:
    words = ["a red circle", "a blue square", "two green rings"] * 4
    return TextEncoder(model, train_tokenizer(words, vocabulary=40, max_tokens=12), 12)


def test_the_encoder_equals_transformers():
    model = ours()
    with torch.no_grad():
        expected = theirs(model)(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(model(IDS), expected, atol=2e-6, rtol=1e-5)


def test_gradients_equal_those_of_transformers():
    model = ours()
    peer = theirs(model)
    model(IDS).square().sum().backward()
    peer(input_ids=IDS).last_hidden_state.square().sum().backward()
    for name, weight in peer.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, weight.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("count,largest", [(32, 128), (16, 40), (8, 20)])
def test_distances_fall_into_the_buckets_of_transformers(count, largest):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-300, 301)[None]
    expected = T5Attention._relative_position_bucket(distance, True, count, largest)
    assert torch.equal(buckets(distance, count, largest), expected)


def test_float16_keeps_the_last_projection_wide_and_the_stream_finite(tmp_path):
    model = ours()
    with torch.no_grad():
        model.encoder.block[1].layer[1].DenseReluDense.wo.weight.mul_(1e5)
    write_text(tmp_path, text(model))
    half = load_text(tmp_path, torch.float16)
    assert half.model.encoder.block[1].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    assert half.model.shared.weight.dtype == torch.float16
    assert torch.isfinite(half.encode(["a red circle"]).values).all()


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_a_saved_encoder_loads_in_both(tmp_path, dtype):
    from transformers import T5EncoderModel

    saved = text(ours())
    write_text(tmp_path, saved, shard_size="10kB")
    again = load_text(tmp_path, dtype)
    assert again.max_tokens == 12 and again.width == 24
    wanted = {name: value.to(dtype or value.dtype) for name, value in saved.model.state_dict().items()}
    assert all(torch.equal(value, wanted[name]) for name, value in again.model.state_dict().items())
    peer = T5EncoderModel.from_pretrained(str(tmp_path / "text_encoder"), dtype=torch.float32)
    with torch.no_grad():
        expected = peer(input_ids=saved.tokenize(["two red squares"])[0]).last_hidden_state
    torch.testing.assert_close(saved.encode(["two red squares"]).values, expected, atol=2e-6, rtol=1e-5)


def test_a_folder_of_transformers_loads_with_its_tied_embedding(tmp_path):
    from safetensors.torch import load_file, save_file

    model = ours()
    text(model).tokenizer.write(tmp_path / "tokenizer")
    theirs(model).save_pretrained(str(tmp_path / "text_encoder"))
    file = tmp_path / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}, file)
    again = load_text(tmp_path)
    assert all(
        torch.equal(value, model.state_dict()[name]) for name, value in again.model.state_dict().items()
    )


def test_the_whole_t5_equals_transformers():
    from transformers import T5Config as PeerConfig
    from transformers import T5ForConditionalGeneration

    from cogvideox.text import T5
    from cogvideox.text.decoder import greedy_decode

    model = T5(CONFIG).initialise(torch.Generator().manual_seed(3)).eval()
    settings = {
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    peer = T5ForConditionalGeneration(PeerConfig(**CONFIG.model_dump(), **settings)).eval()
    peer.lm_head.weight = torch.nn.Parameter(
        torch.empty(96, 24)
    )  # the peer ties it to the embedding; v1.1 does not
    missing, unknown = peer.load_state_dict(model.state_dict(), strict=False)
    assert set(missing) <= {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} and not unknown
    ids = IDS.clone()
    ids[0, 30:] = 0  # padding
    told = torch.randint(2, 96, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = peer(input_ids=ids, attention_mask=(ids != 0).long(), decoder_input_ids=told).logits
        torch.testing.assert_close(model(ids, told), expected, atol=5e-6, rtol=1e-4)
        memory, seen = model.encode(ids)
        rows = greedy_decode(model.shared, model.decoder, model.lm_head, memory, seen, 12)
        theirs = peer.generate(
            ids, attention_mask=(ids != 0).long(), max_new_tokens=12, do_sample=False, bad_words_ids=[[0]]
        )
    assert rows == [[token for token in row if token > 1] for row in theirs.tolist()]


def test_the_bias_is_made_once_where_the_tokens_are(monkeypatch):
    """Not where the first block's weights wait: it would be copied again for every block."""
    model, made = (
        T5Encoder(T5Config(d_model=8, d_kv=4, d_ff=16, num_layers=3, num_heads=2, vocab_size=20)),
        [],
    )
    plain = SelfAttention.bias
    monkeypatch.setattr(SelfAttention, "bias", lambda *given: made.append(given[2]) or plain(*given))
    model.shared.to("meta")
    seen = []
    for block in model.encoder.block:
        block.layer[0].register_forward_pre_hook(lambda _, given: seen.append(given[1]))
        block.to("meta")
    table = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.to_empty(device="cpu")
    table.register_forward_pre_hook(
        lambda layer, _: layer.to("meta") and None
    )  # weights that wait come when called
    model.encoder.final_layer_norm.to("meta")
    model(torch.zeros(1, 5, dtype=torch.long, device="meta"))
    assert made == [torch.device("meta")] and len({id(bias) for bias in seen}) == 1 and len(seen) == 3
    assert seen[0].device.type == "meta"
