# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fast road of the action plugins: one command on the host, no payload, no temporary files.

The request is resolved on the controller and written to the standard input of a few lines of Python on the host,
which copy it to the engine's socket and the reply back. Measured over 200 tasks on one machine this costs a tenth
of an ordinary module. Private to the collection.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.longshore.fleet.plugins.module_utils._engine import (
    Client,
    EngineError,
    Exchange,
    explain_connect_error,
    socket_path,
)

MARK = b"LONGSHORE-RELAY "

# argv: socket, then perhaps a file whose contents follow the request. An engine that refuses early closes its
# side while we still send: the answer is read all the same. What shells and sudo print before the mark is skipped.
RELAY = """\
import sys,socket
o=sys.stdout.buffer
s=socket.socket(socket.AF_UNIX)
try:
 f=open(sys.argv[2],"rb") if len(sys.argv)>2 else None
 s.connect(sys.argv[1])
except OSError as e:
 o.write(b"LONGSHORE-RELAY %d %s"%(e.errno or 5,str(e.strerror).encode()))
 sys.exit()
d=sys.stdin.buffer.read()
try:
 s.sendall(d)
 if f:s.sendfile(f)
except OSError:
 pass
o.write(b"LONGSHORE-RELAY 0\\n")
while 1:
 d=s.recv(65536)
 if not d:break
 o.write(d)
o.flush()
"""


def relay_command(interpreter: str, path: str, body_file: str | None = None) -> str:
    """-I -S: neither the user's environment nor site-packages are read, which halves the start of Python."""
    words = [interpreter, "-I", "-S", "-c", RELAY, path, *([body_file] if body_file else [])]
    return " ".join(map(shlex.quote, words))


def relay_reply(path: str, code: int, output: bytes, errors: str) -> bytes:
    """The engine's raw reply in what came back over the connection. Raises EngineError."""
    _noise, mark, rest = output.partition(MARK)
    if not mark:
        reason = errors.strip() or output.decode("utf-8", "replace").strip() or "it printed nothing"
        raise EngineError(f"cannot run the relay to the engine on the host (exit code {code}): {reason}")
    status, newline, reply = rest.partition(b"\n")
    if not newline or status != b"0":
        number, _space, text = status.partition(b" ")
        raise explain_connect_error(path, int(number or 0), text.decode("utf-8", "replace"))
    return reply


class EngineAction(ActionBase):
    """Base of the action plugins: validate, then one round through the relay, or the module where that cannot be."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True
    _requires_connection = True

    MODULE = ""  # full name of the module behind it
    ARGUMENTS: Mapping[str, Any] = {}
    REQUIRED_IF: Sequence[Any] = ()

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        del tmp
        _validation, params = self.validate_argument_spec(
            argument_spec=dict(self.ARGUMENTS), required_if=list(self.REQUIRED_IF)
        )
        for name in self.ARGUMENTS:
            params.setdefault(name, None)
        if not self.relay_serves(params):
            result.update(
                self._execute_module(
                    module_name=self.MODULE, task_vars=task_vars, wrap_async=bool(self._task.async_val)
                )
            )
            return result
        try:
            client = Client(self.relay(params["socket"], task_vars))
            result.update(self.serve(client, params, task_vars))
        except EngineError as failure:
            raise AnsibleActionFail(str(failure)) from failure
        return result

    def serve(self, client: Client, params: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def relay_serves(self, params: Mapping[str, Any]) -> bool:
        """Whether this task can go over the relay: it needs standard input and a POSIX shell, and nobody polls for it."""
        shell = getattr(getattr(self._connection, "_shell", None), "SHELL_FAMILY", "sh")
        return not self._task.async_val and bool(self._connection.has_pipelining) and shell != "powershell"

    def relay(self, socket: str, task_vars: Mapping[str, Any]) -> Exchange:
        path = socket_path(socket)
        interpreter = self._interpreter(task_vars)

        def exchange(request: bytes, body_file: str | None = None) -> bytes:
            answer = self._low_level_execute_command(
                relay_command(interpreter, path, body_file),
                in_data=request,
                encoding_errors="surrogate_then_replace",
            )
            output = answer["stdout"].encode("utf-8", "surrogateescape")
            return relay_reply(path, answer["rc"], output, answer["stderr"])

        return exchange

    def _interpreter(self, task_vars: Mapping[str, Any]) -> str:
        """The one that is set or was discovered already; discovery itself would cost the round that we save."""
        wanted = task_vars.get("ansible_python_interpreter")
        if wanted:
            wanted = str(self._templar.template(wanted))
        if not wanted or wanted.startswith("auto"):
            facts = task_vars.get("ansible_facts") or {}
            wanted = facts.get("discovered_interpreter_python") or "/usr/bin/python3"
        return str(wanted)
