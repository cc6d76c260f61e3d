#!/bin/sh
# Prepare a checkout: Debian packages, .venv with both packages, Debian's docker as peer, the collection's link.
# Twice is fine; the second run takes a second. Needs root on Debian 12 or 13.
set -eu
cd "$(dirname "$0")/.."
say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

# What the demo and the tests use. The engine itself needs Python alone.
packages="ca-certificates python3-venv python3-dev gcc git make mmdebstrap busybox-static openssh-client openssh-server
  iproute2 iptables procps psmisc skopeo docker-registry qemu-system-x86 qemu-utils e2fsprogs zstd wrk libseccomp2
  libdevmapper1.02.1 libsystemd0 tini"

# A package whose service would start is kept from it: the machine's owner did not ask for a registry or an sshd.
install_packages() {
    missing=""
    for package in $packages; do
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed$' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || { echo "root is needed to install:$missing" >&2; exit 1; }
    say "Debian packages:$missing"
    policy=""
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    # shellcheck disable=SC2086
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing \
        >build/apt.log 2>&1; } || { [ -z "$policy" ] || rm -f $policy; tail -20 build/apt.log >&2; exit 1; }
    [ -z "$policy" ] || rm -f $policy
}

# unpack FOLDER PROGRAM PACKAGE… : those of the packages that there are, unpacked beside the sources. Nothing is installed
# or started on the machine.
unpack() {
    folder=build/$1
    [ -x "$folder/usr/bin/$2" ] && return 0
    say "Debian's $2, unpacked into $folder"
    shift 2
    rm -rf "$folder" build/debs
    mkdir -p "$folder" build/debs
    names=""
    for name in "$@"; do
        apt-cache show --no-all-versions "$name" >/dev/null 2>&1 && names="$names $name"
    done
    # shellcheck disable=SC2086
    (cd build/debs && apt-get -qq download $names)
    for deb in build/debs/*.deb; do dpkg-deb -x "$deb" "$folder"; done
    rm -rf build/debs
}

# buildx and Compose v2 with the docker CLI they go with: Debian 12 has none, so its apt reads Debian 13's index in
# folders of our own.
unpack_buildx() {
    [ -x build/buildx/usr/libexec/docker/cli-plugins/docker-compose ] && return 0
    say "Debian 13's docker-buildx and docker-compose, unpacked into build/buildx"
    rm -rf build/buildx build/debs build/apt
    mkdir -p build/buildx build/debs build/apt/lists/partial build/apt/cache/archives/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" \
        >build/apt/sources.list
    options="-o Dir::State::lists=$PWD/build/apt/lists -o Dir::Cache=$PWD/build/apt/cache -o Dir::Etc::sourceparts=-
      -o Dir::Etc::sourcelist=$PWD/build/apt/sources.list -o APT::Sandbox::User=root"
    # shellcheck disable=SC2086
    apt-get $options -qq update
    # shellcheck disable=SC2086
    (cd build/debs && apt-get $options -qq download docker-buildx docker-compose docker-cli)
    for deb in build/debs/*.deb; do dpkg-deb -x "$deb" build/buildx; done
    rm -rf build/debs build/apt
}

python_environment() {
    python=$(for name in python3 python3.13 python3.12 python3.11; do
        path=/usr/bin/$name
        [ -x $path ] && $path -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $path && break
    done)
    [ -n "$python" ] || { echo "Python 3.11 or newer is needed in /usr/bin" >&2; exit 1; }
    stamp=$(cat requirements.txt engine/pyproject.toml machine/pyproject.toml tools/setup.sh | sha256sum | cut -c1-16)
    if [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ]; then
        say "Python packages into .venv"
        [ -x .venv/bin/python ] || "$python" -m venv .venv
        .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -e engine -e machine \
            >build/pip.log 2>&1 || { tail -20 build/pip.log >&2; exit 1; }
        echo "$stamp" >.venv/stamp
    fi
    # Ansible finds collections below sys.path, so the checkout itself becomes longshore.fleet.
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$site/ansible_collections/longshore"
    ln -sfn "$PWD" "$site/ansible_collections/longshore/fleet"
}

mkdir -p build
install_packages
# The stock client and Debian's dockerd as peers
unpack docker docker docker.io containerd runc docker-cli
# A caller of longshore-oci and a reader of our archives, with what it is linked with in the names of Debian 12 and 13
unpack podman podman podman conmon golang-github-containers-common libgpgme11 libgpgme11t64 libassuan0 libassuan9 \
    libsubid4 libsubid5 libsqlite3-0 libglib2.0-0 libglib2.0-0t64
# A reader of our archives
unpack umoci umoci umoci
unpack_buildx
python_environment
