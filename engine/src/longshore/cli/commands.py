"""Which commands there are, where they live and what they do: read without importing any of them."""

from __future__ import annotations

Table = dict[str, tuple[str, str]]

CONTAINER: Table = {
    "attach": ("attach:attach_command", "Join a running container's input and output"),
    "commit": ("snapshot:commit_command", "Make an image of a container's files"),
    "cp": ("copy:cp_command", "Copy files between a container and this machine"),
    "create": ("run:create_command", "Create a container"),
    "diff": ("processes:diff_command", "Show what changed in a container's files"),
    "exec": ("exec:exec_command", "Run a command in a running container"),
    "export": ("snapshot:export_command", "Write a container's files to a tar archive"),
    "inspect": ("inspect:inspect_container", "Show everything about containers"),
    "kill": ("lifecycle:kill_command", "Send a signal to containers"),
    "logs": ("logs:logs_command", "Show a container's output"),
    "ls": ("listing:ls_command", "List containers"),
    "pause": ("lifecycle:pause_command", "Freeze all processes of containers"),
    "port": ("processes:port_command", "Show where a container's ports are published"),
    "prune": ("lifecycle:prune_command", "Remove all stopped containers"),
    "rename": ("lifecycle:rename_command", "Rename a container"),
    "restart": ("lifecycle:restart_command", "Stop and start containers"),
    "rm": ("lifecycle:rm_command", "Remove containers"),
    "run": ("run:run_command", "Create a container and run it"),
    "start": ("attach:start_command", "Start stopped containers"),
    "stats": ("stats:stats_command", "Show what containers use, as it changes"),
    "stop": ("lifecycle:stop_command", "Stop running containers"),
    "top": ("processes:top_command", "Show the processes of a container"),
    "unpause": ("lifecycle:unpause_command", "Thaw the processes of containers"),
    "update": ("update:update_command", "Change the limits of containers"),
    "wait": ("lifecycle:wait_command", "Wait for containers to end and print their exit codes"),
}
CONTAINER_ALIASES = {"list": "ls", "ps": "ls", "remove": "rm"}

IMAGE: Table = {
    "build": ("build:build_command", "Build an image from a Dockerfile"),
    "history": ("images:history_command", "Show how an image was made"),
    "import": ("archives:import_command", "Make an image from a root filesystem's tar"),
    "inspect": ("inspect:inspect_image", "Show everything about images"),
    "load": ("archives:load_command", "Load images from an archive"),
    "ls": ("images:ls_command", "List images"),
    "prune": ("images:prune_command", "Remove unused images"),
    "pull": ("pull:pull_command", "Pull an image from a registry"),
    "push": ("pull:push_command", "Push an image to a registry"),
    "rm": ("images:rm_command", "Remove images"),
    "save": ("archives:save_command", "Save images to an archive"),
    "tag": ("images:tag_command", "Give an image another name"),
    "why": ("why:why_command", "Show what holds an image, a blob or a layer"),
}
IMAGE_ALIASES = {"list": "ls", "remove": "rm"}

VOLUME: Table = {
    "create": ("volumes:create_command", "Create a volume"),
    "inspect": ("inspect:inspect_volume", "Show everything about volumes"),
    "ls": ("volumes:ls_command", "List volumes"),
    "prune": ("volumes:prune_command", "Remove unused volumes"),
    "rm": ("volumes:rm_command", "Remove volumes"),
}

NETWORK: Table = {
    "connect": ("networks:connect_command", "Connect a container to a network"),
    "create": ("networks:create_command", "Create a network"),
    "disconnect": ("networks:disconnect_command", "Disconnect a container from a network"),
    "inspect": ("inspect:inspect_network", "Show everything about networks"),
    "ls": ("networks:ls_command", "List networks"),
    "prune": ("networks:prune_command", "Remove unused networks"),
    "rm": ("networks:rm_command", "Remove networks"),
}
LIST_ALIASES = {"list": "ls", "remove": "rm"}

SYSTEM: Table = {
    "df": ("disk:df_command", "Show how much disk is used"),
    "dial-stdio": ("ssh_end:dial_stdio_command", "Join standard input and output with the daemon's socket"),
    "events": ("events:events_command", "Show what happens, as it happens"),
    "info": ("system:info_command", "Show the engine and its machine"),
    "prune": ("disk:prune_command", "Remove what is not used"),
}

REGISTRY: Table = {
    "ls": ("registry:ls_command", "List the registries inside the daemon"),
    "serve": ("registry:serve_command", "Serve a registry, as a process of its own"),
    "start": ("registry:start_command", "Start a registry inside the daemon"),
    "stop": ("registry:stop_command", "Stop registries inside the daemon"),
}

_TOP_LEVEL = ("run", "create", "exec", "attach", "start", "stop", "restart", "kill", "pause", "unpause", "rm",
              "logs", "stats", "top", "port", "diff", "cp", "commit", "export", "rename", "update", "wait")  # fmt: skip

COMMANDS: Table = {
    **{name: CONTAINER[name] for name in _TOP_LEVEL[:1]},
    "ps": CONTAINER["ls"],
    **{name: CONTAINER[name] for name in _TOP_LEVEL[1:]},
    "inspect": ("inspect:inspect_command", "Show everything about containers, images, volumes and networks"),
    "images": IMAGE["ls"],
    **{name: IMAGE[name] for name in ("pull", "push", "build", "tag", "history", "load", "save", "import")},
    "rmi": IMAGE["rm"],
    "search": ("search:search_command", "Search a registry for images"),
    "login": ("login:login_command", "Log in to a registry"),
    "logout": ("login:logout_command", "Forget the login of a registry"),
    "apply": ("apply:apply_command", "Bring containers, networks and volumes to a desired state"),
    "events": SYSTEM["events"],
    "info": SYSTEM["info"],
    "version": ("system:version_command", "Show versions"),
    "doctor": ("system:doctor_command", "Check what the machine lacks"),
    "completion": ("completion:completion_command", "Print the completion script of a shell"),
    "container": ("groups:container", "Manage containers"),
    "image": ("groups:image", "Manage images"),
    "network": ("groups:network", "Manage networks"),
    "volume": ("groups:volume", "Manage volumes"),
    "system": ("groups:system", "Manage the engine"),
    "registry": ("groups:registry", "Serve a registry of images"),
}
ALIASES: dict[str, str] = {}
