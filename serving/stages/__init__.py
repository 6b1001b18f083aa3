"""Stage networks: requests that walk through stages on pools of devices, in closed form and replayed event by event.

Lives here: networks, their traffic and waiting lines, their replay, vector search, memory tiers and power as laws of a stage.
Not here: how one engine schedules prefill and decode (serving) and how long a kernel takes.
"""

from serving.stages.network import END, Network, Pool, RequestClass, Stage, chain, check_network
from serving.stages.replay_network import NetworkReplay, replay_network
from serving.stages.steady_network import SteadyNetwork, steady_network
from serving.stages.step_law import StepLaw, decode_law, law_time, linear_law, roofline_law

__all__ = [
    "END",
    "Network",
    "NetworkReplay",
    "Pool",
    "RequestClass",
    "Stage",
    "SteadyNetwork",
    "StepLaw",
    "chain",
    "check_network",
    "decode_law",
    "law_time",
    "linear_law",
    "replay_network",
    "roofline_law",
    "steady_network",
]
