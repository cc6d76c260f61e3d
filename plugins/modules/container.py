#!/usr/bin/python
# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: container
short_description: Run containers on a Longshore engine
version_added: 0.1.0
description:
  - Says what a container has to be; the engine compares that with what was said last time and with the state of the host,
    and keeps the container, updates it in place, or replaces it.
  - A replacement that publishes a fixed port runs first, takes over the port once it is ready, and only then the old
    container drains and stops. When it does not become ready it is removed and the old one runs on.
  - Options that are not set mean "no opinion". An option that was set in an earlier run and is not any more is taken back.
author:
  - The Longshore authors (@longshore)
extends_documentation_fragment:
  - longshore.fleet.engine
  - longshore.fleet.attributes
  - longshore.fleet.attributes.actiongroup
options:
  name:
    description: Name of the container.
    type: str
    required: true
  state:
    description:
      - V(started) creates the container where needed and lets it run; V(healthy) is the same and always waits.
      - V(stopped) creates it where needed and does not let it run.
      - V(present) creates it where needed and leaves it running or not, as it is.
      - V(absent) stops and removes it, with its anonymous volumes.
    type: str
    choices: [absent, present, stopped, started, healthy]
    default: started
  image:
    description:
      - Image to run. Required when the container does not exist.
      - The comparison is by image id, so a container whose tag moved to another image is replaced.
      - Without it, only options that are set are compared with those of the existing container.
    type: str
  image_id:
    description:
      - Id that O(image) has to stand for, such as C(sha256:…) returned by M(longshore.fleet.image).
      - Lets check mode see a replacement before the image has arrived, and refuses a tag that somebody else moved.
    type: str
  pull:
    description: Whether O(image) is pulled from its registry.
    type: str
    choices: [never, missing, always]
    default: missing
  recreate:
    description:
      - V(auto) replaces the container when something changed that cannot change in place.
      - V(always) replaces it in every run, V(never) keeps it whatever changed.
    type: str
    choices: [auto, always, never]
    default: auto
  order:
    description:
      - Whether a replacement runs beside the old container before that stops (V(start-first)) or after it (V(stop-first)).
      - V(auto) is V(start-first) for containers with a fixed published port and without writable volumes.
    type: str
    choices: [auto, start-first, stop-first]
    default: auto
  wait:
    description:
      - Wait until the container is healthy or, without a health check, runs for a moment and listens on its published ports.
      - A new container that does not get there is removed, and the task fails with what it wrote last.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait for that.
    type: float
    default: 60
  drain_timeout:
    description: Seconds that open connections to a replaced container get to end.
    type: float
    default: 30
  command:
    description: Command to run instead of the image's, as a list or as a string that is split like a shell does.
    type: raw
  entrypoint:
    description: Entry point instead of the image's, as a list or as a string that is split like a shell does.
    type: raw
  env:
    description: Environment variables.
    type: dict
  labels:
    description: Labels.
    type: dict
  published_ports:
    description: Ports to publish, as C([ip:][host port:]container port[/protocol]). Ranges are fine.
    type: list
    elements: str
    aliases: [ports]
  exposed_ports:
    description: Ports to expose without publishing them.
    type: list
    elements: str
    aliases: [exposed, expose]
  volumes:
    description: Volumes and folders to mount, as C(source:/path[:ro]); a single path makes an anonymous volume.
    type: list
    elements: str
  tmpfs:
    description: Mounts in memory, as C(/path[:options]).
    type: list
    elements: str
  network_mode:
    description: V(bridge), V(host), V(none) or the name of a network.
    type: str
  hostname:
    description: Host name inside of the container.
    type: str
  domainname:
    description: Domain name inside of the container.
    type: str
  user:
    description: User and perhaps group, by name or number, as C(user[:group]).
    type: str
  working_dir:
    description: Working directory.
    type: str
  memory:
    description: Memory limit, such as V(512m). Changes in place.
    type: str
  memory_reservation:
    description: Soft memory limit. Changes in place.
    type: str
  memory_swap:
    description: Limit of memory and swap together; V(-1) is unlimited. Changes in place.
    type: str
  cpus:
    description: CPU limit, such as V(1.5). Changes in place.
    type: float
  cpu_shares:
    description: Relative CPU weight. Changes in place.
    type: int
  cpuset_cpus:
    description: CPUs that may be used, such as V(0-2). Changes in place.
    type: str
  pids_limit:
    description: Limit of processes; V(-1) is unlimited. Changes in place.
    type: int
  shm_size:
    description: Size of C(/dev/shm).
    type: str
  restart_policy:
    description: What happens when the container ends. Changes in place.
    type: str
    choices: ["no", "on-failure", "always", "unless-stopped"]
  restart_retries:
    description: Number of tries of V(on-failure).
    type: int
  healthcheck:
    description: How the engine finds out whether the container is healthy. Times are like V(1m30s).
    type: dict
    suboptions:
      test:
        description: A shell command, a list to execute, or V(NONE) to switch off the image's check.
        type: raw
      interval:
        description: Time between two checks.
        type: str
      timeout:
        description: Time that one check may take.
        type: str
      start_period:
        description: Time in which failures do not count.
        type: str
      start_interval:
        description: Time between two checks within O(healthcheck.start_period).
        type: str
      retries:
        description: Failures in a row that make the container unhealthy.
        type: int
  privileged:
    description: Give the container all rights.
    type: bool
  read_only:
    description: Mount the root read-only.
    type: bool
  init:
    description: Run a small init as process 1.
    type: bool
  tty:
    description: Allocate a terminal.
    type: bool
  interactive:
    description: Keep standard input open.
    type: bool
  auto_remove:
    description: Remove the container when it ends.
    type: bool
  capabilities:
    description: Capabilities to add.
    type: list
    elements: str
    aliases: [cap_add]
  cap_drop:
    description: Capabilities to drop.
    type: list
    elements: str
  security_opts:
    description: Security options, such as V(no-new-privileges).
    type: list
    elements: str
  groups:
    description: Further groups of the process.
    type: list
    elements: str
  devices:
    description: Devices, as C(path[:path inside[:rwm]]).
    type: list
    elements: str
  sysctls:
    description: Kernel parameters of the container's namespaces.
    type: dict
  dns_servers:
    description: DNS servers.
    type: list
    elements: str
  dns_search_domains:
    description: DNS search domains.
    type: list
    elements: str
  etc_hosts:
    description: Names and addresses to add to C(/etc/hosts).
    type: dict
  stop_signal:
    description: Signal that asks the process to end.
    type: str
  stop_timeout:
    description: Seconds until it is killed.
    type: int
  log_driver:
    description: Log driver.
    type: str
  log_options:
    description: Options of the log driver.
    type: dict
    aliases: [log_opt]
  config:
    description:
      - Body of the Docker Engine API's C(POST /containers/create), for what has no option here.
      - Options above win over it.
    type: dict
seealso:
  - module: longshore.fleet.container_info
  - module: longshore.fleet.image
"""

EXAMPLES = r"""
- name: A web server, replaced without a refused connection when its image changes
  longshore.fleet.container:
    name: web
    image: shop/web:2
    published_ports: ["80:8080"]
    env:
      MODE: production
    memory: 256m
    restart_policy: unless-stopped
    healthcheck:
      test: ["CMD", "/usr/bin/curl", "-fsS", "http://127.0.0.1:8080/health"]
      interval: 5s
      start_period: 10s
      start_interval: 200ms

- name: A database keeps its volume and is never run twice on it
  longshore.fleet.container:
    name: db
    image: shop/db:16
    volumes: ["db-data:/var/lib/postgresql"]

- name: More memory, in place and without a restart
  longshore.fleet.container:
    name: db
    memory: 1g

- name: No old web server any more
  longshore.fleet.container:
    name: old-web
    state: absent
"""

RETURN = r"""
exists:
  description: Whether the container exists after the task, or before it in check mode.
  type: bool
  returned: success
container:
  description: What inspect says about the container, empty when it does not exist.
  type: dict
  returned: success
  sample: {"Id": "0f1e…", "Name": "/web", "State": {"Status": "running"}}
actions:
  description: What was done, or would be done in check mode. Empty when nothing changed.
  type: list
  elements: dict
  returned: always
  sample: [{"kind": "container", "name": "web", "action": "replace", "reason": "Image changed"}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.longshore.fleet.plugins.module_utils._container import ARGUMENTS, run_container
from ansible_collections.longshore.fleet.plugins.module_utils._engine import (
    Client,
    EngineError,
    socket_exchange,
)


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        client = Client(socket_exchange(module.params["socket"]))
        result = run_container(client, module.params, check=module.check_mode, diff=module._diff)
    except EngineError as failure:
        module.fail_json(msg=str(failure))
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
