"""What a model that ships with the package cannot know: it has seen one small world, and says so."""

from __future__ import annotations

import warnings

from cogvideox.generation.plan import Given
from cogvideox.world import read_caption
from cogvideox.world.known import resembles_world, unknown_words, vocabulary_text

MOST_SHOWN = 6


def warn_of_unknown(name: str, prompt: str, given: Given) -> None:
    """Warn when a prompt uses words, or a picture shows things, that the shipped model ``name`` has never seen.

    Such a request is made all the same, and shows whatever shape comes nearest.
    """
    better = "5b-i2v" if given.image is not None else "5b"
    other = f"for anything in the world use a public checkpoint (--model {better})"
    unknown = unknown_words(prompt)
    if unknown:
        more = f" and {len(unknown) - MOST_SHOWN} more" if len(unknown) > MOST_SHOWN else ""
        shown = ", ".join(repr(word[:30]) for word in unknown[:MOST_SHOWN]) + more
        share = "only part of" if read_caption(prompt) else "nothing of"
        warnings.warn(
            f"prompt: {name} knows {share} it: {shown} {'is' if len(unknown) == 1 else 'are'} unknown. "
            f"It knows {vocabulary_text()}; {other}",
            stacklevel=3,
        )
    picture = given.image if given.image is not None else None
    if picture is None and given.video is not None:
        picture = given.video.frames[-1]
    if picture is not None and not resembles_world(picture):
        what = "image" if given.image is not None else "video"
        warnings.warn(
            f"{what}: does not look like the tiny world, the only pictures {name} has seen: flat coloured shapes on "
            f"smooth grey (see: cogvideox world render); expect a blurred picture; {other}",
            stacklevel=3,
        )
