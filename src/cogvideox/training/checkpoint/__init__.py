"""Training states: written whole, hashed, and read without unpickling anything.

| file | what it does |
|---|---|
| ``train_state`` | what a state holds of a run, collected and put back |
| ``saver`` | when it is written: at once, or in the background while training goes on |
| ``state`` | the folder of a state on disk: ``save_state``, ``latest_state`` |
| ``writers`` | several processes that write one state |
| ``sample_ledger`` | which samples a run has learned from |
"""
