"""What can be trained: the transformer, the autoencoder, and the small networks around them.

Each task is a settings class (``...Training``) and what one step of it does (``...Task``).

| file | what |
|---|---|
| `diffusion` | the transformer: its loss in a micro-step, measured, sampled and exported |
| `diffusion_settings` | its settings; refusal of those that would change nothing |
| `base_model` | what these settings take from the model a run starts from |
| `diffusion_data` | its clips, encoded once, and dealt out to micro-steps |
| `diffusion_batches` | a sample of a clip, the velocity's error, held-out error in bands of noise |
| `diffusion_scenes` | objects that count more, and what a block is taught of cells (the tiny world) |
| `diffusion_conditions` | what a kind of model reads besides: first frames, masked clips, control videos |
| `diffusion_network` | the network before the first step, with an adapter where asked |
| `distil` | step distillation: guidance folded in, half of the steps, matching of distributions |
| `distil_methods` | the three methods as settings, and what a step of each costs |
| `distil_teacher` | the teacher, moves between its times, networks that share their weights |
| `distil_matching` | what a step of matching draws, and the loss that pulls the student |
| `distil_prompts` | a file of prompts instead of clips |
| `distil_compare` | what a student keeps of its teacher: motion, spread, contrast |
| `diffusion_export` | the whole model around a trained transformer: sample videos, model folder |
| `folder` | a folder of clips (or raw videos) as training reads it, and what a state keeps of it |
| `sizes` | how files become clips where a setting is left to the model; token counts |
| `vae` | the autoencoder: reconstruction, perceptual, KL and adversarial losses |
| `crops` | random crops of clips for the autoencoder |
| `text_encoder` | the tiny world's text encoder: facts of a scene out of its caption |
| `captioner` | the video captioner: frames to text |
| `summariser` | captions of frames to one caption of the clip |
| `captions` | the clips and texts these two are trained on |
| `lpips` | the stand-in for LPIPS |
| `features` | the feature network of the tiny world, for FVD |
| `label_classifier` | the classifier of the six negative labels |
| `label_report` | how good it is: calibration, thresholds, the table |
| `faults` | labelled samples for it, made from clean clips |
"""
