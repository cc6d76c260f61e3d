#!/usr/bin/python
# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: container_info
short_description: Read the state of a container on a Longshore engine
version_added: 0.1.0
description:
  - Returns what inspect says about one container. A container that does not exist is no error.
author:
  - The Longshore authors (@longshore)
extends_documentation_fragment:
  - longshore.fleet.engine
  - longshore.fleet.attributes.info
  - longshore.fleet.attributes.actiongroup
options:
  name:
    description: Name or id of the container.
    type: str
    required: true
seealso:
  - module: longshore.fleet.container
"""

EXAMPLES = r"""
- name: Look at the web server
  longshore.fleet.container_info:
    name: web
  register: web

- name: It has to run
  ansible.builtin.assert:
    that: web.exists and web.container.State.Running
"""

RETURN = r"""
exists:
  description: Whether the container exists.
  type: bool
  returned: success
container:
  description: What inspect says about it, null when it does not exist.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.longshore.fleet.plugins.module_utils._container import (
    INFO_ARGUMENTS,
    run_container_info,
)
from ansible_collections.longshore.fleet.plugins.module_utils._engine import (
    Client,
    EngineError,
    socket_exchange,
)


def main() -> None:
    module = AnsibleModule(argument_spec=INFO_ARGUMENTS, supports_check_mode=True)
    try:
        result = run_container_info(Client(socket_exchange(module.params["socket"])), module.params)
    except EngineError as failure:
        module.fail_json(msg=str(failure))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
