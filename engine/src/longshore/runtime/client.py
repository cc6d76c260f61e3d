"""The daemon's side of zygote and monitors, for asyncio.

    zygote = await Zygote.start()
    monitor = await zygote.launch(launch)     # namespaces exist; plug the network in
    await monitor.start()                     # the program runs
    record = await monitor.wait()             # the exit record, durable

After a restart of the daemon `reconnect()` finds the monitors that go on running.
"""

from longshore.runtime.monitor_client import Execution, Monitor, reconnect
from longshore.runtime.records import read_exit
from longshore.runtime.zygote_client import Zygote

__all__ = ["Execution", "Monitor", "Zygote", "read_exit", "reconnect"]
