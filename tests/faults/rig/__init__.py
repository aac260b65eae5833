"""The fault rig: real faults in front of real servers, and one check of what must hold afterwards.

| subject | module |
|---|---|
| a message at which something happens: a cut, a kill | `boundary` |
| an RPC endpoint that drops, delays, lags, lies, refuses | `rpc_proxy`, `rpc_lies` |
| a PostgreSQL connection that is cut at a chosen message, in COMMIT too | `postgres_proxy` |
| PostgreSQL stopped, killed, started again; a disk that fills | `servers` |
| several machines, with links that can be cut in silence | `machines` |
| worker and API processes: SIGKILL, SIGSTOP, SIGTERM | `processes` |
| reorgs, forgotten transactions, no mining, base fee, time | `chain` |
| what must hold after every fault, in the database and on the chain | `invariants` |

Nothing in `src/` knows of it: faults come over the wire, by signals, and from the chain.
"""
