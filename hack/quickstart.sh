#!/bin/bash
# The main job on the shipped recipe that this machine can build: the one that takes everything from its publishers where the
# registries answer, else the one that compiles it.
set -eu

# answers reports whether the server says anything at all within ten seconds.
answers() { curl -sS -o /dev/null --max-time 10 "$1" 2>/dev/null; }

recipe=recipes/k8s-node.yaml
reason="the registries and the release server answer"
for url in https://registry.k8s.io/v2/ https://dl.k8s.io/ https://ghcr.io/v2/ https://registry-1.docker.io/v2/ https://github.com/; do
  if ! answers "$url"; then
    recipe=recipes/k8s-node-source.yaml
    reason="$url does not answer"
    break
  fi
done
echo "building $recipe, because $reason" >&2

reference=$(bin/nodeimg build "$recipe" -o type=oci,dest=out/k8s-node --timings)
echo "$reference"
bin/nodeimg inspect out/k8s-node
