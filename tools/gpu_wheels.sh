#!/usr/bin/env bash
# Fill a folder of wheels for tools/gpu_check.sh, on a machine with a network, for a machine without one.
set -Eeuo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
EXTRAS=mminstall,tests,metr,hgkd,spsa,dsnet,maml,prae,pti # of setup.py: all that the tests and benchmarks use
# Other builds of the same packages stand in for these: on a server there is CUDA, and often no libGL.
REPLACED=(spconv==2.3.8 opencv-python==4.12)
INSTEAD=('spconv-cu126>=2.3.8,<2.4' opencv-python-headless)

python=python3.12
scratch=
have=(torch==2.11.0 torchvision==0.26.0)

usage() {
    cat <<EOF
usage: bash tools/gpu_wheels.sh DIR [--python PY] [--have NAME==VERSION]...
  DIR                   where the wheels go; made if missing
  --python PY           interpreter of the target's version, with pip, Linux x86-64; default: $python
  --have NAME==VERSION  the target has this: it is taken into account and not fetched; default: ${have[*]}
What is needed is read from setup.py ($EXTRAS), but spconv comes for CUDA and OpenCV without windows.
mmcv comes as its source, and as a wheel too where pip finds one: set PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL for that.
EOF
}

die() {
    printf 'gpu_wheels: error: %s\n' "$@" >&2
    exit 1
}

# Wheels of NAME==VERSION without contents, so that pip counts them as found and asks for nothing of theirs. The local
# version makes pip prefer them to the real ones.
make_stubs() {
    "$python" - "$@" <<'EOF'
import sys
from pathlib import Path
from zipfile import ZipFile

folder, *pins = sys.argv[1:]
for pin in pins:
    name, _, version = pin.partition('==')
    stem = f'{name.replace("-", "_")}-{version}'
    with ZipFile(Path(folder, f'{stem}-py3-none-any.whl'), 'w') as wheel:
        wheel.writestr(f'{stem}.dist-info/METADATA', f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        wheel.writestr(f'{stem}.dist-info/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        wheel.writestr(f'{stem}.dist-info/RECORD', '')
EOF
}

run_pip() { "$python" -m pip --disable-pip-version-check "$@"; }

main() {
    local folder= given=() mmcv stubs stub
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage && exit ;;
            --python | --have)
                [ $# -ge 2 ] || die "$1 needs a value"
                if [ "$1" = --python ]; then python=$2; else given+=("$2"); fi
                shift 2
                ;;
            -*) usage >&2 && exit 2 ;;
            *) folder=$1 && shift ;;
        esac
    done
    [ -n "$folder" ] || { usage >&2 && exit 2; }
    run_pip --version >/dev/null || die "$python has no pip or is not there: name one of the target's version with --python"
    [ ${#given[@]} -eq 0 ] || have=("${given[@]}")
    mkdir -p "$folder"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mmcv=$("$python" "$ROOT/tools/install_checks.py" hosts | grep '^onedl-mmcv')
    stubs=("${have[@]}" "$mmcv" "${REPLACED[@]}")
    stubs=("${stubs[@]/%/+there}")
    make_stubs "$scratch" "${stubs[@]}"
    printf '%s\n' "${stubs[@]}" >"$scratch/pins.txt"
    run_pip wheel --wheel-dir "$scratch/out" --find-links "$scratch" --find-links "$folder" \
        --constraint "$scratch/pins.txt" --constraint "$ROOT/requirements/build.txt" \
        --requirement "$ROOT/requirements/build.txt" "${INSTEAD[@]}" "$ROOT[$EXTRAS]"
    for stub in "$scratch"/*.whl; do
        rm -f "$scratch/out/$(basename "$stub")"
    done
    rm "$scratch"/out/mmplugins-*.whl # the checkout itself is what is checked
    MMCV_WITH_OPS=0 run_pip download --dest "$scratch/out" --no-deps --no-binary onedl-mmcv "$mmcv"
    run_pip download --dest "$scratch/out" --no-deps --only-binary onedl-mmcv "$mmcv" ||
        printf 'gpu_wheels: no ready wheel of mmcv: it will be compiled on the target, which then needs nvcc\n'
    rm -f "$folder"/*.whl "$folder"/*.tar.gz # an older version beside a newer one would be installed too
    mv "$scratch"/out/* "$folder"
    printf 'gpu_wheels: %s files, %s, in %s\n' "$(find "$folder" -type f | wc -l)" "$(du -sh "$folder" | cut -f1)" "$folder"
}

main "$@"
