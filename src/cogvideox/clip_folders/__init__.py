"""Reads a folder of videos with captions and scores, in every layout that is in public use.

Training, curation, evaluation, rating and captioning list folders with this same code. No video is opened here.

| file | what it does |
|---|---|
| ``columns`` | columns of file, caption and score; two that qualify and differ are a problem, never a guess |
| ``tables`` | rows of csv, tsv, json and jsonl files; what is not certain is a row with a problem |
| ``parquet`` | rows of Parquet tables, and which columns they have |
| ``texts`` | the text beside one clip: .txt, .caption or .json; videos.txt beside prompts.txt, line by line |
| ``find`` | which of these a folder has; from a name in a table to a file of the folder |
| ``archives`` | clips as bytes: ``ByteRange``; cells of Parquet tables |
| ``tars`` | clips in webdataset shards |
| ``video_files`` | the video files of a folder, in one order, and what is left out |
| ``listing`` | ``list_clips``: all clips of a folder with captions, whatever its layout |
"""

from __future__ import annotations

from cogvideox.clip_folders.columns import Columns, TableRow
from cogvideox.clip_folders.find import (
    CaptionSource,
    FileFinder,
    ListedCaptions,
    candidate_files,
    find_captions,
    find_only_table,
    prompts_alone,
)
from cogvideox.clip_folders.texts import caption_of_record, sidecar_caption

__all__ = [
    "CaptionSource", "Columns", "FileFinder", "ListedCaptions", "TableRow", "candidate_files", "caption_of_record",
    "find_captions", "find_only_table", "prompts_alone", "sidecar_caption",
]  # fmt: skip
