"""Model families behind one small protocol. The only place that imports diffusers' pipelines."""

from engine.models.base import Backbone, Network
from engine.models.formats.loading import backbone_for, load_inpaint_network, load_pipeline

__all__ = ["Backbone", "Network", "backbone_for", "load_inpaint_network", "load_pipeline"]
