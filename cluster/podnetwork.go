package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// flannelConfig is the field with flannel's configuration in its ConfigMap
// (https://github.com/flannel-io/flannel/blob/master/Documentation/configuration.md).
const flannelConfig = "net-conf.json"

// withPodSubnet is the image's manifest of flannel for other pod subnets, one of each family; without any it stays as it is.
func withPodSubnet(manifest, subnets string) (string, error) {
	if subnets == "" {
		return manifest, nil
	}
	list, err := documents(manifest)
	if err != nil {
		return "", err
	}
	for _, doc := range list {
		data, ok := doc["data"].(document)
		text, holds := data[flannelConfig].(string)
		if !ok || !holds {
			continue
		}
		var config map[string]any
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			return "", fmt.Errorf("reading %s of %s: %w", flannelConfig, podNetworkManifest, err)
		}
		delete(config, "Network")
		config["EnableIPv4"] = false
		for part := range strings.SplitSeq(subnets, ",") {
			if subnet, err := netip.ParsePrefix(strings.TrimSpace(part)); err == nil && subnet.Addr().Is6() {
				config["EnableIPv6"], config["IPv6Network"] = true, subnet.String()
			} else {
				config["EnableIPv4"], config["Network"] = true, strings.TrimSpace(part)
			}
		}
		changed, err := json.Marshal(config)
		if err != nil {
			return "", err
		}
		data[flannelConfig] = string(changed)
		return encode(list...)
	}
	return "", fmt.Errorf("giving pods addresses of %s: %s has no configuration of flannel; leave podSubnet out, or choose another cni", subnets, podNetworkManifest)
}

// checkPodNetwork refuses a pod network that the image of the first control plane does not have.
func checkPodNetwork(ctx context.Context, engine *dockerengine.Engine, spec config.Spec) error {
	if spec.Networking.CNI != config.CNIFlannel {
		return nil
	}
	image := spec.Members()[0].Image
	found, err := engine.Inspect(ctx, image)
	if err != nil {
		return err
	}
	if has := found.Labels[recipes.LabelCNI]; has != config.CNIFlannel {
		return recipes.InputErrorf("found the pod network flannel, which %s does not have: its recipe says cni.name %s; choose bridge or none, or another image", image, has)
	}
	return nil
}
