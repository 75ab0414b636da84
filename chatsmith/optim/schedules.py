"""How learning rates change over a run. All are functions of progress in [0, 1], never of step counts: a ramp of a
fixed number of steps swallows a short run and vanishes in a long one."""


def warmup_stable_decay(progress: float, warmup: float, decay: float, final: float) -> float:
    """The multiplier of learning rates: up over the first `warmup` share of the run, 1, then linearly to `final` over
    the last `decay` share (the trapezoid of Haegele et al. 2024, arXiv:2405.18392)."""
    if progress < warmup:
        return progress / warmup
    if progress > 1 - decay:
        left = max(0.0, (1 - progress) / decay)
        return final + (1 - final) * left
    return 1.0


def ramp(progress: float, start: float, end: float, share: float) -> float:
    """From `start` to `end`, linearly over the first `share` of the run, then constant."""
    return start + (end - start) * min(1.0, progress / share) if share > 0 else end
