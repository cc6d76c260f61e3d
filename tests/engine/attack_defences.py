"""Take the engine's defences away, one at a time, and see whether the tests of the attacks notice.

    python -m tests.engine.attack_defences [WORDS]     as root; only the defences whose description has all the words

Each defence is a small change of the source, made in a copy that the tests then import. A test that passes without the
defence it is for is worth nothing: it is printed as NOT NOTICED, and so is a change whose place is no longer there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.engine.attack_table import ROOT, attacks, results

SOURCE = ROOT / "engine/src"
Edit = tuple[str, str, str]  # file below longshore/, what stands there, what is put in its place


@dataclass(frozen=True, slots=True)
class Defence:
    words: str  # what is taken away
    edits: Sequence[Edit]
    tests: Sequence[str]  # names without test_attack_; all of them have to notice


IN_ROOT = (
    "kernel/paths.py",
    "    name = os.fsencode(path)\n",
    "    name = os.fsencode(path)\n    if resolve == RESOLVE_IN_ROOT:\n"
    "        name = name.lstrip(b'/') or b'.'\n        how.resolve = RESOLVE_NO_MAGICLINKS\n",
)
MAGIC = ("kernel/paths.py", "resolve | RESOLVE_NO_MAGICLINKS)", "resolve)")
UNSEALED = ("runtime/zygote_client.py", 'executable=f"/proc/self/fd/{sealed}"', "executable=sys.executable")
KEEP_OPEN = [
    ("runtime/program.py", "    close_all_except(keep)\n", ""),
    (
        "runtime/program.py",
        "    close_all_except((entry.channel.fileno(), cwd, entry.gate, *entry.extra))\n",
        "",
    ),
    ("runtime/program.py", "    close_range(3 + len(entry.extra), flags=CLOSE_RANGE_CLOEXEC)\n", ""),
]
BY_NAME = "make_directories(root_fd, path) if make else openat2(root_fd, path, os.O_PATH | os.O_DIRECTORY)"
SCRIPTED = ('    script.call("close_range", least, 0xFFFFFFFF, 0)\n', "")

DEFENCES = (
    Defence("the seals of the interpreter's copy",
            [("runtime/sealed.py", "        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)\n", "        del seals\n")],
            ["01_the_copy_is_complete_and_sealed"]),
    Defence("the zygote's sealed interpreter", [UNSEALED],
            ["01_no_process_of_ours_runs_from_the_hosts_interpreter", "01_a_script_of_our_exe_gets_the_sealed_copy"]),
    Defence("the sealed interpreter of longshore-oci",
            [("runtime/sealed.py", "    if _ENTERING & set(sys.argv) and not is_sealed():", "    if False:")],
            ["01_longshore_oci_seals_itself"]),
    Defence("the refusal of magic links", [MAGIC],
            ["01_the_interpreter_is_not_started_through_its_exe_link"]),
    Defence("the closed memory of a starting process",
            [("kernel/processes.py", "    _prctl(PR_SET_DUMPABLE, int(value), 0, 0, 0)", "    _prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)"),
             ("runtime/execution.py", "kernel.PR_SET_DUMPABLE, 0\n", "kernel.PR_SET_DUMPABLE, 1\n")],
            ["01_the_waiting_process_cannot_be_opened_by_its_own_user", "01_the_memory_of_an_exec_is_closed"]),
    Defence("closing what is inherited", [KEEP_OPEN[0], KEEP_OPEN[1]],
            ["02_the_waiting_process_holds_nothing_of_the_host"]),
    Defence("closing what an exec inherits, and close-on-exec",
            [("runtime/execution.py", *SCRIPTED)], ["02_exec_does_not_leak_either"]),
    Defence("a look at what /dev/null is",
            [("kernel/paths.py", "    return stat.S_ISCHR(status.st_mode) and status.st_rdev == NULL_DEVICE", "    return bool(status)"),
             ("runtime/rootfs.py", 'openat2(self._root, "/dev/null", os.O_PATH | os.O_NOFOLLOW)', 'openat2(self._root, "/dev/null", os.O_PATH)')],
            ["03_a_swapped_null_device_is_not_bound_over_masked_paths", "03_a_null_device_that_is_swapped_while_it_masks"]),
    Defence("the console by descriptor",
            [("runtime/rootfs.py", 'os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev)', 'openat2(root_fd, "/dev/console", os.O_PATH)')],
            ["04_the_console_is_bound_by_descriptor_only", "04_a_console_that_is_swapped_while_it_is_bound"]),
    Defence("the look at procfs's magic, and its links",
            [("runtime/rootfs.py", "        if filesystem_magic(fd) != PROC_SUPER_MAGIC:\n            raise StartFailed(f'", "        if False:\n            raise StartFailed(f'"),
             ("runtime/rootfs.py", "    resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV\n", "    resolve = 0\n"),
             ("runtime/rootfs.py", "        resolve |= RESOLVE_NO_SYMLINKS\n", "        pass\n")],
            ["05_only_procfs_is_written_to"]),
    Defence("the private procfs",
            [("runtime/child.py", "rootfs.private_procfs()", 'rootfs.openat2(root_fd, "/proc", os.O_PATH)'),
             ("runtime/rootfs.py", "        if filesystem_magic(fd) != PROC_SUPER_MAGIC:\n            raise StartFailed(f'", "        if False:\n            raise StartFailed(f'"),
             ("runtime/rootfs.py", "        resolve |= RESOLVE_NO_SYMLINKS\n", "        pass\n")],
            ["05_settings_are_written_into_a_private_procfs_only"]),
    Defence("masks looked up from the procfs itself", [("runtime/rootfs.py", "        if path.startswith(f\"{destination}/\"):", "        if False:")],
            ["05_a_proc_that_is_swapped_while_it_is_hidden"]),
    Defence("RESOLVE_IN_ROOT", [IN_ROOT],
            ["06_a_link_in_the_image_makes_nothing_outside", "06_mount_destinations_do_not_climb_out",
             "06_an_image_whose_folder_is_a_link", "08_copying_in_while_the_folder_becomes_a_link",
             "08_copying_out_while_the_folder_becomes_a_link", "08_a_mount_destination_that_becomes_a_link",
             "08_copies_never_leave_the_container"]),
    Defence("the walk through a layer's names",
            [("storage/apply.py", '    if b".." in parts:', "    if False:"),
             ("storage/apply.py", "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC", "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC")],
            ["07_a_layer_stays_inside", "07_import_and_load_stay_inside"]),
    Defence("the worker's own root", [("storage/worker.py", '    mounts.pivot_root(".", ".")\n    mounts.umount(".", mounts.MNT_DETACH)', "    ")],
            ["07_the_worker_itself_has_no_way_out"]),
    Defence("links by descriptor in a volume being filled",
            [("core/copying.py", "            _link(top, known, target, name)\n", "            os.link(known, name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)\n")],
            ["08_hard_links_of_a_volume_that_is_being_filled"]),
    Defence("modes by descriptor in a volume being filled",
            [("core/copying.py", "            _make_node(target, name, status)\n",
              "            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)\n"
              "            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)\n"
              "            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)\n")],
            ["08_device_nodes_of_a_volume_that_is_being_filled"]),
    Defence("subpaths looked up by descriptor",
            [("runtime/mounts.py", "    found = open_beneath(plan.source, plan.subpath)\n", "    found = os.open(f'{plan.source}/{plan.subpath}', os.O_PATH)\n"),
             ("core/containers/roots.py", "open_beneath(mount.source, mount.subpath) if", "os.open(f'{mount.source}/{mount.subpath}', os.O_PATH) if")],
            ["08_a_volume_subpath_that_becomes_a_link"]),
    Defence("a neighbour's /dev/shm looked up inside of it",
            [("runtime/mounts.py", '            found = open_beneath("/", plan.source.lstrip("/"))\n', '            setns(ours, CLONE_NEWNS)\n            found = os.open(f"/proc/{pid}/root/dev/shm", os.O_PATH)\n')],
            ["08_the_shm_of_a_neighbour_is_looked_up_inside_of_it"]),
    Defence("private IPC", [("core/containers/launch.py", 'in ("none", "private"):', 'in ("never",):')],
            ["08_a_private_shm_is_not_shared"]),
    Defence("start times beside pids", [("runtime/records.py", "    if start_time(pid) == start:\n        return folder\n", "    if True:\n        return folder\n")],
            ["08_a_recycled_pid_is_not_the_container"]),
    Defence("limits on depth", [("core/containers/files.py", "    if depth > _DEEPEST:", "    if False:")],
            ["08_folders_without_end"]),
    Defence("names looked up by ourselves, not by NSS",
            [("runtime/program.py", "import errno\n", "import errno\nimport pwd\n"),
             ("runtime/program.py", "    user = plan.user\n", "    user = plan.user\n    pwd.getpwall()\n")],
            ["09_a_start_opens_the_user_files_and_the_program"]),
    Defence("no imports in the container",
            [("runtime/program.py", "    sys.meta_path.clear()", "    pass"), ("runtime/program.py", "    sys.path_hooks.clear()\n    sys.path.clear()\n", ""),
             ("runtime/program.py", "    user = plan.user\n", "    user = plan.user\n    import this\n")],
            ["09_a_start_opens_the_user_files_and_the_program"]),
    Defence("client certificates", [("api/tls.py", "ssl.CERT_REQUIRED", "ssl.CERT_OPTIONAL")], ["11_other_clients_are_refused"]),
    Defence("a look at Origin and Host", [("api/server.py", '    if "origin" in headers or "sec-fetch-site" in headers:', "    if True:\n        return\n    if headers:")],
            ["11_web_pages_and_foreign_names_are_refused", "11_a_foreign_host_name_is_refused"]),
    Defence("the refusal of plain TCP", [("daemon/settings.py", "    if not settings.tlsverify:\n", "    return\n    if not settings.tlsverify:\n")],
            ["11_tcp_without_client_certificates_does_not_start", "11_tcp_without_client_certificates_is_refused"]),
    Defence("the watch on the firewall", [("network/watch.py", "        if self._changed and self._task is None:", "        if False:")],
            ["12_rules_come_back", "12_a_reload_storm_ends_with_whole_rules"]),
    Defence("default capabilities without CAP_SYS_ADMIN", [("core/spec.py", '        "CHOWN",\n', '        "CHOWN",\n        "SYS_ADMIN",\n')],
            ["13_no_release_agent"]),
    Defence("names of settings", [("runtime/plan.py", "            raise InvalidArgument(f'linux.sysctl: sysctl \"{name}\" is not in", "            continue\n            raise InvalidArgument(f'linux.sysctl: sysctl \"{name}\" is not in"),
                                  ("runtime/rootfs.py", "    resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV\n", "    resolve = 0\n")],
            ["14_settings_of_the_host_are_refused"]),
    Defence("paths of VOLUMEs", [("core/containers/mounts.py", '    clean = posixpath.normpath("/" + path.lstrip("/"))', "    clean = path")],
            ["14_image_volumes_stay_inside", "14_what_an_image_says_configures_nothing"]),
    Defence("numbers are numbers", [("runtime/users.py", "    if not (text.isascii() and text.isdigit()):\n        return None\n", "    return None\n")],
            ["15_numbers_are_numbers", "15_users_are_who_they_say"]),
    Defence("files of users that do not block", [("runtime/users.py", "os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY", "os.O_RDONLY")],
            ["15_hostile_user_files_cost_little"]),  # a container would stand still for good
    Defence("rules on socket families", [("runtime/seccomp_profile.py", "        if family in (_AF_ALG, _AF_VSOCK):", "        if family < 0:")],
            ["18_kernel_surface_behind_socket_families", "18_socket_families_in_a_container"]),
    Defence("the refusal of socketcall", [("runtime/seccomp_profile.py", "query_module request_key socketcall sysfs", "query_module request_key sysfs"),
                                          ("runtime/seccomp_profile.py", "splice ssetmask", "splice socketcall ssetmask")],
            ["18_i386_socketcall_is_refused"]),
    Defence("ENOSYS for unknown calls", [("runtime/seccomp_profile.py", "        default_errno_ret=errno.ENOSYS,", "        default_errno_ret=errno.EPERM,")],
            ["18_unknown_calls_look_like_an_old_kernel"]),
    Defence("the limit on a layer's size", [("storage/apply.py", "        if self.size > self._max_size:", "        if False:")],
            ["19_a_zip_bomb_is_stopped"]),
    Defence("the limit on a layer's entries", [("storage/apply.py", "        if self.entries > self._max_entries:", "        if False:")],
            ["19_a_million_entries"]),
    Defence("nesting as a mistake of the client",
            [("core/model.py", "except (msgspec.MsgspecError, RecursionError) as cause:", "except msgspec.MsgspecError as cause:")],
            ["19_nesting_without_end", "19_requests_without_an_end"]),
    Defence("the limit on request bodies", [("api/http.py", "            if len(data) > limit:", "            if False:")], ["19_requests_without_an_end"]),
    Defence("rotation of logs", [("runtime/logwriter.py", "        while self.max_size and self._size + len(data) > self.max_size:", "        while False:")],
            ["19_a_log_line_without_an_end"]),
    Defence("back-pressure of clients", [("runtime/monitor/streams.py", "            output.pause(paused=full)", "            output.pause(paused=False)")],
            ["19_an_exec_that_nobody_reads"]),
    Defence("the filter of the layer worker", [("storage/worker.py", "    if program := seccomp_filter():", "    if program := b\"\":")],
            ["07_the_worker_itself_has_no_way_out"]),
    Defence("the empty import path of the layer worker",
            [("storage/worker.py", "    sys.path.clear()\n    sys.meta_path.clear()\n", "    sys.path[:] = ['/']\n"),
             ("storage/worker.py", "    applier = Applier(", "    import wave\n    applier = Applier(")],
            ["07_the_worker_itself_has_no_way_out"]),
    Defence("decompressors of our own",
            [("storage/layers.py", "            with self._content.open(blob) as file, self._new_directory() as directory:",
              "            __import__('subprocess').run(['xz', '-dc', '/dev/null'], check=False)\n"
              "            with self._content.open(blob) as file, self._new_directory() as directory:")],
            ["09_no_foreign_decompressor_runs"]),
    Defence("patience that ends", [("registry/patience.py", "        if self._bytes < passed * self._patience.slowest:", "        if False:")],
            ["19_a_registry_that_trickles_is_left"]),
    Defence("the limit on documents", [("registry/transport.py", "                if len(data) > limit:", "                if False:")],
            ["19_an_answer_without_an_end"]),
    Defence("the limit on layers of an image", [("oci/manifest.py", "    if len(manifest.layers) > MAX_LAYERS:", "    if False:")],
            ["19_documents_without_an_end"]),
    Defence("digests compared", [("storage/blob_writer.py", "        if self._expected is not None and self._expected != actual:", "        if False:")],
            ["21_a_blob_that_is_not_what_it_says_is_refused", "21_a_blob_that_is_not_what_was_told"]),
    Defence("sizes compared", [("registry/client.py", "        if self.writer.written + len(data) > self.descriptor.size:", "        if False:"),
                               ("storage/blob_writer.py", "        if self._size is not None and total > self._size:", "        if False:"),
                               ("storage/blob_writer.py", "        if self._size is not None and self.written != self._size:", "        if False:")],
            ["21_a_blob_that_is_not_what_was_told"]),
    Defence("diff ids compared", [("storage/worker.py", "        if actual != self._expected:", "        if False:")],
            ["21_a_layer_that_unpacks_to_something_else"]),
    Defence("digests of manifests compared",
            [("registry/client.py", "        if expected is not None and digest_like(expected, data) != expected:", "        if False:")],
            ["21_a_digest_that_names_another_manifest"]),
    Defence("media types judged", [("oci/manifest.py", "    if kind not in MANIFEST_TYPES | INDEX_TYPES:", "    if False:")],
            ["21_a_manifest_that_is_none"]),
    Defence("logins that stay with their host",
            [("registry/transport.py", 'kept = authorization if url.origin() == answer.url.origin() else ""', "kept = authorization")],
            ["21_a_redirect_takes_no_credentials_along"]),
    Defence("mirrors without a login", [("registry/transport.py", "None if endpoint.is_mirror else auth", "auth")],
            ["21_a_mirror_of_hosts_toml_gets_no_login", "21_mirrors_come_first_and_get_no_credentials"]),
    Defence("digests compared", [("storage/content.py", "        if self._expected is not None and self._expected != actual:", "        if False:")],
            ["21_a_blob_that_is_not_what_it_says_is_refused"]),
    Defence("the look-up of a build's cache mount without links",
            [("runtime/mounts.py", "    found = open_beneath(plan.source, plan.subpath)\n",
              "    found = os.open(f'{plan.source}/{plan.subpath}', os.O_PATH)\n")],
            ["16_a_cache_folder_that_is_swapped_during_the_build"]),
    Defence("the scratch folder of a build's writable binds",
            [("build/mounting.py", '                scratch=scratch,\n', ''),
             ("runtime/rootfs.py", "        if not scratch:\n            mounts.mount_setattr(tree, attr_set=mounts.MOUNT_ATTR_RDONLY)\n", ""),
             ("runtime/rootfs.py", "            mounts.mount_setattr(tree, attr_set=mounts.MOUNT_ATTR_RDONLY)\n            return _attach_over(layer, tree)", "            return _attach_over(layer, tree)")],
            ["16_what_a_step_writes_into_its_mounts_stays_in_no_layer"]),
    Defence("the build cache that no image is part of",
            [("build/stage_run.py", "for image in (*(self.work.cache_images or ()), *self.work.imported):",
              "for image in self.work.workshop.engine.images.list():")],
            ["20_a_run_that_a_loaded_image_claims_to_have_done"]),
    Defence("the contents in the keys of the build cache",
            [("build/copying.py", "            total.update(content.digest())\n", "")],
            ["20_files_that_were_swapped_under_the_same_name"]),
)  # fmt: skip


def broken_copy(defence: Defence, folder: Path) -> str:
    """Copy the source without the defence; returns what is wrong with the change, empty when it could be made."""
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in defence.edits:
        path = folder / "longshore" / name
        text = path.read_text() if path.exists() else ""
        if old not in text:
            return f"{name} does not say {old.strip()[:60]!r} any more"
        path.write_text(text.replace(old, new))
    return ""


def unnoticed(defence: Defence) -> list[str]:
    """The tests that pass without the defence."""
    files = {attack.name: attack.path for attack in attacks()}
    names = [f"test_attack_{name}" for name in defence.tests]
    with tempfile.TemporaryDirectory() as place:
        if problem := broken_copy(defence, Path(place) / "src"):
            return [problem]
        report = Path(place) / "report.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--timeout", "40", f"--junitxml={report}", "-k", " or ".join(names),
             *sorted({str(files[name]) for name in names})],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{place}/src"},
            stdout=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
        if (
            not report.exists()
        ):  # a hang that pytest-timeout ended: that is noticing, too, if only one test was asked
            return [] if len(names) == 1 else ["pytest ended before its report"]
        found = results(report)
    return [name for name in names if name in found and not found[name]["failed"]]


def main(words: list[str]) -> int:
    missed = 0
    for defence in DEFENCES:
        if not all(word in defence.words for word in words):
            continue
        left = unnoticed(defence)
        missed += bool(left)
        told = f"NOT NOTICED: {', '.join(left)}" if left else f"noticed by {len(defence.tests)}"
        print(f"without {defence.words}: {told}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
