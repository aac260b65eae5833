"""A randomised soak: everything runs, everything fails, and at the end nothing may be lost or doubled.

    make soak MINUTES=10 SEED=7

| subject | module |
|---|---|
| which fault comes when: a pure function of seed and minutes | `schedule` |
| the API and the workers, each started again when it falls, each with wires of its own that can fail | `hosts` |
| what each fault does | `acts` |
| buyers good and bad | `buyers` |
| small editions that are minted away after they were paid for, so that money is given back | `editions` |
| the run as a whole, and its report | `run` |

The schedule is replayed exactly by its seed; what it meets on its way (which payment is in which state) is not, since
processes and machines have their own pace.
"""
