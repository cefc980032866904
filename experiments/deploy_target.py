"""`deploy_target` of a job: the space without what the target cannot run, and what is said about it."""

from collections.abc import Iterator

from bnas.data import Dataset
from bnas.deploy.pruning import Refused, prune
from bnas.deploy.targets import TARGETS
from bnas.space import SearchSpace
from experiments.config import Job, about


def searched_space(job: Job, data: Dataset) -> tuple[SearchSpace, list[Refused]]:
    """The job's space without what its `deploy_target` cannot run in a network of the retraining, and what that is."""
    space = job.make_space()
    if job.deploy_target is None:
        return space, []
    with about("deploy_target"):
        spec = job.spec(job.retrain, data.input_shape, data.num_classes)
        return prune(space, spec, job.deploy_target, TARGETS[job.deploy_target])


def messages(job: Job, space: SearchSpace, refused: list[Refused]) -> Iterator[str]:
    """What the job's target cannot run, one line a choice and reason, and which decisions that leaves decided."""
    if job.deploy_target is None:
        return
    whole = job.make_space().count()
    left = f"{space.count():.3g} of {whole:.3g} architectures are left"
    yield f"deploy_target {job.deploy_target}: choices left out: {len(refused)}; {left}"
    of_choice: dict[tuple[str, str], list[str]] = {}
    for entry in refused:
        reason = entry.reason.partition(": ")[2] or entry.reason
        of_choice.setdefault((entry.choice, reason), []).append(entry.decision)
    for (choice, reason), decisions in of_choice.items():
        at = decisions[0] if len(decisions) == 1 else f"{decisions[0]} and {len(decisions) - 1} more decisions"
        yield f"  {choice} of {at}: {reason}"
    decided = [d for d in space.decisions if len(space.drawable(d)) == 1]
    if refused and decided:
        yield f"  left with one choice: {', '.join(f'{d.name} ({space.drawable(d)[0]})' for d in decided)}"
