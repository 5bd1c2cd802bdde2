#!/usr/bin/env bash
# Start a run on Cloud TPU VMs by a queued resource, and start it again when it is preempted:
#
#     TPU=lrsclip ZONE=us-east5-a TYPE=v5litepod-256 launch/tpu_vm.sh \
#         --config=configs/lrsclip.py:B/16 --workdir=/mnt/runs/lrsclip --config.input.data_dir=/mnt/data
#
# The arguments are those of rsclip_jax.main; WORKDIR and the data must lie on a disk that all hosts and
# all replacements share (Filestore, or a bucket by gcsfuse; MOUNT is run on every host first). Logs:
# WORKDIR/logs/tpu-HOST.log. TPU names the resource, ZONE and TYPE say where and what, VERSION is the
# image of the VMs, SPOT=0 asks for capacity that is not preempted, KEEP=1 keeps it at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${TPU:?name of the queued resource}" "${ZONE:?zone}" "${TYPE:?accelerator type, such as v5litepod-16}"
version="${VERSION:-v2-alpha-tpuv5-lite}"
spot=(--spot)
[[ "${SPOT:-1}" == 0 ]] && spot=()
poll="${POLL_S:-30}"

workdir=
for argument in "$@"; do
  case "$argument" in
    --workdir=*) workdir="${argument#*=}" ;;
  esac
done
: "${workdir:?--workdir=DIR is missing}"

tpus() { gcloud compute tpus "$@" --zone="$ZONE" --quiet; }
state() { tpus queued-resources describe "$TPU" --format='value(state.state)' 2>/dev/null || echo NONE; }
everywhere() { tpus tpu-vm ssh "$TPU" --worker=all --command="$1"; }

delete() { tpus queued-resources delete "$TPU" --force; }

create() {
  tpus queued-resources create "$TPU" --node-id="$TPU" --accelerator-type="$TYPE" \
    --runtime-version="$version" "${spot[@]}"
  until [[ "$(state)" == ACTIVE ]]; do
    case "$(state)" in
      FAILED | SUSPENDED | SUSPENDING) return 1 ;;
    esac
    sleep "$poll"
  done
}

install() {
  local source
  source="$(mktemp -d)"
  git archive --format=tar.gz --output="$source/rsclip_jax.tar.gz" HEAD
  tpus tpu-vm scp "$source/rsclip_jax.tar.gz" "$TPU:" --worker=all
  rm -r "$source"
  everywhere "${MOUNT:-true} && mkdir -p rsclip_jax && tar xzf rsclip_jax.tar.gz -C rsclip_jax && cd rsclip_jax \
&& python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
}

run() {
  local arguments
  printf -v arguments ' %q' "$@"
  everywhere "cd rsclip_jax && mkdir -p $(printf %q "$workdir")/logs && .venv/bin/python -m rsclip_jax.main$arguments \
>> $(printf %q "$workdir")/logs/tpu-\$(hostname).log 2>&1"
}

finished() { everywhere "test -e $(printf %q "$workdir")/finished.json"; }

while true; do
  [[ "$(state)" == NONE ]] && { create || { delete; continue; }; }
  status=0
  install && run "$@" || status=$?
  if ((status == 0)) && finished; then
    break
  fi
  if [[ "$(state)" == ACTIVE ]] && ((status)); then
    echo "tpu_vm.sh: the run failed with status $status, see $workdir/logs" >&2
    exit "$status"
  fi
  if [[ "$(state)" != ACTIVE ]]; then
    echo "tpu_vm.sh: preempted; asking for another $TYPE"
    delete
  fi
done
[[ "${KEEP:-0}" == 1 ]] || delete
