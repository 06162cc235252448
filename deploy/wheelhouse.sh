#!/usr/bin/env bash
# One archive that installs a station on a machine without a network: the wheels of inspectd and of all that it needs,
# for this kind of machine and this Python, the installer, and what it installs. `make wheelhouse` runs it.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: deploy/wheelhouse.sh [--python PYTHON] [--with REQUIREMENT]... [--out FOLDER | --folder FOLDER]

  --python PYTHON      the station's Python (default: python3): wheels are for one version
  --with REQUIREMENT   pack this too, such as 'cryptography>=41' or 'openvino>=2024.4'; may be repeated
  --out FOLDER         where the archive goes (default: dist)
  --folder FOLDER      leave what would be packed there, and pack nothing

Make it on a machine of the station's kind, whose system is not newer: the wheels fit its processor, C library and Python.
TEXT
}

fail() {
    printf 'wheelhouse: error: %s\n' "$*" >&2
    exit 1
}

python=python3
out=dist
folder=
extra=()
while (($#)); do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --python | --with | --out | --folder) (($# > 1)) || fail "$1 needs a value; see --help" ;;&
        --python) python=$2 ;;
        --with) extra+=("$2") ;;
        --out) out=$2 ;;
        --folder) folder=$2 ;;
        *) fail "unknown option $1; see --help" ;;
    esac
    shift 2
done

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ -f $checkout/setup.py ]] || fail "$checkout is not a checkout of inspectd; an unpacked wheelhouse has its wheels already"
# A Debian without python3-venv has the module, and fails in the middle of it.
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv: apt install python3-venv"

work=$(mktemp -d "${TMPDIR:-/var/tmp}/inspectd-wheelhouse.XXXXXX")
trap 'rm -rf "$work"' EXIT

# A copy of what a wheel is made of: a build in the checkout would take up what earlier builds left there.
mkdir "$work/source"
tar -C "$checkout" --create --exclude=__pycache__ --exclude='*.cti' \
    setup.py pyproject.toml README.md LICENSE inspectd training export runtime calibration |
    tar -C "$work/source" --extract
"$python" -m venv "$work/venv"
version=$(cd "$work/source" && "$work/venv/bin/python" -c 'import inspectd; print(inspectd.__version__)')
tag=$("$work/venv/bin/python" -c 'import sys, sysconfig
print(f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}".replace("linux-", "linux_"))')

name=inspectd-$version-$tag
top=${folder:-$work/$name}
mkdir -p "$top/deploy"
"$work/venv/bin/python" -m pip --disable-pip-version-check wheel --quiet --wheel-dir "$top/wheels" \
    "$work/source" "${extra[@]}"
cp "$checkout/deploy/install.sh" "$top/deploy/"
cp -r "$checkout/deploy/systemd" "$checkout/deploy/config" "$top/deploy/"
mkdir "$top/docs"
cp "$checkout"/docs/*.md "$top/docs/"
cp "$checkout"/{README.md,CHANGELOG.md,LICENSE} "$top/"
(cd "$top" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum >"$work/sums")
cp "$work/sums" "$top/SHA256SUMS"
[[ -z $folder ]] || exit 0

mkdir -p "$out"
# Wheels are compressed already.
tar -C "$work" --create --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --file "$out/.$name.part" "$name"
mv "$out/.$name.part" "$out/$name.tar"
(cd "$out" && sha256sum "$name.tar" >"$name.tar.sha256")
printf '%s\n' "$out/$name.tar"
