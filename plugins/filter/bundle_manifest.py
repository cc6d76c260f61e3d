# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: bundle_manifest
short_description: What a bundle of the engine says of itself
version_added: 0.1.0
description:
  - Reads the manifest of a bundle on the controller, without running the bundle.
author:
  - The Longshore authors (@longshore)
options:
  _input:
    description: Path of the bundle, as C(make bundle) writes it.
    type: path
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ ('build/longshore-0.1.0-x86_64.pyz' | longshore.fleet.bundle_manifest).release }}"
"""

RETURN = r"""
_value:
  description: Version, release (unique for the contents), architecture and the Pythons it runs with.
  type: dict
  sample: {"version": "0.1.0", "release": "0.1.0+e0cfec3f", "arch": "x86_64", "pythons": ["cp311", "cp312"]}
"""

import json
import zipfile
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def bundle_manifest(path: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as bundle:
            return json.loads(bundle.read("manifest.json"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as cause:
        raise AnsibleFilterError(
            f"{path} is not a bundle of the engine: {cause} (make one with 'make bundle')"
        ) from cause


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"bundle_manifest": bundle_manifest}
