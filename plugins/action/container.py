# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fast road of longshore.fleet.container."""

from __future__ import annotations

from typing import Any

from ansible_collections.longshore.fleet.plugins.module_utils._container import ARGUMENTS, run_container
from ansible_collections.longshore.fleet.plugins.module_utils._engine import Client
from ansible_collections.longshore.fleet.plugins.plugin_utils._relay import EngineAction


class ActionModule(EngineAction):
    MODULE = "longshore.fleet.container"
    ARGUMENTS = ARGUMENTS

    def serve(self, client: Client, params: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        return run_container(client, params, check=self._task.check_mode, diff=self._task.diff)
