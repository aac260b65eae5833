"""What the chain's facts say: endpoints, the signers' accounts, and whose payTo it is. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from payfirst.chain.diagnosis import AccountFacts, EndpointFacts
from payfirst.chain.evidence import PaidTransfer
from payfirst.ops.doctor import Finding, fault, ok, warning
from payfirst.store.signers import EMPTY, ListedSigner
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, BlockNumber, Gas, Wei, checksum_address, hex_text

SLOW_S = 1.0
HEAD_AGE_S_MAX = 60.0
HEAD_AHEAD_S_MAX = 15.0
# Full transactions that a signer's balance should cover at the least.
TRANSACTIONS_LEFT_MIN = 20
SHOWN_MAX = 3


@dataclass(frozen=True, slots=True)
class LocalKey:
    """A key that this machine has; `mode` is its file's, None where it came in a variable."""

    purpose: str
    address: Address
    where: str
    mode: int | None


def judge_endpoints(
    endpoints: Sequence[EndpointFacts], *, chain_id: int, lag_blocks_max: int, now: float
) -> list[Finding]:
    """Each endpoint beside the best of them."""
    heads = [e.head for e in endpoints if e.head is not None and e.chain_id == chain_id]
    best = max((head.number for head in heads), default=None)
    found = [_judge_endpoint(e, chain_id=chain_id, lag_blocks_max=lag_blocks_max, best=best) for e in endpoints]
    if best is None:
        found.append(
            fault("chain", f"no endpoint of chain {chain_id} answers: nothing is settled", "correct network.rpc_urls")
        )
        return found
    newest = max(heads, key=lambda head: head.number)
    age_s = now - newest.time
    if age_s > HEAD_AGE_S_MAX:
        found.append(
            warning(
                "rpc",
                f"the newest block is {age_s:.0f} s old: the chain stands still, or every endpoint lags",
                "compare with the chain's explorer; payments wait, and are not lost",
            )
        )
    elif age_s < -HEAD_AHEAD_S_MAX:
        found.append(
            fault(
                "rpc",
                f"the newest block is {-age_s:.0f} s in this machine's future",
                "set the clock by NTP (timedatectl): authorizations are judged by it",
            )
        )
    return found


def _judge_endpoint(
    endpoint: EndpointFacts, *, chain_id: int, lag_blocks_max: int, best: BlockNumber | None
) -> Finding:
    others = "the others are used; mend it, or take it out of network.rpc_urls"
    if endpoint.head is None:
        return warning("rpc", f"{endpoint.label} does not answer: {endpoint.error}", others)
    if endpoint.chain_id != chain_id:
        advice = "take it out of network.rpc_urls, or correct network.name"
        return fault("rpc", f"{endpoint.label} serves chain {endpoint.chain_id} instead of {chain_id}", advice)
    said = f"{endpoint.label}: block {endpoint.head.number}, {endpoint.latency_s * 1_000:.0f} ms"
    behind = (best or endpoint.head.number) - endpoint.head.number
    if behind > lag_blocks_max:
        return warning("rpc", f"{said}, {behind} blocks behind the best", others)
    if endpoint.latency_s > SLOW_S:
        return warning("rpc", f"{said}: slow", "put a nearer one first in network.rpc_urls")
    return ok("rpc", said + (f", {behind} behind the best" if behind else ""))


def judge_agreement(*, hosts: int, agree_amount: AtomicAmount | None, test_money: bool) -> list[Finding]:
    """By whose word payments are credited, where they are worth something. URLs of one host are one endpoint."""
    if test_money:
        return []
    if hosts < 2:
        return [
            warning(
                "rpc",
                "one RPC endpoint alone says who has paid: what it invents is minted for, and what it withholds fails"
                " payments that were made",
                "name an endpoint of another provider in network.rpc_urls too, and set payments.agree_amount",
            )
        ]
    if agree_amount is None:
        return [
            warning(
                "rpc",
                "a payment of any amount is credited by the word of one endpoint: payments.agree_amount is 0",
                "set it to the least amount that you would not lose to an endpoint that lies: two have to agree from"
                " there on",
            )
        ]
    return []


def judge_keys(keys: Sequence[LocalKey], *, can_work: Sequence[str]) -> list[Finding]:
    """The keys on this machine. `can_work` says what keeps a worker from starting here; nothing, where one could."""
    found: list[Finding] = []
    for key in keys:
        said = f"{checksum_address(key.address)} {key.purpose}s: {key.where}"
        if key.mode is not None and key.mode & 0o077:
            advice = f"run chmod 600 {key.where}; a worker refuses it until then, and who could read it may have"
            found.append(fault("keys", f"{said} may be read by others (mode {key.mode:04o})", advice))
        else:
            found.append(ok("keys", said))
    purposes: dict[Address, set[str]] = {}
    for key in keys:
        purposes.setdefault(key.address, set()).add(key.purpose)
    found += [
        fault(
            "keys",
            f"{checksum_address(address)} is to {' and to '.join(sorted(several))}",
            "give each purpose a key of its own: an account's nonces have one owner",
        )
        for address, several in purposes.items()
        if len(several) > 1
    ]
    if not keys:
        found.append(ok("keys", "no key is on this machine: it can run the API, not a worker"))
    elif can_work:
        found.append(warning("keys", f"a worker would not start here: {'; '.join(can_work)}", "correct these settings"))
    return found


def judge_signers(
    registered: Sequence[ListedSigner],
    accounts: Mapping[Address, AccountFacts],
    *,
    gas_of: Mapping[str, Gas],
    gas_price: Wei,
    workers_live: bool,
) -> list[Finding]:
    """Each registered signer: whether it works, its gas money, and its account nonce beside the chain's.

    `gas_of` is a full transaction's gas by purpose, `gas_price` what is bid for a gas now.
    """
    if not registered:
        return [warning("signers", "no worker has registered a signer yet", "start payfirst work, and look at its log")]
    found = [
        fault("signers", f"no signer can {purpose}", f"payfirst signers resume, or signers new --purpose {purpose}")
        for purpose in ("settle", "mint")
        if not any(s.purpose == purpose and s.paused_reason is None for s in registered)
    ]
    for signer in registered:
        found += _judge_signer(
            signer,
            accounts.get(signer.address),
            full_cost=Wei(gas_of.get(signer.purpose, Gas(0)) * gas_price),
            workers_live=workers_live,
        )
    return found


def _judge_signer(
    signer: ListedSigner, account: AccountFacts | None, *, full_cost: Wei, workers_live: bool
) -> list[Finding]:
    name = f"{signer.purpose} signer {checksum_address(signer.address)}"
    found: list[Finding] = []
    if signer.paused_reason is not None:
        if signer.paused_reason.startswith(EMPTY):
            found.append(
                fault("signers", f"{name} rests: {signer.paused_reason}", "send it gas money; it goes on by itself")
            )
        else:
            found.append(warning("signers", f"{name} is paused: {signer.paused_reason}", "payfirst signers resume"))
    elif not signer.held and workers_live:
        found.append(
            warning(
                "signers", f"no worker holds {name}", "is its key on a machine where a worker runs? Its log says why"
            )
        )
    if account is None:
        return [*found, warning("signers", f"the account of {name} could not be read", "see the findings of rpc")]
    return found + _judge_nonce(signer, account, name) + [_judge_balance(account, name, full_cost)]


def _judge_nonce(signer: ListedSigner, account: AccountFacts, name: str) -> list[Finding]:
    ahead = account.nonce - signer.next_nonce
    if ahead > 0:
        return [
            fault(
                "signers",
                f"the chain has {ahead} transactions of {name} that this database does not know (nonce {account.nonce}"
                f" there, {signer.next_nonce} here)",
                "the key is used elsewhere, or the database was restored: stop the workers and find out which, before"
                " anything is signed",
            )
        ]
    missing = -ahead - signer.unresolved
    if missing > 0:
        return [
            fault(
                "signers",
                f"{name} has spent nonces up to {signer.next_nonce}, the chain has {account.nonce}, and only"
                f" {signer.unresolved} are on their way",
                "an endpoint that lags shows the same: if rpc is well, this is a gap that nothing fills",
            )
        ]
    return []


def _judge_balance(account: AccountFacts, name: str, full_cost: Wei) -> Finding:
    said = f"{name}: {account.balance / 10**18:.6f} ether"
    if account.balance == 0:
        return fault("signers", f"{said}: it can pay for nothing", "send it gas money")
    left = account.balance // full_cost if full_cost else TRANSACTIONS_LEFT_MIN
    said = f"{said}, nonce {account.nonce}, enough for {left} full transactions at the present fee"
    if left == 0:
        return fault("signers", said, "send it gas money")
    return warning("signers", said, "send it gas money") if left < TRANSACTIONS_LEFT_MIN else ok("signers", said)


def judge_pay_to(
    transfers: Sequence[PaidTransfer],
    unknown: Collection[tuple[Address, AuthorizationNonce]],
    *,
    pay_to: Address,
    blocks: int,
) -> list[Finding]:
    """Whose the payments to `pay_to` were: the `unknown` are of no payment that this database accepted."""
    foreign = [t for t in transfers if (t.payer, t.nonce) in unknown]
    where = f"in the last {blocks} blocks"
    if not foreign:
        said = f"{len(transfers)} payments to {checksum_address(pay_to)} {where}, all accepted here"
        return [ok("payTo", said if transfers else f"no payment to {checksum_address(pay_to)} {where}")]
    shown = ", ".join(hex_text(t.tx_hash) for t in foreign[:SHOWN_MAX])
    return [
        fault(
            "payTo",
            f"{len(foreign)} of {len(transfers)} authorizations paid to {checksum_address(pay_to)} {where} were"
            f" accepted by somebody else: {shown}",
            "a payTo belongs to one payfirst database: one payment could be credited by both. Give each its own"
            " payments.pay_to; after a restore from a backup, find the payments that were lost",
        )
    ]
