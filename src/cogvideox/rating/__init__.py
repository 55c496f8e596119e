"""People rate videos: a blind study on a page of this machine, and what the ratings say.

| file | what it does |
|---|---|
| ``study`` | ``Study``: videos of several models under random names, signed assignments |
| ``anonymize`` | videos re-encoded alike, so that nothing but their content tells models apart |
| ``ledger`` | ``RatingLedger``: ratings in SQLite, on disk before they are acknowledged |
| ``grades`` | four aspects and a total per video (Table 4): scores and verdicts |
| ``pairwise`` | which of two videos is better: Bradley-Terry ratings and preferences |
| ``agreement`` | Krippendorff's alpha, and the words of verdicts |
| ``rating_app`` | routes of the rating page |
| ``labelling_app`` | routes of the page on which clips are labelled with defects |
| ``loopback`` | what the pages share: loopback names only, no foreign origin |
"""
