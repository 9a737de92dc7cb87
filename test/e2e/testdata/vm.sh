#!/bin/sh
# Runs in the emulated machine: makes a cluster of two nodes of the image that the distribution's own Docker Engine has, without any network
# but the cluster's own, looks at it and removes it. The image's name is in the file reference, nodeimg lies beside it.
set -eu

export HOME=/root
reference=$(cat reference)
first=vm-control-plane-1
second=vm-worker-1
say() { echo "== $* (up $(cut -d. -f1 /proc/uptime) s)"; }
kubectl() { docker exec "$first" kubectl --kubeconfig /etc/kubernetes/admin.conf "$@"; }
has() { docker ps --all --quiet && docker volume ls --quiet && docker network ls --format '{{.Name}}'; }

failed() {
  set +e
  say "failed"
  for node in "$first" "$second"; do
    docker logs --tail 30 "$node"
    docker exec "$node" journalctl --no-pager -n 60 -u containerd
    docker exec "$node" journalctl --no-pager -n 60 -u kubelet
    docker exec "$node" crictl ps -a
  done
  kubectl get pods -A -o wide
  exit 1
}

say "starting Docker on the prepared image"
systemctl stop docker.service docker.socket
mount /dev/disk/by-id/virtio-docker /var/lib/docker
systemctl start docker.service
docker image inspect --format '{{.Id}}' "$reference"
before=$(has)

say "making the cluster"
chmod +x nodeimg
# Emulation is so slow that leases run out before they are renewed, and whoever loses one starts anew.
cat >cluster.yaml <<EOF
apiVersion: nodeimg.dev/v1alpha1
kind: Cluster
metadata: {name: vm}
spec:
  image: $reference
  privileged: true
  workers: [{count: 1}]
  kubeadmPatches:
  - |
    kind: ClusterConfiguration
    controllerManager: {extraArgs: {leader-elect: "false"}}
    scheduler: {extraArgs: {leader-elect: "false"}}
EOF
# It is also many times slower than the default allows for.
./nodeimg up --config cluster.yaml --retain --wait 20m --progress plain --timings || failed

say "looking at the cluster"
kubectl get pods -A -o wide
./nodeimg nodes --name vm
for node in "$first" "$second"; do
  [ "$(docker exec "$node" stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || failed
  [ "$(docker exec "$node" systemctl is-system-running --wait)" = running ] || { docker exec "$node" systemctl --failed --no-pager; failed; }
  if docker exec "$node" journalctl --no-pager -u containerd -o cat | grep PullImage; then
    echo "containerd of $node pulled an image"
    failed
  fi
done
kubectl wait --for=condition=Ready --timeout=15m node --all || failed
[ "$(kubectl get nodes --no-headers | grep -c ' Ready ')" = 2 ] || failed
# CoreDNS tolerates no control plane's taint but its own one.
kubectl -n kube-system wait --for=condition=Ready --timeout=15m pod --all || failed

say "removing the cluster"
./nodeimg down --name vm --progress plain
[ "$(has)" = "$before" ] || { has; failed; }
say "done"
