"""When a search counts as collapsed, and what is done then: warn, stop, or go back to the last healthy round.

A differentiable search tends to end in cells of pools and skips, which learn nothing (peers report it since DARTS, Liu
et al. 2019, arXiv 1806.09055; stopping early is the cure of DARTS+, Liang et al. 2019, arXiv 1909.06035). In binary
networks it is worse, as such operations carry real values past the binary ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bnas.errors import BnasError, check_choice
from bnas.options import check_number, option

POLICIES = ("warn", "stop", "restore")

Action = Literal["go on", "stop", "restore"]


@dataclass(frozen=True)
class CollapseOptions:
    """Options of every strategy that watches for a collapse; a base of its own options.

    `why_no_restore`: of a strategy that has no way back; empty where there is one.
    """

    why_no_restore: ClassVar[str] = ""

    collapse: str = option(
        "warn",
        "a collapsed search: warn; stop (and answer as the last healthy round did); restore (go back to it, once)",
        "ours",
        choices=POLICIES,
    )
    collapse_parameter_free: float = option(
        0.75, "a round looks collapsed from this share of parameter-free operations on; above 1: off", "ours"
    )
    collapse_depth: int = option(1, "a round looks collapsed when a block is no deeper than this; 0: off", "ours")
    collapse_rounds: int = option(3, "that many such rounds in a row are a collapse", "ours")

    def __post_init__(self) -> None:
        check_choice("collapse", self.collapse, POLICIES)
        if self.collapse == "restore" and self.why_no_restore:
            raise BnasError(f"collapse is restore, but {self.why_no_restore}; take stop or warn")
        check_number("collapse_parameter_free", self.collapse_parameter_free, above=0)
        check_number("collapse_depth", self.collapse_depth, at_least=0, whole=True)
        check_number("collapse_rounds", self.collapse_rounds, at_least=1, whole=True)


@dataclass(frozen=True)
class Verdict:
    """What a round amounts to: what to do, what its record gains, and the state to go back to ("stop", "restore").

    `healthy` is None where no round was healthy.
    """

    action: Action
    record: Mapping[str, Any]
    healthy: Any = None


class CollapseWatch:
    """Judges the rounds of one search in turn. Its state is part of the strategy's.

    advice: what may help, such as "a longer warm-up", for the warning.
    """

    def __init__(self, options: CollapseOptions, advice: str) -> None:
        self._options, self._advice = options, advice
        self._in_a_row = 0
        self._said = False
        self._restored = False
        self._healthy: Any = None
        self._healthy_round: int | None = None

    @property
    def healthy(self) -> Any:
        """What `remember` gave after the last healthy round; None before there was one."""
        return self._healthy

    @property
    def was_restored(self) -> bool:
        return self._restored

    def judge(self, round: int, facts: Mapping[str, float], remember: Callable[[], Any]) -> Verdict:
        """The verdict on round number `round` with the space's `facts` of the genotype that it would end in.

        `remember`: makes the state to go back to, plain containers and tensors of their own; called after healthy
        rounds. The record gains `collapsed_rounds`, how many in a row look collapsed, and at a collapse a `warning`:
        once under `warn`, at each action under the others. The second collapse after a restoring stops the search.
        """
        signs = self._signs(facts)
        if not signs:
            self._in_a_row = 0
            self._healthy, self._healthy_round = remember(), round
            return Verdict("go on", {"collapsed_rounds": 0})
        self._in_a_row += 1
        record: dict[str, Any] = {"collapsed_rounds": self._in_a_row}
        if self._in_a_row < self._options.collapse_rounds:
            return Verdict("go on", record)
        action = self._action()
        if action != "go on" or not self._said:
            record["warning"] = self._warning(round, signs, action)
        self._said = True
        if action == "restore":
            self._restored, self._in_a_row = True, 0
        return Verdict(action, record, self._healthy if action != "go on" else None)

    def _signs(self, facts: Mapping[str, float]) -> list[str]:
        """What makes the round look collapsed, in words."""
        o = self._options
        found = []
        if facts["parameter_free"] >= o.collapse_parameter_free:
            found.append(f"{facts['parameter_free']:.0%} of the operations have no parameters")
        if facts["depth"] <= o.collapse_depth:
            found.append(f"a block is only {facts['depth']:g} deep")
        return found

    def _action(self) -> Action:
        policy = self._options.collapse
        # Without a healthy round there is nothing better to answer with, or to go back to.
        if policy == "warn" or self._healthy_round is None:
            return "go on"
        return "restore" if policy == "restore" and not self._restored else "stop"

    def _warning(self, round: int, signs: list[str], action: Action) -> str:
        text = f"round {round}: the search has collapsed, {' and '.join(signs)} since {self._in_a_row} rounds"
        if action == "go on":
            policy = self._options.collapse
            why = "" if policy == "warn" else f" (collapse: {policy}, but no round was healthy)"
            return f"{text}. It goes on{why}; what may help: {self._advice}"
        back = f"round {self._healthy_round}, the last healthy one"
        return f"{text}. " + (
            f"It goes back to {back}" if action == "restore" else f"It ends with the answer of {back}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "in_a_row": self._in_a_row,
            "said": self._said,
            "restored": self._restored,
            "healthy": self._healthy,
            "healthy_round": self._healthy_round,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._in_a_row, self._said, self._restored = state["in_a_row"], state["said"], state["restored"]
        self._healthy, self._healthy_round = state["healthy"], state["healthy_round"]
