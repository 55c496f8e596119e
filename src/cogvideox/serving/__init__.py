"""Work behind a web page.

study.py     what is rated: videos of several models under names that say nothing, assignments that are signed
ledger.py    what was said: ratings in SQLite, durable before they are acknowledged, one per rater and unit
ratings.py   the routes between the two and the page in pages/
"""
