"""All commands and their options: what runc has, in its words. Pure."""

from longshore.runtime.oci_command.arguments import Command, Option


def _flag(*names: str, text: str) -> Option:
    return Option(names, "flag", text)


def _text(*names: str, text: str, default: str = "") -> Option:
    return Option(names, "text", text, default)


def _list(*names: str, text: str) -> Option:
    return Option(names, "list", text)


def _number(*names: str, text: str) -> Option:
    return Option(names, "number", text)


DEFAULT_ROOT = "/run/longshore-oci"

GLOBAL = (
    _flag("debug", text="log what is done"),
    _text("log", text="the file for log lines and errors; standard error when empty"),
    _text("log-format", text="text or json", default="text"),
    _text("root", text="where the states of containers are kept", default=DEFAULT_ROOT),
    _flag("systemd-cgroup", text='systemd makes the cgroups; cgroupsPath is "slice:prefix:name"'),
    _text("rootless", text="accepted for callers of runc", default="auto"),
    _text("criu", text="accepted for callers of runc"),
    _flag("help", "h", text="show help"),
    _flag("version", "v", text="print the version"),
)

_BUNDLE = _text("bundle", "b", text="the folder of config.json", default=".")
_CONSOLE = _text("console-socket", text="a socket that gets the terminal")
_PIDFD = _text("pidfd-socket", text="a socket that gets a descriptor of the process")
_PID = _text("pid-file", text="a file for the process id")
_PRESERVE = _number("preserve-fds", text="pass on this many more descriptors, from 3 on")
_NO_SUBREAPER = _flag("no-subreaper", text="accepted for callers of runc")
_MAKING = (
    _BUNDLE,
    _CONSOLE,
    _PIDFD,
    _PID,
    _flag("no-pivot", text="accepted for callers of runc: the root is always switched"),
    _flag("no-new-keyring", text="keep the session keyring of the caller"),
    _PRESERVE,
)

COMMANDS = (
    Command("checkpoint", "criu.refuse", "save a running container (needs CRIU)", stops=True, most=None),
    Command("create", "making.create", "make a container", _MAKING),
    Command(
        "delete",
        "ending.delete",
        "remove what a container holds",
        (_flag("force", "f", text="kill it when it runs; a container that does not exist is fine"),),
    ),
    Command(
        "events",
        "looking.events",
        "print statistics again and again, and when memory runs out",
        (
            _text("interval", text="time between two of them", default="5s"),
            _flag("stats", text="print them once"),
        ),
    ),
    Command(
        "exec",
        "execute.execute",
        "run one more process",
        (
            _CONSOLE,
            _PIDFD,
            _text("cwd", text="working directory"),
            _list("env", "e", text="NAME=VALUE"),
            _flag("tty", "t", text="with a terminal"),
            _text("user", "u", text="UID or UID:GID"),
            _list("additional-gids", "g", text="one more group"),
            _text("process", "p", text="the file of the process's JSON"),
            _flag("detach", "d", text="do not wait"),
            _PID,
            _text("process-label", text="an SELinux label"),
            _text("apparmor", text="an AppArmor profile"),
            _flag("no-new-privs", text="set no_new_privs"),
            _list("cap", "c", text="one more capability"),
            _PRESERVE,
            _list("cgroup", text="[CONTROLLERS:]PATH, a cgroup below the container's"),
            _flag("ignore-paused", text="wait until a paused container goes on"),
            _NO_SUBREAPER,
        ),
        "<container-id> <command> [arguments...]",
        most=None,
        stops=True,
    ),
    Command("features", "looking.features", "what this runtime can do", words="", least=0, most=0),
    Command(
        "kill",
        "ending.kill",
        "send a signal",
        (_flag("all", "a", text="to all processes of the container"),),
        "<container-id> [signal]",
        most=2,
    ),
    Command(
        "list",
        "looking.list_all",
        "list the containers of the root",
        (
            _text("format", "f", text="table or json", default="table"),
            _flag("quiet", "q", text="only the ids"),
        ),
        words="",
        least=0,
        most=0,
    ),
    Command("pause", "limits.pause", "stop all processes of a container"),
    Command(
        "ps",
        "looking.processes",
        "show the processes of a container",
        (_text("format", "f", text="table or json", default="table"),),
        "<container-id> [options of ps]",
        most=None,
        stops=True,
    ),
    Command("restore", "criu.refuse", "go on with a saved container (needs CRIU)", stops=True, most=None),
    Command("resume", "limits.resume", "let a paused container go on"),
    Command(
        "run",
        "making.run",
        "make a container, start it and wait for its end",
        (
            *_MAKING,
            _flag("detach", "d", text="do not wait"),
            _flag("keep", text="do not delete it at its end"),
            _NO_SUBREAPER,
        ),
    ),
    Command(
        "spec",
        "writing.spec",
        "write a config.json to start from",
        (_BUNDLE, _flag("rootless", text="for a user who is not root")),
        words="",
        least=0,
        most=0,
    ),
    Command("start", "making.start", "let a created container run its program"),
    Command("state", "looking.state", "print the state of a container"),
    Command(
        "update",
        "limits.update",
        "change limits of a container",
        (
            _text("resources", "r", text="a file of JSON, - for standard input"),
            _number("blkio-weight", text="10 to 1000"),
            _number("cpu-period", text="microseconds"),
            _number("cpu-quota", text="microseconds; -1 for none"),
            _number("cpu-burst", text="microseconds"),
            _number("cpu-share", text="relative weight"),
            _number("cpu-rt-period", text="microseconds"),
            _number("cpu-rt-runtime", text="microseconds"),
            _text("cpuset-cpus", text="list of processors"),
            _text("cpuset-mems", text="list of memory nodes"),
            _number("cpu-idle", text="1 for as little as possible"),
            _text("kernel-memory", text="accepted for callers of runc"),
            _text("kernel-memory-tcp", text="bytes; -1 for no limit"),
            _text("memory", text="bytes; -1 for no limit"),
            _text("memory-reservation", text="bytes"),
            _text("memory-swap", text="memory and swap together; -1 for no limit"),
            _number("pids-limit", text="most processes; -1 for no limit"),
            _text("l3-cache-schema", text="not supported"),
            _text("mem-bw-schema", text="not supported"),
        ),
    ),
)
