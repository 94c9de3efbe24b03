"""``paceline show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from paceline.report.contestants import Card


def show(
    kind: str,
    name: str = "",
    *,
    json: Annotated[bool, Parameter(negative=())] = False,
    markdown: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Show the card of an optimizer, a strategy or a workload; without a name, which there are.

    Parameters
    ----------
    kind:
        optimizer, strategy or workload.
    name:
        Such as adamw, as in a study file.
    json:
        Print one JSON object.
    markdown:
        Print Markdown; without a name, all built-in cards as one page.
    """
    from dataclasses import asdict

    from paceline.cli.output import print_json, print_text
    from paceline.errors import UsageError
    from paceline.report import contestants

    if json and markdown:
        raise UsageError("--json and --markdown are two formats; give one of them")
    shown = contestants.kind_of(kind)
    if markdown:
        text = contestants.markdown(contestants.card_of(shown, name)) if name else contestants.page(shown)
        print_text(text.rstrip("\n"))
        return
    cards = [contestants.card_of(shown, one) for one in ([name] if name else contestants.names(shown))]
    if json:
        print_json({"schema_version": 1, "cards": [asdict(card) for card in cards]})
    elif name:
        _print(cards[0])
    else:
        _print_list(cards)


def _print_list(cards: list[Card]) -> None:
    """A line each."""
    from rich.table import Table
    from rich.text import Text

    from paceline.cli.output import console

    grid = Table.grid(padding=(0, 2, 0, 0))
    for card in cards:
        grid.add_row(Text(card.name, style="bold", no_wrap=True), Text(card.summary))
    console().print(grid)


def _print(card: Card) -> None:
    """Summary and notes, the update rule, what is known by heading, and the table of hyperparameters."""
    from textwrap import fill

    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from paceline.cli.output import console
    from paceline.report.contestants import hyperparameter_table, partners_in_words

    page = console()
    page.print(Text(card.name, style="bold"))
    page.print(Text("\n\n".join((card.summary, *card.notes))))
    if card.update_rule:
        page.print()
    for line in card.update_rule.splitlines():
        page.print(Text(fill(line, page.width, initial_indent="  ", subsequent_indent=" " * 6)))
    if card.facts:
        grid = Table.grid(padding=(0, 2, 0, 0))
        for heading, text in (card.facts | partners_in_words(card)).items():
            grid.add_row(Text(heading, style="bold", no_wrap=True), Text(text))
        page.print()
        page.print(grid)
    if card.hyperparameters:
        heads, *rows = hyperparameter_table(card)
        table = Table(box=SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
        for head in heads:
            table.add_column(head, no_wrap=head in heads[:2])
        for row in rows:
            table.add_row(*map(Text, row))
        page.print()
        page.print(table)
