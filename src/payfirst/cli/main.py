"""The command `payfirst`: each subcommand is a module beside this one."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

import payfirst
from payfirst.cli import groups
from payfirst.cli.buy import buy
from payfirst.cli.output import ActorOption
from payfirst.cli.settings import ConfigOption
from payfirst.errors import PayfirstError

WORKERS_MAX = 32

app = typer.Typer(
    name="payfirst",
    help="An x402 server: payment first, then the mint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
groups.add_to(app)

# Each command imports what it needs when it runs: the API's processes have no use for the signers' libraries.


@app.command()
def init(
    network: Annotated[str | None, typer.Option(help="base or base-sepolia.")] = None,
    pay_to: Annotated[str | None, typer.Option(help="The address where buyers pay to.")] = None,
    rpc_url: Annotated[list[str] | None, typer.Option(help="A JSON-RPC endpoint, as often as there are.")] = None,
    minimal: Annotated[bool, typer.Option("--minimal", help="Ask nothing; what is missing is for later.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write a commented payfirst.toml from a few answers; what is given as an option is not asked."""
    from payfirst.cli.init import init as run

    run(config, network=network, pay_to=pay_to, rpc_urls=rpc_url or [], minimal=minimal, force=force)


@app.command()
def up(
    config: ConfigOption = None,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=WORKERS_MAX)] = 1,
) -> None:
    """Run the API and the workers until stopped; the embedded database too, if no other is configured."""
    from payfirst.cli.up import up as run

    run(config, workers=workers)


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the API: the process that faces the internet and holds no key."""
    from payfirst.cli.serve import serve as run

    run(config)


@app.command()
def work(config: ConfigOption = None) -> None:
    """Run one worker: it settles, confirms and mints, and holds the keys."""
    from payfirst.cli.work import work as run

    run(config)


@app.command()
def metrics(
    config: ConfigOption = None,
    print_file: Annotated[
        str | None, typer.Option("--print", help="Print a file that ships: alerts, dashboard or scrape.")
    ] = None,
) -> None:
    """Run the exporter that Prometheus scrapes: it shows what all API and worker processes measured."""
    from payfirst.cli.metrics import metrics as run
    from payfirst.cli.metrics import shipped

    if print_file is None:
        run(config)
    else:
        typer.echo(shipped(print_file), nl=False)


@app.command()
def audit(
    from_block: Annotated[int | None, typer.Option(help="The first block to compare.", min=0)] = None,
    to_block: Annotated[int | None, typer.Option(help="The last one. Default: the last block read.", min=0)] = None,
    since: Annotated[str | None, typer.Option(help="Instead: from so long ago, such as 90s, 30m, 1h or 2d.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what the chain alone decides.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    config: ConfigOption = None,
) -> None:
    """Compare database and chain. Exit code 0: they agree; 1: --repair or time mends it; 2: an operator has to look."""
    from payfirst.cli.audit import Asked
    from payfirst.cli.audit import audit as run

    raise typer.Exit(run(config, Asked(from_block, to_block, since), repair=repair, as_json=as_json))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop at the end; exit 0 only if everything adds up.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on the last line.")] = False,
    port: Annotated[int | None, typer.Option(help="The API's port, if 4021 will not do.")] = None,
) -> None:
    """Show the whole flow on this machine: embedded PostgreSQL, a local chain, real payments, minted tokens."""
    from payfirst.cli.demo import demo as run

    run(once=once, as_json=as_json, port=port)


app.command(name="buy")(buy)


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two frames.", min=0.2, max=60)] = 1.0,
    config: ConfigOption = None,
) -> None:
    """Watch rates, queues, chain, signers, processes and troubles live; Ctrl-C ends it."""
    from payfirst.cli.top import top as run

    run(config, once=once, interval_s=interval)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    show_settings: Annotated[bool, typer.Option("--settings", help="Show the settings at their defaults too.")] = False,
    config: ConfigOption = None,
) -> None:
    """Look whether everything is as it should be, and say what to do. Exit code 1 with warnings, 2 with faults."""
    from payfirst.cli.doctor import doctor as run

    run(config, as_json=as_json, show_settings=show_settings)


@app.command()
def drain(
    off: Annotated[bool, typer.Option("--off", help="Accept again.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing is left to settle or mint.")] = False,
    timeout: Annotated[float, typer.Option(help="With --wait, seconds after which to return anyway.", min=0)] = 600,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end.")] = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Stop accepting payments on every process (503, Retry-After), finish what was accepted, report what is left."""
    from payfirst.cli.drain import drain as run

    run(config, off=off, wait=wait, timeout_s=timeout, as_json=as_json, actor=actor)


@app.command()
def stats(
    since: Annotated[str, typer.Option(help="From when: 10m, 1h, 2d, or a time such as 2026-01-31T12:00Z.")] = "1h",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    config: ConfigOption = None,
) -> None:
    """How fast payments went through, what waits and what failed; exit code 1 when that is not as it should be."""
    from payfirst.cli.stats import stats as run

    run(config, since=since, as_json=as_json)


@app.command()
def version() -> None:
    """This release."""
    typer.echo(payfirst.__version__)


def main() -> None:
    """Run the command; what the operator can mend is one sentence on stderr and exit code 2."""
    try:
        app()
    except PayfirstError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[bold red]payfirst:[/] {escape(str(error))}")
        sys.exit(2)
