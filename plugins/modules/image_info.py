#!/usr/bin/python
# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_info
short_description: Read about images on a Longshore engine
version_added: 0.1.0
description:
  - Returns what inspect says about images. An image that does not exist is no error.
author:
  - The Longshore authors (@longshore)
extends_documentation_fragment:
  - longshore.fleet.engine
  - longshore.fleet.attributes.info
  - longshore.fleet.attributes.actiongroup
options:
  name:
    description: Names or ids of images. Without it, all images are returned.
    type: list
    elements: str
seealso:
  - module: longshore.fleet.image
"""

EXAMPLES = r"""
- name: Which of the two are here?
  longshore.fleet.image_info:
    name: [shop/web:1, shop/web:2]
  register: found
"""

RETURN = r"""
images:
  description: What inspect says about those that exist, in the order of the names.
  type: list
  elements: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.longshore.fleet.plugins.module_utils._engine import (
    Client,
    EngineError,
    socket_exchange,
)
from ansible_collections.longshore.fleet.plugins.module_utils._image import INFO_ARGUMENTS, run_image_info


def main() -> None:
    module = AnsibleModule(argument_spec=INFO_ARGUMENTS, supports_check_mode=True)
    try:
        result = run_image_info(Client(socket_exchange(module.params["socket"])), module.params)
    except EngineError as failure:
        module.fail_json(msg=str(failure))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
