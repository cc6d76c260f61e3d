#!/usr/bin/python
# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Bring images to a Longshore engine
version_added: 0.1.0
description:
  - Ships images from the controller's own engine over the Ansible connection, pulls, loads, tags or removes them.
  - Only blobs that the host lacks travel. A registry is not needed.
author:
  - The Longshore authors (@longshore)
extends_documentation_fragment:
  - longshore.fleet.engine
  - longshore.fleet.attributes
  - longshore.fleet.attributes.actiongroup
attributes:
  async:
    support: partial
    details: O(source=controller) needs the connection and does not run in the background.
options:
  name:
    description: Name of the image, with or without a tag; or its id.
    type: str
    required: true
  tag:
    description: Tag, when O(name) has none and it is not V(latest).
    type: str
  state:
    description: Whether the image has to be on the host.
    type: str
    choices: [absent, present]
    default: present
  source:
    description:
      - Where an image comes from. V(controller) compares with the image of the controller in every run; the others are
        asked only when the host has no image of that name, or with O(force_source=true).
      - V(controller) is the engine of the machine that runs Ansible, V(pull) the registry that the name says,
        V(load) the archive O(load_path) on the host. V(local) means that the image has to be on the host already.
    type: str
    choices: [controller, pull, load, local]
  load_path:
    description: Archive on the host, as written by C(docker save) or an OCI layout in a tar file.
    type: path
  repository:
    description: A further name for the image, with or without a tag.
    type: str
  platform:
    description: Platform to pull, such as V(linux/arm64).
    type: str
  force_source:
    description: Pull or load even when the host has an image of that name.
    type: bool
    default: false
  force_absent:
    description: Remove the image even when it has further names or stopped containers use it.
    type: bool
    default: false
  controller_socket:
    description: Socket of the engine on the controller, for O(source=controller).
    type: str
    default: /run/longshore/longshore.sock
seealso:
  - module: longshore.fleet.image_info
  - module: longshore.fleet.container
"""

EXAMPLES = r"""
- name: Ship what was built on this machine
  longshore.fleet.image:
    name: shop/web:2
    source: controller
  register: shipped

- name: Run exactly that
  longshore.fleet.container:
    name: web
    image: shop/web:2
    image_id: "{{ shipped.image.Id }}"
    pull: never

- name: Pull from a registry
  longshore.fleet.image:
    name: registry.example.org/shop/db:16
    source: pull

- name: Keep the image under a second name
  longshore.fleet.image:
    name: shop/web:2
    source: local
    repository: shop/web:stable
"""

RETURN = r"""
image:
  description: What inspect says about the image; in check mode about the image that would be shipped.
  type: dict
  returned: success
actions:
  description: What was done, or would be done in check mode.
  type: list
  elements: str
  returned: success
  sample: ["shipped image shop/web:2 from the controller"]
bytes_shipped:
  description: Bytes that travelled, or would travel in check mode.
  type: int
  returned: O(source=controller)
  sample: 18342
blobs_shipped:
  description: Number of blobs that travelled.
  type: int
  returned: O(source=controller)
  sample: 2
blobs_skipped:
  description: Number of blobs that the host had.
  type: int
  returned: O(source=controller)
  sample: 5
seconds:
  description: How long it took.
  type: float
  returned: O(source=controller)
  sample: 0.4
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.longshore.fleet.plugins.module_utils._engine import (
    Client,
    EngineError,
    socket_exchange,
)
from ansible_collections.longshore.fleet.plugins.module_utils._image import ARGUMENTS, REQUIRED_IF, run_image


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, required_if=REQUIRED_IF, supports_check_mode=True)
    try:
        client = Client(socket_exchange(module.params["socket"]))
        result = run_image(client, module.params, check=module.check_mode, diff=module._diff)
    except EngineError as failure:
        module.fail_json(msg=str(failure))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
