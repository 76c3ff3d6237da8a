#!/usr/bin/env bash
# The C++ compiler of mmcv's build, with torch's headers compiled once. tools/install.sh copies this file to a folder of
# its own, which also takes the header, and names the real compiler in REAL_CXX.
# Nearly all of the time of a file of mmcv is torch's headers. Whenever the precompiled header does not exist or does
# not fit, the file is compiled as if this script were not here.
set -u

header=$(dirname "${BASH_SOURCE[0]}")/torch_types.h

# The arguments of a compile, less what names its input and outputs.
make_header() {
    local flags=()
    while [ $# -gt 0 ]; do
        case $1 in
            -c | -MMD | -MD | -MP) ;;
            -o | -MF | -MT | -MQ) shift ;;
            *.cpp | *.cc | *.cxx) ;;
            *) flags+=("$1") ;;
        esac
        shift
    done
    echo '#include <torch/types.h>' >"$header"
    "$REAL_CXX" "${flags[@]}" -x c++-header "$header" -o "$header.new" && mv "$header.new" "$header.gch"
}

case " $* " in
    *" -c "*.cpp" "*)
        # One process makes the header; the others do not wait for it.
        if mkdir "$header.lock" 2>/dev/null; then
            make_header "$@" >/dev/null 2>&1
        fi
        if [ -f "$header.gch" ] && "$REAL_CXX" -include "$header" "$@" 2>/dev/null; then
            exit
        fi
        ;;
esac
exec "$REAL_CXX" "$@"
