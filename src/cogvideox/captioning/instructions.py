"""The instructions to models, each with a name and a version that stand in the record of every caption."""

from __future__ import annotations

from dataclasses import dataclass

from cogvideox.chat import Image, Question


@dataclass(frozen=True)
class Instruction:
    """``name`` ends in a version: other words are another instruction."""

    name: str
    text: str
    max_tokens: int
    temperature: float = 0.1
    top_p: float | None = None
    examples: tuple[tuple[str, str], ...] = ()

    def question(self, content: tuple[str | Image, ...], schema: dict | None = None) -> Question:
        """The instruction about texts and pictures, in reading order; ``schema``: of the JSON it is to answer with."""
        return Question(
            content,
            system=self.text,
            examples=self.examples,
            purpose=self.name,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            schema=schema,
        )


SHORT = Instruction(
    "caption.short/1",
    "You are given frames of one clip, in order. Say in one plain sentence of at most 20 words what happens: who or "
    "what, doing what, where. Do not mention frames or that this is a clip.",
    80,
)
FRAME = Instruction(
    "caption.frame/1",
    "Describe this picture in detail in at most 60 words: the main subjects with their colours and places in the "
    "picture, their poses, the surroundings, the light. Say only what can be seen. Begin with the subject.",
    160,
)
MERGE = Instruction(
    "caption.merge/1",
    "You are given captions of single frames of one clip, as a dictionary from seconds to captions, and sometimes a "
    "caption of the whole clip. Write one paragraph that describes the clip in order of time: objects, scenery, "
    "animals, people, what they do, and how the camera moves. Describe change, not frame after frame. Where captions "
    "contradict each other, believe the majority. Do not begin with a formula, do not use the word video, use no line "
    "breaks, and write at most 100 English words.",
    240,
)
DENSE = Instruction(
    "caption.dense/1",
    "You are given frames of one clip, each with its time in seconds. Describe the clip in detail in one paragraph of "
    "at most 150 words: main subject, what it does, surroundings, light and atmosphere, camera, style. Say only what "
    "can be seen. Do not begin with a formula.",
    400,
)
MATCH = Instruction(
    "caption.match/1",
    "You are given frames of one clip, in order, and a caption. Judge how well the caption describes the clip. Answer "
    'in JSON only: {"score": n, "wrong": "what is wrong or missing, in a few words"}, where n is 5 if everything '
    "stated is there, 4 for slips that hardly matter, 3 if a detail is wrong, 2 if the main action or subject is "
    "wrong, 1 if it describes something else.",
    120,
    temperature=0.0,
)
