"""Curation: raw videos become clips with scores and captions, and every clip that is missing can be explained.

| file | what it does |
|---|---|
| ``recipe`` | ``Recipe``: header gate, limits, steps, choices, cutting, as settings; whole recipes by name |
| ``run`` | ``curate``: measure, choose, cut, pack, and account for every clip |
| ``pipeline`` | the stages over all videos; what is finished is not done again |
| ``engines`` | who does the jobs: processes on this machine, or actors of Ray on a cluster |
| ``worker`` | what a worker process does with one job |
| ``confined`` | what a worker may see and take: no secrets, no network, bounded resources |
| ``work_folder`` | where the records of finished work lie |
| ``measuring`` | one video to clips with scores |
| ``shot_views`` | a video decoded once, cut where shots end |
| ``shots`` | cuts, dissolves and fades |
| ``step`` | ``CurationStep``, the base of all steps, and the ``View`` of a clip that they see |
| ``borders`` | step: black bars are found and cropped away |
| ``scores`` | steps: light, sharpness, flicker, motion, text, watermarks, aesthetics |
| ``patterns`` | step: test patterns and title cards |
| ``labels`` | step: the six negative labels by a classifier |
| ``vlm_steps`` | steps that ask models: the same labels by a vision-language model, captions |
| ``table`` | ``ClipTable``: what choices need to know about all clips, in columns of numbers |
| ``duplicates`` | steps: perceptual hashes, embeddings; choices: exact copies, near copies, look-alikes |
| ``thresholds`` | choice: which clips each stage of training may see |
| ``cutting`` | kept clips to video files; a few frames of a clip side by side, for the report |
| ``shards`` | clips to tar files, a video folder and a Parquet table |
| ``outputs`` | ``OutputList``: what curation wrote, so that nothing else is ever replaced |
| ``captions`` | captions written into a curated folder afterwards |
| ``results`` | what a curation wrote, read back and checked |
| ``report`` | the HTML report |

Why a clip was dropped: ``cogvideox data inspect FOLDER --clip NAME``, or ``dropped.jsonl``, has the step, the reason
and the values. All reasons: docs/curation.md. The step was decided in

| step | decided in |
|---|---|
| listing | ``clip_folders.video_files`` |
| probe | ``recipe``: ``Gate`` |
| decode | unreadable: ``measuring``; failed, too large: ``worker``; too slow, crashed: ``engines`` |
| shots | ``measuring`` and ``shot_views``, by ``shots.Shots.min_seconds`` |
| caption | ``measuring`` |
| borders | ``borders`` |
| asked_labels, captions | ``vlm_steps``; captions that do not match: ``captioning.describe`` |
| exact_copies, near_copies, look_alikes | ``duplicates`` |
| thresholds | ``thresholds`` |
| cut | ``run``; the error itself: ``cutting`` |

The limits of the step decode are ``recipe.Bounds``.
"""
