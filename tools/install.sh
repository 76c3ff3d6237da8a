#!/usr/bin/env bash
# From a bare Python 3.10-3.12 to a working mmplugins: torch, mmcv with its ops, the hosts, mmplugins itself (editable).
# It may be cut off and run again: every step looks at what is there. When all is there it ends at once.
set -Eeuo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TORCH=(torch==2.11.0 torchvision==0.26.0) # the tested pair; an installed torch is kept
MIM=openmim==0.3.9

python=
venv=
extras=
step=
mmcv=      # the requirement of mminstall.txt
mmcv_plan= # keep, wheel or compile

usage() {
    cat <<EOF
usage: bash tools/install.sh [--python PY] [--venv DIR] [--extras LIST]
  --python PY    interpreter to use; default: the first Python 3.10-3.12 of python, python3, python3.11, ...
  --venv DIR     install into this virtual environment, made if missing (an existing one keeps its Python);
                 default: the active environment
  --extras LIST  extras of setup.py, comma-separated: tests, dev, metr, prae, hgkd, spsa, dsnet, maml, pti
An installed torch, with or without CUDA, is kept; install another pair before to use that.
EOF
}

say() { printf '%s\n' "install: $*"; }

die() {
    printf 'install: error: %s\n' "$@" >&2
    exit 1
}

begin() {
    step=$1
    say "$step"
}

on_error() {
    printf 'install: error: the step "%s" failed; the reason is above. Run the script again to go on.\n' "$step" >&2
}

ask() { "$python" "$ROOT/tools/install_checks.py" "$@"; }

export PIP_QUIET=1 # except where a step takes minutes

# The constraint keeps setuptools in the range that both mmcv's build and mim work with.
run_pip() { "$python" -m pip --disable-pip-version-check "$@"; }
pip_install() { run_pip install --constraint "$ROOT/requirements/build.txt" "$@"; }

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help)
                usage
                exit 0
                ;;
            --python | --venv | --extras)
                [ $# -ge 2 ] || die "$1 needs a value"
                printf -v "${1#--}" '%s' "$2"
                shift 2
                ;;
            *)
                usage >&2
                exit 2
                ;;
        esac
    done
}

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

is_supported() { case $(python_version "$1") in 3.10 | 3.11 | 3.12) ;; *) return 1 ;; esac }

find_python() {
    if [ -n "$venv" ] && [ -x "$venv/bin/python" ]; then
        python=$venv/bin/python
    fi
    if [ -n "$python" ]; then
        is_supported "$python" || die "$python is Python $(python_version "$python" || echo '?'); 3.10, 3.11 or 3.12 is needed"
        return
    fi
    local name
    for name in python python3 python3.11 python3.12 python3.10; do
        if is_supported "$name"; then
            python=$name
            return
        fi
    done
    die "no Python 3.10, 3.11 or 3.12 on PATH; install one or name it with --python"
}

enter_environment() {
    if [ -n "$venv" ] && [ ! -x "$venv/bin/python" ]; then
        begin "making the virtual environment $venv"
        "$python" -m venv "$venv" || die "$python cannot make a virtual environment (Debian, Ubuntu: apt-get install python3-venv)"
        python=$venv/bin/python
    fi
    ask isolated || die "$python is not in a virtual or conda environment; activate one, or use --venv .venv"
    run_pip --version >/dev/null 2>&1 || "$python" -m ensurepip --upgrade >/dev/null 2>&1 ||
        die "$python has no pip, and ensurepip cannot bring it (Debian, Ubuntu: apt-get install python3-venv)"
}

has_nvcc() { command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; }

# The ops are built for the GPU where there is one and its compiler; FORCE_CUDA=1 is for nodes without the GPU.
wants_cuda_ops() { [ "${FORCE_CUDA:-0}" = 1 ] || { has_nvcc && ask cuda; }; }

ops_work() {
    if wants_cuda_ops; then ask ops --cuda; else ask ops; fi
}

check_can_compile() {
    local torch_version include compiler=${CXX:-c++}
    torch_version=$(ask version torch)
    if [[ $torch_version =~ ^([0-9]+)\.([0-9]+) ]] && ((BASH_REMATCH[1] * 1000 + BASH_REMATCH[2] >= 2014)); then
        die "mmcv cannot be built against torch $torch_version: its ops are C++17, torch >= 2.14 needs C++20." \
            "Use the tested pair: $python -m pip install ${TORCH[*]}"
    fi
    command -v "$compiler" >/dev/null || die "no C++ compiler ($compiler): mmcv has no ready wheel for this Python and must be compiled." \
        "Debian, Ubuntu: apt-get install g++; elsewhere set CXX. README.md names the Python, torch and CUDA versions with ready wheels."
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$include/Python.h" ] || die "no Python.h in $include: mmcv must be compiled and needs it (Debian, Ubuntu: apt-get install python3-dev)"
}

# pip takes what it was cut off in for installed.
repair() {
    local requirement
    for requirement in $(ask partial); do
        begin "$requirement, which was installed only in part"
        pip_install --no-deps --ignore-installed "$requirement"
    done
}

install_build_tools() {
    begin "build tools"
    pip_install -r "$ROOT/requirements/build.txt"
}

install_torch() {
    local torch_version
    torch_version=$(ask version torch)
    if [ -z "$torch_version" ]; then
        begin "${TORCH[*]}"
        PIP_QUIET=0 pip_install "${TORCH[@]}"
    elif [ -z "$(ask version torchvision)" ]; then
        begin "torchvision for the installed torch $torch_version"
        [[ $torch_version =~ ^2\.([0-9]+) ]] || die "torch $torch_version is too old; use ${TORCH[*]}"
        PIP_QUIET=0 pip_install "torch==$torch_version" "torchvision==0.$((BASH_REMATCH[1] + 15)).*"
    else
        say "torch $torch_version is kept"
    fi
}

# How mmcv will come: keep what is there, a ready wheel, or compile. Known before the large downloads, so that
# a missing compiler is told at once.
plan_mmcv() {
    mmcv=$(ask hosts | grep '^onedl-mmcv')
    if [ -n "$(ask version onedl-mmcv)" ] && ops_work; then
        mmcv_plan=keep
        say "mmcv and its ops are kept"
    elif pip_install --dry-run --no-deps --only-binary :all: "$mmcv" >/dev/null 2>&1; then
        mmcv_plan=wheel
    else
        check_can_compile
        mmcv_plan=compile
    fi
}

install_mmcv() {
    if [ "$mmcv_plan" = wheel ]; then
        begin "mmcv from a ready wheel"
        replace_mmcv --only-binary onedl-mmcv
        if ! ops_work; then
            say "that wheel is for another torch or has no ops for the GPU"
            check_can_compile
            mmcv_plan=compile
        fi
    fi
    if [ "$mmcv_plan" = compile ]; then
        compile_mmcv
    fi
}

compile_mmcv() {
    local cuda=0
    if wants_cuda_ops; then
        cuda=1
    elif ask cuda; then
        say "there is a GPU but no nvcc: the ops will run on the CPU only; README.md names ready wheels with CUDA ops"
    fi
    begin "mmcv: compiling its ops (CUDA: $cuda); this takes long, 25 minutes on 2 cores"
    # Build isolation would build without torch, that is without ops. The cache may hold a wheel for another torch.
    MMCV_WITH_OPS=1 FORCE_CUDA=$cuda PIP_QUIET=0 replace_mmcv --no-build-isolation --no-cache-dir --no-binary onedl-mmcv
}

# Install mmcv even if one that does not work counts as installed, then what it requires.
replace_mmcv() {
    run_pip uninstall --yes onedl-mmcv || say "it cannot be uninstalled and is overwritten"
    pip_install --no-deps --ignore-installed "$@" "$mmcv"
    pip_install "$mmcv"
}

install_hosts() {
    begin "mmengine, mmdet, mmpretrain, mmseg, mmrotate, mim"
    local requirements
    mapfile -t requirements < <(ask hosts)
    pip_install "${requirements[@]}" -r "$ROOT/requirements/mim.txt"
    [ -n "$(ask version "${MIM%%==*}")" ] || pip_install --no-deps "$MIM" # why: requirements/mim.txt
}

install_aliases() {
    begin "alias distributions"
    local name
    for name in $(ask aliases); do
        pip_install --no-build-isolation --no-deps "$ROOT/requirements/aliases/$name"
    done
}

install_mmplugins() {
    begin "mmplugins${extras:+ with $extras}"
    pip_install --no-build-isolation -e "$ROOT${extras:+[$extras]}"
}

verify() {
    begin "check"
    ops_work || die "mmcv was installed without working ops"
    ask import-all || die "the imports above fail"
}

main() {
    parse_arguments "$@"
    find_python
    if ask complete "$extras"; then
        say "all is there: $(ask summary)"
        return
    fi
    enter_environment
    ask problems || die "see above"
    trap on_error ERR
    repair
    install_build_tools
    plan_mmcv
    install_torch
    install_mmcv
    install_hosts
    install_aliases
    install_mmplugins
    verify
    ask mark-complete "$extras"
    say "done: $(ask summary)"
}

main "$@"
