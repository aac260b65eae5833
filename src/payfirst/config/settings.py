"""Every setting: its type, its default, its meaning, and what it may be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from payfirst.errors import OperatorError
from payfirst.units import ZERO_ADDRESS, Address, AtomicAmount, Depth, Wei, parse_address, parse_bytes32
from payfirst.x402.networks import Network, network_from_text

Role = Literal["api", "worker", "tool"]

PREFIX = "PAYFIRST_"
DEFAULT_FILE = Path("payfirst.toml")
# Variables with the prefix that are no settings: where the file is, which anvil to run, and the tests' own.
NOT_SETTINGS = re.compile(r"PAYFIRST_(CONFIG|ANVIL|BUYER_.*|TEST_.*)")
KEY_VARIABLES = ("PAYFIRST_SIGNERS__SETTLE_KEY", "PAYFIRST_SIGNERS__MINT_KEY")
# Only for refunds: a worker does without, and then what is owed stays owed.
REFUND_KEY_VARIABLES = ("PAYFIRST_SIGNERS__REFUND_KEY", "PAYFIRST_SIGNERS__TREASURY_KEY")
SECRET_VARIABLES = (*KEY_VARIABLES, *REFUND_KEY_VARIABLES, "PAYFIRST_SIGNERS__PASSPHRASE")
SIGNERS_FOLDER = "signers"
KEY_FILE_BYTES_MAX = 256
SHOWN_CHARACTERS_MAX = 80
MAX_FEE_GWEI_MAX = 1_000_000
AMOUNT_MAX = 10**18
TAGS = ("safe", "finalized")
REDACTED = "********"
_AMOUNT = re.compile(r"[0-9]{1,30}(\.[0-9]{1,36})?")
_ORIGIN = re.compile(r"https?://[a-z0-9.:\[\]-]+")
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


# What a value may be: each raises ValueError with words that follow "expected".


def _address(text: str) -> str:
    try:
        address = parse_address(text)
    except ValueError:
        raise ValueError("an address: 0x and 40 hex digits") from None
    if address == ZERO_ADDRESS:
        raise ValueError("an address other than the zero address")
    return text


def _address_or_empty(text: str) -> str:
    return _address(text) if text else text


def _gwei(value: object) -> Decimal:
    expected = f"a number of gwei from 0 to {MAX_FEE_GWEI_MAX}, in whole wei (9 decimals at most), such as 0.001"
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(expected)
    try:
        gwei = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(expected) from None
    if not gwei.is_finite() or not 0 <= gwei <= MAX_FEE_GWEI_MAX or (gwei * 10**9) % 1:
        raise ValueError(expected)
    return gwei


def _units(value: object) -> Decimal:
    expected = f"a number of whole units of the asset from 0 to {AMOUNT_MAX}, such as 250 or 0.5; 0 is none"
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(expected)
    try:
        units = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(expected) from None
    if not units.is_finite() or not 0 <= units <= AMOUNT_MAX:
        raise ValueError(expected)
    return units


def _depth(low: int, high: int) -> BeforeValidator:
    expected = f'a whole number from {low} to {high}, "safe" or "finalized"'

    def judge(value: object) -> object:
        is_number = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        if not is_number and value not in TAGS:
            raise ValueError(expected)
        return value

    return BeforeValidator(judge)


def _is_deeper(one: Depth, other: Depth) -> bool:
    """Whether `one` is certainly deeper; a number and a tag cannot be compared before the chain is seen."""
    if isinstance(one, int) and isinstance(other, int):
        return one > other
    return (one, other) == ("finalized", "safe")


def _amount_or_empty(text: str) -> str:
    if text and (not _AMOUNT.fullmatch(text) or not Decimal(text)):
        raise ValueError(
            'an amount above 0 in whole units of the asset, such as "25" or "0.5", or nothing for no limit'
        )
    return text


def _is_url(text: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _database_url(text: str) -> str:
    # A socket's URL may have no host, so the scheme is all that is demanded.
    if text and not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("postgresql://user:password@host:port/database, or nothing for the embedded server")
    return text


def _public_url(text: str) -> str:
    if text and (not _is_url(text, "http", "https") or urlsplit(text).query or urlsplit(text).fragment):
        raise ValueError("an http:// or https:// URL without a query, or nothing for http://host:port")
    return text.rstrip("/")


def _rpc_urls(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(url, str) for url in value):
        raise ValueError("a list of at least one http:// or https:// URL (separated by commas in a variable)")
    if not all(_is_url(url, "http", "https") for url in value):
        raise ValueError("http:// or https:// URLs only")
    return tuple(value)


def _origins(value: object) -> tuple[str, ...]:
    expected = 'a list of origins such as "https://shop.example" (no path, no slash at the end), or of "*" alone'
    if not isinstance(value, list | tuple) or not all(isinstance(origin, str) for origin in value):
        raise ValueError(expected)
    if tuple(value) != ("*",) and not all(_is_origin(origin) for origin in value):
        raise ValueError(expected)
    return tuple(value)


def _is_origin(text: str) -> bool:
    # Browsers send origins in lower case and without a default port; anything else would never match.
    if not _ORIGIN.fullmatch(text) or not _is_url(text, "http", "https"):
        return False
    parts = urlsplit(text)
    return parts.port != {"http": 80, "https": 443}[parts.scheme]


def _network_name(text: str) -> str:
    try:
        network_from_text(text)
    except ValueError:
        raise ValueError("an x402 v1 name such as base-sepolia, or CAIP-2 such as eip155:84532") from None
    return text


def _folder(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("the path of a folder")
    return Path(value)


def _private_keys(value: SecretStr) -> SecretStr:
    try:
        numbers = [int.from_bytes(key) for key in _keys(value)]
    except ValueError:
        numbers = [0]
    if not all(0 < number < SECP256K1_ORDER for number in numbers):
        raise ValueError("a private key: 0x and 64 hex digits (several are separated by commas)")
    if len(set(numbers)) < len(numbers):
        raise ValueError("keys that differ: one of them is there twice")
    return value


AddressText = Annotated[str, AfterValidator(_address)]
Gwei = Annotated[Decimal, BeforeValidator(_gwei)]
Units = Annotated[Decimal, BeforeValidator(_units)]
PrivateKeys = Annotated[SecretStr, AfterValidator(_private_keys)]


def _whole(default: int, low: int, high: int, meaning: str) -> Any:  # Any, as pydantic's own Field is typed
    expected = f"a whole number from {low} to {high}"
    return Field(default, ge=low, le=high, description=meaning, json_schema_extra={"expected": expected})


def _switch(meaning: str) -> Any:
    return Field(False, description=meaning, json_schema_extra={"expected": "true or false"})


def _text(default: str | None, meaning: str, *, expected: str = "text in quotes", **more: Any) -> Any:
    return Field(
        ... if default is None else default,
        description=meaning,
        json_schema_extra={"expected": expected},
        **more,
    )


class Section(BaseModel):
    """One table of the file. Frozen; a number is never read from a boolean, nor text from a number."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )


class Database(Section):
    """Where PostgreSQL is. Left out of the repr because a URL holds a password."""

    url: Annotated[str, AfterValidator(_database_url)] = _text(
        "", "Empty: the embedded PostgreSQL in data_dir/postgres. DATABASE_URL overrides it.", repr=False
    )


class Server(Section):
    """The HTTP side."""

    host: str = _text("127.0.0.1", "The address to listen on.", expected="a host name or IP address", min_length=1)
    port: int = _whole(4021, 1, 65_535, "The port to listen on.")
    processes: int = _whole(1, 1, 64, "API processes that share the port.")
    public_url: Annotated[str, AfterValidator(_public_url)] = _text(
        "", "The URL by which buyers reach this server. Empty: http://host:port."
    )
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(_origins)] = Field(
        default=(), description='Origins whose pages may call this server, such as "https://shop.example"; "*" is any.'
    )
    wait_s_max: int = _whole(30, 0, 300, "A request with Prefer: wait is held this long at most; 0 holds none.")
    waiters_max: int = _whole(10_000, 0, 100_000, "Requests and event streams that one process holds at once.")

    @property
    def base_url(self) -> str:
        """`public_url`, or http://host:port; no slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"http://{host}:{self.port}"


class Chain(Section):
    """`[network]`: the chain, and how to reach and judge it."""

    name: Annotated[str, AfterValidator(_network_name)] = _text(
        "base-sepolia", "The x402 v1 name (base-sepolia) or CAIP-2 (eip155:84532)."
    )
    rpc_urls: Annotated[tuple[str, ...], BeforeValidator(_rpc_urls)] = Field(
        default=("http://127.0.0.1:8545",), description="JSON-RPC endpoints, the preferred one first.", repr=False
    )
    confirmations: Annotated[Depth, _depth(1, 10_000)] = Field(
        default=1,
        description="Blocks until a transaction is confirmed; 1 is included in the head block."
        ' Or "safe" or "finalized".',
    )
    large_confirmations: Annotated[Depth, _depth(1, 1_000_000)] = Field(
        default="finalized", description="The same for payments from payments.large_amount on: deeper."
    )
    final_depth: Annotated[Depth, _depth(1, 1_000_000)] = Field(
        default=64, description='Blocks until a block counts as final here. Or "safe" or "finalized".'
    )
    multicall3: AddressText = _text("0xcA11bde05977b3631167028862bE2a173976CA11", "Multicall3's address.")
    poll_interval_ms: int = _whole(250, 10, 60_000, "Between two looks for a new block.")
    tx_gas_max: int = _whole(16_777_216, 100_000, 1_000_000_000, "Gas of one transaction at most (EIP-7825).")
    max_fee_gwei: Gwei = Field(default=Decimal("50.0"), description="The fee per gas is never bid above this.")
    priority_fee_gwei: Gwei = Field(default=Decimal("0.001"), description="The tip per gas.")
    replace_after_s: int = _whole(30, 6, 86_400, "A transaction not mined for so long is sent again at a higher fee.")
    abandon_after_s: int = _whole(
        900, 60, 604_800, "One that no fee brought into a block for so long gives its account nonce up."
    )
    log_blocks_max: int = _whole(2_000, 1, 1_000_000, "Blocks of one eth_getLogs; halved where an endpoint wants less.")
    lag_blocks_max: int = _whole(5, 1, 10_000, "An endpoint further behind the best is used last.")
    audit_interval_s: int = _whole(600, 1, 86_400, "The workers compare database and chain this often.")

    @field_validator("large_confirmations", "final_depth")
    @classmethod
    def _not_before_confirmed(cls, value: Depth, info: ValidationInfo) -> Depth:
        if _is_deeper(info.data.get("confirmations", 0), value):
            raise ValueError(f"at least network.confirmations ({info.data['confirmations']})")
        return value

    @field_validator("max_fee_gwei")
    @classmethod
    def _some_fee(cls, value: Decimal) -> Decimal:
        if value == 0:
            raise ValueError("more than 0 gwei: with no fee nothing is ever mined")
        return value

    @field_validator("priority_fee_gwei")
    @classmethod
    def _tip_within_fee(cls, value: Decimal, info: ValidationInfo) -> Decimal:
        if value > info.data.get("max_fee_gwei", value):
            raise ValueError(f"at most network.max_fee_gwei ({info.data['max_fee_gwei']})")
        return value

    @property
    def network(self) -> Network:
        """The chain id and both names of `name`."""
        return network_from_text(self.name)

    @property
    def rpc_hosts(self) -> set[str]:
        """The hosts of `rpc_urls`, with their ports: two URLs of one host are one endpoint."""
        return {urlsplit(url).netloc.rpartition("@")[2] for url in self.rpc_urls}

    @property
    def multicall3_bytes(self) -> Address:
        """Multicall3's address, 20 bytes."""
        return parse_address(self.multicall3)

    @property
    def max_fee_wei(self) -> Wei:
        """`max_fee_gwei` in wei per gas."""
        return Wei(int(self.max_fee_gwei * 10**9))

    @property
    def priority_fee_wei(self) -> Wei:
        """`priority_fee_gwei` in wei per gas."""
        return Wei(int(self.priority_fee_gwei * 10**9))


class AssetSettings(Section):
    """`[asset]`: what is paid with. `name` and `version` are its EIP-712 domain, and differ between chains."""

    address: AddressText = _text(
        "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "The asset's contract. The known networks have their USDC here."
    )
    name: str = _text("USDC", 'Of its EIP-712 domain: "USDC" on Base Sepolia, "USD Coin" on Base.', min_length=1)
    version: str = _text("2", "Of its EIP-712 domain.", min_length=1)
    decimals: int = _whole(6, 0, 36, "Digits after the point of one whole unit.")

    @property
    def address_bytes(self) -> Address:
        """The asset's address, 20 bytes."""
        return parse_address(self.address)


class Payments(Section):
    """What is accepted."""

    pay_to: Annotated[str, AfterValidator(_address_or_empty)] = _text(
        "", "Where buyers pay to. Required by the API and the workers; it belongs to one payfirst database."
    )
    quantity_max: int = _whole(10, 1, 250, "Units that one request may buy.")
    max_timeout_seconds: int = _whole(900, 1, 604_800, "How long an authorization is asked to be valid.")
    seconds_left_min: int = _whole(60, 0, 604_800, "An authorization with less left is refused.")
    queue_depth_max: int = _whole(100_000, 1, 100_000_000, "Unsettled payments; above it the API answers 503.")
    token_outstanding_max: int = _whole(50_000, 1, 100_000_000, "Unsettled payments for one token; above it 503.")
    payer_outstanding_max: int = _whole(200, 1, 100_000_000, "Unsettled payments of one payer; above it 429.")
    payer_short_s: int = _whole(
        30, 1, 3_600, "A payer seen short of money is refused more than it had for so long: 429."
    )
    smart_wallets: bool = _switch(
        "Take signatures of smart wallets (EIP-1271), which nobody can verify before the pre-flight: docs/wallets.md."
    )
    wallet_signature_bytes_max: int = _whole(2_048, 65, 4_096, "Of a smart wallet's signature; more is refused: 402.")
    wallet_outstanding_max: int = _whole(
        200, 1, 100_000, "Unsettled payments of all smart wallets together; above it 503."
    )
    wallet_payer_outstanding_max: int = _whole(4, 1, 100_000, "Unsettled payments of one smart wallet; above it 429.")
    heartbeat_max_age_s: int = _whole(30, 1, 3_600, "Older news from the workers makes the API answer 503.")
    confirm_lag_max_s: int = _whole(60, 1, 86_400, "Confirming further behind the chain makes the API answer 503.")
    token_sync_max_age_s: int = _whole(
        60, 20, 86_400, "A token not read from the chain for so long is not sold (503); workers read it every 10 s."
    )
    large_amount: Units = Field(
        default=Decimal(0),
        description="Payments of so many whole units of the asset or more wait for"
        " network.large_confirmations; 0: none.",
    )
    agree_amount: Units = Field(
        default=Decimal(0),
        description="Payments of so much or more are credited once two of network.rpc_urls agree on them; 0: none.",
    )
    drain_rate_floor_per_s: int = _whole(20, 1, 1_000_000, "Payments settled a second, at the least to be expected.")

    @field_validator("seconds_left_min")
    @classmethod
    def _less_than_asked(cls, value: int, info: ValidationInfo) -> int:
        if value >= info.data.get("max_timeout_seconds", value + 1):
            raise ValueError(f"less than payments.max_timeout_seconds ({info.data['max_timeout_seconds']})")
        return value

    def large_atomic(self, decimals: int) -> AtomicAmount | None:
        """`large_amount` in the asset's smallest units; None where no payment is large."""
        return _atomic(self.large_amount, decimals)

    def agree_atomic(self, decimals: int) -> AtomicAmount | None:
        """`agree_amount` in the asset's smallest units; None where no payment needs it."""
        return _atomic(self.agree_amount, decimals)

    @property
    def pay_to_bytes(self) -> Address:
        """Where buyers pay to, 20 bytes. Raises OperatorError if it is not set (a tool may do without)."""
        if not self.pay_to:
            raise OperatorError("payments.pay_to is not set: put the seller's address there")
        return parse_address(self.pay_to)


def _atomic(units: Decimal, decimals: int) -> AtomicAmount | None:
    return AtomicAmount(math.ceil(units * 10**decimals)) if units else None


class Settle(Section):
    """How payments are sent."""

    mode: Literal["batch", "single"] = _text(
        "batch",
        'How payments are sent: "batch" through Multicall3, "single" one transaction each.',
        expected="batch or single",
    )
    batch_max: int = _whole(200, 1, 250, "Payments in one transaction.")
    unresolved_max: int = _whole(16, 1, 64, "Unresolved transactions of the settle signer.")
    code_payer_gas_max: int = _whole(
        1_000_000,
        100_000,
        16_000_000,
        "Gas for a payment whose payer has code (smart wallet, EIP-7702); it goes alone.",
    )
    quarantine_s: int = _whole(
        3_600, 1, 2_592_000, "A payer whose code burned a transaction's gas is refused for so long: 429."
    )
    linger_ms: int = _whole(150, 0, 10_000, "How long a batch that is not full waits for more under load.")


class Mint(Section):
    """How paid units are minted."""

    batch_max: int = _whole(250, 1, 250, "Units in one transaction.")
    unresolved_max: int = _whole(16, 1, 64, "Unresolved transactions of the mint signer.")
    gas_per_unit: int = _whole(60_000, 21_000, 10_000_000, "Gas set aside for each unit.")


class Pause(Section):
    """What is stopped for a while. Meant to be set in a running system: `payfirst settings set pause.minting true`."""

    accepting: bool = _switch("Accept no payment: the API answers 503. payfirst drain sets it.")
    settling: bool = _switch("Sign no payment's transaction; what was sent is watched on. Nothing is accepted either.")
    minting: bool = _switch("Sign no mint's transaction; payments go on, and their units wait.")


class Refunds(Section):
    """What is given back of what was paid for and cannot be minted. Without a treasury's key it stays owed."""

    mode: Literal["off", "approve", "automatic"] = _text(
        "off",
        'What cannot be minted: "off" stays owed, "approve" is refunded once approved, "automatic" by itself.',
        expected="off, approve or automatic",
    )
    amount_max: Annotated[str, AfterValidator(_amount_or_empty)] = _text(
        "", "In whole units of the asset: a larger refund waits for an approval. Empty: none is too large."
    )
    daily_max: Annotated[str, AfterValidator(_amount_or_empty)] = _text(
        "", "In whole units: all refunds of any 24 hours, the approved ones too. Empty: no limit."
    )


class Signers(Section):
    """The workers' keys: these, and the keystores in data_dir/signers. An account's nonces have one owner."""

    settle_key: PrivateKeys = _text("", "", validate_default=False)
    mint_key: PrivateKeys = _text("", "", validate_default=False)
    refund_key: PrivateKeys = _text("", "", validate_default=False)
    treasury_key: PrivateKeys = _text("", "", validate_default=False)
    passphrase: SecretStr | None = Field(default=None)
    settle_key_file: str = _text("", "A file with 0x and 64 hex digits, mode 0600: pays the gas of settling.")
    mint_key_file: str = _text("", "A file with 0x and 64 hex digits, mode 0600: mints.")
    refund_key_file: str = _text("", "A file with 0x and 64 hex digits, mode 0600: pays the gas of refunds.")
    treasury_key_file: str = _text(
        "", "A file with 0x and 64 hex digits, mode 0600: refunds are paid from its account."
    )
    passphrase_file: str = _text("", "A file, mode 0600, with the passphrase of the keystores in data_dir/signers.")

    @field_validator("mint_key")
    @classmethod
    def _another_account(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        settle = info.data.get("settle_key")
        if isinstance(settle, SecretStr) and set(_keys(settle)) & set(_keys(value)):
            raise ValueError("another key than signers.settle_key: an account's nonces have one owner")
        return value

    @field_validator("refund_key")
    @classmethod
    def _a_third_account(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        for other in ("settle_key", "mint_key"):
            known = info.data.get(other)
            if isinstance(known, SecretStr) and set(_keys(known)) & set(_keys(value)):
                raise ValueError(f"another key than signers.{other}: an account's nonces have one owner")
        return value

    @field_validator("treasury_key")
    @classmethod
    def _one_treasury(cls, value: SecretStr) -> SecretStr:
        if len(_keys(value)) > 1:
            raise ValueError("one key: a refund's nonce binds one treasury")
        return value

    @property
    def settle_keys(self) -> tuple[bytes, ...]:
        """The settle signers' private keys, 32 bytes each."""
        return _keys(self.settle_key)

    @property
    def mint_keys(self) -> tuple[bytes, ...]:
        """The mint signers' private keys, 32 bytes each."""
        return _keys(self.mint_key)

    @property
    def refund_keys(self) -> tuple[bytes, ...]:
        """The refund signers' private keys, 32 bytes each."""
        return _keys(self.refund_key)

    @property
    def treasury_keys(self) -> tuple[bytes, ...]:
        """The treasury's private key, 32 bytes, or none."""
        return _keys(self.treasury_key)


def _keys(several: SecretStr | str) -> tuple[bytes, ...]:
    text = several if isinstance(several, str) else several.get_secret_value()
    return tuple(parse_bytes32(key) for key in re.split(r"[\s,]+", text.strip()) if text.strip())


class Log(Section):
    """Log lines."""

    format: Literal["auto", "console", "json"] = _text(
        "auto", '"auto" is console, on a terminal and when piped; "json" is one object a line.',
        expected="auto, console or json",
    )  # fmt: skip
    level: Literal["debug", "info", "warning", "error"] = _text(
        "info", "The least level that is written.", expected="debug, info, warning or error"
    )


class Metrics(Section):
    """Where `payfirst metrics` listens: never the public port."""

    host: str = _text(
        "127.0.0.1",
        "The address of payfirst metrics. Whoever reaches it reads turnover, balances and debts.",
        expected="a host name or IP address",
        min_length=1,
    )
    port: int = _whole(0, 0, 65_535, "Its port, such as 9464. 0: payfirst up starts no exporter.")


class Config(BaseSettings):
    """Everything that can be set, checked and frozen. Made by `load` only."""

    model_config = SettingsConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    data_dir: Annotated[Path, BeforeValidator(_folder)] = Field(
        default=Path("payfirst-data"), description="Where payfirst keeps its files. Relative to the working directory."
    )
    database: Database = Database()
    server: Server = Server()
    network: Chain = Chain()
    asset: AssetSettings = AssetSettings()
    payments: Payments = Payments()
    settle: Settle = Settle()
    mint: Mint = Mint()
    pause: Pause = Pause()
    refunds: Refunds = Refunds()
    signers: Signers | None = None
    metrics: Metrics = Metrics()
    log: Log = Log()

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` gathered: it has to name where each value came from, and refuse unknown names."""
        return (init_settings,)

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each setting came from: `default`, `<file>:<key>` or `environment: <variable>`."""
        return MappingProxyType(self._sources)

    @property
    def signers_dir(self) -> Path:
        """Where the signers' keystores are."""
        return self.data_dir / SIGNERS_FOLDER

    def worker_signers(self) -> Signers:
        """The keys. Raises OperatorError in a process that was not loaded as a worker."""
        if self.signers is None:
            raise OperatorError("only a worker holds keys: load the configuration with role worker")
        return self.signers

    def describe(self) -> list[tuple[str, str, str]]:
        """Every setting in the order of the file: its name, its value with secrets redacted, its source."""
        rows = []
        for setting in SETTINGS:
            section, _, key = setting.rpartition(".")
            holder = getattr(self, section) if section else self
            if holder is not None:
                rows.append((setting, display(setting, getattr(holder, key)), self._sources.get(setting, "default")))
        return rows


SECTIONS: dict[str, type[Section]] = {
    "database": Database,
    "server": Server,
    "network": Chain,
    "asset": AssetSettings,
    "payments": Payments,
    "settle": Settle,
    "mint": Mint,
    "pause": Pause,
    "refunds": Refunds,
    "signers": Signers,
    "metrics": Metrics,
    "log": Log,
}
SETTINGS: dict[str, FieldInfo] = {"data_dir": Config.model_fields["data_dir"]} | {
    f"{section}.{key}": info for section, model in SECTIONS.items() for key, info in model.model_fields.items()
}
DEPTHS = frozenset(setting for setting, info in SETTINGS.items() if info.annotation == Depth)
LISTS = frozenset(setting for setting, info in SETTINGS.items() if info.annotation == tuple[str, ...])
VARIABLES = {PREFIX + setting.upper().replace(".", "__"): setting for setting in SETTINGS}
KEYS = {VARIABLES[variable]: variable for variable in SECRET_VARIABLES}


def display(setting: str, value: object) -> str:
    """A value for people, on one line, with secrets redacted: keys, and what a URL may hold of them."""
    if setting in KEYS:
        return REDACTED
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return "true" if value else "false"
    items = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
    if setting in ("database.url", "network.rpc_urls"):
        items = [_redacted_url(item, path_is_public=setting == "database.url") for item in items]
    # A key in the wrong place, or with a digit lost, is still a key; an address has 40 digits.
    text = re.sub(r"[0-9a-fA-F]{41,}", REDACTED, ", ".join(items))
    text = text if text.isprintable() else repr(text)
    return (text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…") or '""'


def _redacted_url(text: str, *, path_is_public: bool) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        return REDACTED
    rest = text.partition("//")[2].partition("/")[2]
    if not parts.scheme or not parts.netloc or "@" in rest or parts.fragment:
        # What cannot be taken apart for certain is not shown (a password may hold a slash).
        return REDACTED if text else ""
    user, at, host = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://" + (f"{user.partition(':')[0]}:{REDACTED}{at}" if at else "") + host
    # An RPC provider's key is usually the path.
    shown += parts.path if path_is_public or parts.path in ("", "/") else f"/{REDACTED}"
    return shown + (f"?{REDACTED}" if parts.query else "")
