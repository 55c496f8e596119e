"""Training states: written whole, hashed, and read without unpickling anything.

| file | what it does |
|---|---|
| ``saver`` | what a state holds of a run, and when it is written; the ledger of samples |
| ``state`` | the folder of a state on disk: ``save_state``, ``latest_state`` |
| ``writers`` | several processes that write one state |
"""
