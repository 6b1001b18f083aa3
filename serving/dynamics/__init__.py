"""Stage networks in time: arrivals that change, replicas that start, stop and fail, as fluids that end in the steady state.

Lives here: what changes over seconds to hours (courses, autoscaling, loss of replicas) and its pictures. Not here: steady states,
buffers, routers and the replay of networks (serving.stages); the course of one engine (serving.transient).
"""

from serving.dynamics.autoscaling import Autoscaler, ScaledCourse, autoscaled_course
from serving.dynamics.course import NetworkCourse, network_course
from serving.dynamics.replica_loss import LossCourse, ReplicaLoss, loss_course

__all__ = [
    "Autoscaler",
    "LossCourse",
    "NetworkCourse",
    "ReplicaLoss",
    "ScaledCourse",
    "autoscaled_course",
    "loss_course",
    "network_course",
]
