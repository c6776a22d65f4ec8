"""Short latency runs of synthetic contenders, for the tests of the protocol."""

from colport.latency import Contender, Inputs, LatencySettings, measure

QUICK = {
    "rounds": 2,
    "min_samples": 4,
    "min_seconds": 0.0,
    "max_seconds": 5.0,
    "warmup_max_calls": 3,
    "threads": 1,
    "quiet_wait_s": 0.0,
    "timeout_s": 60.0,
}
ONE_QUERY = Inputs(queries=("a red pie chart",))
BOTH_KINDS = Inputs(queries=("q",), documents=("d",))


def contender(variant, factory="sleeper", **arguments):
    return Contender("m", variant, "cpu", f"test_latency_contenders:{factory}", arguments)


def run(contenders, inputs=ONE_QUERY, **settings):
    chosen = LatencySettings(**{**QUICK, **settings})
    return measure(contenders, inputs, chosen, progress=lambda message: None)
