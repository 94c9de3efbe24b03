"""What a rich console prints, made inert after its layout: styles are rich's own and stay."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from paceline.inert import inert


class MakesInert(RenderHook):
    """A hook of a console; what hooks after it add, such as the bars of a progress, is passed on as it is."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """See rich."""
        return [_Inert(renderable) for renderable in renderables]


@dataclass(frozen=True)
class _Inert:
    """Something that rich can print, inert."""

    shown: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.shown, options):
            yield segment if segment.control else Segment(inert(segment.text), segment.style)
