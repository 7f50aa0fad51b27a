#!/bin/bash
#SBATCH --job-name=prepare
#SBATCH --array=1-20
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --requeue
# sbatch slurm_array.sh derivatives/ dataset/ [flags of prepare]
# Shards that failed or ran out of time: the same line with sbatch --array=3,7; their number stays N of the line below.
set -euo pipefail
scans=$1 output=$2
shift 2
shards=20
brain-transformers prepare "$scans" --output "$output" --shard "$SLURM_ARRAY_TASK_ID/$shards" --num-proc "$SLURM_CPUS_PER_TASK" "$@"
# Whoever comes last joins them; for the others some are missing, which is no failure of theirs.
if [ "$(find "$output.shards" -name "shard-*.json" | wc -l)" -eq "$shards" ]; then
    brain-transformers prepare "$scans" --output "$output" --merge "$@"
fi
