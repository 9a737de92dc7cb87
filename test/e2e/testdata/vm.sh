#!/bin/sh
# Runs in the emulated machine: takes the node image as the distribution's own Docker Engine has it, boots it on a network without a way
# out and makes it a Ready node, with the configuration it ships. The image's name is in the file reference.
set -eu

reference=$(cat reference)
say() { echo "== $* (up $(cut -d. -f1 /proc/uptime) s)"; }
node() { docker exec node "$@"; }
kubectl() { node kubectl --kubeconfig /etc/kubernetes/admin.conf "$@"; }

failed() {
  set +e
  say "failed"
  docker logs --tail 30 node
  node journalctl --no-pager -n 60 -u containerd
  node journalctl --no-pager -n 60 -u kubelet
  node crictl ps -a
  kubectl get pods -A -o wide
  exit 1
}

say "starting Docker on the prepared image"
systemctl stop docker.service docker.socket
mount /dev/disk/by-id/virtio-docker /var/lib/docker
systemctl start docker.service
docker image inspect --format '{{.Id}}' "$reference"

say "booting the node"
docker network create --internal inner
docker run --detach --tty --name node --hostname node --privileged --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
  --cgroupns=private --tmpfs /tmp --tmpfs /run --volume /var --network inner "$reference"
state=starting
for _ in $(seq 300); do
  state=$(node systemctl is-system-running 2>/dev/null || true)
  case $state in running | degraded) break ;; esac
  sleep 1
done
[ "$state" = running ] || { node systemctl --failed --no-pager; failed; }
[ "$(node stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || failed

say "initialising Kubernetes"
node crictl images
# The shipped configuration, but for kubeadm's patience: emulation is many times slower than its limits allow for.
node cp /etc/nodeimg/kubeadm.yaml /root/kubeadm.yaml
node sed -i '/^kind: InitConfiguration/a timeouts: {controlPlaneComponentHealthCheck: 20m0s, kubeletHealthCheck: 20m0s, etcdAPICall: 20m0s, kubernetesAPICall: 10m0s}' \
  /root/kubeadm.yaml
node kubeadm init --config /root/kubeadm.yaml || failed

say "waiting for the node"
kubectl create -f /usr/share/nodeimg/manifests/cni.yaml || failed
kubectl wait --for=condition=Ready --timeout=15m node/node || failed
# CoreDNS tolerates no control plane's taint but this one; its pods exist as soon as a controller has made them.
kubectl -n kube-system wait --for=condition=Available --timeout=15m deployment/coredns || failed
kubectl -n kube-system wait --for=condition=Ready --timeout=15m pod --all || failed
kubectl get pods -A -o wide

say "looking for pulls"
if node journalctl --no-pager -u containerd -o cat | grep PullImage; then
  echo "containerd pulled an image"
  failed
fi
[ "$(node systemctl is-system-running)" = running ] || { node systemctl --failed --no-pager; failed; }
say "done"
