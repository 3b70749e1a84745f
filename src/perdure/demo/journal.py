"""Write down what happens in a job while it runs."""

from __future__ import annotations

import time
from dataclasses import replace

from perdure.demo.report import Bar, Job, Kill, Recovery, Row, Saved


class Journal:
    """The growing lists behind a Job. Times come in as Unix seconds, from any process of this machine."""

    def __init__(self, title: str, store: str) -> None:
        self.title = title
        self.store = store
        self.began = time.time()
        self.bars: list[Bar] = []
        self.saves: list[Saved] = []
        self.kills: list[Kill] = []
        self.recoveries: list[Recovery] = []
        self.decisions: list[Row] = []
        self.thresholds: list[tuple[float, float]] = []
        self.budget: tuple[int, int] | None = None

    def since(self, moment: float) -> float:
        return moment - self.began

    def now(self) -> float:
        return self.since(time.time())

    def held(self) -> float:
        """Seconds of training that are not lost."""
        return sum(bar.seconds for bar in self.bars if bar.fate == "kept")

    def lose(self, after: float) -> float:
        """Mark all training after a moment as lost; the seconds that must be done again, unless already so.

        Of what a kill has cut off, the part before that moment is kept.
        """
        bars, lost = [], 0.0
        for bar in self.bars:
            if bar.settled or (bar.end <= after and bar.fate == "kept"):
                bars.append(bar)
                continue
            cut = min(max(bar.start, after), bar.end)
            if cut > bar.start:
                bars.append(replace(bar, end=cut, fate="kept"))
            bars.append(replace(bar, start=cut, fate="killed" if bar.fate == "killed" else "lost", settled=True))
            lost += bar.end - cut
        self.bars = bars
        return lost

    def unpaid(self) -> float:
        """Seconds of saving since the last recovery."""
        since = self.recoveries[-1].time if self.recoveries else 0.0
        return sum(save.seconds for save in self.saves if save.time > since)

    def job(self, accuracy: float, weights: str, optimizer: str) -> Job:
        return Job(
            title=self.title,
            seconds=self.now(),
            store=self.store,
            bars=tuple(self.bars),
            saves=tuple(self.saves),
            kills=tuple(self.kills),
            recoveries=tuple(self.recoveries),
            decisions=tuple(self.decisions),
            thresholds=tuple(self.thresholds),
            budget=self.budget,
            accuracy=accuracy,
            weights=weights,
            optimizer=optimizer,
        )
