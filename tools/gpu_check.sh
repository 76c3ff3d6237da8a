#!/usr/bin/env bash
# What the tests and benchmarks say on an NVIDIA GPU: from a bare Python with torch, without a network, at most eight
# minutes a call. It may be cut off and run again: stages that are done are kept.
set -Eeuo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUDGET=480                                                          # seconds of one call
declare -A LIMITS=([setup]=90 [mmcv]=420 [tests]=180 [benchmark]=60) # seconds of one stage
JOBS=4                                                              # processes of the tests on the one card

python=python3
wheels=
work=$ROOT/work_dirs/gpu_check
out=$ROOT/results/gpu.json
stages=
inside=  # the one stage that this process is
dry_run=
arguments=("$@")

usage() {
    cat <<EOF
usage: bash tools/gpu_check.sh [--wheels DIR] [--dir DIR] [--out FILE] [--python PY] [--stages LIST] [--dry-run]
  --wheels DIR   what tools/gpu_wheels.sh filled; default: what is missing was installed by other means
  --dir DIR      packages, logs and results of the stages; delete it to begin anew; default: work_dirs/gpu_check
  --out FILE     the summary; default: results/gpu.json
  --python PY    a Python 3.10-3.12 with torch for CUDA; default: $python
  --stages LIST  comma-separated; default, in this order: $(all_stages | paste -sd,)
  --dry-run      say what would be run

setup      install the wheels into DIR/site, beside the installed torch (at most ${LIMITS[setup]} s)
mmcv       keep an mmcv whose CUDA kernels run, else take the wheel, else compile for this card alone (${LIMITS[mmcv]} s)
tests      pytest -m gpu (${LIMITS[tests]} s)
<plugin>   the CUDA part of its benchmark (${LIMITS[benchmark]} s each)
A stage that fails does not stop the others. A call ends after $BUDGET s; the next one goes on with what is not done.
The exit status is 1 if a stage failed or is left.
EOF
}

say() { printf '%s\n' "gpu_check: $*"; }

die() {
    printf 'gpu_check: error: %s\n' "$@" >&2
    exit 1
}

# The benchmarks are those of tools/experiments; PRAE's has nothing for a GPU and says so.
all_stages() {
    printf '%s\n' setup mmcv tests
    local file
    for file in "$ROOT"/tools/experiments/*/benchmark.py; do
        file=$(basename "$(dirname "$file")")
        [ "$file" = frame ] || printf '%s\n' "$file"
    done
}

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage && exit ;;
            --dry-run) dry_run=1 && shift ;;
            --wheels | --dir | --out | --python | --stages | --inside)
                [ $# -ge 2 ] || die "$1 needs a value"
                case $1 in
                    --dir) work=$2 ;;
                    *) printf -v "${1#--}" '%s' "$2" ;;
                esac
                shift 2
                ;;
            *) usage >&2 && exit 2 ;;
        esac
    done
    stages=${stages:-$(all_stages | paste -sd,)}
    local stage
    for stage in ${stages//,/ }; do
        all_stages | grep -x "$stage" >/dev/null || die "there is no stage $stage; there are: $(all_stages | paste -sd' ')"
    done
    [ -z "$wheels" ] || [ -d "$wheels" ] || die "--wheels $wheels is no folder; tools/gpu_wheels.sh fills one"
    work=$(realpath -m "$work") out=$(realpath -m "$out")
    wheels=${wheels:+$(realpath "$wheels")}
}

# Run a command, or say it.
run() {
    if [ -n "$dry_run" ]; then
        printf '  %s\n' "$*"
    else
        "$@"
    fi
}

run_pip() { run "$python" -m pip --disable-pip-version-check install --no-index --no-deps --no-compile --target "$work/site" "$@"; }

stage_setup() {
    local files=()
    run rm -rf "$work/site" "$work"/*.status # what was installed there, and what was found with it
    run mkdir -p "$work/site"
    run "$python" "$ROOT/tools/gpu_report.py" machine "$work/machine.json"
    if [ -n "$wheels" ]; then
        mapfile -t files < <(find "$wheels" -name '*.whl' ! -name 'onedl_mmcv-*' | sort)
        run_pip "${files[@]}"
        run_pip --no-build-isolation "$ROOT"/requirements/aliases/*/
    fi
    run ln -sfn "$ROOT/projects" "$work/site/mmplugins" # the checkout itself is what is checked
}

# That it was compiled for CUDA is not enough: it may be for another card. A dry run goes through all that could follow.
ops_run() {
    run "$python" -c 'import torch; from mmcv.ops import nms; box = torch.ones(1, 4).cuda(); nms(box, box[0, :1], 0.5)' &&
        [ -z "$dry_run" ]
}

remove_mmcv() { run rm -rf "$work/site/mmcv" "$work"/site/onedl_mmcv-*; }

capability() {
    if [ -n "$dry_run" ]; then
        printf 'CAPABILITY\n'
    else
        "$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())'
    fi
}

stage_mmcv() {
    if ops_run; then return; fi
    [ -n "$wheels" ] || die 'no CUDA kernels of mmcv run on this card, and there is no folder of wheels to take them from'
    remove_mmcv
    if run_pip --find-links "$wheels" --only-binary onedl-mmcv onedl-mmcv && ops_run; then return; fi
    remove_mmcv
    export MMCV_WITH_OPS=1 FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST MAX_JOBS CFLAGS=-g0
    TORCH_CUDA_ARCH_LIST=$(capability) MAX_JOBS=$(env -u OMP_NUM_THREADS nproc)
    say "compiling mmcv for the capability $TORCH_CUDA_ARCH_LIST with $MAX_JOBS processes"
    run_pip --find-links "$wheels" --no-build-isolation --no-cache-dir --no-binary onedl-mmcv onedl-mmcv
    ops_run || [ -n "$dry_run" ]
}

stage_tests() {
    run "$python" -m pytest -q -m gpu -n "$JOBS" --dist loadfile -p no:cacheprovider --junitxml "$work/tests.xml" \
        "$ROOT"/tests/test_*/test_gpu.py
}

stage_benchmark() { run "$python" "$ROOT/tools/benchmark.py" "$1" --device cuda --out "$work/$1.json"; }

# In a process of its own, which `timeout` can end.
stage() {
    export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH} PATH=$work/site/bin:$PATH OMP_NUM_THREADS=1 PIP_QUIET=1
    cd "$ROOT"
    case $1 in
        setup | mmcv | tests) "stage_$1" ;;
        *) stage_benchmark "$1" ;;
    esac
}

# One line in NAME.status: how it ended, its seconds, its limit.
run_stage() {
    local name=$1 limit=$2 status=done start=$SECONDS
    timeout --kill-after=10 "$limit" bash "$ROOT/tools/gpu_check.sh" "${arguments[@]}" --inside "$name" \
        >"$work/$name.log" 2>&1 || status=failed
    [ $((SECONDS - start)) -lt "$limit" ] || [ $status = done ] || status=timeout
    printf '%s %s %s\n' $status $((SECONDS - start)) "$limit" >"$work/$name.status"
    [ $status = done ] || tail -n 20 "$work/$name.log"
    say "$name: $status after $((SECONDS - start)) s"
}

main() {
    parse_arguments "$@"
    if [ -n "$inside" ]; then
        stage "$inside"
        return
    fi
    local name limit left
    [ -n "$dry_run" ] || mkdir -p "$work"
    for name in ${stages//,/ }; do
        limit=${LIMITS[$name]:-${LIMITS[benchmark]}}
        left=$((BUDGET - SECONDS))
        if [ -n "$dry_run" ]; then
            say "$name, at most $limit s"
            (stage "$name")
        elif grep -qs '^done' "$work/$name.status"; then
            say "$name: kept from an earlier call"
        elif [ $left -lt 10 ]; then
            say "$name: no time left; call again"
        else
            run_stage "$name" $((limit < left ? limit : left))
        fi
    done
    run "$python" "$ROOT/tools/gpu_report.py" summary "$work" "$out" ${stages//,/ }
}

main "$@"
