#!/usr/bin/env bash
# From a bare Python 3.10-3.12 to a working mmplugins: torch, mmcv with its ops, the hosts, mmplugins itself (editable).
# It may be cut off and run again: every step looks at what is there. When all is there it ends at once.
set -Eeuo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MIM=openmim==0.3.9

python=
venv=
extras=
system=
step=
torch=     # the requirements of torch.txt
mmcv=      # the requirement of mminstall.txt
mmcv_plan= # keep, wheel or compile
scratch=   # folder of the compiler for mmcv's build

usage() {
    cat <<EOF
usage: bash tools/install.sh [--python PY] [--venv DIR | --system] [--extras LIST]
  --python PY    interpreter to use; default: the first Python 3.10-3.12 of python, python3, python3.11, ...
  --venv DIR     install into this virtual environment, made if missing (an existing one keeps its Python);
                 default: the active environment
  --system       install into PY itself although it is no environment: for containers
  --extras LIST  extras of setup.py, comma-separated: tests, dev, docs, metr, prae, hgkd, spsa, dsnet, maml, pti,
                 app, lora, hgkd-teacher
An installed torch, with or without CUDA, is kept; install another pair before to use that (requirements/torch.txt).
FORCE_CUDA=1 builds mmcv's ops for GPUs on a machine without one, FORCE_CUDA=0 for the CPU on a machine with one;
MAX_JOBS is how many files are compiled at once (default: by cores and memory).
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
            --system)
                system=1
                shift
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
    if [ -n "$system" ]; then
        export PIP_BREAK_SYSTEM_PACKAGES=1 # what --system asks for
    else
        ask isolated ||
            die "$python is not in a virtual or conda environment; activate one, or use --venv .venv; in a container --system"
    fi
    run_pip --version >/dev/null 2>&1 || "$python" -m ensurepip --upgrade >/dev/null 2>&1 ||
        die "$python has no pip, and ensurepip cannot bring it (Debian, Ubuntu: apt-get install python3-venv)"
}

# What the build would find out late, or hide: looked at before the large downloads, and again when torch is there.
check_can_compile() {
    ask build-problems || die "see above"
    local torch_version include compiler=${CXX:-c++}
    torch_version=$(ask version torch)
    if [[ $torch_version =~ ^([0-9]+)\.([0-9]+) ]] && ((BASH_REMATCH[1] * 1000 + BASH_REMATCH[2] >= 2014)); then
        die "mmcv cannot be built against torch $torch_version: its ops are C++17, torch >= 2.14 needs C++20." \
            "Use the tested pair: $python -m pip install $torch"
    fi
    command -v "$compiler" >/dev/null || die "no C++ compiler ($compiler): mmcv has no ready wheel for this Python and must be compiled." \
        "Debian, Ubuntu: apt-get install g++; elsewhere set CXX. README.md names the Python, torch and CUDA versions with ready wheels."
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$include/Python.h" ] || die "no Python.h in $include: mmcv must be compiled and needs it (Debian, Ubuntu: apt-get install python3-dev)"
}

# pip takes what it was cut off in for installed.
repair() {
    local download
    ask partial | while IFS= read -r download; do
        begin "${download%% *}, which was installed only in part"
        # shellcheck disable=SC2086  # a requirement, and for some builds of torch the index that has them
        pip_install --no-deps --ignore-installed $download </dev/null ||
            die "${download%% *} is installed only in part and pip does not find it again; install it as you did before"
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
        begin "$torch"
        # shellcheck disable=SC2086  # one word a requirement
        PIP_QUIET=0 pip_install $torch
    elif [ -z "$(ask version torchvision)" ]; then
        begin "torchvision for the installed torch $torch_version"
        [[ $torch_version =~ ^2\.([0-9]+) ]] || die "torch $torch_version is too old; use $torch"
        PIP_QUIET=0 pip_install "torch==$torch_version" "torchvision==0.$((BASH_REMATCH[1] + 15)).*"
    else
        say "torch $torch_version is kept"
    fi
}

# How mmcv will come: keep what is there, a ready wheel, or compile. Known before the large downloads, so that
# a missing compiler is told at once.
plan_mmcv() {
    mmcv=$(ask hosts | grep '^onedl-mmcv')
    if [ -n "$(ask version onedl-mmcv)" ] && ask ops; then
        mmcv_plan=keep
        say "mmcv and its ops are kept"
    # Of an mmcv whose ops do not load pip would say that it is there.
    elif pip_install --dry-run --ignore-installed --no-deps --only-binary :all: "$mmcv" >/dev/null 2>&1; then
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
        if ! ask ops; then
            say "that wheel does not fit"
            check_can_compile
            mmcv_plan=compile
        fi
    fi
    if [ "$mmcv_plan" = compile ]; then
        compile_mmcv
    fi
}

compile_mmcv() {
    local cuda=0 compiler wrapper jobs
    if ask wants-cuda; then
        cuda=1
    else
        export CUDA_VISIBLE_DEVICES= # mmcv's build does not hear FORCE_CUDA=0: it asks torch for a GPU
    fi
    jobs=${MAX_JOBS:-$(ask jobs)}
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    compiler=$(command -v "${CXX:-c++}")
    # torch asks by its name whether a compiler will do.
    case $("$compiler" --version) in *clang*) wrapper=$scratch/clang++ ;; *) wrapper=$scratch/g++ ;; esac
    cp "$ROOT/tools/install_cxx.sh" "$wrapper"
    begin "mmcv: compiling its ops (CUDA: $cuda, files at once: $jobs); this takes minutes"
    # Build isolation would build without torch, that is without ops. The cache may hold a wheel for another torch.
    # Without ninja on PATH, where an environment that is not activated has none, torch compiles one file after another.
    # -g0 undoes the -g that Python was built with: debug symbols are half of the time.
    PATH=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH PIP_QUIET=0 \
        MMCV_WITH_OPS=1 FORCE_CUDA=$cuda MAX_JOBS=$jobs CFLAGS="${CFLAGS:-} -g0" CXX=$wrapper REAL_CXX=$compiler \
        replace_mmcv --no-build-isolation --no-cache-dir --no-binary onedl-mmcv
    unset CUDA_VISIBLE_DEVICES
}

# Install mmcv even if one that does not work counts as installed, then what it requires.
replace_mmcv() {
    run_pip uninstall --yes onedl-mmcv || say "it cannot be uninstalled and is overwritten"
    pip_install --no-deps --ignore-installed "$@" "$mmcv"
    pip_install "$mmcv"
}

install_hosts() {
    begin "mmengine, mmdet, mmpretrain, mmseg, mmrotate, mim"
    # shellcheck disable=SC2046  # one word a requirement
    pip_install $(ask hosts) -r "$ROOT/requirements/mim.txt"
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
    ask ops || die "mmcv was installed without working ops"
    ask import-all || die "the imports above fail"
}

main() {
    parse_arguments "$@"
    [ -z "$system" ] || [ -z "$venv" ] || die "--system and --venv exclude each other"
    find_python
    extras=$(ask extras "$extras")
    # A virtual environment that is to be made is not the one whose Python was found.
    if { [ -z "$venv" ] || [ -x "$venv/bin/python" ]; } && ask complete "$extras"; then
        say "all is there: $(ask summary)"
        return
    fi
    enter_environment
    ask problems "$extras" || die "see above"
    trap on_error ERR
    torch=$(ask torch)
    repair
    install_build_tools
    plan_mmcv
    install_torch
    ask problems "$extras" || die "see above"
    install_mmcv
    install_hosts
    install_aliases
    install_mmplugins
    verify
    ask mark-complete "$extras"
    say "done: $(ask summary)"
}

main "$@"
