"""Every way in which a request is refused: its code, its status, when it happens, and what the buyer does.

`python -m payfirst.api.refusals` prints the table of docs/http-api.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.api import problems


@dataclass(frozen=True, slots=True)
class Refusal:
    """One code. `when` and `advice` are whole sentences."""

    code: str
    status: int
    when: str
    advice: str

    @property
    def title(self) -> str:
        """What a problem document says in `title`; x402's own codes (402) stand in `error` and have none."""
        return problems.TITLES.get(self.code, "")

    @property
    def detail(self) -> str:
        """A sentence such as the answer's own, which names the numbers."""
        return f"{self.when} {self.advice}"


_EXACT = "invalid_exact_evm_payload"

REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "invalid_request",
        400,
        "The body, an id in the path or the query says something that cannot be meant.",
        'Send what the sentence asks for, such as {"quantity": 1}.',
    ),
    Refusal(
        "invalid_payload",
        400,
        "The payment header is not base64 of a payment, or there are two of them.",
        "Build one header, X-PAYMENT or PAYMENT-SIGNATURE, from the offer.",
    ),
    Refusal(
        "invalid_x402_version",
        400,
        "The payment says another x402 version than its header carries.",
        "Send version 1 in X-PAYMENT and version 2 in PAYMENT-SIGNATURE.",
    ),
    Refusal(
        "payment_required",
        402,
        "The request carries no payment yet, or carries it in its body.",
        "Sign one of the offers in accepts and send the request again with it in the header.",
    ),
    Refusal("unsupported_scheme", 402, "The payment's scheme is not exact.", "Pay with the scheme exact."),
    Refusal(
        "invalid_network",
        402,
        "The payment is on another network, or spells it as the other x402 version does.",
        "Pay on the network of the offer.",
    ),
    Refusal(
        "invalid_payment_requirements",
        402,
        "What the payment says it accepted (asset, payTo, amount, extra) is not what is offered.",
        "Fetch the offer again and sign that.",
    ),
    Refusal(
        f"{_EXACT}_recipient_mismatch",
        402,
        "The authorization pays somebody else.",
        "Sign an authorization to the payTo of the offer.",
    ),
    Refusal(
        f"{_EXACT}_authorization_value_mismatch",
        402,
        "The authorization's value is not the price times the quantity; more is refused like less.",
        "Sign exactly the amount of the offer.",
    ),
    Refusal(
        f"{_EXACT}_authorization_valid_after",
        402,
        "The authorization is not valid yet.",
        "Sign one whose validAfter has passed.",
    ),
    Refusal(
        f"{_EXACT}_authorization_valid_before",
        402,
        "The authorization has ended, or ends too soon to be settled.",
        "Sign a new authorization that is valid for the offer's maxTimeoutSeconds.",
    ),
    Refusal(
        f"{_EXACT}_signature",
        402,
        "The signature is not the payer's under the asset's EIP-712 domain, or has a form that the asset refuses.",
        "Sign with the account in authorization.from and the domain of the offer's extra.",
    ),
    Refusal("unknown_token", 404, "No such token is sold here.", "Take an address from GET /api/tokens."),
    Refusal(
        "not_found",
        404,
        "Nothing is known under this path or id.",
        "Use the id of an answer, or a path of /openapi.json.",
    ),
    Refusal("method_not_allowed", 405, "The path has no such method.", "Use a method of the header Allow."),
    Refusal("body_too_slow", 408, "The body did not arrive in time.", "Send the request again, with its body at once."),
    Refusal("sold_out", 409, "Fewer units are left than were asked for.", "Ask for fewer, or for another token."),
    Refusal(
        "authorization_reused",
        409,
        "The authorization paid for another request already.",
        "Sign a new one for this request.",
    ),
    Refusal("body_too_large", 413, "The body is longer than any request needs.", "Send quantity and recipient only."),
    Refusal(
        "too_many_payments",
        429,
        "The payer has as many unsettled payments as are taken of one payer at once.",
        "Send the same request again after Retry-After seconds.",
    ),
    Refusal(
        "payer_short_of_funds",
        429,
        "The payer was seen short of money lately, and has signed more than it had then.",
        "Fund the payer, and send the same request again after Retry-After seconds.",
    ),
    Refusal(
        "payer_quarantined",
        429,
        "The code of the payer's account burned the gas of a settlement lately.",
        "Pay from another account, or after Retry-After seconds.",
    ),
    Refusal(
        "header_too_large",
        431,
        "The payment header is longer than any payment needs.",
        "Send the payload only, without additions.",
    ),
    Refusal(
        "internal_error",
        500,
        "Something is wrong on this side.",
        "If the request carried a payment, send the same header again: it pays at most once.",
    ),
    Refusal(
        "not_now",
        503,
        "Nothing could be settled or delivered at the moment, so nothing was taken.",
        "Send the same request again after Retry-After seconds.",
    ),
    Refusal(
        "outcome_unknown",
        503,
        "Whether the payment was stored could not be found out in time.",
        "Send the same header again; do not sign a new one.",
    ),
    Refusal(
        "not_ready",
        503,
        "No payment could be accepted now; reasons says why (/ready only).",
        "Ask again after Retry-After seconds.",
    ),
)
BY_CODE: dict[str, Refusal] = {refusal.code: refusal for refusal in REFUSALS}


def markdown() -> str:
    """The table for people."""
    rows = ["| code | status | when | what to do |", "|---|---|---|---|"]
    rows += [f"| `{r.code}` | {r.status} | {r.when} | {r.advice} |" for r in REFUSALS]
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown())
