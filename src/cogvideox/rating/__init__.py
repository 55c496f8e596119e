"""Work behind a web page.

blind.py     videos of several models made alike: nothing but what they show tells them apart
study.py     what is rated: videos of several models under names that say nothing, assignments that are signed
ledger.py    what was said: ratings in SQLite, durable before they are acknowledged, one per rater and unit
connections.py  limits of connections in time and number, a log that stays small
ratings.py   the routes between the two and the page in pages/
"""
