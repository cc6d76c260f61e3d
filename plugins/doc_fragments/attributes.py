# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules can do, in Ansible's words."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
attributes:
  action:
    support: full
    description: A part of the work is done on the controller by an action plugin.
  async:
    support: full
    description: Can run in the background with C(async).
  check_mode:
    support: full
    description: Can say what would change without changing it.
  diff_mode:
    support: full
    description: Says what changed, or would change, with C(--diff).
  idempotent:
    support: full
    description: A second run with the same options changes nothing.
  platform:
    support: full
    platforms: linux
    description: Systems that the host may run.
options: {}
"""

    ACTIONGROUP = r"""
attributes:
  action_group:
    support: full
    membership:
      - longshore.fleet.longshore
    description: Takes part in C(module_defaults) of the group C(longshore.fleet.longshore).
options: {}
"""

    INFO = r"""
attributes:
  action:
    support: full
    description: A part of the work is done on the controller by an action plugin.
  async:
    support: full
    description: Can run in the background with C(async).
  check_mode:
    support: full
    description: Reads only, in check mode as well.
  diff_mode:
    support: N/A
    description: Reads only.
  idempotent:
    support: full
    description: Reads only.
  platform:
    support: full
    platforms: linux
    description: Systems that the host may run.
options: {}
"""
