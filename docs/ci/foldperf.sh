#!/bin/sh
# Both gates, for any CI system: sh docs/ci/foldperf.sh [options of both gates]
#
# BASE      the branch that the change goes to (default: origin/main)
# REPORTS   where the summary and the JUnit files go (default: gate-reports)
# INSTALL   no to leave out the installation
#
# Status 0 where nothing got worse or it is too noisy to tell, 1 where something did, 2 for a fault.
set -u
# A reader that leaves before the end of the output must not end the script before its verdict.
trap '' PIPE
BASE=${BASE:-origin/main}
REPORTS=${REPORTS:-gate-reports}

if [ "${INSTALL:-yes}" = yes ]; then
    python -m pip install --constraint constraints.txt torch >&2 || exit 2
    python -m pip install --constraint constraints.txt --editable '.[data,analysis]' >&2 || exit 2
fi
against=$(git merge-base HEAD "$BASE") || exit 2
mkdir -p "$REPORTS" && : > "$REPORTS/summary.md" || exit 2

foldperf gate --markdown "$REPORTS/summary.md" --junit "$REPORTS/exact.xml" "$@"
exact=$?

# Without inputs the cases that read them are skipped, and the summary says so.
foldperf fetch && foldperf prepare
foldperf gate --timing --against "$against" --markdown "$REPORTS/summary.md" --junit "$REPORTS/timing.xml" "$@"
timing=$?

worst=0
for status in "$exact" "$timing"; do
    case $status in
        0) ;;
        3) echo "too noisy, or another torch: no verdict" ;;
        1) [ "$worst" -eq 2 ] || worst=1 ;;
        *) worst=2 ;;
    esac
done
exit "$worst"
