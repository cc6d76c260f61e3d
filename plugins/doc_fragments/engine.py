# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of everything that talks to an engine."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  socket:
    description:
      - Path of the engine's socket on the host. A leading C(unix://) is accepted.
      - Only root may use the default socket, so tasks usually need C(become=true).
    type: str
    default: /run/longshore/longshore.sock
requirements:
  - a Longshore engine on the host; see the role P(longshore.fleet.engine#role)
  - Python 3.11 or newer on the host
notes:
  - An action plugin of the same name resolves the task on the controller and reaches the engine in one round over the
    Ansible connection, through a few lines of Python. Nothing is copied to the host.
  - With C(async), and over connections that take no standard input, the module itself runs on the host.
  - The Python of that round is C(ansible_python_interpreter), the discovered one, or C(/usr/bin/python3).
"""
