"""The reference pages of docs/, written from what the code itself says."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from typer.main import get_command

from features.catalogue import CATALOGUE, GROUPS, SERVED
from features.decode import REJECTION_CODES
from models.reasons import UNKNOWN, customer_text, reasons_for
from stream.examples import EXAMPLES
from stream.features_cli import markdown
from stream.metrics import METRICS
from stream.panel import SERVICE_CODES
from stream.settings import Settings, describe_settings
from stream.topics import DAY_MS, TopicPlan, plan

__all__ = ["commands", "pages"]

_MADE = "<!-- made by 'fraudstream docs export docs': change the code, not this page -->"


def pages() -> dict[str, str]:
    """File name -> the page's text."""
    return {
        "cli.md": _cli(),
        "settings.md": _settings(),
        "topics.md": _topics(),
        "reason-codes.md": _reason_codes(),
        "metrics.md": _metrics(),
        "features.md": _features(),
    }


def _cli() -> str:
    # here, because the command line imports this module
    from stream.cli import app  # noqa: PLC0415

    lines: list[str] = []
    for name, command in commands(get_command(app)):
        if command.hidden or name.startswith("docs "):
            continue
        lines += [f"## fraudstream {name}", "", _paragraphs(command.help), ""]
        rows = [_parameter(each) for each in command.params if not each.hidden and each.name != "help"]
        if rows:
            lines += [*_table(("argument or option", "default", "meaning"), rows), ""]
        lines += ["```console", *(f"$ {example}" for example in EXAMPLES.get(name, ())), "```", ""]
    return _page(
        "The command fraudstream",
        "`fraudstream COMMAND --help` says the same. `--config FILE`, before the command, or",
        "`FRAUDSTREAM_CONFIG` names a TOML file of [settings](settings.md).",
        "",
        "- **Exit codes**: 0 done, 1 refused (one line on stderr says why and what to do), 2 usage; 70 from",
        "  a worker in which something broke.",
        "- **`--json`**: one JSON object a line on stdout, for machines.",
        "- **Completion**: `fraudstream --install-completion` adds it to the shell in use (bash, zsh, fish,",
        "  PowerShell): commands, options, reason codes, topics, models. `--show-completion` only prints it.",
        "",
        *lines[:-1],
    )


def commands(command: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below this one, with its name as it is typed."""
    for name, each in getattr(command, "commands", {}).items():
        if hasattr(each, "commands"):
            if each.invoke_without_command:
                yield before + name, each
            yield from commands(each, f"{before}{name} ")
        else:
            yield before + name, each


def _paragraphs(text: str | None) -> str:
    """A docstring's text for a page."""
    return (text or "").strip().replace("<", "&lt;")


def _parameter(parameter: Any) -> tuple[str, str, str]:
    named = " / ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        named = str(parameter.metavar or parameter.name.upper())
    elif parameter.metavar:
        named += f" {parameter.metavar}"
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif default is None:
        shown = ""
    elif isinstance(default, bool):
        shown = "yes" if default else "no"
    else:
        shown = f"{default}"
    return f"`{named}`", shown, parameter.help or ""


def _settings() -> str:
    rows = [
        (f"`{each.name}`", each.expects, each.default, each.meaning, f"`{each.variable}`")
        for each in describe_settings()
    ]
    return _page(
        "Settings",
        "A setting comes from its environment variable, else from the TOML file of `--config FILE` or",
        "`FRAUDSTREAM_CONFIG` (`security.protocol` is `protocol` under `[security]`), else from its default.",
        "`fraudstream settings` shows them as they are now.",
        "",
        *_table(("setting", "takes", "default", "meaning", "environment"), rows),
    )


def _topics() -> str:
    # as they are when nothing is set, whatever is set where this runs
    settings = Settings.model_construct()
    rows = [
        (
            f"`{each.name}`",
            each.purpose,
            each.key,
            str(each.partitions),
            _kept(each),
            "; ".join([*(f"`{name}={each.config[name]}`" for name in sorted(each.must)), *_at_least(each)]),
        )
        for each in plan(settings)
    ]
    return _page(
        "Topics",
        "What `fraudstream topics create` makes when nothing is set; names are the settings `topics.*`.",
        "A topic that exists may be kept for longer or shorter, but `fraudstream topics describe` and a",
        "worker refuse one with another partition count or without what it must have.",
        "",
        *_table(("topic", "holds", "key", "partitions", "kept", "must have"), rows),
        "",
        "`orders-rejected` must take records at least 524,288 bytes larger than `orders` does.",
        "",
        "For each of the setting `entities` there is one more, named after the orders' topic, such as",
        "`orders-by-device`: the stage to which every order comes on its way, keyed by its device (or by",
        "its own id where it names none), kept and partitioned as `orders` is, with `max.message.bytes` of",
        "2,097,152 or more. Only workers write to it ([the road of an order](history.md)).",
    )


def _kept(topic: TopicPlan) -> str:
    if topic.config["cleanup.policy"] == "compact":
        return "the newest record of each key"
    retention = int(topic.config["retention.ms"])
    return "for ever" if retention < 0 else f"{retention // DAY_MS} days"


def _at_least(topic: TopicPlan) -> list[str]:
    return [f"`{name}` of {least:,} or more" for name, least in topic.at_least.items()]


def _reason_codes() -> str:
    return _page(
        "Reason codes",
        "## Why an order is rejected",
        "",
        "The header `reason` of a record in `orders-rejected`.",
        "",
        *_table(("code", "meaning"), [(f"`{code}`", meaning) for code, meaning in REJECTION_CODES.items()]),
        "",
        "## Why another model decided than usual, or none",
        "",
        "First among `reasons[].code` of a decision ([service.md](service.md)).",
        "",
        *_table(("code", "meaning"), [(f"`{code}`", meaning) for code, meaning in SERVICE_CODES.items()]),
        "",
        "## Why an order looked risky",
        "",
        "`reasons[].code` of a decision, for models on the catalogue's [features](features.md); a model's",
        f"own codes are published with it. With `{UNKNOWN}` after it, a code says that the feature had no",
        "value and that this counted. A reason is a feature that pushed this order's probability up; where",
        "a model asks other models, their pushes are given on to the features that moved them.",
        "",
        "What a customer may read says neither what was measured nor what to change, and accuses nobody.",
        "It is looked up by the code and not written into decisions; any other code, of a rejection or of",
        f"a shop's own feature, has one too: by the words in it, else *{customer_text('')}*.",
        "",
        *_table(
            ("code", "an analyst reads", "a customer may read"),
            [(f"`{each.code}`", each.text, customer_text(each.code)) for each in reasons_for(CATALOGUE)],
        ),
    )


def _metrics() -> str:
    rows = [
        (f"`{each.name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels), each.meaning)
        for each in METRICS
    ]
    return _page(
        "Metrics",
        "What a worker answers on `/metrics` when `health_port` is set, as Prometheus text or, if",
        "asked for, as OpenMetrics. A worker counts from its own start; what it has done counts once it is",
        "committed. `process_*` (memory, CPU, file descriptors) comes with it. What to do about them is in",
        "[operations.md](operations.md).",
        "",
        *_table(("metric", "kind", "labels", "meaning"), rows),
    )


def _features() -> str:
    return _page(
        "Features",
        f"The {len(CATALOGUE)} features of the catalogue, as `fraudstream features` lists them.",
        f"{len(SERVED)} are always served; the others ask another entity's history, *with device* the",
        "device's: a model that asks for one is refused where the setting `entities` does not name it.",
        "How late orders, revisions and corrections count, and what is exact: [history.md](history.md).",
        "",
        "*In the 30 days before this one* is from exactly 30 days before the order on, up to and without its",
        "own microsecond; *that ended 7 days before this one* moves the window back by 7 days. A missing",
        "value is unknown, which is not 0. The texts of the group `categories` are a start: put your own",
        "shop's into `features/catalogue.py`, and train again. Features beside these, of a shop's own:",
        "[own-features.md](own-features.md).",
        "",
        *markdown(GROUPS),
    )


def _page(title: str, *lines: str) -> str:
    return "\n".join((f"# {title}", "", _MADE, "", *lines)) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        _row(head),
        _row(["---"] * len(head)),
        *(_row([cell.replace("|", r"\|") for cell in row]) for row in rows),
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
