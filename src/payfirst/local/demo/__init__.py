"""`payfirst demo`: the whole flow on this machine, measured and checked. Nothing in it is pretended.

`play` is the run from the first step to the last; `stage` sets up, `official`, `bad` and `burst` are its three acts,
`measure` and `ledger` say what came of them, `checks` judges it, `view` and `report` show it.
"""
