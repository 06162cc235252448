#!/usr/bin/env bash
# Installs, updates and removes the station on Debian, Ubuntu and JetPack. What it does, and where: docs/station.md.
#
#   /opt/inspectd/releases/VERSION-SUM    a virtual environment for each release; the last two are kept
#   /opt/inspectd/current, previous       links to them, so that an update and its rollback are one rename each
set -euo pipefail
umask 022

OPT=/opt/inspectd
ETC=/etc/inspectd
STATE=/var/lib/inspectd
CACHE=/var/cache/inspectd
DOC=/usr/local/share/doc/inspectd
BIN=/usr/local/bin
PROGRAMS=(inspectd inspectd-calibrate export-trt)
# What is installed for the system, and from which file beside this one.
declare -A SYSTEM=(
    [/etc/systemd/system/inspectd@.service]=systemd/inspectd@.service
    [/etc/sysusers.d/inspectd.conf]=systemd/inspectd.sysusers
    [/etc/tmpfiles.d/inspectd.conf]=systemd/inspectd.tmpfiles
    [/etc/udev/rules.d/60-inspectd-cameras.rules]=systemd/60-inspectd-cameras.rules
)

usage() {
    cat <<'TEXT'
Usage: install.sh [--wheelhouse PATH] [--with REQUIREMENT]... [--dry-run]
       install.sh --rollback [--dry-run]
       install.sh --uninstall [--purge] [--dry-run]

Installs the station, or updates it. Lines are neither started nor stopped by that.

  --wheelhouse PATH     install from this archive of `make wheelhouse`, or the folder that it was unpacked to. Nothing is
                        fetched from a network. Without it: from the folder that this script lies in, if that is an
                        unpacked wheelhouse; else this checkout is built, and what it needs is fetched from pip's index
  --with REQUIREMENT    with a checkout: install this too, such as 'cryptography>=41'; may be repeated
  --system-packages     let the station see the system's Python packages; on a Jetson it does (TensorRT is one of them)
  --rollback            go back to the release that was installed before
  --uninstall           stop the lines and remove the station; configurations, state and the user are kept
  --purge               with --uninstall: remove those too
  --dry-run             only say what would be done
TEXT
}

fail() {
    printf 'install: error: %s\n' "$*" >&2
    exit 1
}

say() {
    printf 'install: %s\n' "$*"
}

run() {
    if [[ $dry ]]; then
        say "would run: $*"
    else
        "$@"
    fi
}

# Whether systemd runs here: in a container and in a root that is being made it does not.
booted() {
    [[ -d /run/systemd/system ]]
}

# Point a link at something else, in one step.
relink() {
    run ln -sfn "$1" "$2.new"
    run mv -T "$2.new" "$2"
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
action=install
wheelhouse=
system_packages=
purge=
dry=
extra=()
while (($#)); do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --wheelhouse | --with) (($# > 1)) || fail "$1 needs a value; see --help" ;;&
        --wheelhouse) wheelhouse=$2 && shift ;;
        --with) extra+=(--with "$2") && shift ;;
        --system-packages) system_packages=yes ;;
        --rollback) action=rollback ;;
        --uninstall) action=uninstall ;;
        --purge) purge=yes ;;
        --dry-run) dry=yes ;;
        *) fail "unknown option $1; see --help" ;;
    esac
    shift
done
[[ -z $purge || $action == uninstall ]] || fail "--purge goes with --uninstall"
[[ $dry || $(id -u) == 0 ]] || fail "only root can do this: sudo $0"

restart_hint() {
    booted || return 0
    local lines
    lines=$(systemctl list-units --plain --no-legend --state=active 'inspectd@*' | cut -d' ' -f1 | xargs)
    [[ -z $lines ]] || say "lines that run go on with the release they were started with, until: systemctl restart $lines"
}

# Install

# The folder with the wheels, checked; made first where there is none.
prepare_wheelhouse() {
    if [[ -z $wheelhouse && -f $here/../SHA256SUMS ]]; then
        wheelhouse=$here/..
    fi
    if [[ -z $wheelhouse ]]; then
        [[ -f $here/wheelhouse.sh ]] || fail "there are no wheels beside $here; name an archive by --wheelhouse"
        if [[ $dry ]]; then
            say "would run: $here/wheelhouse.sh --folder $work/wheelhouse ${extra[*]}"
            return
        fi
        "$here/wheelhouse.sh" --folder "$work/wheelhouse" "${extra[@]}"
        wheelhouse=$work/wheelhouse
    elif ((${#extra[@]})); then
        fail "--with takes packages from pip's index; a wheelhouse gets them when it is made: make wheelhouse WITH=..."
    elif [[ -f $wheelhouse ]]; then
        mkdir "$work/wheelhouse"
        tar -C "$work/wheelhouse" --extract --strip-components=1 --no-same-owner --no-same-permissions \
            --file "$wheelhouse" || fail "$wheelhouse: cannot be unpacked; expected an archive of make wheelhouse"
        wheelhouse=$work/wheelhouse
    fi
    [[ -f $wheelhouse/SHA256SUMS ]] || fail "$wheelhouse: has no SHA256SUMS; expected an archive of make wheelhouse"
    (cd "$wheelhouse" && sha256sum --check --strict --quiet SHA256SUMS) ||
        fail "$wheelhouse: is damaged, or was changed; copy the archive again"
    # Wheels that are not on the list are not installed.
    mapfile -t wheels < <(sed -n 's/^[0-9a-f]\{64\} [ *]\(wheels\/.*\.whl\)$/\1/p' "$wheelhouse/SHA256SUMS")
    # What the archive brings belongs to its release, whichever copy of this script runs.
    here=$(cd "$wheelhouse/deploy" && pwd)
}

install_release() {
    if [[ $dry && ${#wheels[@]} == 0 ]]; then
        say "would make a virtual environment below $OPT/releases, and install the wheels there"
        return
    fi
    local version sum release
    version=$(printf '%s\n' "${wheels[@]}" | sed -n 's/^wheels\/inspectd-\([^-]*\)-.*/\1/p')
    [[ $version ]] || fail "$wheelhouse: has no wheel of inspectd"
    sum=$(sha256sum "$wheelhouse/SHA256SUMS" | cut -c1-8)
    release=$version-$sum
    if [[ -e $OPT/releases/$release/complete ]]; then
        say "release $release is there"
    else
        say "installing release $release"
        run rm -rf "$OPT/releases/$release"
        run mkdir -p "$OPT/releases"
        run python3 -m venv ${system_packages:+--system-site-packages} "$OPT/releases/$release"
        # Isolated: neither settings of pip nor packages of root have a say.
        (cd "$wheelhouse" &&
            run "$OPT/releases/$release/bin/python" -I -m pip --isolated --disable-pip-version-check \
                install --quiet --no-index "${wheels[@]}") ||
            fail "the wheels cannot be installed; were they made for this machine's processor, system and Python ($(python3 -V))?"
        run "$OPT/releases/$release/bin/inspectd" --version
        run touch "$OPT/releases/$release/complete"
    fi
    if [[ $(readlink "$OPT/current" || true) != releases/$release ]]; then
        if [[ -e $OPT/current ]]; then
            relink "$(readlink "$OPT/current")" "$OPT/previous"
        fi
        relink "releases/$release" "$OPT/current"
    fi
    relink current/bin "$OPT/bin"
}

remove_old_releases() {
    local release
    for release in "$OPT"/releases/*; do
        if [[ -d $release && ! $release -ef $OPT/current && ! $release -ef $OPT/previous ]] &&
            # A line that was not restarted since loads the rest of its modules from here.
            ! grep -qsF "$release/" /proc/[0-9]*/cmdline; then
            run rm -rf "$release"
        fi
    done
}

install_files() {
    local target program
    for target in "${!SYSTEM[@]}"; do
        run install -D -m 644 "$here/${SYSTEM[$target]}" "$target"
    done
    run rm -rf "$DOC"
    run install -d "$DOC/examples" "$BIN"
    run install -m 644 "$here"/../docs/*.md "$here"/../{README.md,CHANGELOG.md,LICENSE} "$DOC/"
    run install -m 644 "$here"/config/*.toml "$DOC/examples/"
    # Kept here, so that the station can be removed when the archive is gone.
    run install -m 755 "$here/install.sh" "$OPT/install.sh"
    for program in "${PROGRAMS[@]}"; do
        if [[ -e $BIN/$program && ! $(readlink "$BIN/$program") == $OPT/* ]]; then
            say "$BIN/$program is somebody else's and stays; the station's is $OPT/bin/$program"
        else
            relink "$OPT/bin/$program" "$BIN/$program"
        fi
    done
    run systemd-sysusers /etc/sysusers.d/inspectd.conf
    run systemd-tmpfiles --create /etc/tmpfiles.d/inspectd.conf
    if booted; then
        run systemctl daemon-reload
    fi
    if [[ -S /run/udev/control ]]; then
        run udevadm control --reload
        run udevadm trigger --subsystem-match=usb
    fi
}

install_station() {
    local command
    for command in python3 systemd-sysusers systemd-tmpfiles sha256sum tar; do
        command -v "$command" >/dev/null || fail "$command is not there; on Debian and Ubuntu: apt install python3 systemd"
    done
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "expected Python 3.10 or newer, got $(python3 -V)"
    python3 -c 'import ensurepip, venv' 2>/dev/null || fail "python3 has no venv: apt install python3-venv"
    # The genicam package is linked to it, and a Python of Debian's does without.
    python3 -c 'import ctypes, sysconfig; ctypes.CDLL(sysconfig.get_config_var("INSTSONAME"))' 2>/dev/null ||
        fail "python3 has no shared library, which GenICam cameras need: apt install lib$(python3 -c 'import sys
print("python%d.%d" % sys.version_info[:2])')"
    [[ -L $OPT/bin || ! -e $OPT/bin ]] ||
        fail "$OPT is a virtual environment that was made by hand; move it away: mv $OPT $OPT.old"
    if [[ -e /etc/nv_tegra_release ]]; then
        system_packages=yes
    fi
    wheels=()
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/inspectd-install.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    prepare_wheelhouse
    install_release
    install_files
    remove_old_releases
    restart_hint
    if ! compgen -G "$ETC/*.toml" >/dev/null; then
        say "no line is configured yet. Examples: $DOC/examples. For a line 'press4':"
        say "  cp $DOC/examples/area-free-running.toml $ETC/press4.toml     and edit it"
        say "  inspectd doctor && runuser -u inspectd -- inspectd check $ETC/press4.toml"
        say "  systemctl enable --now inspectd@press4"
    fi
}

# Go back

roll_back() {
    [[ -e $OPT/previous/complete ]] || fail "there is no release to go back to in $OPT"
    local current previous
    current=$(readlink "$OPT/current")
    previous=$(readlink "$OPT/previous")
    relink "$previous" "$OPT/current"
    relink "$current" "$OPT/previous"
    say "release ${previous#releases/} is in force again; the next line that starts runs it"
    restart_hint
}

# Remove

uninstall_station() {
    local link program target
    for link in /etc/systemd/system/*.wants/inspectd@*.service; do
        [[ -L $link ]] || continue
        run systemctl disable --quiet "$(basename "$link")"
    done
    if booted; then
        run systemctl stop 'inspectd@*.service'
    fi
    for program in "${PROGRAMS[@]}"; do
        if [[ $(readlink "$BIN/$program") == $OPT/* ]]; then
            run rm -f "$BIN/$program"
        fi
    done
    for target in "${!SYSTEM[@]}"; do
        run rm -f "$target"
    done
    run rm -rf "$OPT" "$DOC" "$CACHE"
    if booted; then
        run systemctl daemon-reload
    fi
    if [[ -z $purge ]]; then
        say "kept: $ETC, $STATE and the user inspectd, whose they are; --uninstall --purge removes them"
        return
    fi
    run rm -rf "$ETC" "$STATE" /etc/systemd/system/inspectd@*.service.d
    if getent passwd inspectd >/dev/null; then
        run userdel inspectd
    fi
    if getent group inspectd >/dev/null; then
        run groupdel inspectd
    fi
    say "archives that a configuration has put elsewhere are still there"
}

case $action in
    install) install_station ;;
    rollback) roll_back ;;
    uninstall) uninstall_station ;;
esac
