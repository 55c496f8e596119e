"""What a folder of videos says about each of them: captions and scores, in every layout that is in public use.

Training (``data``) and evaluation read folders with this same code. No video is opened here.

| file | what it does |
|---|---|
| ``columns`` | which columns name the file, the caption and the score; two that differ are never guessed between |
| ``tables`` | rows of csv, tsv, json and jsonl files; what is not certain is a row with a problem |
| ``parquet`` | rows of Parquet tables, and which columns they have |
| ``lists`` | videos.txt beside prompts.txt, line by line |
| ``beside`` | the text beside one clip: .txt, .caption or .json |
| ``places`` | from a name in a table to a file of the folder |
| ``find`` | which of these a folder has |
"""

from __future__ import annotations

from cogvideox.clip_folders.beside import caption_in, text_beside
from cogvideox.clip_folders.columns import Columns, TableRow
from cogvideox.clip_folders.find import (
    CaptionSource,
    ListedCaptions,
    find_only_table,
    find_told,
    prompts_alone,
    sources_seen,
)
from cogvideox.clip_folders.places import Places

__all__ = [
    "CaptionSource",
    "Columns",
    "Places",
    "TableRow",
    "ListedCaptions",
    "caption_in",
    "find_only_table",
    "find_told",
    "prompts_alone",
    "sources_seen",
    "text_beside",
]
