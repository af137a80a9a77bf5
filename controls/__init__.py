"""Controls: what steers an edit beside its text. ControlNets join the loop here.

``list_controls()`` names them, ``get_control(name)`` tells about one, :class:`Control` asks for one
in an edit, with its own image, weight, window and mask. A control is anything with the
``residuals`` method of :class:`engine.denoise.job.Control`; the loop adds what it returns to the
network's own features. To add one, register a :class:`ControlInfo`. :class:`Reference` is a picture
for an IP-Adapter. Plug-ins of this package never import strategies.
"""

from controls.annotators import AnnotatorInfo, annotate, get_annotator, list_annotators
from controls.control import Control, check_controls
from controls.reference import Reference, check_references
from controls.registry import ControlInfo, get_control, list_controls, register, split_controls

__all__ = [
    "AnnotatorInfo",
    "Control",
    "ControlInfo",
    "Reference",
    "annotate",
    "check_controls",
    "check_references",
    "get_annotator",
    "get_control",
    "list_annotators",
    "list_controls",
    "register",
    "split_controls",
]

_UNION = "xinsir/controlnet-union-sdxl-1.0"
_PROMAX = "brad-twinkl/controlnet-union-sdxl-1.0-promax"  # ProMax, laid out as diffusers loads it

for _name, _description, _annotator, _sdxl, _sd, _mode in (
    ("canny", "hard edges", "canny", "diffusers/controlnet-canny-sdxl-1.0", "v11p_sd15_canny", 3),
    ("depth", "depth", "midas", "diffusers/controlnet-depth-sdxl-1.0", "v11f1p_sd15_depth", 1),
    ("pose", "human poses", "openpose", _UNION, "v11p_sd15_openpose", 0),
    ("soft-edge", "soft edges", "soft-edge", _UNION, "v11p_sd15_softedge", 2),
    ("scribble", "rough strokes", "scribble", _UNION, "v11p_sd15_scribble", 2),
    ("lineart", "line drawing", "lineart", _UNION, "v11p_sd15_lineart", 3),
    ("lines", "straight lines", "mlsd", _UNION, "v11p_sd15_mlsd", 3),
    ("normal", "surface normals", "normal", _UNION, "v11p_sd15_normalbae", 4),
    ("tile", "the picture without its details", "tile", _PROMAX, "v11f1e_sd15_tile", 6),
    ("inpaint", "the surroundings of the hole", "inpaint", None, "v11p_sd15_inpaint", None),
    ("repaint", "the surroundings of the hole", "repaint", _PROMAX, None, 7),
    ("shuffle", "colours in any arrangement", "shuffle", None, "v11e_sd15_shuffle", None),
):
    register(
        ControlInfo(
            name=_name,
            description=_description,
            annotator=_annotator,
            models={
                **({"sdxl": _sdxl} if _sdxl else {}),
                **({"sd": f"lllyasviel/control_{_sd}"} if _sd else {}),
            },
            union_mode=_mode,
        )
    )
