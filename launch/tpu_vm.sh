#!/usr/bin/env bash
# Start a run on Cloud TPU VMs by a queued resource, and start it again when it is preempted:
#
#     TPU=lrsclip ZONE=us-east5-a TYPE=v5litepod-256 launch/tpu_vm.sh \
#         --config=configs/lrsclip.py:B/16 --workdir=/mnt/runs/lrsclip --config.input.data_dir=/mnt/data
#
# The arguments are those of rsclip_jax.main; WORKDIR and the data must lie on a disk that all hosts and
# all replacements share (Filestore, or a bucket by gcsfuse; MOUNT is run on every host first). Logs:
# WORKDIR/logs/tpu-HOST.log. TPU names the resource, ZONE and TYPE say where and what, VERSION is the
# image of the VMs, SPOT=0 asks for capacity that is not preempted. The resource is deleted at the end,
# after a failure and on Ctrl-C too, unless KEEP=1.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${TPU:?name of the queued resource}" "${ZONE:?zone}" "${TYPE:?accelerator type, such as v5litepod-16}"
version="${VERSION:-v2-alpha-tpuv5-lite}"
spot=(--spot)
[[ "${SPOT:-1}" == 0 ]] && spot=()
poll="${POLL_S:-30}"
patience="${PATIENCE:-10}" # failures in a row: to create, to connect, to install

workdir=
for argument in "$@"; do
  case "$argument" in
    --workdir=*) workdir="${argument#*=}" ;;
  esac
done
: "${workdir:?--workdir=DIR is missing}"
printf -v arguments ' %q' "$@" --distributed
logs="$(printf %q "$workdir/logs")"

tpus() { gcloud compute tpus "$@" --zone="$ZONE" --quiet; }
# In the background, so that a signal is noticed at once.
everywhere() { tpus tpu-vm ssh "$TPU" --worker=all --command="$1" & wait $!; }

state() {
  local found
  if found="$(tpus queued-resources describe "$TPU" --format='value(state.state)' 2>&1)"; then
    echo "$found"
  elif [[ "$found" == *NOT_FOUND* || "$found" == *"not found"* ]]; then
    echo ABSENT
  else
    echo UNKNOWN
  fi
}

create() {
  tpus queued-resources create "$TPU" --node-id="$TPU" --accelerator-type="$TYPE" \
    --runtime-version="$version" "${spot[@]}"
}

delete() { tpus queued-resources delete "$TPU" --force; }

install() {
  local archive
  archive="$(mktemp)" && git archive --format=tar.gz --output="$archive" HEAD \
    && tpus tpu-vm scp "$archive" "$TPU:rsclip_jax.tar.gz" --worker=all && rm "$archive" \
    && everywhere "${MOUNT:-true} && mkdir -p rsclip_jax && tar xzf rsclip_jax.tar.gz -C rsclip_jax \
&& cd rsclip_jax && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
}

run() {
  everywhere "cd rsclip_jax && mkdir -p $logs && .venv/bin/python -m rsclip_jax.main$arguments \
>> $logs/tpu-\$(hostname).log 2>&1"
}

finished() { everywhere "test -e $(printf %q "$workdir/finished.json")"; }

leave() { # STATUS
  trap - TERM INT
  [[ "${KEEP:-0}" == 1 ]] || delete || true
  exit "$1"
}

stop() {
  trap '' TERM INT
  echo "tpu_vm.sh: told to stop; the run saves"
  everywhere "pkill -TERM -f rsclip_jax.main; while pgrep -f rsclip_jax.main > /dev/null; do sleep 1; done" || true
  leave 0
}
trap stop TERM INT

failures=0
failed() { # WHAT STATUS
  echo "tpu_vm.sh: $1" >&2
  failures=$((failures + 1))
  ((failures < patience)) || leave "$2"
  sleep "$poll" & wait $!
}

while true; do
  case "$(state)" in
    ABSENT) create || failed "cannot create $TYPE" 1 ;;
    FAILED) delete && failed "the resource has failed" 1 ;;
    SUSPENDED) echo "tpu_vm.sh: preempted; asking for another $TYPE" && delete ;;
    ACTIVE)
      if ! install; then
        failed "cannot install" 1
        continue
      fi
      status=0
      run || status=$?
      if finished; then
        leave 0
      elif ((status == 0)); then
        failed "stopped before its end; starting it again" 1
      elif ((status == 255)); then # of ssh: cut off, by a preemption perhaps
        failed "the connection was cut" 255
      else
        echo "tpu_vm.sh: the run failed with status $status, see $workdir/logs" >&2
        leave "$status"
      fi
      ;;
    *) sleep "$poll" & wait $! ;; # queued, being made or deleted, or not known at the moment
  esac
done
