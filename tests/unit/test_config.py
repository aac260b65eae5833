"""The configuration: one file, environment overrides, and every fault told at once without a secret in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from payfirst.config import (
    KEYS,
    PRESETS,
    SECRET_VARIABLES,
    SECTIONS,
    SETTINGS,
    VARIABLES,
    Config,
    ConfigurationError,
    Fault,
    Role,
    example_text,
    expected_instead,
    file_text,
    load,
    without_keys,
)
from payfirst.config.presets import REASONS
from payfirst.errors import OperatorError

ROOT = Path(__file__).parents[2]
PAY_TO = "0x" + "11" * 20
SETTLE_KEY = "0x" + "a1" * 32
MINT_KEY = "0x" + "b2" * 32
PAID = {"PAYFIRST_PAYMENTS__PAY_TO": PAY_TO}
REFUNDING = {
    "PAYFIRST_SIGNERS__REFUND_KEY": "0x" + "c3" * 32,
    "PAYFIRST_SIGNERS__TREASURY_KEY": "0x" + "d4" * 32,
}
WORKER = PAID | {"PAYFIRST_SIGNERS__SETTLE_KEY": SETTLE_KEY, "PAYFIRST_SIGNERS__MINT_KEY": MINT_KEY}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in a folder without a payfirst.toml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "payfirst.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def write_key(name: str, key: str, mode: int = 0o600) -> Path:
    path = write(key + "\n", name)
    path.chmod(mode)
    return path


def faults(role: Role, environ: Mapping[str, str], path: Path | None = None) -> dict[str, Fault]:
    """The faults that loading tells, by setting; none may repeat a setting."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, role=role, environ=environ)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None  # it would hold the values
    for fault in error.faults:
        assert str(fault) in str(error)
    assert len({fault.setting for fault in error.faults}) == len(error.faults)
    return {fault.setting: fault for fault in error.faults}


def only_fault(role: Role, environ: Mapping[str, str], path: Path | None = None) -> Fault:
    (fault,) = faults(role, environ, path).values()
    return fault


# Where values come from.


def test_defaults_are_a_configuration_for_a_tool() -> None:
    """Without file and environment a tool has the defaults."""
    config = load(role="tool", environ={})
    assert config.model_dump() == Config().model_dump()
    assert config.server.port == 4021
    assert config.database.url == ""
    assert set(config.sources.values()) == {"default", "preset: base-sepolia"}
    assert set(config.sources) == set(SETTINGS)


def test_environment_goes_before_file_before_default() -> None:
    """Each setting is the environment's, else the file's, else the default, and its source says which."""
    path = write("[server]\nport = 1000\nprocesses = 2\n")
    config = load(role="tool", environ={"PAYFIRST_SERVER__PORT": "2000"})
    assert (config.server.port, config.server.processes, config.server.host) == (2000, 2, "127.0.0.1")
    assert config.sources["server.port"] == "environment: PAYFIRST_SERVER__PORT"
    assert config.sources["server.processes"] == f"{path}:server.processes"
    assert config.sources["server.host"] == "default"


def test_file_named_on_the_command_line_goes_before_the_variable() -> None:
    """--config, else PAYFIRST_CONFIG, else ./payfirst.toml: one file is read, never two."""
    write("[server]\nport = 1\nprocesses = 3\n")
    named = write("[server]\nport = 2\n", "named.toml")
    variable = {"PAYFIRST_CONFIG": str(write("[server]\nport = 3\n", "variable.toml"))}
    assert load(named, role="tool", environ=variable).server.port == 2
    assert load(role="tool", environ=variable).server.port == 3
    config = load(role="tool", environ={"PAYFIRST_CONFIG": ""})
    assert (config.server.port, config.server.processes) == (1, 3)
    assert load(named, role="tool", environ={}).server.processes == 1


def test_process_environment_is_not_looked_at_when_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the mapping passed in counts."""
    monkeypatch.setenv("PAYFIRST_SERVER__PORT", "5")
    assert load(role="tool", environ={}).server.port == 4021
    assert load(role="tool").server.port == 5


def test_models_made_directly_do_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but `load` reads the environment."""
    monkeypatch.setenv("SERVER", '{"port": 5}')
    monkeypatch.setenv("PAYFIRST_SERVER__PORT", "5")
    assert Config().server.port == 4021


def test_database_url_of_the_seed_overrides_the_file() -> None:
    """DATABASE_URL is the database, and the source says so."""
    write('[database]\nurl = "postgresql://file/db"\n')
    config = load(role="tool", environ={"DATABASE_URL": "postgresql://u:p@h:5432/db"})
    assert config.database.url == "postgresql://u:p@h:5432/db"
    assert config.sources["database.url"] == "environment: DATABASE_URL"


def test_two_variables_that_name_two_databases_are_a_fault() -> None:
    """Which database is meant is not guessed; the same one twice is fine."""
    both = {"DATABASE_URL": "postgresql://a/db", "PAYFIRST_DATABASE__URL": "postgresql://b/db"}
    assert only_fault("tool", both).setting == "database.url"
    both["PAYFIRST_DATABASE__URL"] = both["DATABASE_URL"]
    assert load(role="tool", environ=both).database.url == "postgresql://a/db"


def test_every_setting_can_be_set_in_the_environment() -> None:
    """Every setting's default, written into its variable, gives the defaults again."""
    defaults = load(role="tool", environ={})
    environ = {
        variable: defaults_text(defaults, setting)
        for variable, setting in VARIABLES.items()
        if not setting.startswith("signers.")
    }
    config = load(role="tool", environ=environ)
    assert config.model_dump() == defaults.model_dump()
    assert {config.sources[setting] for setting in environ_settings(environ)} == {
        f"environment: {variable}" for variable in environ
    }


def defaults_text(config: Config, setting: str) -> str:
    section, _, key = setting.rpartition(".")
    value = getattr(getattr(config, section) if section else config, key)
    return ",".join(value) if isinstance(value, tuple) else str(value)


def environ_settings(environ: Mapping[str, str]) -> list[str]:
    return [VARIABLES[variable] for variable in environ]


def test_several_rpc_urls_in_one_variable() -> None:
    """Commas separate them, the order stays."""
    config = load(role="tool", environ={"PAYFIRST_NETWORK__RPC_URLS": "http://a:1, https://b/key"})
    assert config.network.rpc_urls == ("http://a:1", "https://b/key")


@pytest.mark.parametrize("text", ["", "*", "http://127.0.0.1:3000,https://shop.example", "https://[::1]:8443"])
def test_origins_as_browsers_send_them(text: str) -> None:
    """None, any, or those listed."""
    config = load(role="tool", environ={"PAYFIRST_SERVER__CORS_ORIGINS": text})
    assert ",".join(config.server.cors_origins) == text


def test_other_variables_with_the_prefix_are_left_alone() -> None:
    """Variables that are no settings by design are not unknown settings."""
    load(role="tool", environ={"PAYFIRST_ANVIL": "/bin/anvil", "PAYFIRST_TEST_REQUIRE_PG15": "1", "PATH": "x"})


# Presets.

BASE_USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
SEPOLIA_USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"


@pytest.mark.parametrize("name", ["base", "eip155:8453"])
def test_the_name_of_a_known_network_is_enough(name: str) -> None:
    """Its USDC and its limits come with it; what is written goes before the preset."""
    config = load(role="tool", environ={"PAYFIRST_NETWORK__NAME": name, "PAYFIRST_NETWORK__CONFIRMATIONS": "5"})
    assert (config.asset.address, config.asset.name, config.asset.version) == (BASE_USDC, "USD Coin", "2")
    assert (config.network.confirmations, config.network.final_depth) == (5, 900)
    assert config.network.max_fee_gwei == 1
    assert config.sources["asset.name"] == "preset: base"
    assert config.sources["network.confirmations"] == "environment: PAYFIRST_NETWORK__CONFIRMATIONS"


@pytest.mark.parametrize(
    ("text", "setting", "expected"),
    [
        ('[asset]\nname = "USDC"', "asset.name", '"USD Coin"'),
        (f'[asset]\naddress = "{BASE_USDC.lower()}"\nname = "USDC"', "asset.name", '"USD Coin"'),
        ("[asset]\ndecimals = 18", "asset.decimals", "6, which is what USDC has on base"),
        (f'[asset]\naddress = "{SEPOLIA_USDC}"', "asset.address", f"write {BASE_USDC}, or nothing"),
    ],
)
def test_what_contradicts_the_real_usdc_is_refused(text: str, setting: str, expected: str) -> None:
    """Every payment would fail on chain; the fault says what to write."""
    write(f'network.name = "base"\n{text}\n')
    fault = only_fault("tool", {})
    assert fault.setting == setting
    assert expected in fault.expected


def test_another_asset_has_to_be_described() -> None:
    """Nothing of USDC's is taken for another asset, nor for a network without a preset."""
    own = {"PAYFIRST_NETWORK__NAME": "base", "PAYFIRST_ASSET__ADDRESS": PAY_TO}
    assert set(faults("tool", own)) == {"asset.name", "asset.version", "asset.decimals"}
    unknown = {"PAYFIRST_NETWORK__NAME": "polygon"}
    assert set(faults("tool", unknown)) == {"asset.address", "asset.name", "asset.version", "asset.decimals"}
    described = {f"PAYFIRST_ASSET__{key}": v for key, v in {"NAME": "Coin", "VERSION": "1", "DECIMALS": "18"}.items()}
    assert load(role="tool", environ=own | described).asset.decimals == 18


# Depths and amounts.


def test_a_depth_is_a_number_or_what_nodes_call_a_block() -> None:
    """In the file and in a variable; the default for large payments goes with any base depth."""
    write('[network]\nconfirmations = "safe"\nfinal_depth = "finalized"\n')
    network = load(role="tool", environ={}).network
    assert (network.confirmations, network.large_confirmations, network.final_depth) == (
        "safe",
        "finalized",
        "finalized",
    )
    variables = {"PAYFIRST_NETWORK__CONFIRMATIONS": "12", "PAYFIRST_NETWORK__LARGE_CONFIRMATIONS": "20"}
    network = load(role="tool", environ=variables).network
    assert (network.confirmations, network.large_confirmations) == (12, 20)


@pytest.mark.parametrize(
    ("text", "decimals", "atomic"), [("250", 6, 250_000_000), ("0.0000001", 6, 1), ("0.5", 0, 1), ("0", 6, None)]
)
def test_a_large_amount_is_told_in_whole_units(text: str, decimals: int, atomic: int | None) -> None:
    """Rounded up to what the asset can express; 0 is none."""
    payments = load(role="tool", environ={"PAYFIRST_PAYMENTS__LARGE_AMOUNT": text}).payments
    assert payments.large_atomic(decimals) == atomic


@pytest.mark.parametrize("urls", ["https://one.example/v2/k", "https://one.example/v2/k,https://one.example/v2/other"])
def test_agreement_of_one_endpoint_with_itself_is_refused(urls: str) -> None:
    """Two URLs of one host are one endpoint; with another provider's it is what was asked for."""
    environ = {"PAYFIRST_PAYMENTS__AGREE_AMOUNT": "100", "PAYFIRST_NETWORK__RPC_URLS": urls}
    fault = only_fault("tool", environ)
    assert fault.setting == "payments.agree_amount"
    assert "name an endpoint of another provider" in fault.expected
    config = load(role="tool", environ=environ | {"PAYFIRST_NETWORK__RPC_URLS": f"{urls},https://two.example"})
    assert config.payments.agree_atomic(6) == 100_000_000


# What is refused, and how it is told.


def test_every_fault_is_told_at_once() -> None:
    """File, environment, unknown names and what is missing: one error names them all, with sources."""
    path = write('[server]\nport = 0\nprots = 1\n[settle]\nmode = "fast"\n[asset]\naddress = "0x12"\n')
    environ = {"PAYFIRST_MINT__BATCH_MAX": "251", "PAYFIRST_SERVER_HOST": "::"}
    found = faults("worker", environ)
    assert set(found) == {
        *("server.port", "server.prots", "settle.mode", "asset.address", "mint.batch_max", "PAYFIRST_SERVER_HOST"),
        *("payments.pay_to", "signers.settle_key", "signers.mint_key"),
    }
    assert found["server.port"] == Fault("server.port", "0", f"{path}:server.port", "a whole number from 1 to 65535")
    assert found["mint.batch_max"] == Fault(
        "mint.batch_max", "251", "environment: PAYFIRST_MINT__BATCH_MAX", "a whole number from 1 to 250"
    )
    assert found["settle.mode"].expected == "batch or single"


def test_error_is_the_operators() -> None:
    """A bad configuration is for the operator to mend, and its sentence counts the faults."""
    with pytest.raises(OperatorError, match=r"the configuration has one fault:\n  payments.pay_to = "):
        load(role="api", environ={})


@pytest.mark.parametrize(
    ("text", "setting", "hint"),
    [
        ("[server]\nprt = 1", "server.prt", "did you mean server.port?"),
        ("[servr]\nport = 1", "servr.port", "did you mean server.port?"),
        ("port = 1", "port", "did you mean server.port?"),
        ("[settle]\ngas_per_unit = 1", "settle.gas_per_unit", "did you mean mint.gas_per_unit?"),
        ("[extra]", "extra", "a known setting"),
        ("[server]\nzzzzqqqq = 1", "server.zzzzqqqq", "a known setting"),
    ],
)
def test_unknown_name_in_the_file_is_refused_with_the_nearest_known_one(text: str, setting: str, hint: str) -> None:
    """A misspelled setting is a fault, not a default in disguise."""
    write(text)
    fault = only_fault("tool", {})
    assert fault.setting == setting
    assert hint in fault.expected


@pytest.mark.parametrize("name", ["PAYFIRST_SERVER_PORT", "PAYFIRST_SERVER__PRT", "PAYFIRST_server__port"])
def test_unknown_variable_is_refused_with_the_nearest_known_one(name: str) -> None:
    """A misspelled variable is a fault too."""
    fault = only_fault("tool", {name: "1"})
    assert fault.setting == name
    assert "did you mean PAYFIRST_SERVER__PORT?" in fault.expected


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("server", 'port = "4021"'),
        ("server", "port = true"),
        ("server", "port = 4021.0"),
        ("server", "port = 65536"),
        ("server", 'host = ""'),
        ("server", 'public_url = "mint.example"'),
        ("server", 'public_url = "https://mint.example/?a=1"'),
        ("server", 'cors_origins = "*"'),
        ("server", 'cors_origins = ["*", "https://shop.example"]'),
        ("server", 'cors_origins = ["https://shop.example/"]'),
        ("server", 'cors_origins = ["https://Shop.example"]'),
        ("server", 'cors_origins = ["https://shop.example:443"]'),
        ("server", 'cors_origins = ["https://shop.example:no"]'),
        ("server", 'cors_origins = ["shop.example"]'),
        ("server", 'cors_origins = ["null"]'),
        ("server", "cors_origins = [1]"),
        ("database", 'url = "mysql://h/db"'),
        ("network", 'name = "base-seploia"'),
        ("network", "rpc_urls = []"),
        ("network", 'rpc_urls = "http://a"'),
        ("network", 'rpc_urls = ["ws://a"]'),
        ("network", "rpc_urls = [1]"),
        ("network", "confirmations = 0"),
        ("network", 'confirmations = "final"'),
        ("network", "large_confirmations = true"),
        ("network", "final_depth = 1.5"),
        ("network", 'multicall3 = "0xcA11"'),
        ("network", "max_fee_gwei = 0"),
        ("network", "max_fee_gwei = -1"),
        ("network", "max_fee_gwei = nan"),
        ("network", "max_fee_gwei = inf"),
        ("network", "max_fee_gwei = true"),
        ("network", "max_fee_gwei = 1_000_001"),
        ("network", "priority_fee_gwei = 0.0000000001"),
        ("network", 'priority_fee_gwei = "cheap"'),
        ("asset", f'address = "0x{"00" * 20}"'),
        ("asset", "version = 2"),
        ("asset", 'name = ""'),
        ("asset", "decimals = 37"),
        ("payments", f'pay_to = "0x{"00" * 20}"'),
        ("payments", f'pay_to = "{"11" * 20}"'),
        ("payments", "quantity_max = 251"),
        ("payments", "large_amount = -1"),
        ("payments", "large_amount = nan"),
        ("payments", 'agree_amount = "a lot"'),
        ("payments", "agree_amount = true"),
        ("settle", "batch_max = 251"),
        ("settle", 'mode = "Batch"'),
        ("mint", "batch_max = 0"),
        ("log", 'format = "text"'),
        ("log", 'level = "INFO"'),
    ],
)
def test_value_that_cannot_be_is_refused(section: str, line: str) -> None:
    """Types and ranges are demanded; the fault names the setting, the file and what is expected."""
    write(f"[{section}]\n{line}\n")
    fault = only_fault("tool", {})
    assert fault.setting == f"{section}.{line.partition(' =')[0]}"
    assert fault.source == f"payfirst.toml:{fault.setting}"
    assert fault.expected


@pytest.mark.parametrize("text", ["", "1.5", "ten", "0x10", "1" * 40, "１２"])
def test_number_in_a_variable_is_a_plain_one(text: str) -> None:
    """What is no plain whole number is refused."""
    fault = only_fault("tool", {"PAYFIRST_SERVER__PORT": text})
    assert fault.expected == "a whole number from 1 to 65535"


@pytest.mark.parametrize(
    ("text", "setting", "other"),
    [
        ("[network]\nconfirmations = 100", "network.final_depth", "network.confirmations (100)"),
        ("[network]\nconfirmations = 3\nlarge_confirmations = 2", "network.large_confirmations", "confirmations (3)"),
        (
            '[network]\nconfirmations = "finalized"\nfinal_depth = "safe"',
            "network.final_depth",
            "network.confirmations (finalized)",
        ),
        ("[network]\nmax_fee_gwei = 0.0001", "network.priority_fee_gwei", "network.max_fee_gwei (0.0001)"),
        ("[payments]\nmax_timeout_seconds = 60", "payments.seconds_left_min", "payments.max_timeout_seconds (60)"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(text: str, setting: str, other: str) -> None:
    """A default that no longer fits what was set is told as well; where it was set, if it was."""
    write(text)
    fault = only_fault("tool", {})
    assert fault.setting == setting
    was_set = f"\n{setting.partition('.')[2]} =" in text
    assert (fault.source == f"payfirst.toml:{setting}") == was_set
    assert was_set or fault.source in ("default", "preset: base-sepolia")
    assert other in fault.expected


def test_section_that_is_no_table_is_refused() -> None:
    """`server = 1` is told as what it is."""
    write("server = 1\n[[log]]\n")
    assert {fault.expected for fault in faults("tool", {}).values()} == {"a table [server]", "a table [log]"}


def test_data_dir_is_a_path() -> None:
    """A path, not a number, and not nothing."""
    write('data_dir = "here"')
    assert load(role="tool", environ={}).data_dir == Path("here")
    write("data_dir = 1")
    assert only_fault("tool", {}).setting == "data_dir"
    assert only_fault("tool", {"PAYFIRST_DATA_DIR": ""}).expected == "the path of a folder"


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_file_that_is_no_toml_is_told_with_the_other_faults(content: bytes) -> None:
    """The environment is still judged; what the file would have said is not called missing."""
    Path("payfirst.toml").write_bytes(content)
    found = faults("worker", {"PAYFIRST_SERVER__PORT": "x"})
    assert set(found) == {"the configuration file", "server.port"}
    assert found["the configuration file"].shown == "payfirst.toml"


def test_named_file_that_is_missing_is_a_fault() -> None:
    """A file that was asked for has to be there; a folder in its place is none."""
    assert "No such file" in only_fault("api", PAID, Path("none.toml")).expected
    fault = only_fault("api", PAID | {"PAYFIRST_CONFIG": "."})
    assert "Is a directory" in fault.expected
    assert fault.source == "environment: PAYFIRST_CONFIG"


# Keys.


def test_worker_has_both_keys_from_the_environment() -> None:
    """Keys come as 32 bytes to those who ask for them, and their sources are told."""
    config = load(role="worker", environ=WORKER)
    signers = config.worker_signers()
    assert signers.settle_keys == (bytes.fromhex("a1" * 32),)
    assert signers.mint_keys == (bytes.fromhex("b2" * 32),)
    assert config.sources["signers.mint_key"] == "environment: PAYFIRST_SIGNERS__MINT_KEY"


def test_worker_reads_key_files() -> None:
    """A key file named in the configuration file does as well as the variable."""
    write_key("settle.key", SETTLE_KEY)
    write('[signers]\nsettle_key_file = "settle.key"\n')
    environ = PAID | {"PAYFIRST_SIGNERS__MINT_KEY": MINT_KEY}
    config = load(role="worker", environ=environ)
    assert config.worker_signers().settle_keys == (bytes.fromhex("a1" * 32),)
    assert config.sources["signers.settle_key"] == "settle.key (signers.settle_key_file)"


def test_worker_without_keys_is_refused() -> None:
    """Both missing keys are told, with both ways to give them."""
    found = faults("worker", PAID)
    assert set(found) == {"signers.settle_key", "signers.mint_key"}
    assert "PAYFIRST_SIGNERS__MINT_KEY" in found["signers.mint_key"].expected
    assert "signers.mint_key_file" in found["signers.mint_key"].expected


@pytest.mark.parametrize("role", ["api", "worker", "tool"])
def test_raw_key_in_the_file_is_refused_in_every_role(role: Role) -> None:
    """A file is no place for a raw key, whoever reads it."""
    write(f'[signers]\nsettle_key = "{SETTLE_KEY}"\n')
    environ = WORKER if role == "worker" else PAID
    fault = only_fault(role, environ)
    assert fault.setting == "signers.settle_key"
    assert "a file is no place for a raw key" in fault.expected
    assert "a1a1" not in str(fault)


def test_api_with_a_key_in_its_environment_is_refused() -> None:
    """The process that faces the internet holds no key; without them the same environment is good."""
    secrets = WORKER | REFUNDING | {"PAYFIRST_SIGNERS__PASSPHRASE": "correct horse"}
    found = faults("api", secrets)
    assert set(found) == set(KEYS)
    expected = found["signers.settle_key"].expected
    assert "the API process holds no key: start it without PAYFIRST_SIGNERS__SETTLE_KEY" in expected
    config = load(role="api", environ=without_keys(secrets))
    assert config.signers is None
    assert set(secrets) - set(without_keys(secrets)) == set(SECRET_VARIABLES)


def test_another_programs_secrets_are_not_handed_to_the_api_either() -> None:
    """Whatever else of ours is a key or a passphrase stays with who was given it."""
    others = {"PAYFIRST_BUYER_KEY": SETTLE_KEY, "PAYFIRST_BUYER_PASSPHRASE": "x", "HOME": "/"}
    assert without_keys(others) == {"HOME": "/"}


def test_several_keys_of_a_purpose_are_separated_by_commas() -> None:
    """Each becomes a signer of its own."""
    second = "0x" + "c3" * 32
    config = load(role="worker", environ=WORKER | {"PAYFIRST_SIGNERS__SETTLE_KEY": f"{SETTLE_KEY}, {second}"})
    assert config.worker_signers().settle_keys == (bytes.fromhex("a1" * 32), bytes.fromhex("c3" * 32))


@pytest.mark.parametrize("keys", [f"{SETTLE_KEY},{SETTLE_KEY}", f"{SETTLE_KEY},0x12", f"{SETTLE_KEY},0x{'0' * 64}"])
def test_several_keys_are_each_judged(keys: str) -> None:
    """Twice the same, or one that is none."""
    fault = only_fault("worker", WORKER | {"PAYFIRST_SIGNERS__SETTLE_KEY": keys})
    assert fault.setting == "signers.settle_key"
    assert "a1a1" not in str(fault)


def test_a_key_for_both_purposes_is_found_among_several() -> None:
    """An account's nonces have one owner."""
    fault = only_fault("worker", WORKER | {"PAYFIRST_SIGNERS__MINT_KEY": f"{MINT_KEY},{SETTLE_KEY}"})
    assert fault.setting == "signers.mint_key"


def test_a_keystore_stands_for_a_key() -> None:
    """Its name says for what, so the missing other purpose is told."""
    Path("payfirst-data/signers").mkdir(parents=True)
    Path(f"payfirst-data/signers/settle-0x{'ab' * 20}.json").write_text("{}")
    fault = only_fault("worker", PAID)
    assert fault.setting == "signers.mint_key"
    assert "payfirst signers new --purpose mint" in fault.expected


@pytest.mark.parametrize("role", ["api", "tool"])
def test_key_files_are_not_opened_for_others_than_workers(role: Role) -> None:
    """One file may serve both: the key files it names need not even exist for the API."""
    write('[signers]\nsettle_key_file = "missing"\nmint_key_file = 5\n')
    config = load(role=role, environ=PAID)
    assert config.signers is None
    assert config.sources["signers.settle_key_file"] == "default"
    with pytest.raises(OperatorError, match="only a worker holds keys"):
        config.worker_signers()


def test_tool_with_keys_in_its_environment_does_not_take_them() -> None:
    """A tool starts in a worker's environment, but holds no key."""
    config = load(role="tool", environ=WORKER)
    assert config.signers is None
    assert "a1a1" not in repr(config)


@pytest.mark.parametrize(
    "key",
    ["", "0x12", "a1" * 32, "0x" + "00" * 32, "0x" + "ff" * 32, "0x" + "a1" * 31 + "zz", "0x" + "a1" * 33],
)
def test_text_that_is_no_key_is_refused_and_not_shown(key: str) -> None:
    """64 hex digits, not zero, below the curve's order."""
    fault = only_fault("worker", WORKER | {"PAYFIRST_SIGNERS__SETTLE_KEY": key})
    assert fault.setting == "signers.settle_key"
    assert not key or key not in str(fault)


def test_one_key_for_both_signers_is_refused() -> None:
    """An account's nonces have one owner."""
    fault = only_fault("worker", WORKER | {"PAYFIRST_SIGNERS__MINT_KEY": SETTLE_KEY.upper().replace("0X", "0x")})
    assert fault.setting == "signers.mint_key"
    assert fault.shown == "********"


def test_key_and_key_file_together_are_refused() -> None:
    """Which of the two is meant is not guessed."""
    write_key("settle.key", SETTLE_KEY)
    fault = only_fault("worker", WORKER | {"PAYFIRST_SIGNERS__SETTLE_KEY_FILE": "settle.key"})
    assert fault.setting == "signers.settle_key_file"
    assert "give one of the two" in fault.expected


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_key_file_that_others_can_read_is_refused(mode: int) -> None:
    """The fault says the mode and the command that mends it."""
    write_key("settle.key", SETTLE_KEY, mode)
    environ = PAID | {
        "PAYFIRST_SIGNERS__SETTLE_KEY_FILE": "settle.key",
        "PAYFIRST_SIGNERS__MINT_KEY": MINT_KEY,
    }
    fault = only_fault("worker", environ)
    assert fault.setting == "signers.settle_key_file"
    assert f"{mode:04o}" in fault.expected
    assert "chmod 600" in fault.expected


def test_a_credential_of_the_service_may_show_its_access_list_as_a_group() -> None:
    """systemd lets one account in and the mode says 0440; anywhere else, and for everybody, that is too open."""
    Path("credentials").mkdir(mode=0o700)
    environ = PAID | {
        "PAYFIRST_SIGNERS__SETTLE_KEY_FILE": "credentials/settle",
        "PAYFIRST_SIGNERS__MINT_KEY": MINT_KEY,
        "CREDENTIALS_DIRECTORY": "credentials",
    }
    write_key("credentials/settle", SETTLE_KEY, 0o440)
    assert load(role="worker", environ=environ).worker_signers().settle_keys
    assert "chmod 600" in only_fault("worker", environ | {"CREDENTIALS_DIRECTORY": "elsewhere"}).expected
    Path("credentials/settle").chmod(0o444)
    assert "0444" in only_fault("worker", environ).expected


def test_key_file_that_is_no_key_is_refused_and_not_shown() -> None:
    """The content stays unshown whatever it is."""
    write_key("settle.key", "correct horse battery staple")
    environ = PAID | {
        "PAYFIRST_SIGNERS__SETTLE_KEY_FILE": "settle.key",
        "PAYFIRST_SIGNERS__MINT_KEY": MINT_KEY,
    }
    fault = only_fault("worker", environ)
    assert fault.setting == "signers.settle_key"
    assert fault.source == "settle.key (signers.settle_key_file)"
    assert "horse" not in str(fault)


def test_key_file_that_is_missing_or_no_file_is_refused() -> None:
    """A missing file, a folder and a pipe are told, and a pipe does not hold up the start."""
    os.mkfifo("pipe", 0o600)
    Path("folder").mkdir(mode=0o700)
    for name, expected in (("missing", "No such file"), ("folder", "file"), ("pipe", "a regular file")):
        environ = PAID | {"PAYFIRST_SIGNERS__SETTLE_KEY_FILE": name, "PAYFIRST_SIGNERS__MINT_KEY": MINT_KEY}
        fault = only_fault("worker", environ)
        assert fault.setting == "signers.settle_key_file"
        assert expected in fault.expected


@pytest.mark.parametrize(
    "environ",
    [
        {"PAYFIRST_SIGNERS__SETLE_KEY": SETTLE_KEY},
        {"PAYFIRST_SIGNERS__SETTLE_KEY_FILE": SETTLE_KEY},
        {"PAYFIRST_PAYMENTS__PAY_TO": SETTLE_KEY},
        {"PAYFIRST_PAYMENTS__PAY_TO": SETTLE_KEY[:-1]},
        {"PAYFIRST_DATA_DIR": "x", "PAYFIRST_ASSET__ADDRESS": SETTLE_KEY[2:]},
        {"DATABASE_URL": "mysql://u:a1a1@h/db"},
        {"DATABASE_URL": "postgres:u:a1a1@h/db"},
        {"DATABASE_URL": "//u:a1a1/x@h/db"},
        {"PAYFIRST_NETWORK__RPC_URLS": "ws://rpc.example/v3/a1a1"},
        {"PAYFIRST_NETWORK__RPC_URLS": "https://rpc.example/v3/a1a1?a1a1,ws://u:a1a1@x"},
        {"PAYFIRST_NETWORK__RPC_URLS": "http://[a1a1/"},
    ],
)
def test_no_fault_shows_a_secret(environ: dict[str, str]) -> None:
    """A key or password in the wrong place, or under a wrong name, is not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        load(role="worker", environ=environ)
    assert "a1a1" not in str(caught.value)


# What is made of it.


def test_configuration_is_frozen() -> None:
    """No setting changes after loading, and the sources are read-only."""
    config = load(role="worker", environ=WORKER)
    with pytest.raises(ValidationError, match="frozen"):
        config.data_dir = Path("other")
    with pytest.raises(ValidationError, match="frozen"):
        config.server.port = 1
    with pytest.raises(TypeError):
        config.sources["server.port"] = "me"  # type: ignore[index]  # the refusal is what is tested


def test_repr_holds_no_secret() -> None:
    """Neither keys, nor what URLs hold."""
    environ = WORKER | {"DATABASE_URL": "postgresql://u:hunter2@h/db", "PAYFIRST_NETWORK__RPC_URLS": "http://h/hunter2"}
    text = repr(load(role="worker", environ=environ))
    assert "a1a1" not in text
    assert "b2b2" not in text
    assert "hunter2" not in text


def test_describe_tells_every_setting_with_its_source_and_no_secret() -> None:
    """Names in the order of the file; keys, passwords and the paths of RPC endpoints redacted."""
    environ = WORKER | {
        "DATABASE_URL": "postgresql://u:hunter2@h:5432/db?password=hunter2",
        "PAYFIRST_NETWORK__RPC_URLS": "https://rpc.example/v3/hunter2,http://127.0.0.1:8545",
    }
    rows = load(role="worker", environ=environ).describe()
    assert [setting for setting, _, _ in rows] == list(SETTINGS)
    shown = {setting: value for setting, value, _ in rows}
    assert shown["signers.settle_key"] == "********"
    assert shown["database.url"] == "postgresql://u:********@h:5432/db?********"
    assert shown["network.rpc_urls"] == "https://rpc.example/********, http://127.0.0.1:8545"
    assert shown["server.public_url"] == '""'
    assert ("payments.pay_to", PAY_TO, "environment: PAYFIRST_PAYMENTS__PAY_TO") in rows
    assert not re.search("hunter2|a1a1|b2b2", str(rows))


def test_describe_of_an_api_has_no_signers() -> None:
    """What was not read is not described."""
    rows = load(role="api", environ=PAID).describe()
    assert not [setting for setting, _, _ in rows if setting.startswith("signers.")]


def test_properties_hold_the_units_of_the_inside() -> None:
    """Addresses as bytes, fees as whole wei, the network with both its names."""
    write("[network]\nmax_fee_gwei = 0.3\npriority_fee_gwei = 0.000000001\n")
    config = load(role="api", environ=PAID)
    assert config.payments.pay_to_bytes == bytes.fromhex("11" * 20)
    assert config.asset.address_bytes == bytes.fromhex("036CbD53842c5426634e7929541eC2318f3dCF7e")
    assert config.network.multicall3_bytes == bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11")
    assert (config.network.max_fee_wei, config.network.priority_fee_wei) == (300_000_000, 1)
    assert config.network.max_fee_gwei == Decimal("0.3")
    assert (config.network.network.chain_id, config.network.network.caip2) == (84532, "eip155:84532")


def test_network_may_be_named_in_caip2() -> None:
    """Both spellings are one network."""
    config = load(role="tool", environ={"PAYFIRST_NETWORK__NAME": "eip155:84532"})
    assert config.network.network.name == "base-sepolia"


def test_pay_to_is_demanded_where_it_is_used() -> None:
    """A tool may do without; asking for it then is the operator's error."""
    with pytest.raises(OperatorError, match=r"payments\.pay_to is not set"):
        _ = load(role="tool", environ={}).payments.pay_to_bytes


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:4021"),
        ({"PAYFIRST_SERVER__HOST": "::1", "PAYFIRST_SERVER__PORT": "80"}, "http://[::1]:80"),
        ({"PAYFIRST_SERVER__PUBLIC_URL": "https://mint.example/"}, "https://mint.example"),
    ],
)
def test_base_url(environ: dict[str, str], url: str) -> None:
    """The public URL without its last slash, else host and port."""
    assert load(role="tool", environ=environ).server.base_url == url


# The example.


def test_example_file_is_what_the_code_says() -> None:
    """payfirst.example.toml is written by `python -m payfirst.config`."""
    assert (ROOT / "payfirst.example.toml").read_text(encoding="utf-8") == example_text()


def test_example_changes_nothing_as_it_is_and_holds_the_defaults() -> None:
    """As shipped it is all comments; with every setting uncommented it still is the defaults."""
    write(example_text())
    assert set(load(role="tool", environ={}).sources.values()) == {"default", "preset: base-sepolia"}
    write(re.sub(r"(?m)^#(?=[a-z0-9_]+ = )", "", example_text()))
    config = load(role="tool", environ={})
    assert config.model_dump() == Config().model_dump()
    from_file = {setting for setting, source in config.sources.items() if source.startswith("payfirst.toml")}
    assert from_file == {setting for setting in SETTINGS if not setting.startswith("signers.")}


@pytest.mark.parametrize("network", list(PRESETS))
def test_the_file_of_init_sets_what_was_chosen_and_shows_the_rest_as_it_is(network: str) -> None:
    """With every other line uncommented it says the same: what is shown is what holds on that network."""
    chosen = {"network.name": network, "payments.pay_to": PAY_TO, "network.rpc_urls": ('https://rpc.example/"x',)}
    text = file_text(chosen, network=network)
    write(text)
    config = load(role="api", environ={})
    assert (config.network.name, config.payments.pay_to) == (network, PAY_TO)
    assert config.network.rpc_urls == ('https://rpc.example/"x',)
    from_file = {setting for setting, source in config.sources.items() if source.startswith("payfirst.toml")}
    assert from_file == set(chosen)
    write(re.sub(r"(?m)^#(?=[a-z0-9_]+ = )", "", text))
    assert load(role="api", environ={}).model_dump() == config.model_dump()
    for setting, value in PRESETS[network].items():
        if setting.startswith("network."):
            reason = REASONS[network][setting]
            assert f"{reason.split('.')[0][:60]}" in text
            assert f"#{setting.removeprefix('network.')} = {value}" in text
    assert max(map(len, text.splitlines())) <= 120


def test_what_is_still_to_fill_in_stands_in_the_head_of_the_file() -> None:
    """And only then."""
    assert "STILL TO FILL IN below: payments.pay_to" in file_text({}, network="base", to_do=["payments.pay_to"])
    assert "STILL TO FILL IN" not in file_text({}, network="base")


def test_an_answer_is_judged_by_itself() -> None:
    """By the setting's own rule, in its own words."""
    assert expected_instead("payments.pay_to", PAY_TO) is None
    assert expected_instead("payments.pay_to", "0x12") == "an address: 0x and 40 hex digits"
    assert expected_instead("payments.pay_to", "0x" + "00" * 20) == "an address other than the zero address"
    assert expected_instead("network.rpc_urls", ("ws://rpc.example",)) == "http:// or https:// URLs only"
    assert expected_instead("server.port", 0) == "a whole number from 1 to 65535"


def test_every_setting_has_a_meaning() -> None:
    """No setting ships without its sentence, save the keys, which stand in no file; no section without settings."""
    assert [name for name, info in SETTINGS.items() if not info.description and name not in KEYS] == []
    assert all(model.model_fields for model in SECTIONS.values())


def test_refund_keys_are_a_worker_s_choice() -> None:
    """Without them nothing is missing; with them they are the treasury's one key, and signers of their own."""
    assert load(role="worker", environ=WORKER).worker_signers().treasury_keys == ()
    signers = load(role="worker", environ=WORKER | REFUNDING).worker_signers()
    assert signers.refund_keys == (bytes.fromhex("c3" * 32),)
    assert signers.treasury_keys == (bytes.fromhex("d4" * 32),)
    two = REFUNDING | {"PAYFIRST_SIGNERS__TREASURY_KEY": f"{SETTLE_KEY},{MINT_KEY}"}
    assert "one treasury" in faults("worker", WORKER | two)["signers.treasury_key"].expected
    shared = REFUNDING | {"PAYFIRST_SIGNERS__REFUND_KEY": MINT_KEY}
    assert "another key than signers.mint_key" in faults("worker", WORKER | shared)["signers.refund_key"].expected


@pytest.mark.parametrize("text", ["0", "0.0", "-1", "1e3", "ten", "1,5", ".5"])
def test_a_limit_of_refunds_is_an_amount_or_nothing(text: str) -> None:
    """In whole units of the asset, above zero."""
    found = faults("worker", WORKER | {"PAYFIRST_REFUNDS__DAILY_MAX": text})
    assert "whole units of the asset" in found["refunds.daily_max"].expected
    good = load(role="worker", environ=WORKER | {"PAYFIRST_REFUNDS__DAILY_MAX": "2.5"})
    assert (good.refunds.daily_max, good.refunds.amount_max, good.refunds.mode) == ("2.5", "", "off")
