"""Scores of anyone's videos, with intervals; nothing here imports a model of ours.

| file | what it does |
|---|---|
| ``score`` | ``Score``: a number with its 95 % interval (bootstrap over prompts), protocol and version |
| ``metrics`` | the table: every metric, what it needs, and the suites; add a metric there |
| ``fidelity`` | PSNR, SSIM, LPIPS and flickering of videos beside their originals |
| ``motion`` | dynamic degree by classical flow, DEVIL's Dynamic Quality, frozen clips, jumps of brightness |
| ``semantic`` | CLIP score (CLIP4Clip), and GPT4o-MTScore by a vision-language judge |
| ``vbench`` | VBench's dimensions, by networks whose answers were recorded elsewhere; VBench-Long |
| ``fvd`` | FVD, extrapolated FVD and KVD between two sets of videos |
| ``world_facts`` | facts of the tiny world that hold: suites ``world`` and ``two``, and a resumable run |
| ``world_conditions`` | suites ``inpaint``, ``keyframes``, ``control``: what a model is given, and whether it did so |
| ``prompt_suites`` | prompts of VBench and of CogVideoX's gallery, compositions; data in ``prompts/`` |
| ``video_folder`` | a folder of videos: each file is read, or named with the reason why not; their prompts |
| ``suite`` | ``evaluate``: run a suite, keep each group of scores, show progress |
| ``report`` | ``ScoreReport``: report.json and its table |
| ``report_page`` | report.html |
| ``compare`` | this run beside another: better, worse or undecided |
"""
