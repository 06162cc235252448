"""The configuration of a line: TOML in, validated models out, every error at once.

A configuration is a TOML file with the sections `station`, `cameras.<name>`, `model`, `acceptance`, `golden`,
`challenge`, `publish`, `control`, `security`, `journal`, `archive`, `augment`, `health` and `log`. Paths in it are
relative to the file.
`load_config` refuses what it does not know, and lists everything that is wrong in one go, a line for each fault with
the dotted path.
"""

from .load import effective_rule, load_config, parse_config
from .sections import (
    Acceptance,
    Archive,
    Augment,
    ButtonsCamera,
    Camera,
    Challenge,
    Config,
    Control,
    Feature,
    FolderCamera,
    GenicamCamera,
    Golden,
    Health,
    Journal,
    Log,
    ModelSettings,
    Publish,
    Role,
    Security,
    Station,
)

__all__ = [
    "Acceptance",
    "Archive",
    "Augment",
    "ButtonsCamera",
    "Camera",
    "Challenge",
    "Config",
    "Control",
    "Feature",
    "FolderCamera",
    "GenicamCamera",
    "Golden",
    "Health",
    "Journal",
    "Log",
    "ModelSettings",
    "Publish",
    "Role",
    "Security",
    "Station",
    "effective_rule",
    "load_config",
    "parse_config",
]
