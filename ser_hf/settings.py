"""Files that users write, in YAML or JSON: every scalar is text, and no key stands twice."""

import json
from pathlib import Path
from typing import Any

import yaml

from ser_hf.errors import UserError


class _Loader(yaml.BaseLoader):
    """BaseLoader leaves every scalar text, so that the words `yes` and `no` stay words."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        _once([(key.value, None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


def read(path: Path, wrong: type[UserError]) -> Any:
    """What a `.json` file holds, or any other as YAML; scalars of YAML are text.

    Raises:
        wrong: naming the file, if it is neither YAML nor JSON, or says one thing twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_once)
        return yaml.load(text, Loader=_Loader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # of JSON, of the encoding, of _once
        reason = " ".join(str(error).split())[:200]
        raise wrong(f"'{path}' cannot be read: {reason}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict:
    keys = [str(key) for key, _ in pairs]
    twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
    if twice is not None:
        raise ValueError(f"the key '{twice}' stands twice in one place: keep one")
    return dict(pairs)
