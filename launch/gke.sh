#!/usr/bin/env bash
# Submits a run to a GKE cluster as a JobSet (or through xpk), on TPU slices or GPU nodes.
#
#   launch/gke.sh --image=IMAGE [OPTIONS] JOB [ARGUMENTS of score-jax...]
#   launch/gke.sh --image=IMAGE --tpu=v5e:4x4 --bucket=my-bucket \
#     train --config=configs/cifar10_score.py --workdir=/bucket/runs/score
#   launch/gke.sh --image=IMAGE --gpu=nvidia-h100-80gb:8 --nodes=4 --bucket=my-bucket train ...
#
# OPTIONS, before JOB:
#   --image=IMAGE          with score_jax installed, and what --command names [score-jax]
#   --tpu=GENERATION:TOPOLOGY   v4, v5e, v5p or v6e, such as v5e:4x4; --slices=N of them [1];
#                          --chips-per-vm=K of the node pool [4, or all of a smaller slice]
#   --gpu=ACCELERATOR:K    as GKE labels its nodes, K on each; --nodes=N of them [1]
#   --bucket=BUCKET        mounted at /bucket by Cloud Storage FUSE; keep the workdir there
#   --name=NAME            of the JobSet [score-jax]
#   --namespace=NAMESPACE  [default]; --service-account=ACCOUNT of Kubernetes [default]
#   --queue=QUEUE          Kueue's local queue
#   --spot                 on spot nodes
#   --max-restarts=N       after crashes and exit code 75; preemptions do not count [10]
#   --grace=SECONDS        from SIGTERM to SIGKILL: time to save [300]
#   --sweep=LIST           one JobSet a setting of the recipe's sweep(), such as 0-2,5
#   --xpk=CLUSTER          the same as `xpk workload create`, for clusters that xpk made
#   --dry-run              print the manifest or command, submit nothing
#
# Afterwards: `kubectl logs -f job/NAME-workers-0`; `kubectl delete jobset NAME` saves and stops.
# Needs JobSet v0.10.1 or later in the cluster (rules by message), Kubernetes 1.26 or later, and for
# --bucket a service account that may write there. Exit code 2 of a process fails the JobSet at
# once; preemption (a disruption, or 143: SIGTERM before the run had begun) restarts it without
# counting; 75, 130 and everything else restart it up to --max-restarts times. xpk knows two kinds only: there 75 and signals restart, and count; anything
# else fails at once.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

opt_image="" opt_tpu="" opt_slices=1 opt_chips_per_vm="" opt_gpu="" opt_nodes=1 opt_bucket=""
opt_name="score-jax" opt_namespace="default" opt_service_account="default" opt_queue="" opt_spot=""
opt_max_restarts=10 opt_grace=300 opt_sweep="" opt_xpk="" opt_command="score-jax"
parse "image tpu slices chips_per_vm gpu nodes bucket name namespace service_account queue
  max_restarts grace sweep xpk command" "spot" 0 "$@"
needs_job "--image=IMAGE --tpu=v5e:4x4 train --config=..."
[ -n "$opt_image" ] || refuse "--image=IMAGE is needed: a container image with score_jax in it"
for pair in "slices $opt_slices 1" "nodes $opt_nodes 1" "max-restarts $opt_max_restarts 0" \
  "grace $opt_grace 0"; do
  read -r name value least <<< "$pair"
  is_count "--$name" "$value" "$least"
done
case "$opt_name" in
  *[!a-z0-9-]* | [!a-z]* | *-)
    refuse "--name=$opt_name: small letters, digits and dashes, a letter first" ;;
esac
# Pods are called NAME-workers-SLICE-INDEX-RANDOM, and a host's name ends at 63.
[ ${#opt_name} -le 36 ] || refuse "--name=$opt_name has more than 36 letters"
settings="none"
[ -z "$opt_sweep" ] || settings="$(numbers "$opt_sweep")"

# What the slices or nodes are: kind, and how many pods of how many devices.
case "$opt_tpu/$opt_gpu" in
  ?*/?* | /) refuse "write one of --tpu=v5e:4x4 and --gpu=nvidia-h100-80gb:8" ;;
  ?*/)
    kind=tpu generation="${opt_tpu%%:*}" topology="${opt_tpu#*:}" chips=1 example=4x4
    case "$generation" in
      v4) accelerator=tpu-v4-podslice ;;
      v5e) accelerator=tpu-v5-lite-podslice ;;
      v5p) accelerator=tpu-v5p-slice ;;
      v6e) accelerator=tpu-v6e-slice ;;
      *) refuse "--tpu=$opt_tpu: unknown generation '$generation'; known: v4 v5e v5p v6e" ;;
    esac
    case "$generation" in v4 | v5p) example=2x2x4 ;; esac
    IFS=x read -r -a sides <<< "${topology}x"
    IFS=x read -r -a sides_of_example <<< "$example"
    if [ "$topology" = "$opt_tpu" ] || [ "${#sides[@]}" -ne "${#sides_of_example[@]}" ]; then
      refuse "--tpu=$opt_tpu: the topology of $generation has ${#sides_of_example[@]} sides;" \
        "write such as $generation:$example"
    fi
    for side in "${sides[@]}"; do
      is_count "a side of --tpu=$opt_tpu: '$side'" "$side" 1 1024
      chips=$((chips * side))
    done
    devices="${opt_chips_per_vm:-$((chips < 4 ? chips : 4))}"
    is_count --chips-per-vm "$devices" 1
    [ $((chips % devices)) -eq 0 ] ||
      refuse "$chips chips are no multiple of --chips-per-vm=$devices"
    pods=$((chips / devices)) jobs="$opt_slices" ;;
  *)
    kind=gpu accelerator="${opt_gpu%%:*}" devices="${opt_gpu##*:}"
    [ "$accelerator" != "$opt_gpu" ] ||
      refuse "--gpu=$opt_gpu has no number; write such as $opt_gpu:8"
    is_count "the number of --gpu=$opt_gpu" "$devices" 1
    [ "$opt_slices" -eq 1 ] || refuse "--slices is for --tpu; write --nodes=$opt_slices"
    pods="$opt_nodes" jobs=1 ;;
esac

# What xpk has no words for must not be dropped without a word.
if [ -n "$opt_xpk" ]; then
  [ "$kind" = tpu ] ||
    refuse "--xpk is for --tpu: xpk gives GPU pods other variables; submit the JobSet itself"
  for pair in "queue $opt_queue" "namespace ${opt_namespace#default}" \
    "service-account ${opt_service_account#default}" "chips-per-vm $opt_chips_per_vm"; do
    [ -z "${pair#* }" ] || refuse "--${pair%% *}=${pair#* } does not go with --xpk; xpk sets it"
  done
fi

# Text as YAML and JSON write it: 42 and `on` stay text.
text() {
  local word="$1"
  word="${word//\\/\\\\}"
  word="${word//\"/\\\"}"
  printf '"%s"' "${word//$'\n'/\\n}"
}

# words_of SETTING: the container's command into `words`.
words_of() {
  read -r -a words <<< "$opt_command"
  words+=("${job[@]}")
  [ "$1" = none ] || words+=("--sweep_index=$1")
  if [ "$kind" = tpu ]; then
    words+=("--cluster=gke")
  else
    # Kubernetes puts the container's variables in.
    # shellcheck disable=SC2016
    words+=('--coordinator=$(JAX_COORDINATOR_ADDRESS)' '--num_processes=$(JAX_NUM_PROCESSES)'
      '--process_id=$(JAX_PROCESS_ID)')
  fi
}

manifest() {
  local name="$1" word
  cat << END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(text "$name")
  namespace: $(text "$opt_namespace")
END
  [ -z "$opt_queue" ] || printf '  labels:\n    kueue.x-k8s.io/queue-name: %s\n' "$(text "$opt_queue")"
  if [ "$kind" = tpu ]; then
    # One slice is one node pool, for one Job alone.
    printf '  annotations:\n'
    printf '    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool\n'
  fi
  cat << END
spec:
  failurePolicy:
    maxRestarts: $opt_max_restarts
    rules:
    - name: refused
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
      onJobFailureMessagePatterns: ["exit code $REFUSED matching"]
    - name: preempted
      action: RestartJobSetAndIgnoreMaxRestarts
      onJobFailureReasons: [PodFailurePolicy]
      onJobFailureMessagePatterns:
      - "condition DisruptionTarget matching"
      - "exit code 143 matching"
    - name: again
      action: RestartJobSet
      onJobFailureReasons: [PodFailurePolicy]
      onJobFailureMessagePatterns: ["exit code ($RESTART|$STOPPED) matching"]
  replicatedJobs:
  - name: workers
    replicas: $jobs
    template:
      spec:
        completionMode: Indexed
        completions: $pods
        parallelism: $pods
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onPodConditions:
            - type: DisruptionTarget
              status: "True"
          - action: FailJob
            onExitCodes:
              containerName: main
              operator: In
              values: [$REFUSED, $RESTART, $STOPPED, 143]
        template:
END
  if [ -n "$opt_bucket" ]; then
    printf '          metadata:\n            annotations:\n'
    printf '              gke-gcsfuse/volumes: "true"\n'
  fi
  cat << END
          spec:
            restartPolicy: Never
            serviceAccountName: $(text "$opt_service_account")
            terminationGracePeriodSeconds: $opt_grace
            nodeSelector:
END
  if [ "$kind" = tpu ]; then
    cat << END
              cloud.google.com/gke-tpu-accelerator: $accelerator
              cloud.google.com/gke-tpu-topology: $(text "$topology")
END
  else
    printf '              cloud.google.com/gke-accelerator: %s\n' "$(text "$accelerator")"
  fi
  [ -z "$opt_spot" ] || printf '              cloud.google.com/gke-spot: "true"\n'
  cat << END
            tolerations:
            - key: $([ "$kind" = tpu ] && echo google.com/tpu || echo nvidia.com/gpu)
              operator: Exists
              effect: NoSchedule
END
  if [ -n "$opt_spot" ]; then
    cat << END
            - key: cloud.google.com/gke-spot
              operator: Equal
              value: "true"
              effect: NoSchedule
END
  fi
  cat << END
            containers:
            - name: main
              image: $(text "$opt_image")
              command:
END
  for word in "${words[@]}"; do printf '              - %s\n' "$(text "$word")"; done
  if [ "$kind" = gpu ]; then
    cat << END
              env:
              - name: JAX_COORDINATOR_ADDRESS
                value: "$name-workers-0-0.$name:8476"
              - name: JAX_NUM_PROCESSES
                value: "$pods"
              - name: JAX_PROCESS_ID
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
END
  fi
  cat << END
              resources:
                limits:
                  $([ "$kind" = tpu ] && echo google.com/tpu || echo nvidia.com/gpu): $devices
              volumeMounts:
              - name: shared-memory
                mountPath: /dev/shm
END
  [ -z "$opt_bucket" ] ||
    printf '              - name: bucket\n                mountPath: /bucket\n'
  cat << END
            volumes:
            - name: shared-memory
              emptyDir:
                medium: Memory
END
  [ -z "$opt_bucket" ] || cat << END
            - name: bucket
              csi:
                driver: gcsfuse.csi.storage.gke.io
                volumeAttributes:
                  bucketName: $(text "$opt_bucket")
                  mountOptions: implicit-dirs
END
}

# xpk_command NAME: into `command`.
xpk_command() {
  local type
  type="$generation-$topology"
  [ "$generation" != v5e ] || type="v5litepod-$chips"
  command=(xpk workload create "--cluster=$opt_xpk" "--workload=$1" "--tpu-type=$type"
    "--num-slices=$opt_slices")
  command+=("--docker-image=$opt_image" "--max-restarts=$opt_max_restarts"
    "--termination-grace-period-seconds=$opt_grace" "--restart-on-exit-codes=$RESTART")
  [ -z "$opt_spot" ] || command+=(--spot)
  # The name under which `xpk storage` knows the bucket; its mount point is told there.
  [ -z "$opt_bucket" ] || command+=("--storage=$opt_bucket")
  command+=("--command=$(quoted "${words[@]}")")
}

main() {
  local setting name
  for setting in $settings; do
    name="$opt_name"
    [ "$setting" = none ] || name="$opt_name-$setting"
    words_of "$setting"
    if [ -n "$opt_xpk" ]; then
      xpk_command "$name"
      if [ -n "$opt_dry_run" ]; then quoted "${command[@]}"; else "${command[@]}"; fi
    elif [ -n "$opt_dry_run" ]; then
      printf -- '---\n# kubectl create --filename=-\n'
      manifest "$name"
    else
      command -v kubectl > /dev/null || refuse "no kubectl on PATH; install it, or add --dry-run"
      manifest "$name" | kubectl create --filename=-
    fi
  done
}

main; exit
