"""A model folder of transformers answers as transformers itself does, without torchvision and without a server."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogvideox.chat import Chat, ChatFailure, Image, LocalModel, Question, language_model
from cogvideox.errors import CheckpointError, ConfigError

transformers = pytest.importorskip("transformers")
WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "<image>",
    "user",
    "system",
    "assistant",
    *(f"w{n}" for n in range(40)),
]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %} <image> {% else %} {{ p.text }} {% endif %}{% endfor %}{% endif %} {% endfor %}"
    "assistant "
)
PICTURE = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip


def llama(**more):
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return transformers.LlamaConfig(**sizes, vocab_size=len(WORDS), max_position_embeddings=256, **more)


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    """A model that only reads, with random weights."""
    folder = tmp_path_factory.mktemp("reading")
    torch.manual_seed(0)
    words = tokenizer()
    words.chat_template = TEMPLATE
    words.save_pretrained(folder)
    transformers.LlamaForCausalLM(llama(eos_token_id=2)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A Llava with random weights: pictures of 16x16 in patches of 8."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("seeing")
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    vision = transformers.CLIPVisionConfig(**sizes, image_size=16, patch_size=8)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=llama(), image_token_id=4, vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    transformers.LlavaProcessor(
        pictures, tokenizer(), patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_a_model_that_sees_gets_pictures_in_their_places(seeing):
    question = Question((Image.of(PICTURE), "w1", Image.of(255 - PICTURE), "w2"), system="w3", max_tokens=6)
    answer = LocalModel(seeing).answer(question)
    processor = transformers.AutoProcessor.from_pretrained(seeing)
    model = transformers.AutoModelForImageTextToText.from_pretrained(seeing)
    from PIL import Image as Pillow

    text = "system  w3  user  <image>  w1  <image>  w2  assistant "
    values = processor(
        text=text, images=[Pillow.fromarray(p) for p in (PICTURE, 255 - PICTURE)], return_tensors="pt"
    )
    found = model.generate(**values, max_new_tokens=6, do_sample=False)[0, values["input_ids"].shape[1] :]
    assert answer.text == processor.decode(found, skip_special_tokens=True) and answer.text
    assert answer.prompt_tokens == values["input_ids"].shape[1] == 6 + 2 * 4
    assert answer.answer_tokens == len(found) and answer.finish == "length"


def test_the_same_question_has_the_same_answer_and_the_name_says_which_weights(seeing, reading, tmp_path):
    question = Question(("w1",), max_tokens=5, temperature=1.0)
    one, two = LocalModel(reading), LocalModel(reading)
    assert one.answer(question) == two.answer(question)
    assert one.name == two.name != LocalModel(seeing).name and one.name.startswith(f"{reading.name}:")


def test_examples_are_earlier_turns(reading):
    plain = LocalModel(reading).answer(Question(("w9",), max_tokens=1))
    taught = LocalModel(reading).answer(
        Question(("w9",), max_tokens=1, examples=(("w1", "w2"), ("w3", "w4")))
    )
    assert taught.prompt_tokens == plain.prompt_tokens + 8


def test_pictures_for_a_model_that_only_reads_are_a_failure_by_name(reading):
    outcome = next(Chat(LocalModel(reading)).ask_all([Question((Image.of(PICTURE),))]))
    assert isinstance(outcome.failure, ChatFailure) and outcome.failure.kind == "rejected"
    assert "only reads" in outcome.failure.detail and outcome.attempts == 1


def test_what_is_no_model_is_said_in_one_line(tmp_path, reading):
    with pytest.raises(CheckpointError, match="config.json"):
        language_model(str(tmp_path))
    with pytest.raises(ConfigError, match="which model"):
        language_model("http://127.0.0.1:9/v1")
    silent = tmp_path / "silent"
    silent.mkdir()
    for file in reading.iterdir():
        if "template" not in file.name:
            (silent / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="chat template"):
        LocalModel(silent).answer(Question(("w1",)))
    (silent / "config.json").write_text('{"model_type": "unheard"}')
    with pytest.raises(CheckpointError, match="cannot be read by transformers"):
        LocalModel(silent).answer(Question(("w1",)))
