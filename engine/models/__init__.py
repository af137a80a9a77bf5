"""Model families behind one small protocol. The only place that imports diffusers' pipelines."""

from engine.models.backbone import Backbone, backbone_for
from engine.models.family import FAMILIES, Family
from engine.models.network import Network

__all__ = ["FAMILIES", "Backbone", "Family", "Network", "backbone_for"]
