#!/usr/bin/env bash
# What a wheelhouse installs, as a bill of materials (CycloneDX) and a report of licences beside it. `make sbom` runs it.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: deploy/sbom.sh [--python PYTHON] ARCHIVE

Writes ARCHIVE without .tar with .cdx.json and .licenses.md. PYTHON (default: python3) is the one that the archive is for.
TEXT
}

fail() {
    printf 'sbom: error: %s\n' "$*" >&2
    exit 1
}

python=python3
archive=
while (($#)); do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --python) (($# > 1)) || fail "$1 needs a value; see --help" ;;&
        --python) python=$2 && shift ;;
        -*) fail "unknown option $1; see --help" ;;
        *) archive=$1 ;;
    esac
    shift
done
[[ -f $archive ]] || fail "${archive:-no archive}: expected an archive of make wheelhouse"

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/var/tmp}/inspectd-sbom.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/wheelhouse"
tar -C "$work/wheelhouse" --extract --strip-components=1 --file "$archive"
# The station's environment and that of the tools are two, so that neither is in the other's list.
"$python" -m venv "$work/station"
# By name and version: of what is installed by its file the bill could not say which package of an index it is.
find "$work/wheelhouse/wheels" -name '*.whl' -printf '%f\n' | sed 's/^\([^-]*\)-\([^-]*\)-.*/\1==\2/' >"$work/packages"
"$work/station/bin/python" -I -m pip --isolated --disable-pip-version-check install --quiet --no-index \
    --find-links "$work/wheelhouse/wheels" --requirement "$work/packages"
"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip --disable-pip-version-check install --quiet 'cyclonedx-bom>=5' 'pip-licenses>=5'
"$work/tools/bin/cyclonedx-py" environment --output-reproducible --output-format JSON --validate \
    --pyproject "$checkout/pyproject.toml" \
    --output-file "${archive%.tar}.cdx.json" "$work/station/bin/python"
"$work/tools/bin/pip-licenses" --python "$work/station/bin/python" --from mixed --order license --with-urls --with-system \
    --format markdown --output-file "${archive%.tar}.licenses.md" >/dev/null
printf '%s\n' "${archive%.tar}.cdx.json" "${archive%.tar}.licenses.md"
