"""An example or two of every command, to paste; shown by its help and in docs/cli.md, parsed by a test."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typer import Typer

__all__ = ["EXAMPLES", "put_in"]

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "broker start": ("fraudstream broker start", "fraudstream broker start --nodes 3"),
        "broker stop": ("fraudstream broker stop",),
        "broker status": ("fraudstream broker status --json",),
        "topics create": ("fraudstream topics create",),
        "topics describe": ("fraudstream topics describe", "fraudstream topics describe --json"),
        "topics repair-offsets": ("fraudstream topics repair-offsets",),
        "rebuild start": (
            "FRAUDSTREAM_TOPICS__CHANGELOG=rows-2 fraudstream rebuild start --from histories-changelog",
            "fraudstream --config new.toml rebuild start --from histories-changelog --once",
        ),
        "rebuild confirm": ("fraudstream rebuild confirm --drop histories-changelog",),
        "entity show": (
            "fraudstream entity show device d-4711",
            "fraudstream entity show customer c-17 --most 50 --json",
        ),
        "publish": (
            "fraudstream publish orders.jsonl.gz --rate 200",
            "fraudstream publish past.jsonl --history",
            "fraudstream publish orders.csv --guess > mapping.toml",
            "fraudstream publish orders.csv --map mapping.toml --dry-run",
        ),
        "watch": ("fraudstream watch", "fraudstream watch --from-beginning --count 100 --json"),
        "worker": (
            "fraudstream worker",
            "FRAUDSTREAM_WORKER=worker-2 fraudstream --config shop.toml worker",
            "fraudstream worker --observe",
        ),
        "train": (
            "fraudstream train past.jsonl",
            "fraudstream train past.jsonl --name starter --no-promote",
            "fraudstream train past.jsonl --features starter,fraud,declined_count_1h",
        ),
        "training-set": (
            "fraudstream training-set --to set.parquet --mature-after 45d --silence-is-legitimate",
            "fraudstream training-set --to set.parquet --features served --keep-legitimate 0.1",
            "fraudstream training-set --to logged.parquet --from-decisions --model starter",
        ),
        "evaluate": (
            "fraudstream evaluate starter --on set.parquet --to report.html",
            "fraudstream evaluate starter@2026-02-14.3f9c starter --on set.parquet --review-cost 2.50 --json",
        ),
        "models compare": (
            "fraudstream models compare --silence-is-legitimate",
            "fraudstream models compare new_risk --archive s3://shop/archive --review-cost 2.50 --json",
        ),
        "models drift": (
            "fraudstream models drift --window 7d",
            "fraudstream models drift risk --archive archive --metrics /var/lib/node_exporter/drift.prom",
        ),
        "models judge": (
            "fraudstream models judge --dry-run",
            "fraudstream models judge --archive archive",
            "fraudstream models judge --watch --every 30 --challengers-every 3600 --archive archive --json",
        ),
        "retrain": (
            "fraudstream retrain risk.toml --archive archive --silence-is-legitimate",
            "fraudstream retrain risk.toml --archive archive --then shadow",
            "fraudstream retrain risk.py --dry-run",
        ),
        "parity": (
            "fraudstream parity",
            "fraudstream parity --features amounts,velocity --since 7d --at-most 0.001 --json",
        ),
        "features": (
            "fraudstream features",
            "fraudstream features --group novelty --json",
            "fraudstream features --markdown > features.md",
        ),
        "features explain": (
            "fraudstream features explain o-4711",
            "fraudstream features explain o-4711 --feature amount_mean_30d --most 20 --json",
            "fraudstream features explain --order order.json --group velocity",
        ),
        "archive run": (
            "fraudstream archive run",
            "fraudstream archive run --at s3://bucket/shop --follow --every 300",
            "fraudstream archive run --topic orders --topic decisions --json",
        ),
        "archive verify": (
            "fraudstream archive verify",
            "fraudstream archive verify --at s3://bucket/shop --against-topics",
        ),
        "archive import": (
            "fraudstream archive import orders-2025.csv.gz --map mapping.toml",
            "fraudstream archive import past.jsonl --at s3://bucket/shop --json",
        ),
        "archive forget": ("fraudstream archive forget --topic decisions --before 2026-01-01",),
        "archive erase": ('fraudstream archive erase --customers customers.txt --why "request 4711"',),
        "archive status": ("fraudstream archive status", "fraudstream archive status --offline --json"),
        "models list": ("fraudstream models list", "fraudstream models list starter --json"),
        "models show": (
            "fraudstream models show starter",
            "fraudstream models show starter@2026-02-14.3f9c --json",
        ),
        "models verify": ("fraudstream models verify", "fraudstream models verify starter --json"),
        "models diff": ("fraudstream models diff starter starter@2026-02-14.3f9c",),
        "models card": ("fraudstream models card starter --to starter.md",),
        "models export": ("fraudstream models export starter@2026-02-14.3f9c starter.tar",),
        "models import": (
            "fraudstream models import starter.tar",
            "fraudstream models import pipeline.skops --name order_risk --rename amt=amount",
            "fraudstream models import pipeline.joblib --name order_risk --trust-this-file",
            "FRAUDSTREAM_REGISTRY=s3://bucket/models fraudstream models import starter.tar --sign",
        ),
        "models deploy": (
            "fraudstream models deploy starter@2026-02-14.3f9c --why 'learned from spring'",
            "fraudstream models deploy starter@2026-02-14.3f9c --role canary --share 5 --why 'try it'",
            "fraudstream models deploy starter --role champion --scope country=DE --why 'as before'",
        ),
        "models promote": (
            "fraudstream models promote starter --why 'a month in the shadow'",
            "fraudstream models promote starter --scope country=DE --scope channel=web --why 'better there'",
        ),
        "models rollback": ("fraudstream models rollback starter --why 'twice as many reviews'",),
        "models retire": (
            "fraudstream models retire starter@2026-02-14.3f9c --role challenger --why 'no better'",
        ),
        "models watch": (
            "fraudstream models watch incoming",
            "fraudstream models watch incoming --role champion --scope country=DE --once",
        ),
        "models service": ("fraudstream models service", "fraudstream models service --json"),
        "models history": (
            "fraudstream models history",
            "fraudstream models history --at 2026-03-01T12:00:00Z",
        ),
        "models gc": (
            "fraudstream models gc",
            "fraudstream models gc --keep 90 --archive s3://bucket/shop --leftovers --yes",
        ),
        "replay records": (
            "fraudstream replay records --to orders.parquet --processes 2",
            "fraudstream replay records --topic orders --topic outcomes --since 24h > day.jsonl",
            "fraudstream replay records --offsets 3:5021 --quiet",
        ),
        "replay features": (
            "fraudstream replay features --to features.parquet --processes 2",
            "fraudstream replay features --to may.jsonl --features starter --since 2026-05-01",
            "fraudstream replay features --to c42.jsonl --model starter --customer c42",
        ),
        "replay to-topic": (
            "fraudstream replay to-topic orders-again --create",
            "fraudstream replay to-topic orders-of-may --create --since 2026-05-01 --until 2026-06-01",
        ),
        "demo": ("fraudstream demo", "fraudstream demo --once"),
        "simulate past": ("fraudstream simulate past past.jsonl --days 28 --per-day 1000",),
        "simulate live": ("fraudstream simulate live --rate 50",),
        "pause": ('fraudstream pause --why "the shop resends everything"',),
        "resume": ("fraudstream resume", 'fraudstream resume --why "the shop is mended" --who ana'),
        "observe": ('fraudstream observe --why "the new model declines too much"',),
        "go-live": ('fraudstream go-live --why "a week of shadow decisions was sound"',),
        "kill-switch on": (
            "fraudstream kill-switch on --action review --why 'scores look wrong since noon'",
        ),
        "kill-switch off": ("fraudstream kill-switch off --why 'the model was rolled back'",),
        "control": ("fraudstream control", "fraudstream control --history", "fraudstream control --json"),
        "lag": ("fraudstream lag", "fraudstream lag --watch", "fraudstream lag --json"),
        "dead-letters list": (
            "fraudstream dead-letters list",
            "fraudstream dead-letters list --reason unknown_currency --since 24h",
        ),
        "dead-letters show": (
            "fraudstream dead-letters show orders-rejected/3/17",
            "fraudstream dead-letters show orders/3/5021 --raw > order.json",
        ),
        "dead-letters redrive": (
            "fraudstream dead-letters redrive --reason unknown_currency --since 24h --dry-run",
            "fraudstream dead-letters redrive orders-rejected/3/17 --yes",
            "fraudstream dead-letters redrive orders-rejected/3/17 --edit order.json --yes",
        ),
        "replay decision": (
            "fraudstream replay decision o-4711",
            "fraudstream replay decision o-4711 --archive s3://shop/archive --json",
        ),
        "explain": (
            "fraudstream explain o-4711",
            "fraudstream explain o-4711 --html o-4711.html",
            "fraudstream explain o-4711 --archive s3://shop/archive --json",
        ),
        "verify": (
            "fraudstream verify",
            "fraudstream verify --from 24h --to 1h --most 5",
            "fraudstream verify --archive s3://shop/archive --partition 3 --processes 1 --json",
        ),
        "doctor": ("fraudstream doctor", "fraudstream doctor --json"),
        "contracts export": ("fraudstream contracts export docs/contracts",),
        "settings": ("fraudstream settings", "fraudstream settings --describe"),
        "docs export": ("fraudstream docs export docs",),
    }
)
"""By command; every one has an entry here."""


def put_in(app: "Typer", before: str = "") -> None:
    """Show each command's examples at the end of its help."""
    for group in app.registered_groups:
        if group.typer_instance is not None:
            put_in(group.typer_instance, f"{before}{group.name} ")
            if examples := EXAMPLES.get(f"{before}{group.name}"):  # it does something by itself
                group.epilog = _shown(examples)
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        if examples := EXAMPLES.get(before + name):
            command.epilog = _shown(examples)


def _shown(examples: tuple[str, ...]) -> str:
    # an empty line between, or they would run into one
    return "\n\n".join(("To paste:", *examples))
