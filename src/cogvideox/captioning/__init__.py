"""Dense captions of videos: five stages, from frames to one description of the clip (Figure 7, caption appendix).

| file | what it does |
|---|---|
| ``options`` | ``CaptionOptions``: strategy, model, matcher, limits; loads no numpy |
| ``strategy`` | ``CaptionConfig``, and ``build``: the stages it describes |
| ``stages`` | short caption, frame captions, merge, summarise, local captioner |
| ``instructions`` | the prompts, each with a name and a version |
| ``describe`` | ``Describer``: runs clips through the stages; caption records, resumable |
| ``match`` | how well a caption fits its clip, and the filter that uses it |
| ``folder`` | captions for a folder of videos |
| ``local`` | the small captioner network; captioner and summariser as folders of weights |
| ``world`` | a rule-based model that answers every instruction for the tiny world, offline |
"""
