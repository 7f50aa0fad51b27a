#!/bin/sh
# What the container runs, called like a BIDS App: INPUT OUTPUT participant [flags of prepare] --participant-label sub-01
set -eu
input=$1 output=$2 level=$3
shift 3
if [ "$level" != participant ]; then
    echo "expected the level participant, got $level" >&2
    exit 64
fi
label=""
left=$#
while [ "$left" -gt 0 ]; do
    if [ "$1" = --participant-label ]; then
        label=${2#sub-}
        shift 2
        left=$((left - 2))
    else
        set -- "$@" "$1"
        shift
        left=$((left - 1))
    fi
done
if [ -z "$label" ]; then
    echo "expected --participant-label sub-01" >&2
    exit 64
fi
if [ -f "$input/participants.tsv" ]; then
    set -- --participants "$input/participants.tsv" "$@"
fi
exec brain-transformers prepare "$input/sub-$label" --output "$output/dataset/sub-$label" "$@"
