#!/usr/bin/env bash
# Start a run on a GKE cluster of TPUs by xpk, which restarts it when it is preempted:
#
#     CLUSTER=pods TYPE=v5litepod-256 IMAGE=gcr.io/PROJECT/rsclip_jax launch/gke_xpk.sh \
#         --config=configs/lrsclip.py:B/16 --workdir=/mnt/runs/lrsclip --config.input.data_dir=/mnt/data
#
# The arguments are those of rsclip_jax.main; WORKDIR and the data must lie on storage that xpk mounts
# into the pods. The workload is named like the last part of WORKDIR, and logs to WORKDIR/logs/gke-POD.log.
# SLICES is the number of slices, RESTARTS how often a preempted run is started again.
set -euo pipefail
: "${CLUSTER:?name of the cluster}" "${TYPE:?TPU type, such as v5litepod-16}" "${IMAGE:?Docker image}"

workdir=
for argument in "$@"; do
  case "$argument" in
    --workdir=*) workdir="${argument#*=}" ;;
  esac
done
: "${workdir:?--workdir=DIR is missing}"
name="$(basename "$workdir" | tr '[:upper:]' '[:lower:]' | tr -c '[:alnum:]\n' -)"
printf -v arguments ' %q' "$@"
logs="$(printf %q "$workdir/logs")"

# A stopped run exits with 0 but has not finished: the pod must fail for it to be started again.
xpk workload create --cluster="$CLUSTER" --workload="$name" --tpu-type="$TYPE" \
  --num-slices="${SLICES:-1}" --max-restarts="${RESTARTS:-100}" --docker-image="$IMAGE" \
  --command="mkdir -p $logs && python -m rsclip_jax.main$arguments >> $logs/gke-\$(hostname).log 2>&1 \
&& test -e $(printf %q "$workdir/finished.json")"
